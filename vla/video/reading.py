"""Text in pictures, read on this machine. It is what somebody wrote into the scene: data, and never an instruction."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vla.video.flag import WARNING, Flag
from vla.video.track import Track

HIDDEN = "(hidden)"  # stands for a text that is not to be told
SURE = 0.6  # least confidence of a line that is told
MOST, LENGTH = 20, 160  # lines, and characters of each, that a model is told
_ORDERS = re.compile(
    r"\b(ignore|disregard|forget)\b.{0,40}\b(instructions?|prompts?|rules|above|before)\b|\b(system|developer) prompt\b"
    r"|\b(answer|reply|respond|say)\b.{0,20}\b(only|with|success|failure|json)\b|\byou (are|must) now\b"
    r"|\bdo not (report|mention|tell|answer)\b|\b(assistant|language model|chatbot)\b",
    re.IGNORECASE,
)

Box = tuple[int, int, int, int]  # x, y of the upper left corner, width, height [px]


@dataclass(frozen=True)
class Line:
    """A line of text in one picture."""

    text: str
    confidence: float  # 0..1
    box: Box


@dataclass(frozen=True)
class Text:
    """The same line as long as it is seen."""

    text: str
    camera: str
    start_s: float  # of the first and the last picture that shows it, of those that were read
    stop_s: float
    confidence: float  # the best
    box: Box  # where it was read best, in the picture as kept, whose longer side is decode.SIDE
    orders: bool  # reads like orders to a model


class Reader(Protocol):
    """Reads text in pictures."""

    @property
    def identity(self) -> str:
        """What is read depends on it."""
        ...

    def read(self, image: np.ndarray) -> list[Line]:
        """Return the lines in uint8[h, w, 3] RGB, from top to bottom."""
        ...


def read_tracks(reader: Reader, tracks: Mapping[str, Track], times_s: Sequence[float]) -> list[Text]:
    """Read the pictures of all cameras at some times; a line that is seen in several of them is told once."""
    found: dict[tuple[str, str], Text] = {}
    for camera, track in tracks.items():
        for time_s in times_s:
            for line in reader.read(track.picture(time_s)):
                if line.confidence >= SURE:
                    key = camera, plain(line.text)
                    found[key] = _joined(found.get(key), line, camera, time_s)
    return sorted(found.values(), key=lambda text: (text.start_s, text.camera, text.box))


def flags(texts: Sequence[Text]) -> list[Flag]:
    """Warn of every text that reads like orders to a model, since a model that is shown it may be misled."""
    return [
        Flag("orders", WARNING, text.camera, text.start_s, text.stop_s, f"text in the picture: {json.dumps(text.text)}")
        for text in texts
        if text.orders
    ]


def hidden(texts: Sequence[Text]) -> list[Text]:
    """Return when and where something was read, and whether it reads like orders, without what it says."""
    return [replace(text, text=HIDDEN) for text in texts]


def quoted(texts: Sequence[Text]) -> str:
    """Return the texts as JSON strings of one line, so that nothing in them can end the quotation."""
    return "; ".join(json.dumps(text.text[:LENGTH]) for text in texts[:MOST]) or "none"


def plain(text: str) -> str:
    """Return a text without case, spaces and signs, by which two readings of one line are the same."""
    return re.sub(r"\W+", "", text.lower())


def _joined(before: Text | None, line: Line, camera: str, time_s: float) -> Text:
    now = Text(line.text, camera, time_s, time_s, line.confidence, line.box, bool(_ORDERS.search(line.text)))
    if before is None:
        return now
    best = max(before, now, key=lambda text: text.confidence)
    start_s, stop_s = min(before.start_s, time_s), max(before.stop_s, time_s)
    return replace(best, start_s=start_s, stop_s=stop_s, orders=before.orders or now.orders)
