"""Draws what lies on the table and what is asked for, from a seed; knows no physics.

Every scene holds the objects that the goals name and at least three more, among them the same shape in another colour
and the same colour in another shape, so that only the words tell which one is meant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from envs.tabletop import scene
from envs.tabletop.arm import PAN_X
from envs.tabletop.goals import DIRECTIONS, KINDS, PUSH_LINES, PUSH_START_M, SIDES, Goal
from envs.tabletop.language import object_names
from envs.tabletop.splits import check_split, object_count

SPAWN_MIN = np.array([0.120, -0.140])  # centres of loose objects lie in this box, x and y [m]
SPAWN_NEAREST = 0.100  # and at least this far from the pan axis, where the arm can lift things [m]
SPAWN_MAX = np.array([0.285, 0.115])
PUSH_MIN = np.array([0.100, -0.145])  # and stay in this one when pushed
PUSH_MAX = np.array([0.305, 0.130])
PUSH_BEHIND_M, PUSH_BEYOND_M = 0.055, 0.025  # free space behind the object and beyond the end of its way
LANE_HALF_WIDTH = 0.020  # of the pushed object and the gripper behind it [m]
PUSH_NEXT_M = (0.095, 0.150)  # distance of the centres before a push next to something
CLEARANCE = {"cube": 0.033, "cylinder": 0.033, "bowl": 0.053, "plate": 0.052}  # two centres are the sum apart, at least
YAW_RAD = 0.30  # cubes are turned by up to this much against the direction from the arm
HALF_SIZE = (0.010, 0.015)
DISTRACTORS = 3
MOST_NAMED = 5  # objects that the goals of one scene may name
START_MIN = np.array([0.165, -0.020, 0.105])  # where the tip of the gripper starts, clear of the objects [m]
START_MAX = np.array([0.180, 0.020, 0.115])
LIT_SHARE = 0.35  # of the scenes in which the button has no part: it was pressed before
_TRIES = 60


@dataclass(frozen=True)
class Placement:
    """One object on the table."""

    name: str  # "red cube"
    half_size: float  # half the edge, or the radius [m]
    x: float  # [m]
    y: float
    yaw: float  # [rad]


@dataclass(frozen=True)
class Layout:
    """One scene and its task."""

    goals: tuple[Goal, ...]
    swapped: Goal  # the same kind of task with another object of the scene named
    placements: tuple[Placement, ...]
    drawer_opening: float  # 0..1
    drawer_shift: tuple[float, float]  # of the fixture against its usual place [m]
    button_shift: tuple[float, float]
    start: tuple[float, float, float]  # of the gripper's tip [m]
    lit: bool = False  # whether the button's lamp is on, as if it had been pressed before


@dataclass(frozen=True)
class _Lane:
    """The way of a push, which other objects keep clear of."""

    thing: str | None
    target: str | None
    start: np.ndarray  # float64[2], behind the object [m]
    end: np.ndarray


def draw(
    rng: np.random.Generator,
    kinds: Sequence[str],
    subtasks: tuple[int, int] = (1, 1),
    split: str = "train",
    goals: Sequence[Goal] | None = None,
) -> Layout:
    """Draw a scene for goals of these kinds, or for the given goals.

    Raises ValueError where the goals do not fit in one scene.
    """
    check_split(split)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"task kinds {unknown} are not known; possible: {', '.join(KINDS)}")
    if goals is not None:
        _check_slots(goals)
        if sum(goal.kind == "press" for goal in goals) > 1:
            raise ValueError("the button is pressed twice, but once it was pressed it stays lit: ask for it once")
    for _ in range(_TRIES):
        asked = tuple(goals) if goals is not None else _draw_goals(rng, kinds, subtasks, split)
        named = _named(asked)
        if goals is None and (len(named) > MOST_NAMED or _overfull(named)):
            continue
        names = _draw_objects(rng, asked, split)
        placements = _place(rng, names, asked)
        if placements:
            shift = rng.uniform(-0.005, 0.005, 4)
            opening = _drawer_start(rng, asked)
            swapped, start = _swap(rng, asked[0], names, opening), rng.uniform(START_MIN, START_MAX)
            to_press = any(goal.kind == "press" for goal in (*asked, swapped))
            return Layout(
                goals=asked,
                swapped=swapped,
                placements=placements,
                drawer_opening=opening,
                drawer_shift=(shift[0], shift[1]),
                button_shift=(shift[2], shift[3]),
                start=tuple(start),
                lit=not to_press and bool(rng.spawn(1)[0].random() < LIT_SHARE),  # the looks do not hang on it
            )
    raise ValueError(f"no scene for {list(goals) if goals else list(kinds)} in {_TRIES} draws: ask for fewer objects")


def _named(goals: Sequence[Goal]) -> list[str]:
    """Return the objects that the goals name, in order, no doubles."""
    return list(dict.fromkeys(name for goal in goals for name in (goal.object, goal.target) if name))


def _shape(name: str) -> str:
    return name.split()[-1]


def _check_slots(goals: Sequence[Goal]) -> None:
    """Refuse goals about more objects of one shape than a scene can hold."""
    if same := _overfull(_named(goals)):
        shape = _shape(same[0])
        raise ValueError(f"{len(same)} {shape}s are named, {', '.join(same)}; a scene holds up to {scene.SLOTS}")


def _overfull(names: Sequence[str]) -> list[str]:
    """Return the objects of a shape of which there are more than a scene can hold, none where all find room."""
    for shape, most in scene.SLOTS.items():
        same = [name for name in names if _shape(name) == shape]
        if len(same) > most:
            return same
    return []


def _draw_goals(
    rng: np.random.Generator, kinds: Sequence[str], subtasks: tuple[int, int], split: str
) -> tuple[Goal, ...]:
    """Draw a sequence that can be done in order: nothing is moved twice, the drawer alternates, a pick comes last."""
    count = int(rng.integers(subtasks[0], subtasks[1] + 1))
    goals: list[Goal] = []
    drawer = None  # state after the goals so far, once it matters
    while len(goals) < count:
        possible = [kind for kind in kinds if kind != "pick" or len(goals) == count - 1]
        if drawer is not None:
            possible = [kind for kind in possible if kind != drawer]
        if any(goal.kind == "press" for goal in goals):
            possible = [kind for kind in possible if kind != "press"]
        if not possible:
            raise ValueError(
                f"{count} subtasks cannot be made of {list(kinds)} alone: name more kinds or fewer subtasks"
            )
        kind = possible[rng.integers(len(possible))]
        if kind in ("open", "close"):
            drawer = kind
        goals.append(_draw_goal(rng, kind, split, taken=_named(goals)))
    return tuple(goals)


def _draw_goal(rng: np.random.Generator, kind: str, split: str, taken: Sequence[str]) -> Goal:
    """Draw one goal of a kind about objects that are not taken."""

    def pick_name(shapes: Sequence[str], heldout: bool = False, but: Sequence[str] = ()) -> str:
        names = [name for name in object_names(shapes, heldout) if name not in (*taken, *but)]
        return names[rng.integers(len(names))]

    if kind in ("open", "close", "press"):
        return Goal(kind)
    heldout = split == "heldout_objects"
    thing = pick_name(scene.PICKABLE, heldout)
    if kind == "pick":
        return Goal("pick", thing)
    if kind == "place":
        return Goal("place", thing, target=pick_name(scene.CONTAINERS, heldout and rng.random() < 0.5))
    if kind == "stack":
        return Goal("stack", thing, target=pick_name(scene.PICKABLE, but=(thing,)))
    if rng.random() < 0.6:
        return Goal("push", thing, side=SIDES[rng.integers(len(SIDES))])
    return Goal("push", thing, target=pick_name((*scene.PICKABLE, *scene.CONTAINERS), but=(thing,)))


def _draw_objects(rng: np.random.Generator, goals: Sequence[Goal], split: str) -> list[str]:
    """Return the names of all objects: the named ones first, then confusable ones, then any."""
    names = _named(goals)
    low, high = object_count(split)
    count = max(int(rng.integers(low, high + 1)), len(names) + DISTRACTORS)
    pool = object_names() + (object_names(heldout=True) if split == "heldout_objects" else [])

    def add(candidates: list[str]) -> None:
        room = {shape for shape, most in scene.SLOTS.items() if sum(_shape(name) == shape for name in names) < most}
        free = [name for name in candidates if name not in names and _shape(name) in room]
        if free and len(names) < count:
            names.append(free[rng.integers(len(free))])

    for name in list(names):  # hard negatives of what is named
        colour, shape = name.split()
        add([other for other in pool if _shape(other) == shape])
        if shape in scene.PICKABLE:
            add([other for other in pool if other.startswith(colour) and _shape(other) in scene.PICKABLE])
    pickable = [name for name in pool if _shape(name) in scene.PICKABLE]
    while sum(_shape(name) in scene.PICKABLE for name in names) < 3 and len(names) < count:
        add(pickable)
    while len(names) < count:
        add(pool if sum(_shape(name) in scene.CONTAINERS for name in names) < 2 else pickable)
    return names


def _place(rng: np.random.Generator, names: Sequence[str], goals: Sequence[Goal]) -> tuple[Placement, ...] | None:
    """Lay the objects out without touching and with room for the gripper, or return None."""
    sizes = {name: float(rng.uniform(*HALF_SIZE)) for name in names}
    for goal in goals:
        if goal.kind == "stack" and goal.object and goal.target:  # the upper one is not the larger one
            small, large = sorted((sizes[goal.object], sizes[goal.target]))
            sizes[goal.object], sizes[goal.target] = small, large
    centres: dict[str, np.ndarray] = {}
    lanes: list[_Lane] = []
    pushes = {goal.object: goal for goal in goals if goal.kind == "push"}
    for name in sorted(names, key=lambda name: (name not in pushes, _shape(name) not in scene.CONTAINERS)):
        if name in centres:  # a push has put it at the end of its way
            continue
        for _ in range(_TRIES):
            centre = rng.uniform(SPAWN_MIN, SPAWN_MAX)
            if np.hypot(centre[0] - PAN_X, centre[1]) < SPAWN_NEAREST:
                continue
            lane = _lane(pushes[name], centre, centres, rng) if name in pushes else None
            if name in pushes and lane is None:
                continue
            others = [*centres.items()]
            trial = lanes + ([lane] if lane else [])
            if _apart(name, centre, others) and all(_clear(lane, [*others, (name, centre)]) for lane in trial):
                centres[name], lanes = centre, trial
                break
        else:
            return None
        goal = pushes.get(name)
        if goal and goal.target and goal.target not in centres:
            centres[goal.target] = lanes[-1].end
            if not _apart(goal.target, lanes[-1].end, [other for other in centres.items() if other[0] != goal.target]):
                return None
    return tuple(Placement(n, sizes[n], *centres[n], yaw=_yaw(rng, n, centres[n])) for n in names)


def _lane(goal: Goal, centre: np.ndarray, centres: dict[str, np.ndarray], rng: np.random.Generator) -> _Lane | None:
    """Return the way that a push takes from the centre of its object, or None if it leaves the work area."""
    if goal.side:
        direction = np.array(DIRECTIONS[goal.side])
        before = PUSH_LINES[goal.side] - float(np.dot(centre, direction))
        if not PUSH_START_M[0] <= before <= PUSH_START_M[1]:
            return None
        end = centre + (before + PUSH_BEYOND_M) * direction
    else:
        end = centres.get(str(goal.target))
        if end is None:
            angle = rng.uniform(0, 2 * math.pi)
            end = centre + rng.uniform(*PUSH_NEXT_M) * np.array([math.cos(angle), math.sin(angle)])
            if (end < SPAWN_MIN).any() or (end > SPAWN_MAX).any():
                return None
        distance = np.linalg.norm(end - centre)
        if not PUSH_NEXT_M[0] <= distance <= PUSH_NEXT_M[1]:
            return None
        direction = (end - centre) / distance
    start = centre - PUSH_BEHIND_M * direction
    inside = [(place >= PUSH_MIN).all() and (place <= PUSH_MAX).all() for place in (start, end)]
    inside.append(np.hypot(start[0] - PAN_X, start[1]) >= SPAWN_NEAREST)
    return _Lane(goal.object, goal.target, start, end) if all(inside) else None


def _apart(name: str, centre: np.ndarray, others: Sequence[tuple[str, np.ndarray]]) -> bool:
    need = CLEARANCE[_shape(name)]
    return all(np.linalg.norm(centre - place) >= need + CLEARANCE[_shape(other)] for other, place in others)


def _clear(lane: _Lane, others: Sequence[tuple[str, np.ndarray]]) -> bool:
    """Say whether the way of a push is free of all but its own two objects."""
    way = lane.end - lane.start
    for other, place in others:
        if other in (lane.thing, lane.target):
            continue
        along = np.clip(np.dot(place - lane.start, way) / np.dot(way, way), 0, 1)
        if np.linalg.norm(place - lane.start - along * way) < CLEARANCE[_shape(other)] + LANE_HALF_WIDTH:
            return False
    return True


def _yaw(rng: np.random.Generator, name: str, centre: np.ndarray) -> float:
    turn = rng.uniform(-YAW_RAD, YAW_RAD)
    return float(math.atan2(centre[1], centre[0] - PAN_X) + (turn if _shape(name) == "cube" else 0.0))


def _swap(rng: np.random.Generator, goal: Goal, names: Sequence[str], drawer_opening: float) -> Goal:
    """Return a goal of the same kind about another object of the scene; fixtures swap drawer and button."""
    if goal.kind in ("open", "close"):
        return Goal("press")
    if goal.kind == "press":
        return Goal("close" if drawer_opening > 0.5 else "open")
    others = [n for n in names if _shape(n) in scene.PICKABLE and n not in (goal.object, goal.target)]
    return replace(goal, object=others[rng.integers(len(others))])


def _drawer_start(rng: np.random.Generator, goals: Sequence[Goal]) -> float:
    """Return how far the drawer is open, such that the first open or close has something to do."""
    first = next((goal.kind for goal in goals if goal.kind in ("open", "close")), None)
    is_open = rng.random() < 0.5 if first is None else first == "close"
    return float(rng.uniform(0.9, 1.0) if is_open else 0.0)
