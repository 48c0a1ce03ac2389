"""Reads text in pictures with RapidOCR, an extra whose weights come with the package."""

from importlib.metadata import version

import cv2
import numpy as np

from vla.video.reading import Box, Line

try:
    from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]
except ImportError:  # the extra "ocr"
    RapidOCR = None


class RapidReader:
    """Finds lines of text, from letters of about six pixels of height on; ValueError says how to install it."""

    def __init__(self) -> None:
        if RapidOCR is None:
            raise ValueError("text in pictures is read by an extra: pip install -c constraints.txt -e '.[ocr]'")
        settings = {"Global.log_level": "error", "Global.use_cls": False}  # no line stands on its head
        settings |= {"EngineConfig.onnxruntime.intra_op_num_threads": 1}
        self._engine = RapidOCR(params=settings)
        self.identity = f"rapidocr {version('rapidocr')}"

    def read(self, image: np.ndarray) -> list[Line]:
        """Return the lines in uint8[h, w, 3] RGB, from top to bottom."""
        found = self._engine(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found.boxes is None or found.txts is None or found.scores is None:
            return []
        lines = [
            Line(text.strip(), round(float(score), 4), _around(corners))
            for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True)
        ]
        whole = 0.95 * image.shape[1], 0.95 * image.shape[0]  # it takes a picture without any text for one line
        kept = [line for line in lines if line.text and (line.box[2] < whole[0] or line.box[3] < whole[1])]
        return sorted(kept, key=lambda line: (line.box[1], line.box[0]))


def _around(corners: np.ndarray) -> Box:
    """Return the upright box around four corners float[4, 2]."""
    low, high = np.floor(np.min(corners, axis=0)), np.ceil(np.max(corners, axis=0))
    x, y, width, height = map(int, (*low, *(high - low)))
    return x, y, width, height
