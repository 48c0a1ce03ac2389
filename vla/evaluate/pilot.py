"""What the policy's side remembers during one episode: the subtasks, what it said, when to look again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vla.control.completion import Completion
from vla.control.hierarchy import Hierarchy, Pacing
from vla.types import ActionChunk, Embodiment, Observation


class PlanningPolicy(Protocol):
    """A policy (types.py) that also plans: it says the next subtask, and which words it does not know."""

    @property
    def embodiment(self) -> Embodiment:
        """The body that it was trained for."""
        ...

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer a batch of observations, each with one chunk."""
        ...

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Answer one text prompt about each observation."""
        ...

    def next_subtask(
        self, observations: Sequence[Observation], finished: Sequence[Sequence[str]], failed: Sequence[str] = ()
    ) -> list[str]:
        """Say what to do next for each observation's instruction, or "done"."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """List the words of `text` that are not in the vocabulary."""
        ...

    def check(self, embodiment: Embodiment) -> None:
        """Refuse a body that the policy was not trained for."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What one chunk said about completion, beside the truth at that frame."""

    step: int
    subtask: str
    done: float | None
    progress: float | None
    true_subtask: str
    true_done: bool
    true_progress: float


class Pilot:
    """Carry one instruction through an episode, directly or subtask by subtask."""

    def __init__(self, *, instruction: str, stepping: bool, pacing: Pacing):
        """Give `instruction` to the controller as it is, or with `stepping` ask the planner for its subtasks."""
        self.instruction = instruction
        self.pacing = pacing
        self.hierarchy = Hierarchy(instruction, pacing) if stepping else None
        self.command: np.ndarray | None = None  # float32[A], the last one sent
        self._completion = Completion(k=pacing.k, threshold=pacing.threshold)
        self._claimed_step: int | None = None  # when the instruction as a whole was declared done

    @property
    def subtask(self) -> str | None:
        """What the controller is told now, None while it is told nothing."""
        return self.hierarchy.subtask if self.hierarchy else self.instruction

    @property
    def ended(self) -> str | None:
        """How the policy's side ended it: done, gave_up."""
        return self.hierarchy.ended if self.hierarchy else None

    @property
    def plans(self) -> list[tuple[int, str]]:
        """(step, subtask) as the planner said them."""
        return self._noted("plan")

    @property
    def claims(self) -> list[tuple[int, str]]:
        """(step, subtask) declared done."""
        if self.hierarchy:
            return self._noted("done")
        return [] if self._claimed_step is None else [(self._claimed_step, self.instruction)]

    def _noted(self, event: str) -> list[tuple[int, str]]:
        notes = self.hierarchy.notes if self.hierarchy else []
        return [(note.step, note.text) for note in notes if note.event == event]

    def take_chunk(self, chunk: ActionChunk, step: int) -> np.ndarray:
        """Return the actions float32[N, A] to execute now, and advance the subtask where it is complete."""
        if not np.isfinite(chunk.actions).all():
            raise FloatingPointError(f"the policy's chunk at step {step} holds numbers that are not finite")
        if self.hierarchy:
            completion = self.hierarchy.completion
            claimed = self.hierarchy.take_prediction(chunk.done, step)
        else:
            completion = self._completion
            claimed = chunk.done is not None and completion.update(chunk.done)
            if claimed and self._claimed_step is None:
                self._claimed_step = step
        steps = self.pacing.confirm_steps if claimed or completion.pending else self.pacing.replan_steps
        actions = np.asarray(chunk.actions[:steps], dtype=np.float32)
        self.command = actions[-1]
        return actions

    def hold(self, state: np.ndarray) -> np.ndarray:
        """Return one action float32[1, A] that keeps the last command (a grasp must stay tight), else the state."""
        return np.asarray(self.command if self.command is not None else state, dtype=np.float32)[None]
