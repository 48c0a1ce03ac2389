"""The quality check: flags of one item, and what a whole dataset tells about its items that none tells alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla.video.camera_quality import BLURRED, camera_flags, witness
from vla.video.episode_quality import (
    LAG_S,
    conduct_flags,
    figures,
    lag_flag,
    lag_numbers,
    lag_words,
    row_flags,
    state_flags,
)
from vla.video.events import arm_motion, movement
from vla.video.flag import NOTE, WARNING, Flag
from vla.video.lag import Lag, measure_lag, pool
from vla.video.source import Item
from vla.video.track import Track

FENCE = 3.0  # interquartile ranges beyond the quartiles; Tukey calls further values far out
LEAST_EPISODES = 8  # fewer say nothing about what is usual
POOLED_GAIN = 0.03  # of the mean correlation over a dataset
JERKY = 2.2  # times the usual 95th percentile of jerk
JUDGED = ("seconds", "jerk_p95", "speed_max", "static_share", "way")


@dataclass(frozen=True)
class Checked:
    """What the check of one item found."""

    flags: list[Flag]
    figures: dict[str, float]
    lags: dict[str, Lag]  # camera -> estimate, where one can be made


def check(item: Item, tracks: Mapping[str, Track]) -> Checked:
    """Check one item: pictures, file, clock and rows of every camera, and how the arm was led; in the order of time."""
    flags: list[Flag] = []
    lags: dict[str, Lag] = {}
    state = item.state if item.state is not None and item.state.finite else None
    for camera, track in tracks.items():
        flags += camera_flags(camera, track, witness(camera, tracks, state))
        if track.left_out:
            flags.append(Flag("crowded", NOTE, camera, 0.0, float(track.time_s[-1]), track.left_out))
        lag = measure_lag(track, state) if state is not None else None
        if lag is not None:
            lags[camera] = lag
            flags += lag_flag(camera, lag, float(track.time_s[-1]))
    flags += row_flags(item, tracks)
    if item.state is not None:
        flags += state_flags(item.state, tracks)
    measured = state is not None and state.joints.shape[1] > 0
    flags += conduct_flags(arm_motion(state) if state is not None and measured else movement(tracks))
    order = sorted(flags, key=lambda flag: (flag.start_s, flag.stop_s, flag.camera, flag.code))
    return Checked(order, figures(item, tracks), lags)


def compare(checked: Sequence[Checked]) -> tuple[list[list[Flag]], list[Flag]]:
    """Return further flags of each item, against the others, and flags of the dataset as a whole.

    Needs LEAST_EPISODES items; they should be recordings of one robot.
    """
    own: list[list[Flag]] = [[] for _ in checked]
    if len(checked) < LEAST_EPISODES:
        return own, []
    for name in sorted({name for item in checked for name in item.figures}):
        values = np.array([item.figures.get(name, np.nan) for item in checked])
        if np.isfinite(values).sum() < LEAST_EPISODES:
            continue
        for number, flag in _against_others(name, values, checked):
            own[number].append(flag)
    return own, _camera_lags(checked)


def _against_others(name: str, values: np.ndarray, checked: Sequence[Checked]) -> list[tuple[int, Flag]]:
    """Judge one figure of all items."""
    usual, found = float(np.nanmedian(values)), []
    camera, _, what = name.rpartition(".")
    low, high = np.nanpercentile(values, [25, 75])
    fence = FENCE * max(high - low, 0.05 * abs(usual))
    for number, value in enumerate(values):
        last_s = checked[number].figures["seconds"]
        numbers = {"value": float(value), "usual": usual}
        words = f"{name} is {value:.3g}, usual is {usual:.3g}"
        if what == "blur" and value > usual + BLURRED:
            found.append((number, Flag("blurred", WARNING, camera, 0.0, last_s, words, numbers)))
        elif name == "jerk_p95" and value > max(JERKY * usual, high + fence):
            found.append((number, Flag("jerky", WARNING, "", 0.0, last_s, words, numbers)))
        elif name in JUDGED and (value > high + fence or value < low - fence):
            found.append((number, Flag("outlier", NOTE, "", 0.0, last_s, words, numbers)))
    return found


def _camera_lags(checked: Sequence[Checked]) -> list[Flag]:
    """Judge the lag of each camera over all episodes, which is surer than any one of them."""
    found = []
    for camera in sorted({camera for item in checked for camera in item.lags}):
        lags = [item.lags[camera] for item in checked if camera in item.lags]
        if len(lags) >= LEAST_EPISODES:
            lag = pool(lags)
            if abs(lag.seconds) > LAG_S / 2 and lag.gain > POOLED_GAIN:
                numbers = lag_numbers(lag) | {"episodes": len(lags)}
                found.append(Flag("lag", WARNING, camera, 0.0, 0.0, lag_words(camera, lag), numbers))
    return found
