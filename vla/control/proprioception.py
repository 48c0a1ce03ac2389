"""Whether measured joints can be true, and whether the arm goes where it is told to go."""

import numpy as np

from vla.control.robot import Measurement
from vla.types import Embodiment

FARTHEST_JUMP = 3.0  # of what a joint at full speed does between two measurements
SLACK = 0.05  # [rad], noise and the swing of the arm
LONGEST_S = 0.2  # of silence that a joint is believed to have moved on in
BEHIND, BEHIND_S = 0.25, 0.3  # a joint so far from its command [rad] for so long does not follow,
STIRRED = 0.1  # unless it has come closer by so much [rad] meanwhile: a fast arm is behind too, but on its way


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
        self._behind_since_s = np.full(len(self._joints) - 1, np.nan)  # of each joint, NaN where it is not
        self._behind_at = np.zeros(len(self._joints) - 1)  # where it was then

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
        joints, now_s = np.asarray(measurement.joints[:-1], float), measurement.time_s
        away = command[:-1] - joints
        far, since_s = np.abs(away) > BEHIND, self._behind_since_s
        over = far & (now_s - since_s >= BEHIND_S)
        stuck = over & (np.sign(away) * (joints - self._behind_at) < STIRRED)
        begins = far & (np.isnan(since_s) | (over & ~stuck))
        self._behind_at = np.where(begins, joints, self._behind_at)
        self._behind_since_s = np.where(far, np.where(begins, now_s, since_s), np.nan)
        if not stuck.any():
            return ""
        worst = int(np.where(stuck, np.abs(away), 0.0).argmax())
        return f"{self._joints[worst]} is {abs(away[worst]):.2f} rad from where it was told to be; is it blocked?"

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
