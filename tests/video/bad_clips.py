"""Clips that do what a hostile or broken file might make a decoder do; importable, so that a child process can too."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla.video.decode import Facts, Frame, Limits


@dataclass(frozen=True)
class BadClip:
    """Yields one good frame, then misbehaves: hang, spin, eat, die or fail."""

    deed: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.deed}.mp4"

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Yield a frame and misbehave."""
        yield Frame(0.0, np.zeros((48, 64, 3), np.uint8))
        if self.deed == "hang":
            time.sleep(60)
        while self.deed == "spin":
            pass
        if self.deed == "eat":
            yield Frame(0.1, np.ones((4096, 1 << 20, 3), np.uint8))
        if self.deed == "die":
            os.abort()
        if self.deed == "fail":
            raise ZeroDivisionError("a fault of ours")
