"""What becomes of every closing of a gripper: something is held, nothing is, or what was held is lost again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla.video.events import FUMBLE_S, GRIPPER_EMPTY, arm_motion, steady_moves
from vla.video.state import State

STILL = (
    0.4  # median speed of an arm that stands to grasp, relative to its reference speed; jaws that close underway do not
)
LOST = 0.06  # jaws that close so much further have lost what they held [ranges]
LEVEL_S = 0.5  # the opening that is held is the median over this long after closing
LASTS_S = 0.3  # a loss lasts at least so long


@dataclass(frozen=True)
class Grip:
    """One closing of one gripper, and what came of it until it opened again."""

    name: str  # of the gripper
    start_s: float  # it begins to close
    closed_s: float  # it has closed
    stop_s: float  # it begins to open, or the last moment
    opened: bool  # whether it opens again
    opening: float  # at which it rests once closed [ranges]
    still: bool  # the arm stood while it closed, as for a grasp
    lost_s: float | None = None  # it closes further: what was held is gone
    lost_to: float = 0.0  # the opening after that [ranges]

    @property
    def fumbled(self) -> bool:
        """Whether it opens again at once."""
        return self.opened and self.stop_s - self.start_s < FUMBLE_S

    @property
    def empty(self) -> bool:
        """Whether it closes on nothing, or opens again at once."""
        return self.opening < GRIPPER_EMPTY or self.fumbled

    @property
    def good(self) -> bool:
        """Whether something is grasped and kept until it is let go, or to the end."""
        return not self.empty and self.lost_s is None


def grips(state: State) -> list[Grip]:
    """Return every closing of every gripper, in the order of time."""
    speed = arm_motion(state).speed if state.joints.shape[1] and len(state.time_s) > 2 else np.zeros(len(state.time_s))
    found = [grip for number in range(state.gripper.shape[1]) for grip in _of_gripper(state, number, speed)]
    return sorted(found, key=lambda grip: (grip.start_s, grip.name))


def _of_gripper(state: State, number: int, speed: np.ndarray) -> Iterator[Grip]:
    low = min(float(state.gripper_low[number]), 0.0)  # a recording without an empty closing does not show how low it is
    high = float(state.gripper_high[number])
    opening, time_s = (state.gripper[:, number] - low) / max(high - low, 1e-9), state.time_s
    moves = list(steady_moves(time_s, opening))
    for place, (start, stop) in enumerate(moves):
        before = moves[place - 1] if place else None
        if opening[stop] > opening[start] or (before and opening[before[1]] < opening[before[0]]):
            continue  # it opens, or closes further, which is told with the closing before
        until = next((first for first, last in moves[place + 1 :] if opening[last] > opening[first]), None)
        end = len(time_s) - 1 if until is None else until
        level_to = stop + max(1, int(np.searchsorted(time_s, time_s[stop] + LEVEL_S)) - stop)
        level = float(np.median(opening[stop : min(level_to, end) + 1]))
        lost = None if level < GRIPPER_EMPTY else _loss(time_s[stop : end + 1], opening[stop : end + 1], level)
        yield Grip(
            name=state.gripper_names[number],
            start_s=float(time_s[start]),
            closed_s=float(time_s[stop]),
            stop_s=float(time_s[end]),
            opened=until is not None,
            opening=level,
            still=float(np.median(speed[start:stop])) < STILL,
            lost_s=None if lost is None else float(time_s[stop + lost]),
            lost_to=0.0 if lost is None else float(opening[stop + lost : end + 1].min()),
        )


def _loss(time_s: np.ndarray, opening: np.ndarray, level: float) -> int | None:
    """Return the first moment from which on the opening stays below the level that was held, None if it does not.

    Jaws that only settle on what turns between them do not close all the way.
    """
    if opening.min() >= GRIPPER_EMPTY:
        return None
    below = opening < level - LOST
    for moment in np.flatnonzero(below):
        lasts = time_s <= time_s[moment] + LASTS_S + 1e-6
        if below[moment:][lasts[moment:]].all():
            return int(moment)
    return None
