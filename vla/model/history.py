"""Earlier frames beside the present one: which way things move, and what an arm hides that was in sight before.

Octo (Ghosh et al. 2024, arXiv:2405.12213) reads one earlier frame; more cost tokens and teach a policy to repeat itself
(de Haan et al. 2019, arXiv:1905.11979). A frame that was not there, at the beginning of an episode, is the oldest that
was, in training as in use: the scene had stood still.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vla.types import Observation


@dataclass(frozen=True)
class History:
    """How many earlier frames of each camera are seen, and how many control steps lie between them."""

    frames: int
    stride: int = 3

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"history takes 1 or more frames and stride, got {self.frames} and {self.stride}")


class Recollection:
    """Remembers what one robot saw, and gives each observation the frames that came before it."""

    def __init__(self, history: History, control_hz: float) -> None:
        self._delays_s = [history.stride * (number + 1) / control_hz for number in range(history.frames)]
        self._past: deque[tuple[float, Mapping[str, np.ndarray]]] = deque()
        self._lock = threading.Lock()  # planner and controller may look at once

    def see(self, observation: Observation, at_s: float) -> Observation:
        """Return the observation of time at_s with earlier frames, newest first: of those seen, the nearest in time.

        What is seen at a time before the last is the beginning of another episode.
        """
        with self._lock:
            if self._past and at_s < self._past[-1][0]:
                self._past.clear()
            if not self._past or at_s > self._past[-1][0]:
                self._past.append((at_s, observation.images))
            while len(self._past) > 1 and self._past[1][0] <= at_s - self._delays_s[-1]:
                self._past.popleft()
            seen = list(self._past)
        earlier = [min(seen, key=lambda frame: abs(frame[0] - (at_s - delay)))[1] for delay in self._delays_s]
        return replace(observation, earlier=tuple(earlier))


def follow(policy: Any) -> Any:
    """Let a policy that reads earlier frames remember those that it is shown, all of one robot; return it."""
    if history := getattr(policy, "history", None):
        policy.recollection = Recollection(history, policy.embodiment.control_hz)
    return policy
