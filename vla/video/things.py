"""Coloured things in the picture: which one was moved between two stretches of time, told by name of colour."""

import re

import cv2
import numpy as np

from vla.video.track import Track

# Hues of OpenCV (0..179), from and until before; red goes round the end. Black and white are told by no hue.
HUES = {"red": ((0, 7), (170, 180)), "orange": ((7, 19),), "yellow": ((19, 36),), "green": ((36, 85),)}
HUES |= {"blue": ((98, 131),), "purple": ((131, 170),)}
SATURATED, BRIGHT = 90, 45  # least saturation and value of a colour that can be named [of 255]
FRAMES = 9  # of a stretch, whose median leaves out what passes through
DIFFERS = 40  # levels by which a pixel has changed
LEAST_SHARE = 0.0012  # of the picture that a thing covers which counts as moved, half a cube in our world
SMALL_SHARE = 0.012  # at most this much of the picture is covered by a thing that can be grasped in our world
LEFT = 0.6  # of the pixels of a thing that change when it leaves
SQUARE, ROUND = 0.86, 0.81  # what fills more, or less, of its smallest rectangle is a box, or a disc
SQUARE_SHAPES, ROUND_SHAPES = ("cube", "block", "box", "brick"), ("cylinder", "ball", "can", "disc", "cup")
_NAMED = re.compile(rf"\b({'|'.join((*HUES, 'black', 'white'))})\b", re.IGNORECASE)


def colours_named(text: str) -> list[str]:
    """Return the names of colours in a text, in order, black and white too."""
    return [name.lower() for name in _NAMED.findall(text)]


def shape_named(text: str) -> str:
    """Return "square" or "round" for the first thing in a text whose shape is known by its name, "" else."""
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in SQUARE_SHAPES or word in ROUND_SHAPES:
            return "square" if word in SQUARE_SHAPES else "round"
    return ""


def moved(track: Track, before_s: tuple[float, float], after_s: tuple[float, float]) -> "Moved":
    """Compare two stretches of time, each seen as the median of some frames, so that a moving arm is left out."""
    return Moved(_median(track, before_s), _median(track, after_s))


class Moved:
    """What left its place between two pictures uint8[h, w, 3] RGB, by colour."""

    def __init__(self, before: np.ndarray, after: np.ndarray) -> None:
        self._changed = cv2.absdiff(before, after).max(axis=2) > DIFFERS
        self._were, self._are = _hues(before), _hues(after)

    def share(self, colour: str) -> float:
        """Return the share of the picture by which a colour of HUES left one place and came to another, 0 for none.

        Something that only comes or only goes (out of a shadow, into a drawer) does not count.
        """
        return min(float(np.mean(_is(picture, colour) & self._changed)) for picture in (self._were, self._are))

    def left(self, colour: str) -> tuple[float, list[float]] | None:
        """Return how square the small thing of a colour is that left its place, and those of its colour that stayed.

        1 for a box, 0.79 for a disc. None where none stayed, none left, or more than one.
        """
        count, labels, stats, _ = cv2.connectedComponentsWithStats(_is(self._were, colour).astype(np.uint8))
        least, most = LEAST_SHARE * labels.size / 2, SMALL_SHARE * labels.size
        small = [k for k in range(1, count) if least <= stats[k, cv2.CC_STAT_AREA] <= most]
        left = [k for k in small if self._changed[labels == k].mean() > LEFT]
        if len(small) < 2 or len(left) != 1:
            return None
        return _squareness(labels == left[0]), [_squareness(labels == k) for k in small if k != left[0]]


def _squareness(mask: np.ndarray) -> float:
    """Return the share of its smallest rectangle that a thing bool[h, w] fills: 1 for a box, 0.79 for a disc."""
    points = np.argwhere(mask).astype(np.float32)
    _, sides, _ = cv2.minAreaRect(points)
    return float(len(points) / ((sides[0] + 1) * (sides[1] + 1)))


def _median(track: Track, stretch_s: tuple[float, float]) -> np.ndarray:
    """Return the median picture of a stretch of time, uint8[h, w, 3] RGB."""
    times_s = track.time_s[track.sample]
    first, last = np.searchsorted(times_s, (stretch_s[0] - 1e-6, stretch_s[1] + 1e-6))
    samples = np.unique(np.linspace(first, max(last - 1, first), FRAMES).round().astype(int))
    samples = samples[samples < len(times_s)] if first < len(times_s) else np.array([len(times_s) - 1])
    pictures = np.stack([track.picture(float(times_s[k])) for k in samples])
    return np.median(pictures, axis=0).astype(np.uint8)


def _hues(image: np.ndarray) -> np.ndarray:
    """Return the hue int16[h, w] of each pixel, -1 where it has none that can be named."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return np.where((saturation >= SATURATED) & (value >= BRIGHT), hue.astype(np.int16), -1)


def _is(hues: np.ndarray, name: str) -> np.ndarray:
    return np.any([(hues >= low) & (hues < high) for low, high in HUES[name]], axis=0)
