"""The second body: one joint less in everything that it says and takes, and still able."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.tabletop import arm
from envs.tabletop.stiff_wrist import JOINTS, Expert, StiffWristEnv
from vla.types import Embodiment


@pytest.fixture(scope="module")
def world():
    env = gymnasium.make("envs:tabletop/StiffWristMixed-v0", cameras=[])
    yield env
    env.close()


def test_it_is_an_environment_of_five_joints(world):
    check_env(world.unwrapped, skip_render_check=True)
    observation, _ = world.reset(seed=1)
    body = Embodiment.from_dict(world.unwrapped.embodiment())
    assert body.joints == JOINTS and body.joints[-1] == "gripper" and "wrist_roll" not in JOINTS
    lengths = {len(value) for value in (body.position_min, body.velocity_max, body.jerk_max, observation["agent_pos"])}
    assert lengths == {5} and world.action_space.shape == (5,)
    other = Embodiment.from_dict(gymnasium.make("envs:tabletop/Pick-v0", cameras=[]).unwrapped.embodiment())
    assert body.hash() != other.hash()


@pytest.mark.parametrize("kind", ["pick", "press"])
def test_the_expert_needs_no_roll(world, kind):
    _, info = world.reset(seed=3, options={"kind": kind})
    expert, truncated = Expert(noise=0.5, seed=3), False
    while not info["is_success"] and not truncated:
        action, _ = expert.perturb(expert.act(world.unwrapped.expert_observation()))
        _, _, _, truncated, info = world.step(action)
    assert info["is_success"]
    roll = arm.to_state(world.unwrapped.data.qpos[arm.joint_addresses(world.unwrapped.model)])[4]
    assert roll == pytest.approx(arm.ROLL_SIDEWAYS, abs=0.05)


def test_what_it_cannot_do_is_refused(world):
    world.reset(seed=1, options={"kind": "open"})
    with pytest.raises(ValueError, match=r"cannot open the drawer: leave it out, such as with mix\.open=0"):
        Expert().act(world.unwrapped.expert_observation())
    with pytest.raises(ValueError, match="leave 'open' out"):
        StiffWristEnv(kinds=["open"], cameras=[])
    with pytest.raises(ValueError, match="an action is 5 finite joint targets"):
        world.unwrapped.step(np.zeros(6))
