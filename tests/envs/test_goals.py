"""Success of a subtask: physical, held, and neither given early nor to the wrong object."""

import mujoco
import numpy as np
import pytest

from envs.tabletop import goals, scene
from envs.tabletop.env import TabletopEnv
from envs.tabletop.goals import Goal, Tracker
from envs.tabletop.lamp import PRESS_STEPS


def world_of(kind: str, seed: int = 0):
    env = TabletopEnv(kinds=[kind], cameras=(), randomize=False)
    env.reset(seed=seed)
    return env.world, env.goal


def put(world, name: str, position: np.ndarray, above: float = 0.0, ahead: float = 0.0) -> None:
    """Place a loose object at float64[3] or so much above or ahead of it [m], upright and at rest."""
    joint = world.data.joint(world.items[name].slot)
    joint.qpos[:] = [position[0] + ahead, position[1], position[2] + above, 1, 0, 0, 0]
    joint.qvel[:] = 0
    mujoco.mj_forward(world.model, world.data)


def updates_until_success(tracker: Tracker, limit: int = 30) -> int:
    for step in range(1, limit + 1):
        tracker.update()
        if tracker.success:
            return step
    raise AssertionError(f"no success in {limit} updates")


@pytest.mark.parametrize("seed", range(4))
def test_placed_counts_after_one_second_inside(seed):
    world, goal = world_of("place", seed)
    tracker = Tracker(goal, world)
    item, target = world.items[goal.object], world.items[goal.target]
    floor = scene.BOWL_FLOOR if target.shape == "bowl" else scene.PLATE_HEIGHT
    place, height = world.position(goal.target), floor + item.half_height
    put(world, goal.object, place, above=height + 0.05)
    tracker.update()
    assert tracker.progress < 0.95  # above is not inside
    put(world, goal.object, place, above=height)
    assert updates_until_success(tracker) == goals.HOLD_STEPS
    put(world, goal.object, place, above=height, ahead=0.08)
    tracker.update()
    assert not tracker.success


def test_stacked_needs_the_named_object_below():
    world, goal = world_of("stack")
    tracker = Tracker(goal, world)
    rise = world.items[goal.object].half_height + world.items[goal.target].half_height
    other = next(
        n for n, item in world.items.items() if item.shape in scene.PICKABLE and n not in (goal.object, goal.target)
    )
    put(world, goal.object, world.position(other), above=world.items[other].half_height + rise / 2)
    for _ in range(15):
        tracker.update()
    assert not tracker.success
    put(world, goal.object, world.position(goal.target), above=rise)
    assert updates_until_success(tracker) == goals.HOLD_STEPS


@pytest.mark.parametrize("side", goals.SIDES)
def test_pushed_needs_five_centimetres_to_that_side(side):
    world, goal = world_of("pick")
    start, way = world.position(goal.object), np.array([*goals.DIRECTIONS[side], 0])
    tracker = Tracker(Goal("push", goal.object, side=side), world)
    for wrong in (start - 0.06 * way, start + 0.045 * way, start + 0.06 * way + np.array([0, 0, 0.03])):
        put(world, goal.object, wrong)
        for _ in range(15):
            tracker.update()
        assert not tracker.success
    put(world, goal.object, start + 0.052 * way)
    assert updates_until_success(tracker) == goals.HOLD_STEPS


def test_an_object_in_the_air_is_not_picked_unless_it_is_held():
    world, goal = world_of("pick")
    tracker = Tracker(goal, world)
    put(world, goal.object, world.position(goal.object), above=0.08)
    for _ in range(15):
        tracker.update()
    assert not tracker.success


def test_opened_and_closed_follow_the_drawer():
    world, _ = world_of("open")
    opened, closed = Tracker(Goal("open"), world), Tracker(Goal("close"), world)
    for share, expect in ((0.0, "closed"), (0.5, "neither"), (1.0, "open")):
        world.data.joint("drawer").qpos[0] = share * scene.DRAWER_TRAVEL
        for _ in range(12):
            opened.update()
            closed.update()
        assert (opened.success, closed.success) == (expect == "open", expect == "closed")


def test_a_button_counts_after_it_came_up_again_but_not_after_a_touch():
    world, _ = world_of("press")
    tracker = Tracker(Goal("press"), world)
    for down_steps, lit in ((PRESS_STEPS - 1, False), (PRESS_STEPS, True)):
        for travel in [scene.BUTTON_TRAVEL] * down_steps + [0.0] * 15:
            world.data.joint("button").qpos[0] = travel
            world.update()
            tracker.update()
        assert tracker.success == world.button_lit == lit
