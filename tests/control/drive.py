"""A small arm, and what moves it through a guard tick by tick."""

from typing import Any

import numpy as np

from vla.bench.guard import shares_of_limits
from vla.control.guard import Guard, Status
from vla.types import Embodiment

ARM = Embodiment(
    name="two joints",
    joints=("lift", "gripper"),
    position_min=(-1.5, 0.0),
    position_max=(1.5, 1.0),
    velocity_max=(2.0, 2.5),
    acceleration_max=(10.0, 40.0),
    jerk_max=(200.0, 1200.0),
    control_hz=10.0,
    cameras={},
)
MIDDLE = np.array([0.0, 0.5])
NEAR = MIDDLE + 0.05
FAR = MIDDLE + 0.4


class Drive:
    """Steps an engaged guard on its own clock, with an arm that is always where it was told to be."""

    def __init__(self, guard: Guard, pose: np.ndarray = MIDDLE, slow_approach: bool = False):
        """Engage at a pose."""
        self.guard, self.now_s = guard, 50.0
        guard.engage(pose, slow_approach)
        self.path = [np.array(pose, np.float64)]
        self.at_rest = True

    def __call__(self, target: Any = None, **changes: Any) -> Status:
        """Step once, with whatever of the inputs should be unusual, and return the status."""
        self.now_s += 1 / self.guard.hz
        usual = {"measured": self.path[-1], "now_s": self.now_s, "due_s": self.now_s}
        command, status = self.guard.step(target, **(usual | changes))
        self.path.append(self.path[-1] if command is None else command)
        self.at_rest = status.at_rest
        return status

    def to(self, target: Any, seconds: float, **changes: Any) -> Status:
        """Give the same command for a while and return the last status."""
        for _ in range(round(seconds * self.guard.hz)):
            status = self(target, **changes)
        return status

    @property
    def command(self) -> np.ndarray:
        """The latest command."""
        return self.path[-1]

    def used(self) -> dict[str, float]:
        """Return how much of each limit the commands used at most."""
        shares = shares_of_limits(np.array(self.path), self.guard.embodiment, self.guard.hz)
        return {name: float(share.max()) for name, share in shares.items()}


def driven(hz: float = 100.0, pose: np.ndarray = MIDDLE, slow_approach: bool = False, **settings: Any) -> Drive:
    """Engage a new guard of the small arm."""
    return Drive(Guard(ARM, hz, **settings), pose, slow_approach)


def moving(**settings) -> Drive:
    """Return a drive in the middle of a fast motion."""
    drive = driven(**settings)
    drive.to(NEAR, 0.1)
    drive.to(np.array([0.6, 0.5]), 0.25)
    assert not drive.at_rest
    return drive
