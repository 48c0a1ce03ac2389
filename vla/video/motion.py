"""How something moves, whether joints or a picture's flow: where it rests, where it turns back."""

from bisect import bisect
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter1d

SMOOTH_S = 0.05  # standard deviation of the smoothing of measured positions [s]
SLOW = 0.10  # of the reference speed: slower than this is at rest
FAR_S = 0.12  # a rest ends when the place is further off than this long a way at reference speed [s]
REST_S = 0.3  # shorter stands are none
TURN_S = 0.35  # directions before and after a moment are averaged over this long [s]
TURNED = 0.08  # least strength of a turning point
DIP_S = 0.5  # a dip lies between faster moments at most this far on both sides [s]
DIPPED = 0.15  # least depth of a dip, in reference speeds
APART_S = 0.4  # turning points, and dips, lie at least this far apart [s]


@dataclass(frozen=True)
class Motion:
    """Places and velocities over N moments; places may have any unit, everything here is relative to `fast`."""

    time_s: np.ndarray  # float64[N], ascending
    place: np.ndarray  # float64[N, D]
    velocity: np.ndarray  # float64[N, D] [1/s]
    fast: float  # reference speed, about the fastest that is usual [1/s]

    @classmethod
    def of_places(cls, time_s: np.ndarray, place: np.ndarray, least_fast: float) -> "Motion":
        """Differentiate measured places; the reference speed is their 95th percentile, not below `least_fast`."""
        if len(time_s) < 3:
            return cls(time_s, place, np.zeros_like(place), max(least_fast, 1e-9))
        width = SMOOTH_S / max(float(np.median(np.diff(time_s))), 1e-6)
        smooth = gaussian_filter1d(place, width, axis=0, mode="nearest") if width > 0.6 else place
        velocity = np.gradient(smooth, time_s, axis=0)
        fast = float(np.percentile(np.linalg.norm(velocity, axis=1), 95))
        return cls(time_s, smooth, velocity, max(fast, least_fast, 1e-9))

    @classmethod
    def of_shifts(cls, time_s: np.ndarray, shift: np.ndarray, least_fast: float) -> "Motion":
        """Take shifts float[N, D] since the moment before, as optical flow gives them."""
        step_s = np.maximum(np.diff(time_s, prepend=time_s[:1]), 1e-3)[:, None]
        velocity = shift / step_s
        fast = float(np.percentile(np.linalg.norm(velocity, axis=1), 95)) if len(time_s) else 0.0
        return cls(time_s, np.cumsum(shift, axis=0), velocity, max(fast, least_fast, 1e-9))

    @property
    def speed(self) -> np.ndarray:
        """Speed float64[N] relative to the reference: about 1 when fast."""
        return np.linalg.norm(self.velocity, axis=1) / self.fast


@dataclass(frozen=True)
class Rest:
    """A stretch without movement, from the first to the last still moment."""

    start: int
    stop: int
    start_s: float
    stop_s: float

    @property
    def length_s(self) -> float:
        """How long it lasts [s]."""
        return self.stop_s - self.start_s


def rests(motion: Motion) -> list[Rest]:
    """Find where the motion stands still.

    Hysteresis in place, not in speed: a rest begins when the speed falls below SLOW and lasts until the place is
    FAR_S of fast movement away from where it began, so that trembling on the spot does not end it.
    """
    speed, time_s, far = motion.speed, motion.time_s, FAR_S * motion.fast
    found, now, count = [], 0, len(time_s)
    while now < count:
        if speed[now] >= SLOW:
            now += 1
            continue
        away = np.linalg.norm(motion.place[now:] - motion.place[now], axis=1) > far
        end = now + (int(away.argmax()) if away.any() else count - now) - 1
        still = end
        while still > now and speed[still] >= SLOW:  # back to where the movement away began
            still -= 1
        if time_s[still] - time_s[now] >= REST_S - 1e-6:
            found.append(Rest(now, still, float(time_s[now]), float(time_s[still])))
        now = end + 1
    return found


def turning_points(motion: Motion) -> list[tuple[int, float]]:
    """Find where the motion turns back, as (moment, strength 0..1), across short stands too.

    Strength is the slower of the mean speeds before and after, times (1 - cos of the angle between them) / 2.
    """
    time_s, count = motion.time_s, len(motion.time_s)
    sums = np.vstack([np.zeros(motion.velocity.shape[1]), np.cumsum(motion.velocity, axis=0)])
    moment = np.arange(count)
    first = np.searchsorted(time_s, time_s - TURN_S - 1e-6)
    last = np.searchsorted(time_s, time_s + TURN_S + 1e-6)
    before = (sums[moment + 1] - sums[first]) / (moment + 1 - first)[:, None]
    after = (sums[last] - sums[moment]) / (last - moment)[:, None]
    speeds = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
    cosine = (before * after).sum(axis=1) / np.maximum(speeds[0] * speeds[1], 1e-12)
    strength = np.minimum(1.0, np.minimum(*speeds) / motion.fast * (1 - cosine) / 2)
    return [(int(peak), float(strength[peak])) for peak in peaks(strength, time_s, TURNED, APART_S)]


def dips(motion: Motion) -> list[tuple[int, float]]:
    """Find where the motion slows down and speeds up again, as (moment, depth 0..1 in reference speeds)."""
    if len(motion.time_s) < 3:
        return []
    step_s = max(float(np.median(np.diff(motion.time_s))), 1e-3)
    speed = np.minimum(gaussian_filter1d(motion.speed, SMOOTH_S / step_s + 0.2, mode="nearest"), 1.0)
    around = max(1, round(DIP_S / step_s))
    padded = np.concatenate([np.zeros(around), speed, np.zeros(around)])
    fastest = sliding_window_view(padded, around).max(axis=1)
    depth = np.minimum(fastest[: len(speed)], fastest[around + 1 :]) - speed
    return [(int(peak), float(depth[peak])) for peak in peaks(depth, motion.time_s, DIPPED, APART_S)]


def peaks(values: np.ndarray, time_s: np.ndarray, least: float, apart_s: float) -> np.ndarray:
    """Return the moments of local maxima of at least `least`, the highest first choice, `apart_s` apart, in order."""
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    top = np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:]) & (values >= least))
    kept: list[int] = []  # ascending
    for moment in map(int, top[np.argsort(-values[top], kind="stable")]):
        place = bisect(kept, moment)
        if all(abs(time_s[moment] - time_s[other]) >= apart_s - 1e-6 for other in kept[max(place - 1, 0) : place + 1]):
            kept.insert(place, moment)
    return np.array(kept, np.int64)
