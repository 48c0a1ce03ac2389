"""What a subtask asks for, and when it is fulfilled: success is physical and held.

A condition is judged once a control step on the state of the world; a `Tracker` calls the subtask a success once its
condition has held for `HOLD_STEPS` control steps in a row (1 s).

- pick: the object is lifted by at least 5 cm and both jaws touch it.
- place: the object is inside the bowl (centre within the inner radius, underside below the rim) or on the plate
  (centre over the plate, underside at its surface), at rest, and no jaw touches it.
- stack: the object stands on the target, its centre over it, at rest, and no jaw touches it.
- push to a side: the object has moved by at least 5 cm to that side since the subtask began, at rest, on the table.
- push next to: the gap between the two is below 2.5 cm, at rest, on the table.
- open: the drawer is out by at least 80 % of its travel. close: by at most 10 %.
- press: the button's lamp is on, since the button was down by at least 60 % for 0.3 s (lamp.py).
"""

from dataclasses import dataclass

import numpy as np

from envs.tabletop import scene
from envs.tabletop.lamp import PRESSED
from envs.tabletop.world import FINGERS, World

KINDS = ("pick", "place", "stack", "push", "open", "close", "press")
SIDES = ("left", "right", "forward", "back")  # in the arm's frame: left = +y, forward = +x
DIRECTIONS = {"left": (0.0, 1.0), "right": (0.0, -1.0), "forward": (1.0, 0.0), "back": (-1.0, 0.0)}

# Where a push to a side ends, along its direction [m]: a place on the table, so that a camera can tell that it is over.
# layout.py lets such a push start this far before that line.
PUSH_LINES = {"left": 0.105, "right": 0.115, "forward": 0.272, "back": -0.130}
PUSH_START_M = (0.060, 0.130)

HOLD_STEPS = 10  # control steps, 1 s
LIFT_M = 0.05
PUSH_M = 0.05
GAP_M = 0.025
REST_M_S = 0.02  # slower than this is at rest
CONTACT_M = 0.006  # surfaces closer than this touch
OPENED, CLOSED = 0.8, 0.1  # shares of the travel


@dataclass(frozen=True)
class Goal:
    """One subtask; names are like "red cube", the drawer and the button are named by the kind alone."""

    kind: str  # one of KINDS
    object: str = ""  # what is moved: pick, place, stack, push
    target: str = ""  # where it goes: place, stack, push (next to)
    side: str = ""  # one of SIDES: push, where there is no target


class Tracker:
    """Follows one subtask from its first frame on: `success`, `progress` 0..1 and `phase` after each `update`.

    `progress` is 1 just when the condition is fulfilled at this moment, below 0.95 else; `success` adds that it held.
    """

    def __init__(self, goal: Goal, world: World):
        self.goal = goal
        self._world = world
        self._held_steps = 0
        self._start = world.position(goal.object) if goal.object else np.zeros(3)
        self._start_tip = tip(world)
        self.success = False
        self.progress, self.phase = (1.0, "done") if self.fulfilled else self._measure()

    def update(self) -> None:
        """Judge the present state; call it once a control step."""
        fulfilled = self.fulfilled
        self._held_steps = self._held_steps + 1 if fulfilled else 0
        self.success = self._held_steps >= HOLD_STEPS
        self.progress, self.phase = (1.0, "done") if fulfilled else self._measure()

    @property
    def fulfilled(self) -> bool:
        """Whether the condition holds at this moment."""
        goal, world = self.goal, self._world
        if goal.kind == "press":
            return world.button_lit
        if goal.kind == "open":
            return world.drawer_opening >= OPENED
        if goal.kind == "close":
            return world.drawer_opening <= CLOSED
        if goal.kind == "pick":
            return self._height() >= LIFT_M and is_held(world, goal.object)
        if goal.kind == "place":
            return is_free(world, goal.object) and is_in(world, goal.object, goal.target)
        if goal.kind == "stack":
            return is_free(world, goal.object) and is_on(world, goal.object, goal.target)
        at_rest = world.speed(goal.object) < REST_M_S and self._underside() < CONTACT_M
        if goal.target:
            return at_rest and gap(world, goal.object, goal.target) < GAP_M
        return at_rest and self._pushed_m() >= PUSH_M

    def _measure(self) -> tuple[float, str]:
        """Return how far along an unfulfilled subtask is, 0..0.95, and a word for it."""
        goal, world = self.goal, self._world
        if goal.kind in ("pick", "place", "stack"):
            return self._measure_carrying()
        place = {"press": world.button_position, "push": self._start}.get(goal.kind, world.handle_position)
        if goal.kind == "push" and goal.target:
            now, start = (_distance(p, world.position(goal.target)) for p in (world.position(goal.object), self._start))
            share = 1 - now / max(start, 1e-6)
        elif goal.kind == "push":
            share = self._pushed_m() / PUSH_M
        else:
            share = {
                "press": world.button_travel / PRESSED,
                "open": world.drawer_opening / OPENED,
                "close": (1 - world.drawer_opening) / (1 - CLOSED),
            }[goal.kind]
        if share > 0.1:
            return 0.5 + 0.45 * min(share, 0.99), goal.kind
        return 0.5 * self._closeness(tip(world), place, self._start_tip), "reach"

    def _measure_carrying(self) -> tuple[float, str]:
        goal, world = self.goal, self._world
        position = world.position(goal.object)
        if not is_held(world, goal.object):
            if goal.target and _distance(position, world.position(goal.target)) < 0.02 < position[2]:
                return 0.94, "release"
            return 0.4 * self._closeness(tip(world), position, self._start_tip), "reach"
        if goal.kind == "pick" or self._height() < 0.02:
            share = min(max(self._height(), 0) / LIFT_M, 0.99)
            return 0.5 + (0.45 if goal.kind == "pick" else 0.1) * share, "lift"
        return 0.6 + 0.34 * self._closeness(position, world.position(goal.target), self._start), "carry"

    @staticmethod
    def _closeness(place: np.ndarray, goal: np.ndarray, start: np.ndarray) -> float:
        """Return the share of the way from start to goal that is done, 0..1."""
        whole = max(float(np.linalg.norm(start - goal)), 0.05)
        return float(np.clip(1 - np.linalg.norm(place - goal) / whole, 0, 1))

    def _height(self) -> float:
        """How far the object was lifted above the place where it began [m]."""
        return float(self._world.position(self.goal.object)[2] - self._start[2])

    def _underside(self) -> float:
        return float(self._world.position(self.goal.object)[2] - self._world.items[self.goal.object].half_height)

    def _pushed_m(self) -> float:
        way = self._world.position(self.goal.object) - self._start
        return float(np.dot(way[:2], DIRECTIONS[self.goal.side]))


def tip(world: World) -> np.ndarray:
    """Return the point between the tips of the jaws, float64[3] [m]."""
    return world.data.site("tip").xpos.copy()


def is_held(world: World, name: str) -> bool:
    """Say whether both jaws touch the object."""
    return all(name in world.touching(finger) for finger in FINGERS)


def is_free(world: World, name: str) -> bool:
    """Say whether the object is at rest and no jaw touches it."""
    return world.speed(name) < REST_M_S and not any(name in world.touching(finger) for finger in FINGERS)


def is_in(world: World, name: str, container: str) -> bool:
    """Say whether a cube or cylinder is inside a bowl or on a plate, wherever the jaws are."""
    thing, place, target = world.position(name), world.position(container), world.items[container]
    underside = thing[2] - world.items[name].half_height - place[2]
    if target.shape == "plate":
        return _distance(thing, place) < target.half_size and abs(underside - scene.PLATE_HEIGHT) < CONTACT_M
    return _distance(thing, place) < target.half_size and underside < scene.BOWL_HEIGHT


def is_on(world: World, name: str, lower: str) -> bool:
    """Say whether a cube or cylinder stands on another one, its centre over it."""
    thing, place = world.position(name), world.position(lower)
    rise = world.items[name].half_height + world.items[lower].half_height
    return _distance(thing, place) < world.items[lower].half_size and abs(thing[2] - place[2] - rise) < CONTACT_M


def gap(world: World, name: str, other: str) -> float:
    """Return the free space between two objects, taken as discs on the table [m]."""
    walls = scene.BOWL_WALL if world.items[other].shape == "bowl" else 0.0
    radii = world.items[name].half_size + world.items[other].half_size + walls
    return _distance(world.position(name), world.position(other)) - radii


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the horizontal distance [m]."""
    return float(np.linalg.norm(a[:2] - b[:2]))
