"""Who drives while something fails: a policy that follows a demonstration, and a planner in virtual time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Thread
from concurrent.futures import Future
from math import inf
from typing import Any, Protocol

import numpy as np

from vla.control.clock import VirtualClock
from vla.control.steering import Steering
from vla.control.stepping import Stepping
from vla.types import ActionChunk, Embodiment, Observation

HORIZON = 16  # steps of a chunk of the driver
SAME = 0.02  # joints that are closer than this are at the same place of the path
HAND = 0.02  # of its range in a step, by which a hand that opens or closes moves
PATIENCE = 2  # steps for each one of the demonstration in which the hand moves
ARRIVE = 3  # steps for the one before that


class Demonstration(Protocol):
    """What a demonstrator did, one row a control step."""

    targets: np.ndarray  # float32[N, A]
    joints: np.ndarray  # float32[N, A]
    lifted: np.ndarray  # bool[N]


class Follower:
    """A policy that follows a path from wherever on it the arm is; `done` says that the first or second half is.

    It takes more time about the hand than the demonstrator did: during a fault the arm falls behind its targets, and
    after it the driver may find itself a step ahead on the path.
    """

    def __init__(self, embodiment: Embodiment, path: Demonstration, pick: str):
        """Take the path; `pick` is the instruction that is done when the object has been lifted."""
        self.embodiment, self._pick = embodiment, pick
        hands = np.stack([path.targets[:, -1], path.joints[:, -1]])
        moves: np.ndarray = np.abs(np.diff(hands, axis=1, prepend=hands[:, :1])).max(axis=0) > HAND
        before = ~moves & np.append(moves[1:], False)
        steps = np.repeat(np.arange(moves.size), np.where(moves, PATIENCE, np.where(before, ARRIVE, 1)))
        self._targets, self._joints = path.targets[steps], path.joints[steps]
        self._lifted = int(np.argmax(path.lifted[steps])) + 1
        self._index = 0

    def act(
        self, observations: Sequence[Observation], given: np.ndarray | None = None, given_steps: int = 0
    ) -> list[ActionChunk]:
        """Answer with the next steps of the path, after those that are given."""
        chunks = []
        for observation in observations:
            index = self._find(observation.state)
            last = self._lifted if observation.instruction == self._pick else len(self._targets) - 1
            first = index if given is None or not given_steps else self._after(given[0, given_steps - 1], index)
            steps = np.clip(np.arange(first - given_steps, first - given_steps + HORIZON), 0, max(last, index))
            actions = self._targets[steps].astype(np.float32)
            if given is not None:
                actions[:given_steps] = given[0, :given_steps]
            done = 0.9 if index >= last - 1 else 0.1
            chunks.append(ActionChunk(actions, 1 / self.embodiment.control_hz, observation.time_s, done=done))
        return chunks

    def _after(self, target: np.ndarray, index: int) -> int:
        """Return which step of the path follows a target that is decided already."""
        near = self._targets[index : index + HORIZON // 2]
        return index + int(np.abs(near - target).max(axis=1).argmin()) + 1

    def _find(self, state: np.ndarray) -> int:
        """Return how far along the path the arm is: the last place, ahead of the one before, where it could be."""
        first = self._index
        distances = np.abs(self._joints[first : self._index + HORIZON] - state).max(axis=1)
        self._index = first + int(np.flatnonzero(distances <= distances.min() + SAME)[-1])
        return self._index


class Eyes:
    """Sees some things and no others, and believes that what it is asked about is accomplished."""

    def __init__(self, things: Sequence[str]):
        """Take the names of what is in sight."""
        self._things = things

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Answer one prompt about each observation."""
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: str) -> str:
        if prompt.startswith(("point to", "is there")) and not any(prompt.endswith(thing) for thing in self._things):
            return "no"
        return "<box 100 100 200 200>" if prompt.startswith("point to") else "yes"


class Later(Future):
    """The result of work that is not done before `due_s`."""

    def __init__(self, clock: VirtualClock):
        """Take the clock."""
        super().__init__()
        self._clock, self.due_s = clock, inf

    def done(self) -> bool:
        """Say whether it is there, and may be."""
        return super().done() and self._clock.now() >= self.due_s


class LaterThread(Thread):
    """Has work done at once, and says when it would have taken `delay` longer by the clock: for virtual time."""

    def __init__(self, clock: VirtualClock):
        """Take the clock."""
        self._clock, self._late_s = clock, 0.0

    def delay(self, seconds: float) -> None:
        """Let the work that is being done take longer."""
        self._late_s += seconds

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Do it now."""
        self._late_s, future = 0.0, Later(self._clock)
        try:
            value = fn(*args, **kwargs)
        except Exception as error:  # as a thread does
            future.set_exception(error)
        else:
            future.set_result(value)
        future.due_s = self._clock.now() + self._late_s
        return future


class Stream:
    """A steering whose words stop coming for a while, and that writes them down.

    When a planner says that all is done the last words stay, so that a hold is none of the end.
    """

    def __init__(self, steering: Steering, clock: VirtualClock, silent: tuple[float, float]):
        """Be silent from one time to another."""
        self._steering, self._clock, self._silent = steering, clock, silent
        self.words: set[str] = set()
        self._last: str | None = None

    def look(self, observation: Observation) -> str | None:
        """Return the words of the other, or none."""
        text = self._steering.look(observation)
        if isinstance(self._steering, Stepping) and self._steering.hierarchy.ended == "done":
            text = self._last
        if self._silent[0] <= self._clock.now() < self._silent[1]:
            return None
        if text is not None:
            self.words.add(text)
        self._last = text
        return text

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Hand it on."""
        self._steering.hear(chunk, text)

    @property
    def why_idle(self) -> str:
        """Return what the other says, if it is not this that is silent."""
        return self._steering.why_idle or "the words have stopped coming"

    def close(self) -> None:
        """Close the other."""
        self._steering.close()
