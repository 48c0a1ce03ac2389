"""Targets that an operator moves by hand, joint by joint, in place of the policy's."""

import numpy as np

from vla.types import Embodiment

AHEAD = 0.3  # [rad], gripper [1]; the target runs at most so far ahead of the command, which the guard slows


class Takeover:
    """`target` float64[A] is what the operator wants, None while the policy moves the arm.

    `followed` says whether the arm has been free to go there since it began.
    """

    def __init__(self, body: Embodiment) -> None:
        self.target: np.ndarray | None = None
        self.followed = False
        self._low, self._high = np.array(body.position_min), np.array(body.position_max)

    @property
    def on(self) -> bool:
        """Whether the operator moves the arm."""
        return self.target is not None

    def begin(self, command: np.ndarray) -> None:
        """Start from the command float64[A] that was sent last."""
        self.target, self.followed = command.copy(), False

    def move(self, joint: int, by: float, command: np.ndarray) -> None:
        """Move the target of one joint by so much [rad], gripper [1]."""
        if self.target is None or not 0 <= joint < len(self.target):
            return
        low, high = max(self._low[joint], command[joint] - AHEAD), min(self._high[joint], command[joint] + AHEAD)
        self.target = self.target.copy()
        self.target[joint] = min(max(self.target[joint] + by, low), high)

    def end(self) -> None:
        """Want nothing more."""
        self.target = None
