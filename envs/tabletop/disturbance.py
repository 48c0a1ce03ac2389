"""Mishaps in the middle of an episode, to see who notices: something is moved, knocked away or taken out again."""

from collections.abc import Sequence

import mujoco
import numpy as np

from envs.tabletop.arm import PAN_X
from envs.tabletop.goals import Goal, is_held, tip
from envs.tabletop.layout import CLEARANCE, SPAWN_MAX, SPAWN_MIN, SPAWN_NEAREST
from envs.tabletop.world import FINGERS, World

KINDS = ("moved", "knocked", "undone")
LASTING = ("place", "stack")  # goals whose result must still be there in the end
WAIT_STEPS = {"moved": (1, 8), "knocked": (2, 6), "undone": (5, 20)}  # from when it can happen until it does
LIFTED_M, LEAST_M, HAND_M = 0.02, 0.04, 0.06
_TRIES = 200


class Disturbance:
    """One mishap in an episode, at a random moment.

    moved: the object that comes next is put elsewhere before the hand grasps it. knocked: the object falls out of the
    gripper while it is carried. undone: an object that was placed or stacked is taken out again while the arm is busy
    with something else.
    """

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        if kind not in KINDS:
            raise ValueError(f"disturbance {kind!r} is not known; possible: {', '.join(KINDS)}")
        self.kind = kind
        self.victim = ""  # what it happened to, once it has
        self._rng = rng
        self._wait = int(rng.integers(*WAIT_STEPS[kind]))

    @classmethod
    def draw(cls, goals: Sequence[Goal], rng: np.random.Generator) -> "Disturbance | None":
        """Draw a mishap that can happen on the way through these goals, None where nothing can."""
        possible = {"moved": any(goal.object for goal in goals)}
        possible["knocked"] = any(goal.kind in (*LASTING, "pick") for goal in goals)
        possible["undone"] = any(goal.kind in LASTING for goal in goals[:-1])
        kinds = [kind for kind in KINDS if possible[kind]]
        return cls(kinds[rng.integers(len(kinds))], rng) if kinds else None

    def step(self, world: World, goal: Goal, finished: Sequence[Goal]) -> None:
        """Let it happen, if its moment has come; call it once a control step."""
        thing = None if self.victim else self._candidate(world, goal, finished)
        if thing is None:
            return
        self._wait -= 1
        place = self._free_place(world, thing) if self._wait <= 0 else None
        if place is not None:
            joint = world.data.joint(world.items[thing].slot)
            joint.qpos[:3] = place
            joint.qvel[:] = 0
            mujoco.mj_forward(world.model, world.data)
            self.victim = thing

    def _candidate(self, world: World, goal: Goal, finished: Sequence[Goal]) -> str | None:
        """Return what it could happen to now."""
        if self.kind == "undone":
            placed = [done.object for done in finished if done.kind in LASTING and _is_alone(world, done.object)]
            return placed[0] if placed else None
        if not goal.object:
            return None
        lifted = world.position(goal.object)[2] > world.items[goal.object].half_height + LIFTED_M
        if self.kind == "knocked":
            return goal.object if lifted and is_held(world, goal.object) else None
        return goal.object if not lifted and not _is_touched(world, goal.object) else None

    def _free_place(self, world: World, thing: str) -> np.ndarray | None:
        """Return the nearest of some free places on the table, float64[3], at least LEAST_M away from where it is."""
        here, hand = world.position(thing)[:2], tip(world)[:2]
        rest = [item for item in world.items.values() if item.name != thing]
        others = [(world.position(item.name)[:2], CLEARANCE[item.shape]) for item in rest]
        need = CLEARANCE[world.items[thing].shape]
        places = [
            place
            for place in self._rng.uniform(SPAWN_MIN, SPAWN_MAX, (_TRIES, 2))
            if np.hypot(place[0] - PAN_X, place[1]) >= SPAWN_NEAREST
            and np.linalg.norm(place - here) >= LEAST_M
            and np.linalg.norm(place - hand) >= HAND_M
            and all(np.linalg.norm(place - other) >= need + clear for other, clear in others)
        ]
        if not places:
            return None
        nearest = min(places, key=lambda place: float(np.linalg.norm(place - here)))
        return np.array([*nearest, world.items[thing].half_height + 2e-4])


def _is_touched(world: World, name: str) -> bool:
    return any(name in world.touching(finger) for finger in FINGERS)


def _is_alone(world: World, name: str) -> bool:
    """Say whether the hand neither touches an object nor is close to it."""
    return (
        not _is_touched(world, name) and float(np.linalg.norm(tip(world)[:2] - world.position(name)[:2])) > HAND_M / 2
    )
