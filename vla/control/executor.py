"""From chunks that come late and overlap to one target for every moment.

All is decided by time. A chunk answers a frame: its steps that were due before it came are dropped, it is carried out
from where it would be by now. Only a chunk whose frame was taken after all targets had been reached begins when it
comes, for the arm has waited. How chunks that overlap are put together is the strategy's (strategy.py).
"""

from collections import Counter, deque
from dataclasses import dataclass
from math import inf

import numpy as np

from vla.control.plan import ROUNDING_S, Plan, refusal
from vla.control.strategy import Strategy
from vla.types import ActionChunk, Embodiment

DELAYS = 20  # the longest of so many delays is expected next
WAITS_S = 1.0  # how long after it came a chunk may begin


@dataclass(frozen=True)
class Question:
    """What is known about the motion at the time of a frame that goes to the policy."""

    frame_s: float
    lead: np.ndarray | None  # float64[2, A], targets one period before and then; None: the arm waited
    given: np.ndarray  # float64[N, A], the first steps, of which so many are decided already:
    given_steps: int = 0  # the others are foreseen, for a policy that is led by them


@dataclass(frozen=True)
class Seam:
    """How far target and speed jumped where a chunk came in."""

    position: float  # [rad], of the joint that jumped most
    velocity: float  # [rad/s]


class Executor:
    """Tells the target for each tick; `counts` what became of chunks, `seams` and `delays_s` the latest of both.

    Begins halted: `resume` lets it move. Times are of one monotonic clock [s].
    """

    def __init__(self, strategy: Strategy, embodiment: Embodiment):
        """Take how to put chunks together and the body that they must fit."""
        self.strategy, self._embodiment = strategy, embodiment
        self.counts: Counter[str] = Counter(chunks=0, refused=0, late=0, unordered=0, stale_steps=0, unforeseen=0)
        self.seams: deque[Seam] = deque(maxlen=10_000)
        self.delays_s: deque[float] = deque(maxlen=DELAYS)
        self._dt_s = 1 / embodiment.control_hz
        self._taken_s = -inf  # frame of the latest chunk
        self._arrived_s = -inf  # of the chunk that waits
        self._pose = np.array(embodiment.position_min)
        self.halt(-inf, self._pose)

    def halt(self, now_s: float, pose: np.ndarray) -> None:
        """Forget all plans: the arm is braking, or is now at `pose` float[A]; frames from before are of no use."""
        self.strategy.clear()
        self._halted_s, self._halted, self._pose = now_s, True, np.array(pose, np.float64)
        self._waiting: ActionChunk | None = None

    def resume(self, now_s: float, pose: np.ndarray | None = None) -> None:
        """Let a chunk that was waiting begin, from `pose` float[A] if the arm is no longer where it was halted."""
        if self._halted and self._waiting is not None:
            self._halted = False
            self._pose = self._pose if pose is None else np.array(pose, np.float64)
            self._begin(self._waiting, now_s)
            self._waiting = None

    def ask(self, frame_s: float, asked_s: float | None = None) -> Question | None:
        """Return what goes to the policy with the frame of this time, None if it need not see it.

        `asked_s` is the time of the frame that the policy is asked about already, None if it has answered. It is asked
        about another one meanwhile only if the arm would else run out of targets: its answer may be on its way.
        """
        if frame_s <= self._taken_s or frame_s < self._halted_s:
            return None
        if asked_s is not None and (self._halted or self._waited(frame_s)):
            return None
        if self._halted:
            soon = self._waiting is not None and frame_s < self._arrived_s + WAITS_S / 2
            return None if soon else Question(frame_s, None, np.empty((0, 0)))
        delay_s = max(self.delays_s, default=0.0)
        if not self.strategy.wants(frame_s, delay_s, asked_s):
            return None
        if self._waited(frame_s):
            return Question(frame_s, None, np.empty((0, 0)))
        given, given_steps = self.strategy.given(frame_s, self._dt_s, delay_s)
        here = self.strategy.at(frame_s)
        before = self.strategy.at(frame_s - self._dt_s)
        lead = None if here is None else np.stack([here if before is None else before, here])
        return Question(frame_s, lead, given, given_steps)

    def take(self, chunk: ActionChunk, question: Question, now_s: float) -> str:
        """Take the answer to a question; returns why it is not followed, empty if it is."""
        if reason := refusal(chunk, self._embodiment):
            self.counts["refused"] += 1
            return reason
        frame_s = question.frame_s
        moving = not self._halted and not self._waited(frame_s)
        if frame_s <= self._taken_s or frame_s < self._halted_s or (moving and question.lead is None):
            self.counts["unordered"] += 1
            return f"its frame of {frame_s:.3f} s is from before what is being done"
        self.delays_s.append(now_s - frame_s)
        if moving and now_s > frame_s + len(chunk.actions) * chunk.dt_s:
            self.counts["late"] += 1
            return f"it took {now_s - frame_s:.3f} s, all its steps are over"
        self.counts["chunks"] += 1
        self._taken_s = frame_s
        if self._halted:
            self._waiting, self._arrived_s = chunk, now_s
        elif moving:
            self._join(chunk, question, now_s)
        else:
            self._begin(chunk, now_s)
        return ""

    def target(self, t_s: float, approach: bool = False) -> np.ndarray | None:
        """Return the target float64[A] for a time, None if there is none: whoever asks must brake then.

        While halted, with a chunk that waits for `resume`, it is the pose where that will begin; with `approach` it is
        the chunk's first step, for a guard that goes there slowly.
        """
        if self._halted:
            if self._waiting is None or t_s - self._arrived_s > WAITS_S:
                return None
            return self._waiting.actions[0].astype(np.float64) if approach else self._pose
        target = self.strategy.at(t_s)
        if target is not None:
            self._pose = target
        return target

    @property
    def halted(self) -> bool:
        """Whether it waits for `resume`."""
        return self._halted

    def idle(self, t_s: float) -> bool:
        """Say whether there is nothing new to do at a time: all targets have been reached, or none may be followed."""
        return self._halted or t_s > self.strategy.end_s + ROUNDING_S

    def _waited(self, frame_s: float) -> bool:
        """Say whether all targets had been reached when a frame was taken."""
        return frame_s >= self.strategy.end_s - ROUNDING_S

    def _begin(self, chunk: ActionChunk, now_s: float) -> None:
        """Begin a chunk now, where the targets stand still."""
        self.strategy.add(Plan(np.stack([self._pose] * 2), chunk.actions, chunk.dt_s, now_s), now_s)

    def _join(self, chunk: ActionChunk, question: Question, now_s: float) -> None:
        """Go over to a chunk in the middle of the motion, and note how smoothly that went."""
        assert question.lead is not None
        delay_s = now_s - question.frame_s
        self.counts["stale_steps"] += int(delay_s / chunk.dt_s + ROUNDING_S)
        self.counts["unforeseen"] += bool(question.given_steps) and delay_s > question.given_steps * chunk.dt_s
        before = self._motion(now_s)
        self.strategy.add(Plan(question.lead, chunk.actions, chunk.dt_s, question.frame_s), now_s)
        after = self._motion(now_s)
        if before and after:
            jumps = [float(np.abs(new - old).max()) for old, new in zip(before, after, strict=True)]
            self.seams.append(Seam(*jumps))

    def _motion(self, t_s: float, moment_s: float = 1e-3) -> tuple[np.ndarray, np.ndarray] | None:
        """Return target and speed at a time, None where there is no target."""
        here, there = self.strategy.at(t_s), self.strategy.at(t_s + moment_s)
        return None if here is None or there is None else (here, (there - here) / moment_s)
