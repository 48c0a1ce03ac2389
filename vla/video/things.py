"""Coloured things in the picture: which one was moved between two stretches of time, told by name of colour."""

import re

import cv2
import numpy as np

from vla.video.colours import HUES, LEAST_SHARE, SMALL_SHARE, hues, squareness
from vla.video.track import Track

FRAMES = 9  # of a stretch, whose median leaves out what passes through
DIFFERS = 40  # levels by which a pixel has changed
LEFT = 0.6  # of the pixels of a thing that change when it leaves
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
        self._were, self._are = hues(before), hues(after)

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
        return squareness(labels == left[0]), [squareness(labels == k) for k in small if k != left[0]]


def _median(track: Track, stretch_s: tuple[float, float]) -> np.ndarray:
    """Return the median picture of a stretch of time, uint8[h, w, 3] RGB."""
    times_s = track.time_s[track.sample]
    first, last = np.searchsorted(times_s, (stretch_s[0] - 1e-6, stretch_s[1] + 1e-6))
    samples = np.unique(np.linspace(first, max(last - 1, first), FRAMES).round().astype(int))
    samples = samples[samples < len(times_s)] if first < len(times_s) else np.array([len(times_s) - 1])
    pictures = np.stack([track.picture(float(times_s[k])) for k in samples])
    return np.median(pictures, axis=0).astype(np.uint8)


def _is(picture: np.ndarray, name: str) -> np.ndarray:
    return np.any([(picture >= low) & (picture < high) for low, high in HUES[name]], axis=0)
