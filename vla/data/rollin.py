"""A policy that drives in stretches of demonstrations, so that the expert shows how to go on from where that led.

What a policy does wrong leads to states that no expert ever visits. Labelling those is DAgger (Ross, Gordon & Bagnell
2011, arXiv:1011.0686); in stretches, because a policy acts in chunks and shows its mistakes after some of them.

Between two subtasks a policy that knows its ready pose mostly returns to it, as the hierarchy will have it do; it does
the same where it believes to be done and is not, since it is from there that such a mistake must be seen. In some
stretches all its targets are a little off, which makes near misses of what it does well.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla.types import READY, Embodiment, Observation, Policy

DRIVES = (5, 45)  # control steps of a stretch
PAUSES = (4, 20)  # control steps of the expert between two stretches
SHARE = 0.5  # of the time limit after which the expert goes on alone
EXECUTED = 3  # steps of each chunk
BACK = (0.7, 30)  # how often the arm first steps back when a next subtask begins, and control steps for that at most
STAY = 6  # control steps that it stays there
BELIEVED = 0.2  # of the done probability, twice in a row, of a subtask that is not done
OFF = (0.4, 0.03)  # how often a stretch is off, and by how much [rad], a standard deviation; the gripper never is


class RollIn:
    """Says at every step of an episode what the policy does, or that the expert is to act."""

    def __init__(self, policy: Policy, seed: int, time_limit: int):
        """Begin an episode of at most `time_limit` control steps; everything drawn follows from `seed`."""
        self._policy = policy
        self._random = np.random.default_rng([seed, 3])
        self._by_subtask = self._random.random() < 0.5  # the planner's words, else the operator's
        self._last = int(SHARE * time_limit)
        self._steps, self._border = 0, int(self._random.integers(*DRIVES, endpoint=True))
        self._driving = True
        self._subtask, self._back_steps = 0, 0  # which one it is; left of stepping back before it
        self._believing = 0  # predictions in a row that say done
        self._off: np.ndarray | None = None  # of the present stretch, drawn at its first chunk
        self._queue: list[np.ndarray] = []

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray | None:
        """Return the policy's joint targets float32[A] for this step, or None where the expert acts.

        observation, info: as the environment gave them. The policy lets go at success, so that the end is shown well.
        """
        if self._steps >= self._border:
            self._driving, self._queue, self._off = not self._driving, [], None
            self._border += int(self._random.integers(*(DRIVES if self._driving else PAUSES), endpoint=True))
        self._steps += 1
        self._step_back_between(info["subtask"]["index"])
        drives = self._driving or self._back_steps > 0
        if not drives or self._steps > self._last or info["is_success"]:
            return None
        if not self._queue:
            self._queue = self._chunk(observation, info)
        return np.asarray(self._queue.pop(0), np.float32)

    def _step_back_between(self, subtask: int) -> None:
        """Begin to step back when the next subtask has begun, and count until that is over."""
        if self._back_steps == 1:
            self._queue = []
        self._back_steps = max(0, self._back_steps - 1)
        if subtask != self._subtask:
            self._subtask, self._queue, self._believing = subtask, [], 0
            self._step_back()

    def _step_back(self) -> None:
        """Begin to step back, mostly, if the policy can."""
        share, steps = BACK
        knows = getattr(self._policy, "ready", None) is not None
        self._back_steps = steps if knows and self._random.random() < share else 0

    def _chunk(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> list[np.ndarray]:
        words = info["subtask"]["text"] if self._by_subtask else info["instruction"]
        seen = Observation.from_gym(dict(observation), READY if self._back_steps else words, time.monotonic())
        chunk = self._policy.act([seen])[0]
        done = chunk.done or 0.0
        if self._back_steps:
            self._back_steps = min(self._back_steps, STAY) if done >= 0.5 else self._back_steps
            return list(chunk.actions[:EXECUTED])
        one_step = self._by_subtask or info["subtask"]["count"] == 1
        wrongly = one_step and done >= BELIEVED and info["subtask"]["progress"] < 1
        self._believing = self._believing + 1 if wrongly else 0
        if self._believing == 2:
            self._step_back()
        return list(self._shaken(chunk.actions[:EXECUTED]))

    def _shaken(self, actions: np.ndarray) -> np.ndarray:
        """Return targets float[N, A] with what the present stretch is off."""
        if self._off is None:
            share, spread = OFF
            off = spread * self._random.standard_normal(actions.shape[1])
            off[-1] = 0.0
            self._off = off * (self._random.random() < share)
        return actions + self._off


def checked(load_policy: Callable[[], Policy], body: Embodiment) -> Policy:
    """Load the policy; raises ValueError where it was trained for another body, or reads earlier frames."""
    policy: Any = load_policy()
    policy.check(body)
    if getattr(policy, "history", None) is not None:
        raise ValueError("this policy reads earlier frames, which vla collect policy= cannot show it yet")
    return policy
