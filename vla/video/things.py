"""Coloured things in the picture: which one was moved between two stretches of time, told by name of colour."""

import re

import cv2
import numpy as np

from vla.video.track import Track

# Hues of OpenCV (0..179), from and until before; red goes round the end. Black and white are told by no hue.
HUES = {"red": ((0, 7), (170, 180)), "orange": ((7, 19),), "yellow": ((19, 36),), "green": ((36, 88),)}
HUES |= {"blue": ((88, 131),), "purple": ((131, 170),)}
SATURATED, BRIGHT = 90, 45  # least saturation and value of a colour that can be named [of 255]
FRAMES = 9  # of a stretch, whose median leaves out what passes through
DIFFERS = 40  # levels by which a pixel has changed
LEAST_SHARE = 0.0012  # of the picture that a thing covers which counts as moved, half a cube in our world
_NAMED = re.compile(rf"\b({'|'.join((*HUES, 'black', 'white'))})\b", re.IGNORECASE)


def colours_named(text: str) -> list[str]:
    """Return the names of colours in a text, in order, black and white too."""
    return [name.lower() for name in _NAMED.findall(text)]


def moved(track: Track, before_s: tuple[float, float], after_s: tuple[float, float]) -> dict[str, float]:
    """Return the share of the picture by which each colour left one place and came to another, 0 for none.

    The two stretches of time are each seen as the median of some frames, so that a moving arm is left out. Something
    that only comes or only goes (out of a shadow, into a drawer) does not count.
    """
    before, after = _median(track, before_s), _median(track, after_s)
    changed = cv2.absdiff(before, after).max(axis=2) > DIFFERS
    were, are = _hues(before), _hues(after)
    shares = {}
    for name in HUES:
        gone, come = (float(np.mean(_is(picture, name) & changed)) for picture in (were, are))
        shares[name] = min(gone, come)
    return shares


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
