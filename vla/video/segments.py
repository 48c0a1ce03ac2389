"""What lies between boundaries: stretches in which one thing is done, first named by the events that end them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vla.video.events import Event
from vla.video.keyframes import boundaries, near, weights_among

MEASURED = "events"  # the source of a label that no model gave
INSTRUCTION = "instruction"  # the source of a label that is a step of it, in its order: no model was asked
DEEDS = {  # kind of the event that ends a segment -> what it is called until a model knows better
    "grasp": "reach and grasp",
    "release": "carry and let go",
    "fumble": "reach and miss",
    "gripper_closes": "close the gripper",
    "gripper_opens": "open the gripper",
    "finish": "act and withdraw",
    "stop": "move and stop",
    "set_off": "rest",
    "effort_step": "approach until contact",
    "stall": "move until blocked",
    "pause": "move",
    "dip": "move",
    "turn": "move",
    "novelty": "change the view",
    "subgoal": "change the view",
}
LAST = "end"  # the segment that nothing ends but the video


@dataclass(frozen=True)
class Segment:
    """One stretch; segments cover a video without holes or overlaps."""

    start_s: float
    stop_s: float
    label: str
    source: str = MEASURED  # who named it: MEASURED, INSTRUCTION or a model
    why: tuple[str, ...] = ()  # the events that end it, the weightiest first; none where the video ends
    kinds: tuple[str, ...] = ()  # of the same events
    problem: str = ""  # what kept a model from naming it
    confidence: float | None = None  # 0..1, by agreement, or how clearly a step begins; None where nothing tells
    first: str | None = None  # what a weaker model said, where a stronger one was asked

    @property
    def middle_s(self) -> float:
        """Half way [s]."""
        return (self.start_s + self.stop_s) / 2


def cut(events: Sequence[Event], time_s: np.ndarray) -> list[Segment]:
    """Divide the time from the first to the last of `time_s` at the boundaries that the events make."""
    inner = boundaries(events, time_s)
    edges = [float(time_s[0]), *inner, float(time_s[-1])]
    segments, weights = [], weights_among(events)
    for start_s, stop_s in pairwise(edges):
        segments.append(_ended(start_s, stop_s, near(events, stop_s, weights) if stop_s in inner else []))
    return segments


def _ended(start_s: float, stop_s: float, ending: Sequence[Event]) -> Segment:
    """Return a segment named by the events that end it."""
    kinds = tuple(dict.fromkeys(event.kind for event in ending))
    why = tuple(dict.fromkeys(event.words for event in ending))
    return Segment(start_s, stop_s, DEEDS[kinds[0]] if kinds else LAST, why=why, kinds=kinds)


def divided(segments: Sequence[Segment], times_s: Sequence[float], events: Sequence[Event]) -> list[Segment]:
    """Cut segments at further times as well; what ends the first part of one is told by the events there."""
    weights, parts = weights_among(events), list[Segment]()
    for segment in segments:
        inner = sorted(time_s for time_s in times_s if segment.start_s < time_s < segment.stop_s)
        for start_s, stop_s in pairwise([segment.start_s, *inner]):
            parts.append(_ended(start_s, stop_s, near(events, stop_s, weights)))
        parts.append(replace(segment, start_s=inner[-1] if inner else segment.start_s))
    return parts


def merged(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbours to which a model gave one and the same label; the boundary between them is dropped."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and last.source == segment.source != MEASURED and last.label == segment.label:
            known = [part.confidence for part in (last, segment) if part.confidence is not None]
            joined[-1] = replace(
                last,
                stop_s=segment.stop_s,
                why=segment.why,
                kinds=segment.kinds,
                confidence=min(known, default=None),
                first=segment.first if last.first is None else last.first,
            )
        else:
            joined.append(segment)
    return joined
