"""A robot whose bus and cameras fail."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from vla.control.faults.schedule import Fault, Faults, Kind
from vla.control.robot import Camera, Frame, Measurement, Robot

KEPT_S = 2.0  # of measurements, for delays


class BusError(OSError):
    """The bus failed on purpose; `latched`: a servo says that it has shut itself down."""

    def __init__(self, reason: str, latched: bool = False):
        """Say what happened."""
        super().__init__(f"{reason} (injected)")
        self.latched = latched


class Reading(NamedTuple):
    """A measurement that was changed."""

    joints: np.ndarray
    time_s: float


class Picture(NamedTuple):
    """A frame that was changed."""

    image: np.ndarray
    time_s: float


class FaultyRobot:
    """Another robot, seen through faults of "bus" and "camera"."""

    def __init__(self, robot: Robot, faults: Faults):
        """Take the robot and what will be wrong with it."""
        self._robot, self._faults = robot, faults
        names = list(robot.cameras)
        self.cameras = {
            name: FaultyCamera(name, robot.cameras[name], robot.cameras[other], faults)
            for name, other in zip(names, names[1:] + names[:1], strict=True)
        }
        self._past: deque[Measurement] = deque()
        self._blocked: np.ndarray | None = None  # where the joints were when one of them got stuck

    def embodiment(self) -> dict[str, Any]:
        """Return what the robot says."""
        return self._robot.embodiment()

    def read_joints(self) -> Measurement | None:
        """Read the joints, or what the fault makes of them."""
        fault = self._faults.of("bus")
        if fault and fault.kind is Kind.SLOW:
            self._faults.clock.sleep_until(self._faults.clock.now() + fault.amount)
        self._raise(fault)
        measurement = self._robot.read_joints()
        if measurement is None:
            return None
        self._past.append(measurement)
        while measurement.time_s - self._past[0].time_s > KEPT_S:
            self._past.popleft()
        return measurement if fault is None else self._changed(measurement, fault)

    def send_action(self, action: np.ndarray) -> None:
        """Send the command, unless the fault keeps it from the servos."""
        fault = self._faults.of("bus")
        self._raise(fault)
        if fault is not None and fault.how == "blocked":
            self._blocked = action.copy() if self._blocked is None else self._blocked
            stuck = np.arange(len(action)) == int(fault.amount) - 1
            action = np.where(stuck, self._blocked, action)
        else:
            self._blocked = None
        if fault is None or fault.kind is not Kind.STUCK:
            self._robot.send_action(action)

    def truth(self) -> dict[str, Any] | None:
        """Return what the robot says."""
        return self._robot.truth()

    def close(self) -> None:
        """Close the robot."""
        self._robot.close()

    def _raise(self, fault: Fault | None) -> None:
        """Fail as a bus does."""
        if fault is None:
            return
        if fault.kind is Kind.OFF or (fault.kind is Kind.INTERMITTENT and self._faults.drops(fault)):
            raise BusError("the bus does not answer")
        if fault.how == "servo":
            raise BusError("servo 3 does not answer")
        if fault.how == "latched":
            raise BusError("servo 2 has shut down: overload", latched=True)

    def _changed(self, measurement: Measurement, fault: Fault) -> Measurement:
        joints = np.array(measurement.joints)
        if fault.kind is Kind.STUCK:  # the reply of before, again and again
            since_s = self._faults.began_s + fault.at_s
            return next((old for old in reversed(self._past) if old.time_s <= since_s + 1e-9), self._past[0])
        if fault.kind is Kind.DELAYED:
            late = [old for old in self._past if old.time_s <= measurement.time_s - fault.amount + 1e-9]
            return (late or self._past)[-1 if late else 0]
        if fault.kind is Kind.GARBAGE:
            joints[self._faults.rng.integers(len(joints))] = self._faults.rng.choice([np.nan, np.inf, 1e30])
        if fault.how == "wrap":
            joints[0] += 2 * np.pi
        return Reading(joints, measurement.time_s)


class FaultyCamera:
    """Another camera, seen through faults of "camera" or "camera.NAME"."""

    def __init__(self, name: str, camera: Camera, other: Camera, faults: Faults):
        """Take the camera, another one that it may be mistaken for, and what will be wrong with it."""
        self._name, self._camera, self._other, self._faults = f"camera.{name}", camera, other, faults
        self._seen: Frame | None = None  # the newest of the camera
        self._shown: Frame | None = None
        self._queue: deque[Frame] = deque()
        self._frozen: Frame | None = None

    def latest(self) -> Frame | None:
        """Return the newest frame that gets through."""
        fault, frame = self._faults.of(self._name), self._camera.latest()
        if fault is None or fault.kind is not Kind.STUCK:
            self._frozen = None
        if fault is not None and fault.kind is Kind.DELAYED:
            return self._late(frame, fault.amount)
        self._queue.clear()
        if frame is None or frame is self._seen:
            return self._shown
        self._seen = frame
        if fault is None:
            self._shown = frame
        elif self._passes(fault, frame):
            self._shown = self._changed(fault, frame)
        return self._shown

    def _late(self, frame: Frame | None, late_s: float) -> Frame | None:
        if frame is not None and (not self._queue or self._queue[-1] is not frame):
            self._queue.append(frame)
        while self._queue and self._queue[0].time_s <= self._faults.clock.now() - late_s + 1e-9:
            self._shown = self._queue.popleft()
        return self._shown

    def _passes(self, fault: Fault, frame: Frame) -> bool:
        if fault.kind is Kind.SLOW:
            return self._shown is None or frame.time_s - self._shown.time_s >= fault.amount
        if fault.kind is Kind.INTERMITTENT:
            return not self._faults.drops(fault)
        if fault.how == "swapped":
            return self._other.latest() is not None
        return fault.kind is not Kind.OFF

    def _changed(self, fault: Fault, frame: Frame) -> Frame:
        image = frame.image
        if fault.kind is Kind.STUCK:
            self._frozen = self._frozen or self._shown or frame
            image = self._frozen.image
        elif fault.how == "swapped":
            other = self._other.latest()
            image = image if other is None else other.image
        elif fault.how == "turned":  # and of another resolution
            image = np.ascontiguousarray(np.rot90(image)[::2, ::2])
        elif fault.how == "mirrored":
            image = np.ascontiguousarray(image[:, ::-1])
        elif fault.how == "bgr":
            image = np.ascontiguousarray(image[..., ::-1])
        elif fault.how == "dark":
            image = np.zeros_like(image)
        elif fault.how == "bright":
            image = np.full_like(image, 255)
        elif fault.how == "shape":  # half a frame
            image = image[: len(image) // 2]
        return Picture(image, frame.time_s)
