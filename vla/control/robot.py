"""What the loop asks of a robot, as protocols: anything with these methods is one, simulated or not."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Measurement(Protocol):
    """Where the joints were."""

    @property
    def joints(self) -> np.ndarray:
        """Measured positions float32[A] [rad], gripper 0..1."""
        ...

    @property
    def time_s(self) -> float:
        """When, on the monotonic clock of this machine."""
        ...


class Frame(Protocol):
    """What a camera saw."""

    @property
    def image(self) -> np.ndarray:
        """Return uint8[H, W, 3] RGB, not written to again."""
        ...

    @property
    def time_s(self) -> float:
        """When it was exposed, on the monotonic clock of this machine."""
        ...


class Camera(Protocol):
    """A camera that exposes frames at a pace of its own."""

    def latest(self) -> Frame | None:
        """Return the newest frame without waiting, None before the first; the same object until there is another."""
        ...


class Robot(Protocol):
    """An arm with cameras. Called from the loop's thread only; OSError says that the bus failed.

    An OSError whose attribute `latched` is true says that a servo has shut itself down, which needs a human.
    """

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by name."""
        ...

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits and cameras as plain types, see `vla.types.Embodiment`."""
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
