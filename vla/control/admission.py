"""Whether a command may be followed: kind, shape, finite, range, leap and age; pure functions of the command."""

from math import isfinite
from typing import NamedTuple

import numpy as np

from vla.types import Embodiment

FARTHEST_LEAP = 3.0  # of what a joint at full speed does in one control period; more is a wrong unit or joint order


class Verdict(NamedTuple):
    """What became of one command: the goal that may be followed, if any, and the rule that changed or refused it."""

    goal: list[float] | None  # A joint targets inside the position limits
    rule: str = ""  # empty: nothing to object to
    reason: str = ""


class Admission:
    """Judges commands for one embodiment."""

    def __init__(self, embodiment: Embodiment, hz: float, max_age_s: float):
        """Take the guard's own rate and how old a command may be [s]."""
        self._joints = embodiment.joints
        self._low, self._high = embodiment.position_min, embodiment.position_max
        period_s = 1 / min(embodiment.control_hz, hz)
        self._step = [speed * period_s for speed in embodiment.velocity_max]
        self._max_age_s = max_age_s

    def read(self, vector: object) -> Verdict:
        """Take A finite numbers in an array; anything else has no goal."""
        if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "fiu" or vector.itemsize > 8:
            what = f"array of {vector.dtype}" if isinstance(vector, np.ndarray) else type(vector).__name__
            return Verdict(None, "dtype", f"{what}, must be an array of numbers")
        if vector.shape != (len(self._joints),):
            return Verdict(None, "shape", f"{vector.shape}, must be ({len(self._joints)},): {', '.join(self._joints)}")
        values = vector.astype(np.float64).tolist()
        if not all(map(isfinite, values)):
            return Verdict(None, "finite", f"{dict(zip(self._joints, values, strict=True))}")
        return Verdict(values)

    def judge(self, target: object, now_s: float, due_s: float | None, previous: list[float] | None) -> Verdict:
        """Judge a command that was due at `due_s`; `previous` is the goal that was followed until now, if any was."""
        verdict = self.read(target)
        if verdict.goal is None:
            return verdict
        if due_s is None or not abs(now_s - due_s) <= self._max_age_s:  # so that NaN is too old
            age = "it has no due time" if due_s is None else f"was due {now_s - due_s:.3f} s ago"
            return Verdict(None, "age", f"{age}, at most {self._max_age_s} s")
        return self._in_range(verdict.goal, previous or verdict.goal)

    def _in_range(self, values: list[float], previous: list[float]) -> Verdict:
        """Refuse what cannot be meant in this unit; clip what missed the range by less than one step."""
        goal, clipped = values.copy(), ""
        limits = zip(values, previous, self._low, self._high, self._step, strict=True)
        for index, (value, last, low, high, step) in enumerate(limits):
            if not low <= value <= high:
                if not low - step <= value <= high + step:
                    return Verdict(None, "range", f"{self._joints[index]} {value:.6g} is far from {low:g} .. {high:g}")
                goal[index] = low if value < low else high
                clipped = f"{self._joints[index]} {value:.6g} to {goal[index]:g}"
            if abs(value - last) > FARTHEST_LEAP * step:
                way = f"{self._joints[index]} from {last:.6g} to {value:.6g}"
                return Verdict(None, "leap", f"{way}, at most {FARTHEST_LEAP * step:.3g} at once")
        return Verdict(goal, "clipped", clipped) if clipped else Verdict(goal)


class Demand:
    """Notices when commands ask for more than the limits: their own differences from tick to tick."""

    def __init__(self, embodiment: Embodiment, hz: float):
        """Take the limits and the number of ticks a second."""
        self._joints = embodiment.joints
        self._limits = [
            (velocity / hz, acceleration / hz**2, jerk / hz**3)
            for velocity, acceleration, jerk in zip(
                embodiment.velocity_max, embodiment.acceleration_max, embodiment.jerk_max, strict=True
            )
        ]
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next goal is taken to have been there for ever."""
        self._last: list[float] | None = None
        self._changes = [(0.0, 0.0)] * len(self._joints)  # of the last goal and of its change, a joint

    def excess(self, goal: list[float]) -> tuple[str, str] | None:
        """Return the rule that a new goal breaks, the first of velocity, acceleration and jerk, and by which joint."""
        if goal == self._last and not any(map(any, self._changes)):
            return None
        last, self._last = self._last or goal, goal
        changes, beyond = [], None
        rows = zip(self._joints, goal, last, self._changes, self._limits, strict=True)
        for joint, value, last_value, before, limits in rows:
            velocity = value - last_value
            acceleration = velocity - before[0]
            found = _first_beyond(joint, (velocity, acceleration, acceleration - before[1]), limits)
            beyond = beyond or found
            changes.append(_pace(found[0] if found else "", before, velocity, acceleration))
        self._changes = changes
        return beyond


def _pace(rule: str, before: tuple[float, float], velocity: float, acceleration: float) -> tuple[float, float]:
    """Return velocity and acceleration to compare the next goal with, so that what breaks a limit is counted once."""
    if rule == "velocity":
        return before  # a leap; what comes after it goes on with the pace before it, or rests
    return velocity, 0.0 if rule == "acceleration" else acceleration


def _first_beyond(
    joint: str, changes: tuple[float, float, float], limits: tuple[float, float, float]
) -> tuple[str, str] | None:
    for rule, change, limit in zip(("velocity", "acceleration", "jerk"), changes, limits, strict=True):
        if abs(change) > limit * (1 + 1e-6):  # rounding does not count
            return rule, f"{joint} was asked for {abs(change) / limit:.3g} times its largest {rule}"
    return None
