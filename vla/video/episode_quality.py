"""What can be wrong with an episode beyond its pictures: rows against frames, clocks, and how the arm was led."""

from collections.abc import Iterator, Mapping

import numpy as np

from vla.video.events import arm_motion, movement, spans
from vla.video.flag import ERROR, NOTE, WARNING, Flag
from vla.video.lag import Lag
from vla.video.motion import Motion
from vla.video.source import Item
from vla.video.state import State
from vla.video.track import Track

ROW_GAP = 1.5  # of the median time between rows
LAG_S, LAG_STEPS, LAG_AGREES, LAG_GAIN = 0.15, 1.2, 0.4, 0.12  # what makes the lag of one episode certain
STATE_STANDS_S, STATE_STANDS_WAY_S = 0.5, 0.25  # the same row again so long, while the picture moves so far
LEAP_SPANS, LEAP_USUAL = 0.08, 5.0  # a leap is this share of the joints' span and so many usual steps...
LEAP_AROUND = 2.0  # ...and so many of the steps before and after, since an arm takes some to get fast
STATIC, SLOW = 0.8, 0.05  # share of the time below this speed
IDLE_START_S, IDLE_END_S = 2.0, 3.0
IDLE_SPEED, IDLE_FAR_S = 0.10, 0.12  # nothing happens until the speed is above, and the place further than this


def row_flags(item: Item, tracks: Mapping[str, Track]) -> Iterator[Flag]:
    """Compare every camera's number of frames with the number of rows."""
    for camera, track in tracks.items():
        missing = (item.rows or len(track)) - len(track)
        if missing:
            words = f"{len(track)} frames for {item.rows} rows: {abs(missing)} too {'few' if missing > 0 else 'many'}"
            severity = ERROR if abs(missing) > 1 else WARNING
            last_s = float(track.time_s[-1])
            yield Flag("length", severity, camera, 0.0, last_s, words, {"missing": missing})


def lag_flag(camera: str, lag: Lag | None, last_s: float) -> Iterator[Flag]:
    """Tell a lag between a camera and the state where one episode is enough to be sure of it."""
    if lag is None or abs(lag.seconds) < max(LAG_S, LAG_STEPS * float(lag.shifts_s[1] - lag.shifts_s[0])):
        return
    if lag.correlations.argmax() in (0, len(lag.correlations) - 1):  # what rises to the very end has no peak there
        return
    if lag.agreement > LAG_AGREES and lag.gain > LAG_GAIN:
        yield Flag("lag", WARNING, camera, 0.0, last_s, lag_words(camera, lag), lag_numbers(lag))


def lag_words(camera: str, lag: Lag) -> str:
    """Say a lag."""
    order = "later" if lag.seconds > 0 else "earlier"
    return (
        f"{camera} shows movement {abs(lag.seconds):.2f} s {order} than the state tells it "
        f"(correlation {lag.agreement:.2f}, {lag.agreement - lag.gain:.2f} without a lag)"
    )


def lag_numbers(lag: Lag) -> dict[str, float]:
    """Numbers of a flag about a lag."""
    return {"lag_s": lag.seconds, "correlation": lag.agreement, "gain": lag.gain}


def state_flags(state: State, tracks: Mapping[str, Track]) -> Iterator[Flag]:
    """Judge the rows of the state by themselves, and against the pictures where they stand."""
    table = np.hstack([state.joints, state.gripper])
    finite = np.asarray(np.isfinite(table).all(axis=1))
    for start, stop in spans(~finite):
        words = f"{stop - start + 1} rows of the state hold values that are not numbers"
        yield Flag("not_finite", ERROR, "", *_times(state, start, stop), words, {"rows": stop - start + 1})
    if not finite.all() or len(table) < 4:
        return
    yield from _row_gaps(state)
    yield from _leaps(state)
    moved = movement(tracks)
    way_s = np.cumsum(np.linalg.norm(np.diff(moved.place, axis=0, prepend=moved.place[:1]), axis=1)) / moved.fast
    same = np.concatenate([[False], np.all(np.diff(table, axis=0) == 0, axis=1)])
    for start, stop in spans(same):
        first_s, last_s = float(state.time_s[start - 1]), float(state.time_s[stop])
        seen_s = float(np.diff(np.interp([first_s, last_s], moved.time_s, way_s))[0])
        if last_s - first_s >= STATE_STANDS_S and seen_s > STATE_STANDS_WAY_S:
            words = f"{stop - start + 1} rows repeat the one before, while the pictures move"
            yield Flag("state_frozen", WARNING, "", first_s, last_s, words, {"rows": stop - start + 1, "way_s": seen_s})


def _row_gaps(state: State) -> Iterator[Flag]:
    step_s = np.diff(state.time_s)
    usual_s = float(np.median(step_s))
    for place in map(int, np.flatnonzero((step_s > ROW_GAP * usual_s) | (step_s <= 0))):
        words = f"{step_s[place]:.3f} s between two rows instead of {usual_s:.3f}"
        yield Flag("row_gap", ERROR, "", *_times(state, place, place + 1), words, {"seconds": float(step_s[place])})


def _leaps(state: State) -> Iterator[Flag]:
    """Find single rows far from both neighbours, and steps far beyond the fast ones of the episode."""
    if not state.joints.shape[1]:
        return
    step = np.linalg.norm(np.diff(state.joints, axis=0), axis=1)
    least = max(LEAP_SPANS * state.span, LEAP_USUAL * float(np.percentile(step, 75)))
    around = np.concatenate([[0.0], step, [0.0]])
    for start, stop in spans(step > least):
        if step[start : stop + 1].max() < LEAP_AROUND * max(around[start], around[stop + 2]):
            continue
        words = f"the joints leap by {step[start : stop + 1].max():.3g} in one row, usual is {np.median(step):.2g}"
        numbers = {"leap": float(step[start : stop + 1].max()), "usual": float(np.median(step))}
        yield Flag("state_jump", WARNING, "", *_times(state, start, stop + 1), words, numbers)


def conduct_flags(motion: Motion) -> Iterator[Flag]:
    """Tell standing about: most of the time, at the beginning, at the end."""
    if len(motion.time_s) < 4:
        return
    first_s, last_s = float(motion.time_s[0]), float(motion.time_s[-1])
    static = float(np.mean(motion.speed < SLOW))
    if static > STATIC:
        words = f"it stands {100 * static:.0f} % of the time"
        yield Flag("static", NOTE, "", first_s, last_s, words, {"share": static})
    begin_s, end_s = idle_ends(motion)
    if begin_s - first_s > IDLE_START_S:
        words = f"nothing moves in the first {begin_s - first_s:.1f} s"
        yield Flag("idle_start", NOTE, "", first_s, begin_s, words, {"seconds": begin_s - first_s})
    if last_s - end_s > IDLE_END_S and end_s > first_s:
        words = f"nothing moves in the last {last_s - end_s:.1f} s"
        yield Flag("idle_end", NOTE, "", end_s, last_s, words, {"seconds": last_s - end_s})


def idle_ends(motion: Motion) -> tuple[float, float]:
    """Return the times from which on, and until which, something moves [s]; trembling on the spot does not count."""
    far = IDLE_FAR_S * motion.fast
    from_first = np.linalg.norm(motion.place - motion.place[0], axis=1) > far
    from_last = np.linalg.norm(motion.place - motion.place[-1], axis=1) > far
    count = len(motion.time_s)
    begin = int(from_first.argmax()) if from_first.any() else count - 1
    end = count - 1 - int(from_last[::-1].argmax()) if from_last.any() else 0
    while begin > 0 and motion.speed[begin] > IDLE_SPEED:
        begin -= 1
    while end < count - 1 and motion.speed[end] > IDLE_SPEED:
        end += 1
    return float(motion.time_s[begin]), float(motion.time_s[end])


def figures(item: Item, tracks: Mapping[str, Track]) -> dict[str, float]:
    """Return the numbers of an episode by which a dataset is sorted and outliers are found.

    Joint figures are in the units of the state; jerk is the third difference of the joints over time cubed.
    """
    track = next(iter(tracks.values()))
    found = {"seconds": float(track.time_s[-1] - track.time_s[0]), "frames": float(len(track))}
    for camera, seen in tracks.items():
        found[f"{camera}.blur"] = float(np.median(seen.blur))
        found[f"{camera}.bright"] = float(np.median(seen.bright))
    state = item.state
    if state is None or not state.joints.shape[1] or len(state.time_s) < 5 or not state.finite:
        return found
    motion = arm_motion(state)
    step_s = float(np.median(np.diff(state.time_s)))
    jerk = np.linalg.norm(np.diff(state.joints, 3, axis=0), axis=1) / max(step_s, 1e-6) ** 3
    begin_s, end_s = idle_ends(motion)
    return found | {
        "jerk_median": float(np.median(jerk)),
        "jerk_p95": float(np.percentile(jerk, 95)),
        "speed_max": float(motion.speed.max() * motion.fast),
        "static_share": float(np.mean(motion.speed < SLOW)),
        "idle_start_s": begin_s - float(state.time_s[0]),
        "idle_end_s": float(state.time_s[-1]) - end_s,
        "way": float(np.linalg.norm(np.diff(state.joints, axis=0), axis=1).sum()),
    }


def _times(state: State, start: int, stop: int) -> tuple[float, float]:
    return float(state.time_s[start]), float(state.time_s[stop])
