"""What the policy's side remembers during one episode: the subtask, what is finished, when to look again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vla.evaluate.completion import Completion
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

    def next_subtask(self, observations: Sequence[Observation], finished: Sequence[Sequence[str]]) -> list[str]:
        """Say what to do next for each observation's instruction, or "done"."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """List the words of `text` that are not in the vocabulary."""
        ...

    def check(self, embodiment: Embodiment) -> None:
        """Refuse a body that the policy was not trained for."""
        ...


@dataclass(frozen=True)
class Pacing:
    """How often the policy looks, and when a subtask is over; counts are control steps."""

    replan_steps: int = 3  # executed of each chunk before the next inference
    confirm_steps: int = 2  # the same while a "done" waits for agreement, so that it is confirmed soon
    k: int = 2  # agreeing predictions in a row that declare a subtask done
    threshold: float = 0.5  # of the done probability
    subtask_timeout_steps: int = 120  # then the planner is asked again
    attempts: int = 3  # at a subtask, before giving up and holding still
    linger_steps: int = 10  # recorded after success, or after the policy says that all is done


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
        self.stepping = stepping
        self.pacing = pacing
        self.completion = Completion(k=pacing.k, threshold=pacing.threshold)
        self.subtask = None if stepping else instruction
        self.finished: list[str] = []
        self.plans: list[tuple[int, str]] = []  # (step, subtask) as the planner said them
        self.claims: list[tuple[int, str]] = []  # (step, subtask) declared done
        self.ended: str | None = None  # "done" or "gave_up", said by the policy's side
        self.started_step = 0
        self.attempt = 1
        self.command: np.ndarray | None = None  # float32[A], the last one sent

    @property
    def wants_plan(self) -> bool:
        """Whether the planner must speak before the controller can act."""
        return self.subtask is None and self.ended is None

    def take_plan(self, text: str, step: int) -> None:
        """Adopt what the planner said; the same subtask again after a timeout counts as another attempt."""
        repeated = bool(self.plans) and self.plans[-1][1] == text and text not in self.finished[-1:]
        self.attempt = self.attempt + 1 if repeated else 1
        self.plans.append((step, text))
        if text == "done":
            self.ended = "done"
        elif self.attempt > self.pacing.attempts:
            self.ended = "gave_up"
        else:
            self.subtask, self.started_step = text, step
            self.completion.reset()

    def take_chunk(self, chunk: ActionChunk, step: int) -> np.ndarray:
        """Return the actions float32[N, A] to execute now, and advance the subtask where it is complete."""
        assert self.subtask is not None
        if not np.isfinite(chunk.actions).all():
            raise FloatingPointError(f"the policy's chunk at step {step} holds numbers that are not finite")
        claimed = (self.stepping or chunk.done is not None) and self.completion.update(chunk.done)
        steps = self.pacing.confirm_steps if claimed or self.completion.pending else self.pacing.replan_steps
        actions = np.asarray(chunk.actions[:steps], dtype=np.float32)
        self.command = actions[-1]
        if claimed and (self.stepping or not self.claims):
            self.claims.append((step, self.subtask))
        if self.stepping and claimed:
            self.finished.append(self.subtask)
            self.subtask = None
        elif self.stepping and step - self.started_step >= self.pacing.subtask_timeout_steps:
            self.subtask = None
        return actions

    def hold(self, state: np.ndarray) -> np.ndarray:
        """Return one action float32[1, A] that keeps the last command (a grasp must stay tight), else the state."""
        return np.asarray(self.command if self.command is not None else state, dtype=np.float32)[None]
