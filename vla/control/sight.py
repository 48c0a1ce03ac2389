"""Whether what cameras show can be true: the right shape, light enough, and changing while the arm moves.

A picture that cannot be is not shown to the policy; the one before it goes on counting until it is too old, which the
vigil judges.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from vla.control.robot import Camera, Frame
from vla.types import Camera as Format
from vla.types import Embodiment

DARKEST, BRIGHTEST, FLATTEST = 5.0, 250.0, 3.0  # mean and standard deviation of a picture of something, 0..255
EVERY = 4  # pixels of the rows and columns that are looked at for that
REPEATS, MOVED = 2, 0.05  # a picture may come again so often while a joint moves by this much [rad]


class Sight:
    """Looks through all cameras; `wrong` says by camera why its newest picture is not believed, empty if it is."""

    def __init__(self, embodiment: Embodiment):
        """Take the cameras and what their frames must look like."""
        self._eyes = {name: Eye(camera) for name, camera in embodiment.cameras.items()}

    @property
    def wrong(self) -> dict[str, str]:
        """What is wrong, by camera."""
        return {name: eye.wrong for name, eye in self._eyes.items()}

    def look(self, cameras: Mapping[str, Camera], joints: np.ndarray | None) -> dict[str, Frame | None]:
        """Return the newest frame of each camera that can be believed, None before the first.

        joints: float[A], where the arm is now, None if that is unknown.
        """
        return {name: eye.look(cameras[name], joints) for name, eye in self._eyes.items()}


class Eye:
    """One camera."""

    def __init__(self, camera: Format):
        self._shape = camera.height, camera.width, 3
        self._newest: Frame | None = None
        self._believed: Frame | None = None
        self._checksum, self._repeats = -1, 0
        self._joints: np.ndarray | None = None  # when the picture last changed
        self.wrong = ""

    def look(self, camera: Camera, joints: np.ndarray | None) -> Frame | None:
        """Return the newest frame that can be believed."""
        try:
            frame = camera.latest()
        except OSError as error:
            self.wrong = str(error)
            return self._believed
        if frame is None or frame is self._newest:
            return self._believed
        self._newest = frame
        self.wrong = self._judge(frame.image, joints)
        if not self.wrong:
            self._believed = frame
        return self._believed

    def _judge(self, image: np.ndarray, joints: np.ndarray | None) -> str:
        """Say what is wrong with a new picture."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != self._shape:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            return f"its frame is {what}, it must be uint8 {self._shape}"
        part = image[::EVERY, ::EVERY]
        if not DARKEST <= part.mean() <= BRIGHTEST or part.std() < FLATTEST:
            return f"it shows nothing: brightness {part.mean():.0f}, contrast {part.std():.1f}; is the lens covered?"
        return self._stands_still(zlib.crc32(np.ascontiguousarray(image).data), joints)

    def _stands_still(self, checksum: int, joints: np.ndarray | None) -> str:
        """Say whether the picture has stayed the same, to the last bit, while the arm moved."""
        if checksum != self._checksum or self._joints is None or joints is None:
            self._checksum, self._repeats, self._joints = checksum, 0, joints
            return ""
        self._repeats += 1
        moved = float(np.abs(joints - self._joints).max())
        if self._repeats < REPEATS or moved < MOVED:
            return ""
        return f"it has shown the same picture {self._repeats + 1} times while the arm moved by {moved:.2f}"
