"""By how much a camera tells another time than the state: what moves in the picture against what the joints report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d

from vla.video.state import State
from vla.video.track import Track

REACH_S = 0.8  # lags up to this are looked for
LEAST_S = 2.0  # shorter episodes say nothing
POOLED_STEP_S = 0.02  # resolution at which estimates of several episodes are added up
_SMOOTH_S = 0.04


@dataclass(frozen=True)
class Lag:
    """An estimate: the pictures are later than the state by `seconds`, earlier if negative."""

    seconds: float
    agreement: float  # correlation at this lag, -1..1
    gain: float  # by how much it is above that without a lag
    shifts_s: np.ndarray = field(repr=False)  # float64[K] the lags that were tried, ascending
    correlations: np.ndarray = field(repr=False)  # float64[K]


def measure_lag(track: Track, state: State) -> Lag | None:
    """Cross-correlate change in the picture with joint speed, None where either is too short or never changes.

    Square roots on both sides keep the few fastest moments from deciding; a parabola through the highest correlation
    and its neighbours gives fractions of a frame.
    """
    if len(track) < 4 or len(state.time_s) < 4 or not state.joints.shape[1]:
        return None
    step_s = max(float(np.median(np.diff(track.time_s))), float(np.median(np.diff(state.time_s))), 0.02)
    first = max(track.time_s[1], state.time_s[1])
    time_s = np.arange(first, min(track.time_s[-1], state.time_s[-1]) + 1e-9, step_s)
    if len(time_s) * step_s < LEAST_S:
        return None
    whole = np.hstack([state.joints, state.gripper])
    spans = np.concatenate([state.joint_high - state.joint_low, state.gripper_high - state.gripper_low])
    moved = np.linalg.norm(np.diff(whole, axis=0, prepend=whole[:1]), axis=1) / max(float(np.linalg.norm(spans)), 1e-9)
    speed = _even(state.time_s, moved, time_s, step_s)
    change = _even(track.time_s, track.difference.astype(np.float64), time_s, step_s)
    if min(np.std(speed), np.std(change)) < 1e-6:
        return None
    return _best_shift(change, speed, step_s)


def _even(own_s: np.ndarray, steps: np.ndarray, time_s: np.ndarray, step_s: float) -> np.ndarray:
    """Spread what changed from sample to sample over an even grid; return the square root of the change a step."""
    total = np.interp(np.append(time_s[0] - step_s, time_s), own_s, np.cumsum(steps))
    return gaussian_filter1d(np.sqrt(np.maximum(np.diff(total), 0.0)), _SMOOTH_S / step_s)


def _best_shift(late: np.ndarray, early: np.ndarray, step_s: float) -> Lag:
    reach = min(round(REACH_S / step_s), len(late) // 3)
    shifts = np.arange(-reach, reach + 1)
    values = np.array([_correlation(late, early, int(shift)) for shift in shifts])
    return _highest(shifts * step_s, values)


def pool(lags: Sequence[Lag]) -> Lag:
    """Join the estimates of many episodes of one camera into one that is far surer: their mean correlations."""
    reach_s = min(float(lag.shifts_s[-1]) for lag in lags)
    shifts_s = np.arange(-round(reach_s / POOLED_STEP_S), round(reach_s / POOLED_STEP_S) + 1) * POOLED_STEP_S
    curves = [np.interp(shifts_s, lag.shifts_s, lag.correlations) for lag in lags]
    return _highest(shifts_s, np.mean(curves, axis=0))


def _highest(shifts_s: np.ndarray, values: np.ndarray) -> Lag:
    """Return the lag of the highest correlation, refined by a parabola through it and its neighbours."""
    best, part = int(values.argmax()), 0.0
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        part = 0.5 * (left - right) / bend if bend < 0 else 0.0
    seconds = float(shifts_s[best] + part * (shifts_s[1] - shifts_s[0]))
    return Lag(seconds, float(values[best]), float(values[best] - np.interp(0.0, shifts_s, values)), shifts_s, values)


def _correlation(late: np.ndarray, early: np.ndarray, shift: int) -> float:
    a = late[max(0, shift) : len(late) + min(0, shift)]
    b = early[max(0, -shift) : len(early) - max(0, shift)]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-18))
