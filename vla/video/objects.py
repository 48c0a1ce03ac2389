"""Things on every frame: found by colour, or by whatever detector is given, and followed by place.

Colours serve where things are brighter than their ground; on a motley one there are many things that are none.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot, inf
from statistics import median
from typing import Protocol

import cv2
import numpy as np

from vla.video.colours import BRIGHT, HUES, LEAST_SHARE, ROUND, SATURATED, SMALL_SHARE, SQUARE, squareness
from vla.video.places import Places

NAMES = tuple(HUES)
MOST_SHARE = 0.15  # of the picture; more is a table or a wall
NEAR, FAR = 0.06, 0.16  # a thing is looked for so far from its last place, and so far when it was hidden [widths]
RESIZED = 3.0  # a thing that is larger or smaller by more is another
LOST_S = 1.0  # it is gone when it was not found for so long
SURE_S = 0.3  # what is not found for so long is a flicker
COVERED, USUAL = 0.75, 15  # with less of its usual area it is partly hidden; usual in so many sightings before
SQUARES = 10_000  # sightings by whose shape a thing is named, the first ones
MOST_PLACES = 1_000_000  # of all things of a camera; when there are more, every second one is dropped
MOST_THINGS = 1000  # that are remembered when they are gone; of more those that were followed for longest
MOVED_S, MOVES, RESTS = 0.4, 0.03, 0.01  # it moves, and rests again, by its way within so long a time [widths]


@dataclass(frozen=True)
class Sighting:
    """A thing on one frame; lengths in widths of the picture, so that both directions are alike."""

    kind: str  # its colour, or what a detector calls it
    x: float  # of its middle
    y: float
    width: float
    height: float
    area: float  # [widths squared]
    square: float | None = None  # share of its smallest rectangle that it fills; None where nobody can say


@dataclass(frozen=True)
class Thing:
    """Where one thing was, as a table."""

    number: int
    name: str  # such as "red box"
    time_s: np.ndarray  # float64[K]
    place: np.ndarray  # float32[K, 4] middle x, y, width, height [widths of the picture]

    @property
    def way(self) -> float:
        """How far it went, without trembling [widths of the picture]."""
        middle = self.place[:, :2].astype(np.float64)
        steps = np.linalg.norm(np.diff(middle, axis=0), axis=1)
        return float(steps[steps > RESTS / 4].sum())


@dataclass
class Followed:
    """A thing as long as it is followed."""

    number: int
    kind: str
    first_s: float
    last_s: float
    last: Sighting
    moving: bool = False
    covered: bool = False  # partly hidden now, so that its middle tells little
    recent: deque[tuple[float, float, float]] = field(default_factory=deque)  # (time, x, y) of the last MOVED_S
    rows: Places = field(default_factory=Places)
    squares: array = field(default_factory=lambda: array("d"))
    areas: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL))

    @property
    def sure(self) -> bool:
        """Whether it was seen for long enough to be more than a flicker."""
        return self.last_s - self.first_s >= SURE_S - 1e-6

    @property
    def name(self) -> str:
        """Colour and shape, as far as they can be told, or what a detector calls it."""
        if self.kind not in HUES:
            return self.kind
        square = float(np.median(self.squares)) if self.squares else (SQUARE + ROUND) / 2
        return f"{self.kind} {'box' if square > SQUARE else 'disc' if square < ROUND else 'thing'}"

    def distance(self, time_s: float, sighting: Sighting) -> float:
        """Return how far a sighting is from where this was last [widths]; infinity where it is another thing."""
        if sighting.kind != self.kind:
            return inf
        away = hypot(sighting.x - self.last.x, sighting.y - self.last.y)
        near = min(NEAR + time_s - self.last_s, FAR)
        alike = 1 / RESIZED < sighting.area / max(self.last.area, 1e-9) < RESIZED
        return away if away <= near and alike else inf

    def move(self, time_s: float, sighting: Sighting) -> str | None:
        """Take a new sighting; return "moves" or "rests" where that changes."""
        self.last, self.last_s = sighting, time_s
        if sighting.square is not None and len(self.squares) < SQUARES:
            self.squares.append(sighting.square)
        self.areas.append(sighting.area)
        self.covered = sighting.area < COVERED * median(self.areas)
        if self.covered:
            return None
        self.recent.append((time_s, sighting.x, sighting.y))
        while time_s - self.recent[0][0] > MOVED_S + 1e-6:
            self.recent.popleft()
        way = max(hypot(sighting.x - x, sighting.y - y) for _, x, y in self.recent)
        whole = time_s - self.recent[0][0] > MOVED_S / 2
        if self.moving != (way > (RESTS if self.moving else MOVES)) and whole:
            self.moving = not self.moving
            return "moves" if self.moving else "rests"
        return None


class Follower:
    """Follows the things of one camera; frames come in the order of time, and memory is bounded at any number of them.

    Where too many things are followed for too long, their places are remembered less often, and those that were
    followed for the shortest time are forgotten: `left_out` says so.
    """

    def __init__(self) -> None:
        self._followed: list[Followed] = []
        self._ended: list[Followed] = []
        self._count, self._began_s = 0, inf
        self._times, self._places, self._every, self._forgotten = 0, 0, 1, 0  # every how many-th time is remembered

    def update(self, time_s: float, sightings: Sequence[Sighting], keep: bool) -> list[tuple[str, str]]:
        """Take what is seen at a time; return (name, what changed): "appears", "moves", "rests" or "is gone".

        What is there from the beginning does not appear. Where the things are is remembered if `keep`.
        """
        changes: list[tuple[str, str]] = []
        self._times += keep
        keep = keep and (self._times - 1) % self._every == 0
        self._began_s = min(self._began_s, time_s)
        for followed, sighting in self._matched(time_s, sightings):
            if followed is None:
                followed = Followed(self._count, sighting.kind, time_s, time_s, sighting)
                self._count += 1
                self._followed.append(followed)
            known = followed.sure
            change = followed.move(time_s, sighting)
            if followed.sure and not known and followed.first_s > self._began_s:
                changes.append((followed.name, "appears"))
            elif change and known:
                changes.append((followed.name, change))
            if keep and not followed.covered:
                followed.rows.add(time_s, (sighting.x, sighting.y, sighting.width, sighting.height))
                self._places += 1
        gone = [followed for followed in self._followed if time_s - followed.last_s > LOST_S]
        self._followed = [followed for followed in self._followed if followed not in gone]
        self._end([followed for followed in gone if followed.sure and len(followed.rows)])
        if self._places > MOST_PLACES:
            self._thin()
        return changes + [(followed.name, "is gone") for followed in gone if followed.sure]

    def things(self) -> tuple[Thing, ...]:
        """Return all things that were more than a flicker, in the order of their first sighting."""
        every = sorted([*self._ended, *self._followed], key=lambda followed: followed.number)
        sure = [followed for followed in every if followed.sure and len(followed.rows)]
        return tuple(Thing(number, followed.name, *followed.rows.tables()) for number, followed in enumerate(sure))

    @property
    def left_out(self) -> str:
        """What was not remembered, "" where everything was."""
        places = f"places are told at every {self._every}th sample only" * (self._every > 1)
        things = f"{self._forgotten} things that were in sight for a short time are not told" * (self._forgotten > 0)
        return "; ".join(filter(None, [places, things]))

    def _end(self, gone: Sequence[Followed]) -> None:
        """Remember what is gone, in little memory: a camera may be followed for days."""
        for followed in gone:
            followed.recent.clear()
            followed.areas.clear()
        self._ended += gone
        if len(self._ended) > 2 * MOST_THINGS:
            longest = sorted(self._ended, key=lambda followed: (followed.first_s - followed.last_s, followed.number))
            self._forgotten += len(self._ended) - MOST_THINGS
            self._ended = longest[:MOST_THINGS]

    def _thin(self) -> None:
        self._every *= 2
        for followed in (*self._ended, *self._followed):
            followed.rows.thin()
        self._places = sum(len(followed.rows) for followed in (*self._ended, *self._followed))

    def _matched(self, time_s: float, sightings: Sequence[Sighting]) -> list[tuple[Followed | None, Sighting]]:
        """Pair sightings with what is followed, the nearest first; None for what is new."""
        distances = [
            (followed.distance(time_s, sighting), row, column)
            for row, sighting in enumerate(sightings)
            for column, followed in enumerate(self._followed)
            if followed.kind == sighting.kind  # a call for every two things of a crowded picture would take long
        ]
        pairs: dict[int, int] = {}
        for _, row, column in sorted(pair for pair in distances if pair[0] < inf):
            if row not in pairs and column not in pairs.values():
                pairs[row] = column
        return [
            (self._followed[pairs[row]] if row in pairs else None, sighting) for row, sighting in enumerate(sightings)
        ]


class Detector(Protocol):
    """Finds things by name."""

    @property
    def identity(self) -> str:
        """What is found depends on it."""
        ...

    def __call__(self, image: np.ndarray) -> Sequence[Sighting]:
        """Return the things in uint8[h, w, 3] RGB."""
        ...


def sight(image: np.ndarray, shapes: bool = True) -> list[Sighting]:
    """Return the coloured things in uint8[h, w, 3] RGB; black, white and grey ones are not told from their ground.

    Without `shapes` nothing is said of how square they are, which takes half of the time.
    """
    codes = coded(image)
    found = []
    counts = cv2.calcHist([codes], [0], None, [len(NAMES)], [1, len(NAMES) + 1]).ravel()
    for code in np.flatnonzero(counts >= LEAST_SHARE / 2 * codes.size):
        mask = cv2.inRange(codes, int(code + 1), int(code + 1))
        left, top, wide, high = cv2.boundingRect(mask)  # the rest of the picture need not be searched
        mask = mask[top : top + high, left : left + wide]
        _, labels, stats, middles = cv2.connectedComponentsWithStats(mask, ltype=cv2.CV_16U)
        areas = stats[:, cv2.CC_STAT_AREA] / codes.size
        areas[0] = 0  # of what has another colour
        for label in np.flatnonzero((areas >= LEAST_SHARE / 2) & (areas <= MOST_SHARE)):
            x, y, width, height, area = map(int, stats[label])
            judged = shapes and area <= SMALL_SHARE * codes.size
            square = squareness(labels[y : y + height, x : x + width] == label) if judged else None
            unit = codes.shape[1]
            middle = (left + float(middles[label][0])) / unit, (top + float(middles[label][1])) / unit
            found.append(Sighting(NAMES[code], *middle, width / unit, height / unit, area / unit**2, square))
    return found


def coded(image: np.ndarray) -> np.ndarray:
    """Return uint8[h, w]: 1 + the number of its colour in NAMES for each pixel, 0 where it has none that is named."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    codes = cv2.LUT(cv2.extractChannel(hsv, 0), _CODES)
    return cv2.bitwise_and(codes, codes, mask=cv2.inRange(hsv, (0, SATURATED, BRIGHT), (255, 255, 255)))


def _table() -> np.ndarray:
    """Return uint8[256]: the code of every hue."""
    table = np.zeros(256, np.uint8)
    for number, spans in enumerate(HUES.values(), start=1):
        for low, high in spans:
            table[low:high] = number
    return table


_CODES = _table()
