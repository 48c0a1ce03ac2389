"""Names segments by the steps of the instruction, or by asking one of our own checkpoints what comes next."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vla.control.grammar import Grammar, PlanRefusedError
from vla.model.checkpoint import DEFAULT, load
from vla.model.prompts import ALL_FINISHED, split_steps
from vla.types import Observation
from vla.video.answer import NOT_VISIBLE, Answer, cite, measured_answer
from vla.video.order import in_order
from vla.video.outcome import Outcome
from vla.video.segments import INSTRUCTION, Segment, divided
from vla.video.track import Track
from vla.video.words import Story

ASKED = 5  # frames of a stretch that are asked about
_WHEN = re.compile(r"^(?:when|at what time) (is|are) (.+)$")
_PARTICLES = "in|into|on|onto|to|over|up|down|out|open|shut|closed|forward|back|and|then|next|beside|after|until|with"
_NAME = re.compile(rf"\bthe (\w+ (?!(?:{_PARTICLES})\b)\w+)")  # "open the drawer, put the red cube in it": a red cube


class PlanWords:
    """Asks a checkpoint at several frames what the instruction demands next, given what it said before.

    It needs an instruction and the checkpoint's cameras. An instruction whose steps the grammar of `skills` can read is
    told in its order (order.py): the model is not asked, the labels' source is the instruction, and their confidence is
    how clearly the step begins and ends. Of another one the model says by vote what is done between two rests; which
    things it is done to is taken from the instruction, in its order, wherever the model names others, for a small model
    mixes colours up.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        skills: Grammar | None = None,
    ) -> None:
        folder = Path(checkpoint or DEFAULT)
        if threads is not None:
            torch.set_num_threads(threads)
        self._policy = load(folder, device=device)
        with (folder / "model.safetensors").open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        self.identity, self._skills = f"{folder.name} {weights}, {'grammar/3' if skills else 'plan/2'}", skills

    def name(self, story: Story) -> list[Segment]:
        """Name every stretch between rests, in the order of time."""
        problem = self._unfit(story)
        if problem:
            return [replace(segment, problem=problem) for segment in story.segments]
        if steps := self._steps(story.item.task):
            begins = in_order(steps, story.segments, story.events)
            parts = divided(story.segments, [start_s for start_s, _ in begins], story.events)
            return [self._named(part, steps, begins) for part in parts]
        stretches = between_rests(story.segments)
        named: list[Segment] = []
        finished, told = [], 0  # subtasks that are over, and the place in the instruction up to which they were told
        for stretch in stretches:
            step = self._next(story, stretch, finished, told)
            if step.problem:
                named += [replace(segment, problem=step.problem) for segment in stretch]
            else:
                told, known = step.told, {"label": step.label, "source": self.identity, "confidence": step.confidence}
                finished.append(step.label)
                named += [replace(segment, **known) for segment in stretch]
        return named

    def _named(self, part: Segment, steps: Sequence[str], begins: Sequence[tuple[float, float]]) -> Segment:
        """Name a segment by the last step that has begun by its middle."""
        number = sum(start_s <= part.middle_s for start_s, _ in begins) - 1
        return replace(part, label=steps[number], source=INSTRUCTION, confidence=begins[number][1])

    def judge(self, story: Story) -> Outcome:
        """Return the outcome as it was measured: these models were not taught what failures look like."""
        return story.outcome

    def answer(self, story: Story, question: str, times_s: Sequence[float]) -> Answer:
        """Ask about every frame: "is the drawer open" by vote, "when is the drawer open" by the first yes after a no.

        What the model cannot be asked is answered from measured events, and the problem says so.
        """
        track = next(iter(story.tracks.values()))
        plain = re.sub(r"[^a-z0-9 ]+", " ", question.lower()).strip()
        when = _WHEN.match(plain)
        asked = f"{when[1]} {when[2]}" if when else plain
        missing = set(self._policy.embodiment.cameras) - set(story.tracks)
        unknown = self._policy.unknown_words(asked)
        if missing or unknown:
            reason = f"has no camera {sorted(missing)}" if missing else f"was never taught the words {unknown}"
            measured = measured_answer(question, story.events, story.outcome, track)
            return replace(measured, problem=f"not asked, the model {reason}; {measured.problem}")
        looked_at = [self._observation(story, time_s) for time_s in times_s]
        said = [text.strip() for text in self._policy.generate(looked_at, [asked] * len(looked_at))]
        if when:
            return _first_yes(question, times_s, said, track, self.identity)
        (most, votes), *_ = Counter(said).most_common(1)
        shown = [time_s for time_s, text in zip(times_s, said, strict=True) if text == most]
        known = {"looked_at_s": tuple(times_s), "confidence": votes / len(said)}
        return cite(question, most or NOT_VISIBLE, shown, track, self.identity, **known)

    def _unfit(self, story: Story) -> str:
        """Say why this model cannot name these segments; empty if it can."""
        if not story.item.task:
            return "not named: the model reads plans out of an instruction, and none is known"
        missing = set(self._policy.embodiment.cameras) - set(story.tracks)
        if missing:
            return f"not named: the model looks through cameras {sorted(missing)}, which are not there"
        words = self._policy.unknown_words(story.item.task)
        return f"not named: the model was never taught the words {words}" if words else ""

    def _steps(self, task: str) -> list[str]:
        """Read the steps of an instruction; none where there is no grammar or it cannot read all of them."""
        try:
            return [self._skills.parse(step).text for step in split_steps(task)] if self._skills else []
        except PlanRefusedError:
            return []

    def _next(self, story: Story, stretch: Sequence[Segment], finished: Sequence[str], told: int) -> "_Step":
        """Find the subtask of a stretch; its confidence is the share of frames at which the model names that deed."""
        active = [segment for segment in stretch if "set_off" not in segment.kinds] or stretch
        start_s, stop_s = active[0].start_s, active[-1].stop_s
        times_s = start_s + (np.arange(ASKED) + 0.5) / ASKED * (stop_s - start_s)
        asked = [self._observation(story, float(time_s)) for time_s in times_s]
        every = self._policy.next_subtask(asked, [finished] * ASKED)
        answers = _by_votes(every)
        for answer in answers:
            fitted = fit(answer, story.item.task, told)
            if fitted is not None:
                return _Step(*fitted, _share(every, answer))
        if answers:
            problem = f"not named: the model said {answers[0]!r}, which the instruction does not speak of"
            return _Step("", told, 0.0, problem)
        every = self._policy.next_subtask(asked, [finished[:-1]] * ASKED) if finished else []
        again = _by_votes(every)
        if again and deed(again[0]) == deed(finished[-1]):  # nothing is left to do, so it is tried once more
            return _Step(finished[-1], told, _share(every, again[0]))
        return _Step("", told, 0.0, "not named: the model takes the instruction for fulfilled")

    def _observation(self, story: Story, time_s: float) -> Observation:
        images = {camera: story.tracks[camera].picture(time_s) for camera in self._policy.embodiment.cameras}
        state = np.zeros(len(self._policy.embodiment.joints), np.float32)  # is not read where words are asked for
        return Observation(images, state, story.item.task, time_s)


@dataclass(frozen=True)
class _Step:
    """What is done in a stretch, and the place up to which the instruction is told with it."""

    label: str
    told: int
    confidence: float  # 0..1
    problem: str = ""


def _share(said: Sequence[str], answer: str) -> float:
    """Return the share of answers that name the same deed as one of them."""
    return sum(deed(other) == deed(answer) for other in said) / len(said)


def _first_yes(question: str, times_s: Sequence[float], said: Sequence[str], track: Track, identity: str) -> Answer:
    """Answer when something begins: the first frame of the longest run of "yes"."""
    runs: list[list[float]] = [[]]
    for time_s, text in zip(times_s, said, strict=True):
        if text == "yes":
            runs[-1].append(time_s)
        elif runs[-1]:
            runs.append([])
    longest = max(runs, key=len)
    fitting = sum((text == "yes") == (time_s in longest) for time_s, text in zip(times_s, said, strict=True))
    known = {"looked_at_s": tuple(times_s), "confidence": fitting / max(len(said), 1)}
    if not longest:
        return Answer(question, NOT_VISIBLE, (), (), identity, **known)
    words = f"from {longest[0]:.2f} to {longest[-1]:.2f} s" if len(longest) > 1 else f"at {longest[0]:.2f} s"
    return cite(question, words, longest, track, identity, **known)


def between_rests(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments; a new group begins where something sets off after a rest."""
    groups: list[list[Segment]] = [[]]
    for segment in segments:
        groups[-1].append(segment)
        if "set_off" in segment.kinds:
            groups.append([])
    return [group for group in groups if group]


def _by_votes(answers: Sequence[str]) -> list[str]:
    """Return the most common answer for each deed, the most common deed first, without those that name none."""
    said = [answer for answer in answers if answer and answer != ALL_FINISHED]
    deeds = [name for name, _ in Counter(map(deed, said)).most_common()]
    return [Counter(answer for answer in said if deed(answer) == name).most_common(1)[0][0] for name in deeds]


def deed(answer: str) -> str:
    """Return an answer without the things that it names, such as "put the _ in the _"."""
    return _NAME.sub("the _", answer)


def fit(answer: str, instruction: str, told: int) -> tuple[str, int] | None:
    """Return the answer with things that the instruction names from place `told` on, and the place after the last.

    What the answer names is kept where the instruction names it too, in this order; else the next things that the
    instruction names take its place. None where it names too few.
    """
    said = _NAME.findall(answer)
    there = [(name[1], name.end()) for name in _NAME.finditer(instruction, told)]
    names = [name for name, _ in there]
    for first in range(len(names) - len(said) + 1):
        if names[first : first + len(said)] == said:
            return answer, there[first + len(said) - 1][1] if said else told
    if len(names) < len(said):
        return None
    fresh = iter(names)
    return _NAME.sub(lambda _: f"the {next(fresh)}", answer), there[len(said) - 1][1]
