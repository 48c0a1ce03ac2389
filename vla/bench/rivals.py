"""Score found moments against true ones, beside the baselines that any such score needs."""

from collections.abc import Sequence

import numpy as np

from vla.video.decode import Clip, VideoClip

try:
    from scenedetect import AdaptiveDetector, detect  # pyright: ignore[reportMissingImports]
except ImportError:  # an extra
    detect = None

BUFFER = 4  # frames after a stop in which PerAct's heuristic takes no other
STOPPED = 0.1  # joint speed below which PerAct's heuristic calls the arm stopped [rad/s]


def matches(found: Sequence[float], true: Sequence[float], tolerance_s: float) -> int:
    """Count pairs of one found and one true time within the tolerance; in order of time, greedy is optimal."""
    left, right, count = sorted(found), sorted(true), 0
    while left and right:
        if abs(left[0] - right[0]) <= tolerance_s + 1e-9:
            count, left, right = count + 1, left[1:], right[1:]
        elif left[0] < right[0]:
            left = left[1:]
        else:
            right = right[1:]
    return count


def score(found: Sequence[Sequence[float]], true: Sequence[Sequence[float]], tolerance_s: float) -> dict[str, float]:
    """Return F1, precision, recall and the ratio of found to true moments, summed over all episodes."""
    hits = sum(matches(a, b, tolerance_s) for a, b in zip(found, true, strict=True))
    predicted, expected = sum(map(len, found)), sum(map(len, true))
    return {
        "f1": round(2 * hits / max(predicted + expected, 1), 3),
        "precision": round(hits / max(predicted, 1), 3),
        "recall": round(hits / max(expected, 1), 3),
        "ratio": round(predicted / max(expected, 1), 3),
    }


def uniform(length_s: float, count: int) -> list[float]:
    """Return so many times, evenly inside 0..length."""
    return [length_s * (k + 1) / (count + 1) for k in range(count)]


def every(length_s: float, period_s: float) -> list[float]:
    """Return one time every `period_s` inside 0..length, whatever happens there."""
    return [period_s * (k + 1) for k in range(int(length_s / period_s)) if period_s * (k + 1) < length_s]


def random(length_s: float, count: int, rng: np.random.Generator) -> list[float]:
    """Return so many times drawn evenly from 0..length."""
    return sorted(rng.uniform(0, length_s, count))


def peract(joints: np.ndarray, open_: np.ndarray, fps: float) -> list[float]:
    """Return the keyframes of PerAct (Shridhar et al. 2022, appendix; RLBench's demo loader), without the last frame.

    joints: float[N, J] [rad]; open_: bool[N] whether the gripper is open.
    """
    speed = np.gradient(joints, 1 / fps, axis=0)
    count, found, buffer, before = len(open_), [], 0, open_[0]
    for now in range(count):
        same = now < count - 2 and open_[now] == open_[now + 1] == open_[max(now - 1, 0)] == open_[max(now - 2, 0)]
        stopped = buffer <= 0 and np.allclose(speed[now], 0, atol=STOPPED) and now != count - 2 and same
        buffer = BUFFER if stopped else buffer - 1
        if now and (open_[now] != before or stopped):
            found.append(now)
        before = open_[now]
    return [now / fps for now in found if now < count - 1]


def scene_cuts(clip: Clip) -> list[float] | None:
    """Return the cuts that PySceneDetect's adaptive detector finds in a video; None where it is not installed."""
    if detect is None or not isinstance(clip, VideoClip):
        return None
    start_s = max(clip.start_s or 0.0, 0.0)
    scenes = detect(str(clip.path), AdaptiveDetector(), start_time=start_s, end_time=clip.stop_s)
    return [float(start.get_seconds()) - (clip.zero_s or 0.0) for start, _ in scenes[1:]]
