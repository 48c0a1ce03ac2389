"""Moments at which something happens, from what a robot measured and from how the picture moves, with reasons."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from vla.video.motion import SMOOTH_S, Motion, dips, peaks, rests, turning_points
from vla.video.state import State
from vla.video.track import Track

STATE, PIXELS = "state", "pixels"
LEAST_FAST = 0.05  # reference speed of an arm that hardly moves, in spans of its joints a second
LEAST_FLOW = 0.01  # reference speed of a picture that hardly moves, in its widths a second
LONG_REST_S = 0.5  # a rest as long as this ends what was done before; a shorter one is a pause
RETREAT_S = 1.0  # turning back so shortly before a rest is the end of the deed, the way to the rest is retreat
GRIPPER_RATES = (0.2, 0.1)  # a gripper begins to move, goes on moving, above these [ranges a second]
GRIPPER_MOVED = 0.15  # least move that counts [ranges]
GRIPPER_EMPTY = 0.08  # closed as far as this, it holds nothing [ranges]
FUMBLE_S = 0.6  # opening again so shortly after closing is a missed grasp
NOISY = 0.05  # a signal whose median step is more than this of its range is noise
STALLED_S = 0.06  # commands that lead by more than this long a way at reference speed, beyond what following explains
STALL_LASTS_S = 0.3
EFFORT_MADS = 4.0  # an effort steps when it changes by more than this many median absolute deviations...
EFFORT_SHARE = 0.15  # ...and by this share of its range in the episode
EFFORT_S = 0.15  # means before and after a step are taken over this long [s]


@dataclass(frozen=True)
class Event:
    """Something happened; `strength` says how clearly."""

    time_s: float
    kind: str
    signal: str  # STATE or PIXELS
    strength: float  # 0..1
    words: str  # for people, with the numbers

    @property
    def key(self) -> tuple[str, str]:
        """What kind of event it is, told by which signal."""
        return self.signal, self.kind


def from_state(state: State) -> list[Event]:
    """Return the events that joints, grippers, commands and efforts show, in the order of time."""
    found: list[Event] = []
    if state.joints.shape[1] and len(state.time_s) > 2:
        motion = arm_motion(state)
        found += _of_motion(motion, STATE, "the arm")
        found += _stalls(motion, state)
    for number, name in enumerate(state.gripper_names):
        found += _of_gripper(state, number, name)
    found += _effort_steps(state)
    return sorted(found, key=lambda event: (event.time_s, event.kind))


def from_movement(tracks: Mapping[str, Track]) -> list[Event]:
    """Return the events that the flow of all cameras together shows, in the order of time."""
    motion = movement(tracks)
    found = list(_of_motion(motion, PIXELS, "the picture"))
    for moment, depth in dips(motion):
        words = f"the movement of the picture ebbs by {100 * depth:.0f} % and swells again"
        found.append(Event(float(motion.time_s[moment]), "dip", PIXELS, min(1.0, depth / 0.5), words))
    return sorted(found, key=lambda event: (event.time_s, event.kind))


def arm_motion(state: State) -> Motion:
    """Take all joints together as one motion, in the units of the state."""
    return Motion.of_places(state.time_s, state.joints, LEAST_FAST * state.span)


def movement(tracks: Mapping[str, Track]) -> Motion:
    """Join the flow of several cameras into one motion, each relative to its own reference speed."""
    first = next(iter(tracks.values()))
    time_s = first.time_s[first.sample]
    places = []
    for track in tracks.values():
        shift = track.flow.astype(np.float64).reshape(len(track.flow), -1)
        own = Motion.of_shifts(track.time_s[track.sample], shift, LEAST_FLOW)
        here = [np.interp(time_s, own.time_s, column) for column in own.place.T]
        places.append(np.stack(here, axis=1) / own.fast)
    place = np.concatenate(places, axis=1)
    return Motion.of_shifts(time_s, np.diff(place, axis=0, prepend=place[:1]), least_fast=0.5)


def _of_motion(motion: Motion, signal: str, what: str) -> Iterator[Event]:
    """Yield turns, and the beginnings and ends of rests."""
    time_s, turns = motion.time_s, turning_points(motion)
    for moment, strength in turns:
        yield Event(float(time_s[moment]), "turn", signal, min(1.0, strength / 0.4), f"{what} turns back")
    for rest in rests(motion):
        words = f"a rest of {rest.length_s:.1f} s"
        if rest.length_s < LONG_REST_S - 1e-6:
            if rest.start:
                yield Event((rest.start_s + rest.stop_s) / 2, "pause", signal, 1.0, f"{what} pauses: {words}")
            continue
        if rest.start:
            before = [
                (strength, moment)
                for moment, strength in turns
                if rest.start_s - RETREAT_S <= time_s[moment] < rest.start_s - 0.1
            ]
            if before:
                deed_s = float(time_s[max(before)[1]])
                yield Event(deed_s, "finish", signal, 1.0, f"{what} withdraws, followed by {words}")
            else:
                yield Event(rest.start_s, "stop", signal, 1.0, f"{what} stops: {words}")
        if rest.stop < len(time_s) - 2:
            yield Event(rest.stop_s, "set_off", signal, 1.0, f"{what} sets off after {words}")


def _of_gripper(state: State, number: int, name: str) -> Iterator[Event]:
    """Yield where a gripper closes and opens; with something in it that is a grasp and a release."""
    low, high = float(state.gripper_low[number]), float(state.gripper_high[number])
    opening = (state.gripper[:, number] - low) / max(high - low, 1e-9)
    moves = list(steady_moves(state.time_s, opening))
    while moves:
        start, stop = moves.pop(0)
        change = opening[stop] - opening[start]
        words = f"from {100 * opening[start]:.0f} to {100 * opening[stop]:.0f} % open"
        closes, empty = change < 0, min(opening[start], opening[stop]) < GRIPPER_EMPTY
        begin_s, end_s = float(state.time_s[start]), float(state.time_s[stop])
        if closes and moves and state.time_s[moves[0][0]] - begin_s < FUMBLE_S:
            moves.pop(0)
            yield Event(end_s, "fumble", STATE, 1.0, f"{name} closes and opens again at once ({words})")
        elif closes:
            kind, result = ("gripper_closes", "fully") if empty else ("grasp", "and stops short")
            yield Event(end_s, kind, STATE, 1.0, f"{name} closes {result} ({words})")
        else:
            kind = "gripper_opens" if empty else "release"
            yield Event((begin_s + end_s) / 2, kind, STATE, 1.0, f"{name} opens ({words})")


def steady_moves(time_s: np.ndarray, value: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last) moments of every steady move up or down of a signal scaled to 0..1."""
    if len(value) < 3 or float(np.median(np.abs(np.diff(value)))) > NOISY:
        return
    step_s = np.maximum(np.diff(time_s), 1e-6)
    width = SMOOTH_S / float(np.median(step_s))
    rate = np.diff(gaussian_filter1d(value, width, mode="nearest") if width > 0.6 else value) / step_s
    now = 0
    while now < len(rate):
        if abs(rate[now]) <= GRIPPER_RATES[0]:
            now += 1
            continue
        stop = now
        while stop < len(rate) and rate[stop] * np.sign(rate[now]) > GRIPPER_RATES[1]:
            stop += 1
        if abs(value[stop] - value[now]) > GRIPPER_MOVED:
            yield now, stop
        now = stop


def _stalls(motion: Motion, state: State) -> Iterator[Event]:
    for start, _, most in stalls(motion, state):
        words = f"the arm stays behind its command by {most * motion.fast:.3g} more than following explains"
        yield Event(float(state.time_s[start]), "stall", STATE, min(1.0, most / 0.3), words)


def stalls(motion: Motion, state: State, least: float = STALLED_S) -> list[tuple[int, int, float]]:
    """Return (first, last moment, most) of where the arm does not follow its command, as at a contact or collision.

    A moving arm lags behind by about a fixed time, which is taken off: what remains counts from `least` on, in seconds
    of movement at reference speed.
    """
    if state.command is None:
        return []
    gap = np.zeros(len(state.time_s))
    gap[1:] = np.linalg.norm(state.joints[1:] - state.command[:-1], axis=1) / motion.fast
    moving = motion.speed > 0.3
    lag_s = float(np.median(gap[moving] / motion.speed[moving])) if moving.any() else 0.0
    excess = gap - lag_s * motion.speed
    return [
        (start, stop, float(excess[start : stop + 1].max()))
        for start, stop in spans(excess > least)
        if state.time_s[stop] - state.time_s[start] >= STALL_LASTS_S - 1e-6
    ]


def _effort_steps(state: State) -> Iterator[Event]:
    """Yield where a torque or current changes at once, as at a contact."""
    if state.effort is None or len(state.time_s) < 8:
        return
    around = max(1, round(EFFORT_S / max(float(np.median(np.diff(state.time_s))), 1e-6)))
    for number, name in enumerate(state.effort_names):
        effort = state.effort[:, number]
        sums = np.concatenate([[0.0], np.cumsum(effort)])
        means = (sums[around:] - sums[:-around]) / around
        step = np.zeros(len(effort))
        step[around : len(effort) - around + 1] = np.abs(means[around:] - means[:-around])
        usual = 1.4826 * float(np.median(np.abs(step - np.median(step))))
        least = max(EFFORT_MADS * usual, EFFORT_SHARE * float(np.ptp(effort)), 1e-9)
        for moment in peaks(step, state.time_s, least, 2 * EFFORT_S):
            words = f"{name} steps by {step[moment]:.3g}"
            strength = min(1.0, float(step[moment]) / (2 * least))
            yield Event(float(state.time_s[moment]), "effort_step", STATE, strength, words)


def spans(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, last) of every run of True in bool[N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
