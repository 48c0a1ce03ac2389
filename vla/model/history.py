"""Earlier frames beside the present one: which way things move, and what an arm hides that was in sight before.

Octo (Ghosh et al. 2024, arXiv:2405.12213) reads one earlier frame; more cost tokens and teach a policy to repeat itself
(de Haan et al. 2019, arXiv:1905.11979). A frame that was not there, at the beginning of an episode, is the oldest that
was, in training as in use: the scene had stood still.
"""

import threading
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vla.types import Observation

LOOKS_BACK_S = 5.0  # how much older than the newest a frame may be that somebody still thinks about


@dataclass(frozen=True)
class History:
    """How many earlier frames of each camera are seen, and how many control steps lie between them."""

    frames: int
    stride: int = 3

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"history takes 1 or more frames and stride, got {self.frames} and {self.stride}")

    @property
    def ages(self) -> np.ndarray:
        """How many control steps old each frame is that is seen, int[1 + N], the present one first."""
        return self.stride * np.arange(1 + self.frames)


class Recollection:
    """Remembers what one robot saw in one episode, and gives each observation the frames that came before it."""

    def __init__(self, history: History, control_hz: float) -> None:
        """control_hz: of the steps that `history` counts."""
        self._delays_s: list[float] = (history.ages[1:] / control_hz).tolist()
        self._past: list[tuple[float, Mapping[str, np.ndarray]]] = []  # in the order of time
        self._lock = threading.Lock()  # planner and controller may look at once

    def see(self, observation: Observation, at_s: float) -> Observation:
        """Return the observation of time at_s with earlier frames, newest first: of those seen, the nearest in time.

        A planner that thinks for long may ask about a frame that is older than what the controller saw meanwhile.
        """
        with self._lock:
            if all(at_s != seen_s for seen_s, _ in self._past):
                insort(self._past, (at_s, observation.images), key=_time)
            oldest_s = self._past[-1][0] - LOOKS_BACK_S - self._delays_s[-1]
            while len(self._past) > 1 and self._past[1][0] <= oldest_s:
                self._past.pop(0)
            seen = [frame for frame in self._past if frame[0] <= at_s] or [(at_s, observation.images)]
        earlier = [min(seen, key=lambda frame: abs(frame[0] - (at_s - delay)))[1] for delay in self._delays_s]
        return replace(observation, earlier=tuple(earlier))


def follow(policy: Any) -> Any:
    """Let a policy that reads earlier frames remember those of an episode of one robot that begins now; return it."""
    if history := getattr(policy, "history", None):
        policy.recollection = Recollection(history, policy.embodiment.control_hz)
    return policy


def _time(frame: tuple[float, Any]) -> float:
    return frame[0]
