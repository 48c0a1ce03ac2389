"""What is measured on one small picture: light, sharpness, change, movement, and a description of its looks."""

from dataclasses import dataclass

import cv2
import numpy as np

CELLS = 4  # rows and columns of the grids that movement and looks are measured on
ORIENTATIONS, HUES, TONES = 8, 8, 4
LOOKS = CELLS * CELLS * (ORIENTATIONS + HUES + TONES)  # numbers that describe a picture
CHANGED = 12  # a pixel differs when its luma differs by more than this many levels of 255
_BOX = 9  # pixels in a row that are averaged to see what blurring takes away
_FLOW_SIDE = 128  # longer side at which movement is measured [px]
_LOOKS_SIZE = (64, 48)  # width and height at which looks are described [px]


@dataclass(frozen=True)
class Light:
    """Brightness and sharpness of one picture."""

    dark: int  # 5th percentile of luma, 0..255
    bright: int  # 95th percentile of luma, 0..255
    contrast: float  # standard deviation of luma [levels]
    blur: float  # 0 sharp .. 1 blurred


def luma(image: np.ndarray) -> np.ndarray:
    """Return the brightness uint8[h, w] of uint8[h, w, 3] RGB."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def light(grey: np.ndarray) -> Light:
    """Measure brightness and sharpness of uint8[h, w]."""
    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel())
    dark, bright = np.searchsorted(counts, [0.05 * grey.size, 0.95 * grey.size])
    return Light(int(dark), int(bright), float(cv2.meanStdDev(grey)[1][0, 0]), blur(grey))


def blur(grey: np.ndarray) -> float:
    """Return how little a picture uint8[h, w] loses by being blurred once more, 0 sharp .. 1 blurred.

    Crété et al. 2007, The Blur Effect, equations 1-7: the share of the differences between neighbours that a box of
    nine pixels leaves, the larger one of the two directions. Content cancels, so one value serves different views.
    """
    shares = []
    for axis, size in ((0, (1, _BOX)), (1, (_BOX, 1))):
        if grey.shape[axis] < 2:
            continue
        after = _steps(cv2.boxFilter(grey, cv2.CV_16S, size, normalize=False), axis)
        before = _steps(grey, axis) * np.int16(_BOX)
        whole = cv2.sumElems(before)[0]
        shares.append(cv2.sumElems(cv2.min(before, after))[0] / whole if whole > 0 else 1.0)
    return max(shares, default=1.0)


def _steps(picture: np.ndarray, axis: int) -> np.ndarray:
    """Return the absolute differences between neighbours."""
    return cv2.absdiff(picture[1:], picture[:-1]) if axis == 0 else cv2.absdiff(picture[:, 1:], picture[:, :-1])


def change(before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of luma [levels] and the share of pixels that differ, of two uint8[h, w]."""
    difference = cv2.absdiff(before, now)
    return float(cv2.mean(difference)[0]), float(np.count_nonzero(difference > CHANGED) / difference.size)


class Movement:
    """Optical flow from each picture to the next, averaged over a grid; pictures must have one size."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setUseSpatialPropagation(True)
        self._before: np.ndarray | None = None

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return float32[CELLS, CELLS, 2]: mean shift (x, y) in picture widths since the picture before, zero at first.

        DIS flow, Kroeger et al. 2016, on uint8[h, w] reduced to _FLOW_SIDE pixels.
        """
        scale = min(1.0, _FLOW_SIDE / max(grey.shape))
        size = (max(16, round(grey.shape[1] * scale)), max(16, round(grey.shape[0] * scale)))
        now = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        before, self._before = self._before, now
        if before is None or np.array_equal(before, now):
            return np.zeros((CELLS, CELLS, 2), np.float32)
        flow = self._flow.calc(before, now, None)
        return cv2.resize(flow, (CELLS, CELLS), interpolation=cv2.INTER_AREA) / size[0]


def looks(image: np.ndarray) -> np.ndarray:
    """Describe uint8[h, w, 3] RGB by float32[LOOKS] of length 1: two pictures differ as far as the vectors do.

    In each cell of a grid: edges by orientation (Dalal and Triggs 2005, histograms of oriented gradients), hues by
    saturation, and tones; square roots, so that the Euclidean distance is Hellinger's.
    """
    little = cv2.resize(image, _LOOKS_SIZE, interpolation=cv2.INTER_AREA)
    grey = luma(little).astype(np.float32)
    magnitude, angle = cv2.cartToPolar(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    hue, saturation, value = (plane.astype(np.float32) for plane in cv2.split(cv2.cvtColor(little, cv2.COLOR_RGB2HSV)))
    edges = _histogram(np.mod(angle / np.pi, 1) * ORIENTATIONS, magnitude, ORIENTATIONS)
    colours = _histogram(hue / 180 * HUES, saturation * value / 255, HUES)
    tones = _histogram(grey / 256 * TONES, np.ones_like(grey), TONES)
    return np.concatenate([edges, colours, tones]) / np.float32(np.sqrt(3))


def _histogram(levels: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Count levels 0..bins of a picture by cell, weighted, shared between the two nearest bins: float32[...], length 1.

    `levels` wrap round, so the last bin is a neighbour of the first; sharing keeps small changes small.
    """
    height, width = levels.shape
    rows = np.arange(height) * CELLS // height
    columns = np.arange(width) * CELLS // width
    cell = (rows[:, None] * CELLS + columns[None, :]) * bins
    lower = np.floor(levels - 0.5)
    share = levels - 0.5 - lower
    lower = lower.astype(np.int64)
    size = CELLS * CELLS * bins
    counts = np.bincount((cell + lower % bins).ravel(), (weights * (1 - share)).ravel(), size)
    counts += np.bincount((cell + (lower + 1) % bins).ravel(), (weights * share).ravel(), size)
    return np.sqrt(counts / max(counts.sum(), 1e-9)).astype(np.float32)
