"""An expert that fails on purpose fails in the way that it says, believes that it has not, and leaves no trace."""

import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv
from envs.tabletop.failure import MODES, FailingExpert

STEPS = 80


@pytest.fixture(scope="module")
def env():
    """A tabletop without cameras."""
    env = TabletopEnv(cameras=(), randomize=False)
    yield env
    env.close()


def play(env, mode, kind, seed):
    """Let one episode pass; return per step whether it had failed, what was held and how far the drawer was open."""
    env.reset(seed=seed, options={"kind": kind})
    expert, rows, info = FailingExpert(mode, seed=seed), [], {}
    for _ in range(STEPS):
        action = expert.act(env.expert_observation())
        rows.append((expert.failed, env.world.held(), env.world.drawer_opening))
        info = env.step(action)[-1]
    expert.undo()
    return rows, info["is_success"]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_fails_as_it_says(env, mode):
    for seed in range(2, 6):
        rows, success = play(env, mode, MODES[mode][seed % len(MODES[mode])], seed)
        failed = [row[0] for row in rows]
        if not any(failed):
            continue  # it met something on its way
        first, named = failed.index(True), env.goal.object
        assert all(failed[first:]) and not success
        held = [row[1] for row in rows]
        if mode == "missed_grasp":
            assert named not in held[: first + 1]
        elif mode == "slip":
            assert held[first] != named and named in held[:first]
        elif mode == "wrong_object":
            assert held[first] not in (None, named)
        else:
            openings = np.array([row[2] for row in rows])
            assert np.ptp(openings) < 0.02 and held[first] is None
        return
    pytest.fail(f"{mode} never happened")


def test_the_physics_is_put_back(env):
    model = env.model
    before = [getattr(model, name).copy() for name in ("geom_friction", "geom_priority", "dof_damping")]
    for mode, kind in (("slip", "pick"), ("blocked", "open")):
        play(env, mode, kind, 2)
    for name, values in zip(("geom_friction", "geom_priority", "dof_damping"), before, strict=True):
        np.testing.assert_array_equal(getattr(model, name), values)


def test_without_a_mode_it_is_the_expert_and_unknown_modes_are_refused(env):
    rows, success = play(env, "none", "close", 1)
    assert success and not any(failed for failed, _, _ in rows)
    with pytest.raises(ValueError, match="'nap' is not known; possible: none, missed_grasp"):
        FailingExpert("nap")
