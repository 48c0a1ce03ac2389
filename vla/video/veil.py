"""Hides faces, plates and text in pictures, before a model is shown them or they are written.

What hides is only as good as what finds. Faces and plates are found by the cascades that come with OpenCV: upright
faces seen from the front or the side, from about a tenth of the picture's height; of five in three photographs three
were hidden, one by half, one not. Plates must be seen straight on and look like Russian ones, and were tried on drawn
ones only. Text is found by a reader. Where nobody may be recognised, send no pictures at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla.video.reading import Box, Reader
from vla.video.track import Track, jpeg

FACES, PLATES, TEXT = "faces", "plates", "text"
KINDS = (FACES, PLATES, TEXT)
CASCADES = {
    FACES: ("haarcascade_frontalface_alt2.xml", "haarcascade_frontalface_default.xml", "haarcascade_profileface.xml"),
    PLATES: ("haarcascade_russian_plate_number.xml", "haarcascade_license_plate_rus_16stages.xml"),
}
SEARCHED = 512  # longer side of the picture in which is searched [px]
STEP, NEIGHBOURS, LEAST = 1.1, 2, (20, 10)  # of the search: few neighbours, as a miss is worse than a false find
WIDER = 0.15  # of its sides by which more is hidden on every side than was found
CELLS = 3  # a hidden place keeps so many shades in each direction


class Veil:
    """Finds and hides; ValueError for a kind that is not possible here, saying what to install."""

    def __init__(self, kinds: Sequence[str], reader: Reader | None = None) -> None:
        """`reader` finds text, and is needed for nothing else."""
        wrong = sorted(set(kinds) - set(KINDS))
        if wrong:
            raise ValueError(f"{wrong} cannot be hidden; possible: {', '.join(KINDS)}")
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        if TEXT in kinds and reader is None:
            raise ValueError("text can only be hidden where it is found: give a reader")
        self._reader = reader if TEXT in kinds else None
        self._cascades = {name: _cascade(name) for kind in self.kinds for name in CASCADES.get(kind, ())}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return a copy of uint8[h, w, 3] RGB in which every found place is hidden."""
        hidden = image.copy()
        for x, y, width, height in self.places(image):
            part = hidden[y : y + height, x : x + width]
            few = cv2.resize(part, (min(CELLS, width), min(CELLS, height)), interpolation=cv2.INTER_AREA)
            part[:] = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)
        return hidden

    def places(self, image: np.ndarray) -> list[Box]:
        """Return what is to be hidden in uint8[h, w, 3] RGB, somewhat wider than it was found, inside the picture."""
        scale = SEARCHED / max(image.shape[:2])
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        found: list[tuple[float, ...]] = []
        for name, cascade in self._cascades.items():
            found += _search(cascade, grey)
            if name == "haarcascade_profileface.xml":  # it was taught one side
                found += [(grey.shape[1] - x - w, y, w, h) for x, y, w, h in _search(cascade, grey[:, ::-1].copy())]
        boxes = [tuple(value / scale for value in box) for box in found]
        boxes += [line.box for line in self._reader.read(image)] if self._reader else []
        return [box for box in (_wider(box, image.shape) for box in boxes) if box[2] > 0 and box[3] > 0]


@dataclass(frozen=True)
class VeiledTrack(Track):
    """A track whose pictures are hidden behind a veil; what was measured is that of the whole pictures."""

    veil: Veil = field(kw_only=True)
    _ready: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    def thumbnail(self, sample: int) -> bytes:
        """Return the JPEG picture of a sample, with every found place hidden."""
        if sample not in self._ready:
            whole = cv2.imdecode(np.frombuffer(super().thumbnail(sample), np.uint8), cv2.IMREAD_COLOR)
            assert whole is not None, "a JPEG of our own can be decoded"
            self._ready[sample] = jpeg(self.veil(cv2.cvtColor(whole, cv2.COLOR_BGR2RGB)))
        return self._ready[sample]


def veiled(tracks: Mapping[str, Track], veil: Veil | None) -> dict[str, Track]:
    """Return the tracks of all cameras behind a veil; as they are where there is none."""
    if veil is None:
        return dict(tracks)
    return {camera: VeiledTrack(**vars(track), veil=veil) for camera, track in tracks.items()}


def _cascade(name: str) -> Any:  # cv2.CascadeClassifier, which OpenCV 5 has not
    path = Path(cv2.data.haarcascades) / name
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise ValueError(
            f"OpenCV {cv2.__version__} has no {name}, by which faces and plates are found: "
            "pip install 'opencv-python>=4.10,<5', or leave them out of blur"
        )
    return cv2.CascadeClassifier(str(path))


def _search(cascade: Any, grey: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(map(float, box)) for box in cascade.detectMultiScale(grey, STEP, NEIGHBOURS, minSize=LEAST)]


def _wider(box: Sequence[float], shape: Sequence[int]) -> Box:
    """Widen (x, y, width, height), in whole pixels, cut at the picture's edge."""
    x, y, width, height = box
    left, top = max(0, int(x - WIDER * width)), max(0, int(y - WIDER * height))
    right, bottom = x + (1 + WIDER) * width, y + (1 + WIDER) * height
    return left, top, min(shape[1], int(np.ceil(right))) - left, min(shape[0], int(np.ceil(bottom))) - top
