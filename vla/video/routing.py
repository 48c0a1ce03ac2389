"""Hard questions go to a stronger model: what a first one does not know, or is not sure of, is asked once more."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from vla.video import answer, outcome, segments
from vla.video.answer import Answer
from vla.video.outcome import Outcome
from vla.video.segments import Segment, divided
from vla.video.words import Story, Words

Said = TypeVar("Said", Segment, Outcome, Answer)
MEASURED = (segments.MEASURED, outcome.MEASURED, answer.MEASURED)


@dataclass(frozen=True)
class Routing:
    """How many segments, outcomes and answers there were, how many went to the stronger model, how many it changed."""

    asked: int = 0
    routed: int = 0
    changed: int = 0

    @classmethod
    def of(cls, things: Sequence[Segment | Outcome | Answer]) -> "Routing":
        """Count what was said."""
        routed = [thing for thing in things if thing.first is not None]
        return cls(len(things), len(routed), sum(thing.first != said(thing) for thing in routed))


class RoutedWords:
    """Asks `first`, and `stronger` wherever `first` gave no words or its confidence is below `sure`.

    Confidence is agreement: of frames (a checkpoint) or of samples (an endpoint with `samples` above 1), since what
    models state of themselves says little; of a step of the instruction it is how clearly it begins. Where there is
    none, only missing words are asked for again.
    """

    def __init__(self, first: Words, stronger: Words, sure: float = 0.8) -> None:
        if not 0 <= sure <= 1:
            raise ValueError(f"sure={sure} is no share: give 0 (only what is missing) to 1 (whatever is not unanimous)")
        self.first, self.stronger, self.sure = first, stronger, sure
        self.identity = f"{first.identity}; below {sure:g} {stronger.identity}"

    def name(self, story: Story) -> list[Segment]:
        """Name the segments; neighbours that are in doubt are asked about together."""
        named: list[Segment] = []
        first = self.first.name(story)
        cuts_s = [segment.start_s for segment in first]
        pairs = zip(divided(story.segments, cuts_s, story.events), first, strict=True)
        for doubtful, run in groupby(pairs, lambda pair: self._doubts(pair[1])):
            asked = list(run)
            if doubtful:
                again = self.stronger.name(replace(story, segments=[segment for segment, _ in asked]))
                named += [_second(first, other) for (_, first), other in zip(asked, again, strict=True)]
            else:
                named += [first for _, first in asked]
        return named

    def judge(self, story: Story) -> Outcome:
        """Judge; where nothing that was measured speaks for a failure, that stands."""
        first = self.first.judge(story)
        if first.source == outcome.MEASURED and first.label == outcome.NONE and not first.problem:
            return first
        return _second(first, self.stronger.judge(story)) if self._doubts(first) else first

    def answer(self, story: Story, question: str, times_s: Sequence[float]) -> Answer:
        """Answer the question from the same frames."""
        first = self.first.answer(story, question, times_s)
        return _second(first, self.stronger.answer(story, question, times_s)) if self._doubts(first) else first

    def _doubts(self, thing: Segment | Outcome | Answer) -> bool:
        unsure = thing.confidence is not None and thing.confidence < self.sure
        return bool(thing.problem) or thing.source in MEASURED or unsure


def said(thing: Segment | Outcome | Answer) -> str:
    """Return what was said, "" where a model gave no name."""
    if isinstance(thing, Segment):
        return "" if thing.source == segments.MEASURED else thing.label
    return thing.label if isinstance(thing, Outcome) else thing.answer


def _second(first: Said, second: Said) -> Said:
    """Take the stronger model's words, or keep the first one's where it gave none; both are told."""
    if not second.problem:
        return replace(second, first=said(first))
    problem = "; ".join(filter(None, [first.problem, f"the stronger model: {second.problem}"]))
    return replace(first, first=said(first), problem=problem)
