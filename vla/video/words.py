"""Who names segments: a protocol that a model answers, and the answer of none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vla.video.events import Event
from vla.video.segments import Segment
from vla.video.source import Item
from vla.video.track import Track


@dataclass(frozen=True)
class Story:
    """What a model is given: the item with its instruction, its pictures, and what was measured."""

    item: Item
    tracks: dict[str, Track]
    events: Sequence[Event]
    segments: Sequence[Segment]


class Words(Protocol):
    """Names segments and never moves their boundaries, which are measured."""

    @property
    def identity(self) -> str:
        """What the words depend on: the model, its version, its prompts. Another identity, other words."""
        ...

    def name(self, story: Story) -> list[Segment]:
        """Return the segments with better labels; one that could not be named keeps its label and says why."""
        ...


class NoWords:
    """Leaves the labels as they were measured."""

    identity = "none"

    def name(self, story: Story) -> list[Segment]:
        """Return the segments as they are."""
        return list(story.segments)
