"""A policy that drives in stretches of demonstrations, so that the expert shows how to go on from where that led.

What a policy does wrong leads to states that no expert ever visits. Labelling those is DAgger (Ross, Gordon & Bagnell
2011, arXiv:1011.0686); in stretches, because a policy acts in chunks and shows its mistakes after some of them.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla.types import Embodiment, Observation, Policy

DRIVES = (5, 45)  # control steps of a stretch
PAUSES = (4, 20)  # control steps of the expert between two stretches
SHARE = 0.5  # of the time limit after which the expert goes on alone
EXECUTED = 3  # steps of each chunk


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
        self._queue: list[np.ndarray] = []

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray | None:
        """Return the policy's joint targets float32[A] for this step, or None where the expert acts.

        observation, info: as the environment gave them. The policy lets go at success, so that the end is shown well.
        """
        if self._steps >= self._border:
            self._driving, self._queue = not self._driving, []
            self._border += int(self._random.integers(*(DRIVES if self._driving else PAUSES), endpoint=True))
        self._steps += 1
        if not self._driving or self._steps > self._last or info["is_success"]:
            return None
        if not self._queue:
            words = info["subtask"]["text"] if self._by_subtask else info["instruction"]
            seen = Observation.from_gym(dict(observation), words, time.monotonic())
            self._queue = list(self._policy.act([seen])[0].actions[:EXECUTED])
        return np.asarray(self._queue.pop(0), np.float32)


def checked(load_policy: Callable[[], Policy], body: Embodiment) -> Policy:
    """Load the policy; raises ValueError where it was trained for another body, or reads earlier frames."""
    policy: Any = load_policy()
    policy.check(body)
    if getattr(policy, "history", None) is not None:
        raise ValueError("this policy reads earlier frames, which vla collect policy= cannot show it yet")
    return policy
