"""Watches a live picture: cheap measures on every frame say which one is worth a model's look, and why."""

import numpy as np

from vla.video.objects import Detector, Follower, sight
from vla.video.picture import change, looks, luma

APART_S = 0.5  # keyframes lie at least so far apart; reasons that come sooner wait
LONG_S, UNLIKE = 5.0, 0.35  # after so long a frame is one if it looks so unlike the last; looks differ by 0 to 1.41
BUSY, STILL = 0.01, 0.003  # share of pixels that change from frame to frame, where movement begins and ends
CALM_S = 0.4  # movement ends when it stays below STILL for so long


class Watcher:
    """Takes frames in the order of time and tells keyframes from others, by what it has seen so far."""

    def __init__(self, detector: Detector | None = None) -> None:
        self._detect, self._follower = detector or sight, Follower()
        self._before: np.ndarray | None = None
        self._looks: np.ndarray | None = None  # of the last keyframe
        self._keyframe_s, self._busy_s = -np.inf, -np.inf
        self._moving = False
        self._reasons: list[str] = []

    def reasons(self, time_s: float, image: np.ndarray) -> list[str]:
        """Return why the frame uint8[h, w, 3] RGB at a time is a keyframe; none where it is not."""
        grey = luma(image)
        changed = 0.0 if self._before is None else change(self._before, grey)[1]
        first, self._before = self._before is None, grey
        self._reasons += self._movement(time_s, changed)
        self._reasons += [
            f"the {name} {what}" for name, what in self._follower.update(time_s, self._detect(image), keep=False)
        ]
        if first:
            self._reasons = ["first frame"]
        if time_s - self._keyframe_s < APART_S - 1e-6:
            return []
        if not self._reasons and time_s - self._keyframe_s >= LONG_S and self._unlike(image):
            self._reasons = ["it looks unlike the last keyframe"]
        reasons, self._reasons = list(dict.fromkeys(self._reasons)), []
        if reasons:
            self._keyframe_s, self._looks = time_s, looks(image)
        return reasons

    def _unlike(self, image: np.ndarray) -> bool:
        return self._looks is not None and float(np.linalg.norm(looks(image) - self._looks)) > UNLIKE

    def _movement(self, time_s: float, changed: float) -> list[str]:
        self._busy_s = time_s if changed > STILL else self._busy_s
        if not self._moving and changed > BUSY:
            self._moving = True
            return ["movement begins"]
        if self._moving and time_s - self._busy_s >= CALM_S:
            self._moving = False
            return ["movement ends"]
        return []
