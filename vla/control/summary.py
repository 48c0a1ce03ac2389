"""What a loop did: counted over a run, and the newest tick."""

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from vla.control.guard import Status
from vla.types import Observation


@dataclass
class Summary:
    """What became of a run."""

    ticks: int = 0
    missed: int = 0  # periods that were skipped
    idle_ticks: int = 0  # since the first motion, in which there was nothing new to do
    states: Counter[str] = field(default_factory=Counter)  # ticks in each state of the guard
    interventions: dict[str, int] = field(default_factory=dict)  # by rule of the guard
    late_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))  # of the ticks
    ended: str = ""  # why it did

    def count(self, status: Status, late_s: float, idle: bool) -> None:
        """Add a tick."""
        self.ticks += 1
        self.states[status.state.name] += 1
        self.interventions = dict(status.interventions)
        self.late_s.append(late_s)
        self.idle_ticks += idle


@dataclass(frozen=True)
class Latest:
    """What the newest tick saw and did, for whoever looks on."""

    time_s: float  # of the loop's clock
    status: Status
    joints: np.ndarray | None  # float32[A], measured
    command: np.ndarray | None  # float64[A], as sent
    observation: Observation | None  # its instruction is the operator's
    text: str | None  # what the controller is asked for
    progress: float | None  # as the newest chunk says
    done: float | None
    taken_over: bool
