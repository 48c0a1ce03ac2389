"""A mishap happens once, to the right object, and leaves a scene in which the task can still be done."""

import numpy as np
import pytest

from envs.tabletop.disturbance import Disturbance
from envs.tabletop.env import TabletopEnv
from envs.tabletop.expert import Expert
from envs.tabletop.goals import Goal

PLACE_PRESS = "put the red cube in the blue bowl, then press the button"


def run(kind, steps=200):
    """Let the expert work under one mishap; return the environment, what happened and the success at the end."""
    env = TabletopEnv(cameras=(), disturb=True, randomize=False)
    env.reset(seed=4, options={"instruction": PLACE_PRESS})
    env._disturbance = Disturbance(kind, np.random.default_rng(0))
    expert, before, info, jumped = Expert(), env.world.position("red cube"), {}, 0.0
    for _ in range(steps):
        _, _, _, _, info = env.step(expert.act(env.expert_observation()))
        now = env.world.position("red cube")
        jumped, before = max(jumped, float(np.linalg.norm(now - before))), now
    return info, jumped


@pytest.mark.parametrize("kind", ["moved", "knocked"])
def test_what_is_moved_or_knocked_away_can_still_be_placed(kind):
    info, jumped = run(kind)
    assert info["disturbed"] == "red cube" and jumped > 0.03
    assert info["is_success"]


def test_what_was_taken_out_again_spoils_the_whole():
    info, jumped = run("undone")
    assert info["disturbed"] == "red cube" and jumped > 0.03
    assert info["subtask"]["done"] and not info["is_success"]


def test_without_a_mishap_the_same_is_a_success():
    env = TabletopEnv(cameras=(), randomize=False)
    env.reset(seed=4, options={"instruction": PLACE_PRESS})
    info, expert = {}, Expert()
    for _ in range(150):
        _, _, _, _, info = env.step(expert.act(env.expert_observation()))
    assert info["is_success"] and info["disturbed"] == ""


def test_only_what_can_happen_is_drawn():
    rng = np.random.default_rng(0)
    assert Disturbance.draw([Goal("press"), Goal("open")], rng) is None
    push = {Disturbance.draw([Goal("push", "red cube", side="left")], rng).kind for _ in range(20)}
    assert push == {"moved"}
    long = [Goal("place", "red cube", "blue bowl"), Goal("press")]
    assert {Disturbance.draw(long, rng).kind for _ in range(60)} == {"moved", "knocked", "undone"}


def test_an_unknown_mishap_is_refused():
    with pytest.raises(ValueError, match="possible: moved, knocked, undone"):
        Disturbance("stolen", np.random.default_rng(0))
