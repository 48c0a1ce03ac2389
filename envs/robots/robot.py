"""What makes a robot: the protocols that arms and cameras follow here, and the records that they hand out."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Measurement(NamedTuple):
    """Where the joints were."""

    joints: np.ndarray  # float32[A] [rad], gripper 0..1
    time_s: float  # monotonic clock of this machine


class Frame(NamedTuple):
    """What a camera saw."""

    image: np.ndarray  # uint8[H, W, 3] RGB, not written to again
    time_s: float  # of its exposure, monotonic clock of this machine


class Camera(Protocol):
    """A camera that exposes frames at a pace of its own."""

    def latest(self) -> Frame | None:
        """Return the newest frame without waiting, None before the first; the same object until there is another."""
        ...


class Robot(Protocol):
    """An arm with cameras. Called from one thread only; OSError says that the bus failed."""

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by name."""
        ...

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits and cameras as plain types."""
        ...

    def read_joints(self) -> Measurement | None:
        """Return the newest measurement without waiting for more than the bus, None if there is none."""
        ...

    def send_action(self, action: np.ndarray) -> None:
        """Set the joint targets float64[A] [rad], gripper 0..1, for the end of the present control period."""
        ...

    def truth(self) -> dict[str, Any] | None:
        """Return what the simulator knows, `is_success` among it; None of a real robot. No policy may see it."""
        ...

    def close(self) -> None:
        """Let go of bus and cameras; the servos keep holding their last targets."""
        ...
