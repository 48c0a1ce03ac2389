"""Whether measured joints can be true, and whether the arm goes where it is told to go."""

import numpy as np

from vla.control.robot import Measurement
from vla.types import Embodiment

FARTHEST_JUMP = 3.0  # of what a joint at full speed does between two measurements
SLACK = 0.05  # [rad], noise and the swing of the arm
LONGEST_S = 0.2  # of silence that a joint is believed to have moved on in
BEHIND, BEHIND_S = 0.25, 0.3  # a joint so far from its command [rad] for so long does not follow


class Proprioception:
    """Believes measurements one after the other; `wrong` says why the latest was not believed, empty if it was."""

    def __init__(self, embodiment: Embodiment, hz: float):
        """Take the body and how often it is measured."""
        self._joints, self._period_s = embodiment.joints, 1 / hz
        self._speed = np.array(embodiment.velocity_max)
        self.wrong = ""
        self.forget()

    def forget(self) -> None:
        """Believe the next measurement wherever it is: a human has moved the arm, or may have."""
        self._last: Measurement | None = None
        self._behind_since_s: float | None = None

    def admit(self, measurement: Measurement | None) -> Measurement | None:
        """Return the measurement if it can be true, else None."""
        if measurement is None:
            return None
        self.wrong = self._judge(measurement)
        if self.wrong:
            return None
        self._last = measurement
        return measurement

    def behind(self, measurement: Measurement | None, command: np.ndarray | None) -> str:
        """Say which joint does not follow, empty if all do; the gripper is there to be stopped by things."""
        if measurement is None or command is None:
            return ""
        away = np.abs(measurement.joints - command)[:-1]
        if away.max(initial=0.0) <= BEHIND:
            self._behind_since_s = None
            return ""
        if self._behind_since_s is None:
            self._behind_since_s = measurement.time_s
        if measurement.time_s - self._behind_since_s < BEHIND_S:
            return ""
        return (
            f"{self._joints[int(away.argmax())]} is {away.max():.2f} rad from where it was told to be; is it blocked?"
        )

    def _judge(self, measurement: Measurement) -> str:
        joints = measurement.joints
        if not isinstance(joints, np.ndarray) or joints.shape != (len(self._joints),) or joints.dtype.kind != "f":
            return f"{type(joints).__name__} {getattr(joints, 'shape', '')} is not {len(self._joints)} joint positions"
        if not np.isfinite(joints).all():
            return f"{self._joints[int(np.flatnonzero(~np.isfinite(joints))[0])]} is not finite"
        if self._last is None:
            return ""
        passed_s = min(max(measurement.time_s - self._last.time_s, self._period_s), LONGEST_S)
        excess = np.abs(joints - self._last.joints) - (FARTHEST_JUMP * self._speed * passed_s + SLACK)
        if excess.max() > 0:
            index = int(excess.argmax())
            way = f"{self._last.joints[index]:.3f} to {joints[index]:.3f} within {passed_s:.3f} s"
            return f"{self._joints[index]} cannot have gone from {way}"
        return ""
