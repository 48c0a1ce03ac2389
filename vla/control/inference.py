"""The policy beside the loop: asked about the newest observation only, answering when it can.

Whatever the policy does, the loop gets an answer of one type or none: errors become words, and how long the present
call has been running can be seen. Nothing here raises in the loop's thread.
"""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

from vla.control.clock import Clock
from vla.control.executor import Question
from vla.types import ActionChunk, Embodiment, Observation

TINY_S = 1e-9  # what has been waited at least, for a request that is there


class Controller(Protocol):
    """The part of a policy (types.py) that the loop needs; `act` may take leading steps as given, see `takes_given`."""

    @property
    def embodiment(self) -> Embodiment:
        """The body that it was trained on."""
        ...

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer a batch of observations, each with one chunk."""
        ...


@dataclass(frozen=True)
class Request:
    """An observation for the policy, and what was known about the motion then."""

    observation: Observation
    question: Question
    asked_s: float


@dataclass(frozen=True)
class Answer:
    """What came of a request: a chunk, or why there is none."""

    request: Request
    chunk: ActionChunk | None
    error: str = ""


class Inference(Protocol):
    """Asks a policy without waiting for it; `counts` has asked, answered, failed and replaced."""

    counts: Counter[str]

    def ask(self, request: Request) -> None:
        """Have a request answered, even while others are; it replaces one that the policy has not begun with."""
        ...

    def answers(self) -> list[Answer]:
        """Return what has been answered since the last time, in order."""
        ...

    def waiting_s(self) -> float:
        """Return for how long the oldest request without an answer has been thought about, 0 if there is none."""
        ...

    def close(self) -> None:
        """Ask nothing more."""
        ...


def takes_given(policy: Controller) -> bool:
    """Say whether a policy can continue leading steps: `act(observations, given, given_steps)`, see VLAPolicy."""
    return {"given", "given_steps"} <= signature(policy.act).parameters.keys()


def answer(policy: Controller, request: Request) -> Answer:
    """Ask the policy and wait; an error of any kind becomes an answer too."""
    try:
        return Answer(request, _chunk(policy, request))
    except Exception as error:  # the border to what nobody trusts: a network, a driver, a model
        return Answer(request, None, f"{type(error).__name__}: {str(error) or 'no reason given'}"[:500])


def _chunk(policy: Controller, request: Request) -> ActionChunk:
    act: Any = policy.act
    question, observation = request.question, request.observation
    shown = {"given": question.given[None], "given_steps": question.given_steps} if len(question.given) else {}
    chunks = act([observation], **shown)
    if len(chunks) != 1 or not isinstance(chunks[0], ActionChunk):
        raise TypeError(f"the policy answered one observation with {chunks!r:.100}, not with one chunk")
    if chunks[0].time_s != observation.time_s:
        raise ValueError(
            f"it answered the frame of {chunks[0].time_s} s when asked about that of {observation.time_s} s"
        )
    return chunks[0]


class Threaded:
    """Asks the policy in a thread of its own. Torch lets go of the interpreter while it computes."""

    def __init__(self, policy: Controller, clock: Clock, latency_s: float = 0.0):
        """Hold each answer back for `latency_s` more, as a slower machine or a network would."""
        self.counts: Counter[str] = Counter(asked=0, answered=0, failed=0, replaced=0)
        self._policy, self._clock, self._latency_s = policy, clock, latency_s
        self._changed = threading.Condition()
        self._next: Request | None = None
        self._present: Request | None = None
        self._since_s = 0.0
        self._answers: deque[tuple[float, float, Answer]] = deque()  # begun and ready at a time, in order
        self._open = True
        self._thread = threading.Thread(target=self._think, name="policy", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Have a request answered; it replaces one that the policy has not begun with."""
        with self._changed:
            self.counts["asked"] += 1
            self.counts["replaced"] += self._next is not None
            self._next = request
            self._changed.notify()

    def answers(self) -> list[Answer]:
        """Return what has been answered since the last time, in order."""
        done = []
        with self._changed:
            while self._answers and self._answers[0][1] <= self._clock.now():
                found = self._answers.popleft()[2]
                self.counts["answered" if found.chunk else "failed"] += 1
                done.append(found)
        return done

    def waiting_s(self) -> float:
        """Return for how long the oldest request without an answer has been thought about, 0 if there is none."""
        with self._changed:
            if self._answers:
                since_s = self._answers[0][0]
            elif self._present:
                since_s = self._since_s
            elif self._next:
                since_s = self._next.asked_s
            else:
                return 0.0
            return max(self._clock.now() - since_s, TINY_S)

    def close(self) -> None:
        """Ask nothing more; a call that hangs is left behind."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(timeout=2.0)

    def _think(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or not self._open)
                if not self._open or self._next is None:
                    return
                request, self._next = self._next, None
                self._present, self._since_s = request, self._clock.now()
            found = answer(self._policy, request)
            with self._changed:
                self._answers.append((self._since_s, self._clock.now() + self._latency_s, found))
                self._present = None


class Timed:
    """Asks the policy at once and hands the answer over when a delay has passed on the clock: for virtual time."""

    def __init__(self, policy: Controller, clock: Clock, latency_s: float = 0.0):
        """Take the delay from a request to its answer, however many are on their way."""
        self.counts: Counter[str] = Counter(asked=0, answered=0, failed=0, replaced=0)
        self._policy, self._clock, self._latency_s = policy, clock, latency_s
        self._begun: deque[tuple[float, Answer]] = deque()

    def ask(self, request: Request) -> None:
        """Have a request answered."""
        self.counts["asked"] += 1
        self._begun.append((self._clock.now(), answer(self._policy, request)))

    def answers(self) -> list[Answer]:
        """Return what has been answered since the last time, in order."""
        done = []
        while self._begun and self._clock.now() >= self._begun[0][0] + self._latency_s - 1e-9:
            found = self._begun.popleft()[1]
            self.counts["answered" if found.chunk else "failed"] += 1
            done.append(found)
        return done

    def waiting_s(self) -> float:
        """Return for how long the oldest request without an answer has been thought about, 0 if there is none."""
        return max(self._clock.now() - self._begun[0][0], TINY_S) if self._begun else 0.0

    def close(self) -> None:
        """Forget what has not been handed over."""
        self._begun.clear()
