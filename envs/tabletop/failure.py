"""A demonstrator that fails on purpose, and goes on as if nothing had happened, as careless policies do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.tabletop import arm, scene
from envs.tabletop.expert import Expert, Hand, between, opening_around
from envs.tabletop.goals import Goal, is_held
from envs.tabletop.world import World

CARRYING = ("pick", "place", "stack")
MODES: dict[str, Sequence[str]] = {  # how it fails -> kinds of task that can fail so
    "missed_grasp": CARRYING,
    "slip": CARRYING,
    "wrong_object": CARRYING,
    "blocked": ("open", "close"),
}
MISS_M = (0.034, 0.050)  # how far beside the object a missed grasp closes
LEVEL_M = 0.004  # jaws so close to the height of what they miss begin to close
LIFTED_M = 0.03  # from this height on an object slips...
SLIP_STEPS = (1, 8)  # ...after so many control steps
FIXED_JAW_M = 0.0125  # from the fixed jaw's face to the tip
FALLEN_M = 0.01  # what slipped lies so far below the tip
SLIPPERY = 0.01  # friction of what slips
JAMMED = 1e5  # damping of a drawer that does not move [N s/m]
PUSHED_N = 1.0  # a drawer that is pushed so hard is tried


class FailingExpert(Expert):
    """Fails once in the way `mode`, one of MODES, or never with mode "none"; `failed` says whether it has happened.

    missed_grasp: the jaws close beside the object. slip: the object falls out of the jaws while it is carried.
    wrong_object: another object is taken than the one that was named. blocked: the drawer is jammed. `undo` puts the
    physics back as it was; one such expert serves one episode. `noise` disturbs it as it does `Expert`.
    """

    def __init__(self, mode: str, noise: float = 0.0, seed: int = 0) -> None:
        if mode not in ("none", *MODES):
            raise ValueError(f"failure {mode!r} is not known; possible: none, {', '.join(MODES)}")
        super().__init__(noise, seed)
        self.mode, self.failed = mode, False
        self._chance = np.random.default_rng([seed, 7])
        self._belief: _Belief | None = None
        self._other, self._gripping = "", False
        self._wait = int(self._chance.integers(*SLIP_STEPS))
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []  # arrays of the model, and what they held

    def act(self, observation: tuple[World, Goal]) -> np.ndarray:
        """Let the failure happen if its moment has come, and act on what is believed."""
        world, goal = observation
        if self.mode == "none":
            return super().act(observation)
        if self._belief is None:
            self._belief = self._begin(world, goal)
        happen = {
            "missed_grasp": self._miss,
            "slip": self._slip,
            "wrong_object": self._mistake,
            "blocked": self._jam,
        }[self.mode]
        happen(world, goal, self._belief)
        self._belief.update(super().hand(world))
        return super().act((self._belief, replace(goal, object=self._other) if self._other else goal))

    def hand(self, world: World) -> Hand:
        """Measure the arm; jaws that are believed to hold something are as open as that is wide."""
        hand = super().hand(world)
        if self._belief is None or not self._belief.gripped:
            return hand
        return replace(hand, opening=max(hand.opening, opening_around(world, self._belief.name)))

    def undo(self) -> None:
        """Put back what was changed about the physics."""
        for array, values in self._kept:
            array[:] = values
        self._kept.clear()

    def _begin(self, world: World, goal: Goal) -> "_Belief":
        belief = _Belief(world, goal.object)
        if self.mode == "missed_grasp":
            belief.shift[:2] = self._free_direction(world, goal.object) * self._chance.uniform(*MISS_M)
        if self.mode == "wrong_object":
            things = [name for name, item in world.items.items() if item.shape in scene.PICKABLE]
            others = [name for name in things if name not in (goal.object, goal.target)]
            self._other = str(self._chance.choice(others)) if others else ""
        if self.mode == "blocked":
            joint = world.model.joint("drawer")
            self._change(world.model.dof_damping[joint.dofadr[0] : joint.dofadr[0] + 1], JAMMED)
        return belief

    def _free_direction(self, world: World, name: str) -> np.ndarray:
        """Return the unit vector float64[2] out of some towards the most room, so that the jaws meet nothing else."""
        here = world.position(name)[:2]
        angles = self._chance.uniform(0, 2 * np.pi, 8)
        ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        others = np.array([world.position(other)[:2] for other in world.items if other != name])
        room = [np.linalg.norm(others - here - MISS_M[1] * way, axis=1).min() for way in ways]
        return ways[int(np.argmax(room))]

    def _miss(self, world: World, goal: Goal, belief: "_Belief") -> None:
        hand = super().hand(world)
        level = abs(belief.position(goal.object)[2] - hand.at()[2]) < LEVEL_M
        if not self._gripping and level and between(belief, goal.object, hand):
            self._gripping = True
            belief.grip(hand)
        self.failed = self.failed or (self._gripping and hand.opening < opening_around(world, goal.object))

    def _slip(self, world: World, goal: Goal, belief: "_Belief") -> None:
        held, below = is_held(world, goal.object), super().hand(world).at()[2] - world.position(goal.object)[2]
        if self._kept and not self.failed and not held and below > FALLEN_M:
            self.failed = True
        elif held and not self._kept and world.position(goal.object)[2] > LIFTED_M:
            self._wait -= 1
            if self._wait <= 0:
                belief.grip(super().hand(world))
                for geom in world.geoms(goal.object):
                    self._change(world.model.geom_friction[geom], SLIPPERY)
                    self._change(world.model.geom_priority[geom : geom + 1], 1)

    def _mistake(self, world: World, goal: Goal, belief: "_Belief") -> None:
        self.failed = self.failed or bool(self._other and is_held(world, self._other))

    def _jam(self, world: World, goal: Goal, belief: "_Belief") -> None:
        force = world.data.joint("drawer").qfrc_constraint[0]
        touched = any("drawer" in world.touching(finger) for finger in ("fixed_jaw", "moving_jaw"))
        self.failed = self.failed or (touched and abs(float(force)) > PUSHED_N)

    def _change(self, array: np.ndarray, value: float) -> None:
        self._kept.append((array, array.copy()))
        array[:] = value


class _Belief(World):
    """The world as the expert takes it to be: one object lies elsewhere, or is in the hand though it is not."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.model, world.data, world.items)
        self.name, self.shift = name, np.zeros(3)
        self._in_hand: np.ndarray | None = None  # along the opening of the jaws, across it, up [m]
        self._place: np.ndarray | None = None
        self._closed = False  # the jaws have been closed on it

    @property
    def gripped(self) -> bool:
        """Whether the object is believed to be in the hand."""
        return self._in_hand is not None

    def position(self, name: str) -> np.ndarray:
        """Return where an object is believed to be, float64[3]."""
        if name != self.name or self._place is None:
            return super().position(name) + (self.shift if name == self.name else 0)
        return self._place.copy()

    def grip(self, hand: Hand) -> None:
        """Believe from now on that the object lies at the fixed jaw and goes with the hand."""
        up = float(self.position(self.name)[2] - hand.at()[2])
        self._in_hand = np.array([self.items[self.name].half_size - FIXED_JAW_M, 0.0, up])

    def update(self, hand: Hand) -> None:
        """Move what is believed to be in the hand, until the jaws open."""
        if self._in_hand is None:
            return
        self._place = hand.at() + np.array([*(self._in_hand[:2] @ _axes(hand)), self._in_hand[2]])
        width = opening_around(self, self.name)
        self._closed = self._closed or hand.opening < width + 0.01
        if self._closed and hand.opening > width + 0.03:
            self._in_hand = None


def _axes(hand: Hand) -> np.ndarray:
    """Return the horizontal unit vectors along and across the opening of the jaws, as rows of float64[2, 2]."""
    along = arm.opening_direction(hand.joints)[:2]
    return np.array([along, [-along[1], along[0]]])
