"""Coloured things in the picture: which ones left their places while a gripper held something."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vla.video.colours import HUES, LEAST_SHARE, SMALL_SHARE, hues, squareness
from vla.video.objects import MOST_SHARE
from vla.video.track import Track

FRAMES = 9  # of a stretch, whose median leaves out what passes through
LOOKS = 80  # frames in which it is seen what has become of a place
DIFFERS = 40  # levels within which a pixel shows the ground around a thing
RIM, AROUND = 3, 9  # pixels around a thing that are its edge, and those from there on that are its ground
SHOWN = 0.6  # of the pixels of a place that show its ground when the thing has left
THERE = 0.3  # of the pixels of a place that show the thing while some of it is there
FULL = 0.8  # of the pixels of a place that show the thing while nothing is before it
CLOSING_S = 0.5  # before and after it has closed, a gripper hides some of what is between its jaws
SAME = 0.95  # of the pixels of a place that show the thing again when it was not touched
AFTER_S = 0.5  # a gripper that has opened, or closed, goes away within this time
LEFT, STAYED, HIDDEN = "left", "stayed", "hidden"
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


class Place:
    """Where a coloured thing lies in a picture uint8[h, w, 3] RGB, and the ground around it."""

    def __init__(self, colour: str, picture: np.ndarray, mask: np.ndarray) -> None:
        self.colour, self.share, self.squareness = colour, float(mask.mean()), squareness(mask)
        left, top, wide, high = cv2.boundingRect(mask.astype(np.uint8))
        self._here = np.s_[top : top + high, left : left + wide]
        self._mask = mask[self._here]
        near, far = (cv2.dilate(mask.astype(np.uint8), np.ones((k, k), np.uint8)) for k in (RIM, AROUND))
        around = picture[(far > 0) & (near == 0)]
        self._ground = np.median(around, axis=0) if len(around) else np.full(3, np.inf)

    @property
    def small(self) -> bool:
        """Whether it can be grasped."""
        return self.share <= SMALL_SHARE

    def shown(self, picture: np.ndarray) -> float:
        """Return how much of the thing, or of another one of its colour, is seen there, 0..1."""
        return float(_is(hues(picture[self._here]), self.colour)[self._mask].mean())

    def shows_ground(self, picture: np.ndarray) -> bool:
        """Say whether neither the thing nor anything else covers the ground."""
        away = np.abs(picture[self._here][self._mask] - self._ground).max(axis=1)
        return float((away < DIFFERS).mean()) > SHOWN


def places(picture: np.ndarray) -> Iterator[Place]:
    """Yield the place of everything in uint8[h, w, 3] RGB that has a colour of HUES and is no table or wall."""
    seen = hues(picture)
    for colour in HUES:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(_is(seen, colour).astype(np.uint8))
        for label in range(1, count):
            if LEAST_SHARE / 2 <= stats[label, cv2.CC_STAT_AREA] / labels.size <= MOST_SHARE:
                yield Place(colour, picture, labels == label)


@dataclass(frozen=True)
class Frame:
    """A picture uint8[h, w, 3] RGB at a time."""

    time_s: float
    picture: np.ndarray


def fates(before: np.ndarray, frames: Sequence[Frame], closed_s: float, opened_s: float | None) -> dict[Place, str]:
    """Say of every place in the picture `before` what became of its thing in a grip: LEFT, STAYED or HIDDEN.

    It left if its ground is seen after the gripper closed and not before, and nothing of the thing is seen once the
    gripper has let go: what an arm only covers, or what was pushed away before or after, has not left. It stayed if it
    was in full sight when the gripper closed, which was elsewhere then, or is in its very place once that has opened
    again; `opened_s` is None where it has not.
    """
    found, released_s = {}, closed_s if opened_s is None else opened_s
    for place in places(before):
        closing = [place.shown(frame.picture) for frame in frames if abs(frame.time_s - closed_s) < CLOSING_S]
        later = [place.shown(frame.picture) for frame in frames if frame.time_s > released_s + AFTER_S]
        bare_s = [frame.time_s for frame in frames if place.shows_ground(frame.picture)]
        left = max(later, default=0.0) < THERE and bare_s and bare_s[0] > closed_s
        untouched = opened_s is not None and max(later, default=0.0) > SAME
        stayed = untouched or min(closing, default=0.0) > FULL
        found[place] = LEFT if left else STAYED if stayed else HIDDEN
    return found


def usual_picture(track: Track, start_s: float, stop_s: float) -> np.ndarray:
    """Return the median picture of a stretch of time, uint8[h, w, 3] RGB, without what passes through."""
    pictures = [frame.picture for frame in pictures_of(track, start_s, stop_s, FRAMES)]
    return np.median(np.stack(pictures), axis=0).astype(np.uint8)


def pictures_of(track: Track, start_s: float, stop_s: float, most: int = LOOKS) -> list[Frame]:
    """Return at most so many pictures, evenly from a stretch of time; one at least, the nearest."""
    times_s = track.time_s[track.sample]
    first, last = np.searchsorted(times_s, (start_s - 1e-6, stop_s + 1e-6))
    samples = np.unique(np.linspace(first, max(last - 1, first), most).round().astype(int))
    chosen = times_s[np.minimum(samples, len(times_s) - 1)]
    return [Frame(float(time_s), track.picture(float(time_s))) for time_s in np.unique(chosen)]


def _is(seen: np.ndarray, name: str) -> np.ndarray:
    return np.any([(seen >= low) & (seen < high) for low, high in HUES[name]], axis=0)
