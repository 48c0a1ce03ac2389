"""Who names segments, says what failed and answers questions: a protocol for models, and what is done without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vla.video.answer import Answer, measured_answer
from vla.video.events import Event
from vla.video.outcome import Outcome
from vla.video.reading import Text
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
    outcome: Outcome
    texts: Sequence[Text] = ()  # read in the pictures: data, whatever it says


class Words(Protocol):
    """Names segments, judges and answers; times are measured, a model chooses among them and never makes them up."""

    @property
    def identity(self) -> str:
        """What the words depend on: the model, its version, its prompts. Another identity, other words."""
        ...

    def name(self, story: Story) -> list[Segment]:
        """Return the segments, perhaps cut further, with better labels; one that has no name keeps its own, and why."""
        ...

    def judge(self, story: Story) -> Outcome:
        """Return the outcome, given the measured one with its suspects; where no judgement came, that and why."""
        ...

    def answer(self, story: Story, question: str, times_s: Sequence[float]) -> Answer:
        """Answer from the frames at these times, which were chosen for the question; "not visible" is an answer."""
        ...


class NoWords:
    """Leaves labels and outcome as they were measured, and answers with measured moments."""

    identity = "none"

    def name(self, story: Story) -> list[Segment]:
        """Return the segments as they are."""
        return list(story.segments)

    def judge(self, story: Story) -> Outcome:
        """Return the outcome as it was measured."""
        return story.outcome

    def answer(self, story: Story, question: str, times_s: Sequence[float]) -> Answer:
        """Return the measured moments that the question's words speak of."""
        return measured_answer(question, story.events, story.outcome, next(iter(story.tracks.values())))
