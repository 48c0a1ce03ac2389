"""The joints of an arm together: one tick towards a goal as far as nothing collides, or one tick of braking."""

from collections.abc import Callable, Iterator, Sequence
from math import inf, sqrt

import numpy as np

from vla.control.joint import Joint
from vla.control.watchdogs import STALLED_S
from vla.types import Embodiment

CHECK_EVERY = 0.05  # [rad]; of the joint that moves most, between poses of a braking path that are checked


class Motion:
    """Commands that keep every limit of an embodiment, tick by tick, and from which the arm can always brake.

    The limits are kept by construction. Collisions are asked about at the next pose, where braking from it ends, and
    at poses on the way; between those it rests on the margin that `collides` has.
    """

    def __init__(self, embodiment: Embodiment, hz: float, collides: Callable[[np.ndarray], bool] | None):
        """Check the limits; there is no pose before `place`."""
        _check_limits(embodiment, hz)
        limits = (embodiment.velocity_max, embodiment.acceleration_max, embodiment.jerk_max)
        bodies = zip(embodiment.position_min, embodiment.position_max, *limits, strict=True)
        self._joints = [Joint(*body, hz=hz) for body in bodies]
        self._quickenings = [acceleration / hz**2 for acceleration in embodiment.acceleration_max]
        self._collides = collides
        self._able: set[int] = set()  # joints that could follow while others could not, the last time
        self._turn = len(self._joints)
        self._forget()

    def place(self, pose: Sequence[float]) -> None:
        """Be at rest at a pose."""
        for joint, position in zip(self._joints, pose, strict=True):
            joint.place(position)
        self._able, self._turn = set(), len(self._joints)
        self._forget()

    @property
    def pose(self) -> list[float]:
        """The latest command."""
        return [joint.position for joint in self._joints]

    @property
    def at_rest(self) -> bool:
        """Say whether the commands have come to rest."""
        return all([joint.at_rest for joint in self._joints])

    def collides(self, pose: Sequence[float]) -> bool:
        """Say whether the arm would collide at a pose, as far as is known."""
        return self._collides is not None and self._collides(np.array(pose))

    def approach(self, goal: Sequence[float], shares: Sequence[float]) -> bool:
        """Go one tick towards a goal with shares 0..1 of the largest speeds; say no if the arm would collide there.

        A goal that moves from tick to tick is followed without lag, as far as the limits allow. If the arm would
        collide, some joints follow while the others brake. Braking on from what was found to be free needs no check.
        """
        aims = zip(self._joints, goal, shares, self._pace(goal), strict=True)
        new = any([joint.plan(value, share, step) for joint, value, share, step in aims])
        free = not (new and self._would_collide())
        if not free:
            self._go_in_part()
        self._advance()
        return free

    def _go_in_part(self) -> None:
        """Let joints follow that could the last time, and one more in turn, the last joint first: a gripper lets go.

        One more a tick keeps this short; and where several joints hold the arm up, each has its turn.
        """
        self._turn = (self._turn - 1) % len(self._joints)
        for able in (self._able | {self._turn}, self._able - {self._turn}):
            for index, joint in enumerate(self._joints):
                joint.decide(index in able)
            if not self._would_collide():
                self._able = able
                return
        self._able = set()
        for joint in self._joints:
            joint.decide(False)

    def brake(self) -> None:
        """Brake for one tick, or stay at rest."""
        self._forget()
        for joint in self._joints:
            joint.plan(None)
        self._advance()

    def _forget(self) -> None:
        """Take the next goal for one at rest."""
        self._goal: Sequence[float] | None = None
        self._steps = [0.0] * len(self._joints)

    def _pace(self, goal: Sequence[float]) -> list[float]:
        """Return how far each joint's goal moves in a tick; what leaps has no pace but what the arm could gain."""
        rows = zip(goal, self._goal or goal, self._steps, self._quickenings, strict=True)
        self._steps = [
            min(max(value - last, step - quickening), step + quickening) for value, last, step, quickening in rows
        ]
        self._goal = goal
        return self._steps

    def _would_collide(self) -> bool:
        """Say whether the arm collides where it is planned to be, or braking from there."""
        return self._collides is not None and any(map(self.collides, self._braking_poses()))

    def _advance(self) -> None:
        for joint in self._joints:
            joint.advance()

    def _braking_poses(self) -> Iterator[list[float]]:
        """Yield poses from the planned one to where braking from there ends, the ends first."""
        yield [joint.next_position for joint in self._joints]
        yield [joint.next_rest for joint in self._joints]
        longest = max(self._joints, key=lambda joint: abs(joint.next_rest - joint.next_position))
        parts = int(abs(longest.next_rest - longest.next_position) / CHECK_EVERY) + 1
        for part in range(1, parts):
            ticks = round(longest.stopping_ticks * (1 - sqrt(1 - part / parts)))  # the later, the slower
            yield [joint.braked(ticks) for joint in self._joints]


def _check_limits(embodiment: Embodiment, hz: float) -> None:
    """Raise ValueError unless every joint has a range and positive limits, and the rate is one."""
    if not 2 / STALLED_S <= hz < inf:
        raise ValueError(f"hz={hz}, must be ticks a second, at least {2 / STALLED_S:g}: slower is taken for a stall")
    count = len(embodiment.joints)
    positive = ("velocity_max", "acceleration_max", "jerk_max")
    for field in ("position_min", "position_max", *positive):
        values = getattr(embodiment, field)
        if len(values) != count or not np.isfinite(values).all() or (field in positive and min(values) <= 0):
            kind = "positive " if field in positive else ""
            raise ValueError(f"{embodiment.name}: {field}={values}, must be {count} {kind}finite numbers, one a joint")
    if not np.less(embodiment.position_min, embodiment.position_max).all():
        raise ValueError(f"{embodiment.name}: position_min must be below position_max for every joint")
