"""Targets that an operator moves by hand, joint by joint, in place of the policy's."""

import numpy as np

from vla.control.severity import State
from vla.types import Embodiment

AHEAD = 0.3  # [rad], gripper [1]; the target runs at most so far ahead of the command, which the guard slows


class Takeover:
    """`target` float64[A] is what the operator wants, None while the policy moves the arm."""

    def __init__(self, body: Embodiment) -> None:
        self.target: np.ndarray | None = None
        self._followed = False  # whether the arm has been free to go there since it began
        self._low, self._high = np.array(body.position_min), np.array(body.position_max)

    @property
    def on(self) -> bool:
        """Whether the operator moves the arm."""
        return self.target is not None

    def begin(self, command: np.ndarray) -> None:
        """Start from the command float64[A] that was sent last."""
        self.target, self._followed = command.copy(), False

    def move(self, joint: int, by: float, command: np.ndarray) -> None:
        """Move the target of one joint by so much [rad], gripper [1]."""
        if self.target is None or not 0 <= joint < len(self.target):
            return
        low, high = max(self._low[joint], command[joint] - AHEAD), min(self._high[joint], command[joint] + AHEAD)
        self.target = self.target.copy()
        self.target[joint] = min(max(self.target[joint] + by, low), high)

    def outlasts(self, state: State, command: np.ndarray | None) -> bool:
        """Say whether it goes on: what the arm is stopped for ends it, but one that began in a hold waits there."""
        if state in (State.NORMAL, State.DEGRADED):
            self._followed = True
        elif state is not State.ENGAGING:
            if self._followed or state > State.HOLD or command is None:
                return False
            self.begin(command)
        return True

    def end(self) -> None:
        """Want nothing more."""
        self.target = None
