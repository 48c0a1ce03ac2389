"""The collision model of the arm: it sees table, itself and the end of the workspace, and lets the expert work."""

import numpy as np
import pytest

from envs.tabletop import arm
from envs.tabletop.collision import Collision
from envs.tabletop.env import TabletopEnv
from envs.tabletop.expert import Expert
from envs.tabletop.goals import KINDS

HOME = arm.HOME


@pytest.fixture(scope="module")
def collides() -> Collision:
    return Collision()


def over_table(height: float) -> np.ndarray:
    """Return the pose with the ends of the jaws at a height above the table [m], pointing down."""
    return np.array([*arm.ik_vertical(0.22, 0.0, height + arm.TIP_TO_END), 0.3])


@pytest.mark.parametrize("gripper", [0.0, 0.3, 1.0])
def test_the_usual_poses_are_free(collides, gripper):
    assert not collides(np.array([*HOME[:5], gripper]))
    assert not collides(np.array([0, 0, 0, 0, 0, gripper]))


def test_closer_to_the_table_than_the_margin_collides(collides):
    assert collides(over_table(0.0020)) and not collides(over_table(0.0030))
    exact = Collision(margin_m=0.0)
    assert exact(over_table(-0.0005)) and not exact(over_table(0.0005))


def test_folding_onto_itself_collides(collides):
    folded = HOME.copy()
    folded[1:4] = arm.JOINT_MIN[1], arm.JOINT_MAX[2], arm.JOINT_MAX[3]
    assert collides(folded)
    assert min(collides._data.contact.dist) < 0


def test_the_forearm_collides_too_although_it_does_not_in_the_world(collides):
    low = HOME.copy()
    low[1:4] = arm.JOINT_MAX[1], -1.0, -1.0  # the elbow goes down, the hand stays up
    assert collides(low)


def test_leaving_the_workspace_collides():
    tip = arm.tip_position(HOME)
    low, high = tip - 0.05, tip + 0.05
    assert not Collision(0.0, low, high)(HOME)
    for axis in range(3):
        tight = low.copy()
        tight[axis] = tip[axis] + 0.001
        assert Collision(0.0, tight, high)(HOME)
        tight = high.copy()
        tight[axis] = tip[axis] - 0.001
        assert Collision(0.0, low, tight)(HOME)


def test_it_remembers_nothing(collides):
    poses = np.random.default_rng(0).uniform(arm.POSITION_MIN, arm.POSITION_MAX, (100, 6))
    forth = [collides(pose) for pose in poses]
    back = [collides(pose) for pose in poses[::-1]]
    assert forth == back[::-1]
    assert 0.1 < np.mean(forth) < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_the_expert_commands_collides(collides, kind):
    env = TabletopEnv(kinds=(kind,), cameras=())
    env.reset(seed=3)
    expert = Expert()
    for _ in range(60):
        action = expert.act(env.expert_observation())
        assert not collides(action.astype(np.float64))
        if env.step(action)[4]["is_success"]:
            break
