"""The guard's promise under fuzz: at every rate, whatever comes in, no limit is broken, and MuJoCo finds no contact."""

import mujoco
import numpy as np
import pytest

from envs.tabletop import arm, scene
from envs.tabletop.collision import Collision
from tests.control.drive import ARM, driven
from vla.bench.guard import LIMITS, VIOLATIONS, fuzz
from vla.control.guard import Guard
from vla.control.severity import State
from vla.types import Embodiment

RATES = (30.0, 100.0, 500.0, 1000.0)
NONE = dict.fromkeys(VIOLATIONS, 0)
SO101 = Embodiment.from_dict({**arm.embodiment_limits(), "control_hz": 10.0, "cameras": {}})


@pytest.mark.parametrize("hz", RATES)
def test_no_limit_is_broken(hz):
    result = fuzz(Guard(ARM, hz), 3000, np.random.default_rng(round(hz)))
    assert result["violations"] == NONE
    assert max(result["used"].values()) > 0.99


@pytest.mark.parametrize("hz", [30.0, 100.0])
def test_nothing_is_touched(hz):
    guard = Guard(SO101, hz, Collision())
    result = fuzz(guard, 1000, np.random.default_rng(0), Collision(margin_m=0.0))
    assert result["violations"] == NONE
    assert guard.journal.counts["collision"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("hz", RATES)
def test_no_limit_is_broken_and_nothing_touched_in_a_million_steps(hz):
    guard = Guard(SO101, hz, Collision())
    result = fuzz(guard, 250_000, np.random.default_rng([1, round(hz)]), Collision(margin_m=0.0))
    assert result["violations"] == NONE
    assert all(result["used"][limit] > 0.99 for limit in LIMITS)
    assert {state.name for state in State} == set(result["states"])


def test_the_judge_sees_what_an_unguarded_arm_does():
    free = Guard(SO101, 100.0, mode="off", hardware=False)
    violations = fuzz(free, 1000, np.random.default_rng(0), Collision(margin_m=0.0))["violations"]
    assert all(violations[name] > 0 for name in VIOLATIONS if name != "nonfinite")


def test_the_simulated_world_agrees_that_the_table_is_not_touched():
    """Judged by the scene that policies act in, not by the model that the guard asks."""
    model = scene.build_model()
    data = mujoco.MjData(model)
    jaws = {model.geom(name).id for name in arm.GRIPPER_GEOMS}
    table = model.geom("table").id

    def touches(q: np.ndarray) -> bool:
        data.qpos[arm.joint_addresses(model)] = arm.from_state(q)
        mujoco.mj_forward(model, data)
        pairs = [set(map(int, pair)) for pair in data.contact.geom]
        return any(table in pair and pair & jaws for pair in pairs)

    above, below = (np.array([*arm.ik_vertical(0.2, 0.05, z), 0.4]) for z in (0.06, -0.03))
    heights = {}
    for collides in (None, Collision()):
        guard = Guard(SO101, 100.0, collides)
        guard.engage(above)
        commands = []
        for tick in range(150):
            now_s = tick / 100
            way = min(tick / 40, 1.0)
            command, _ = guard.step(above + way * (below - above), above, now_s, now_s)
            commands.append(command)
        heights[collides is not None] = arm.tip_position(commands[-1])[2]
        assert any(map(touches, commands)) == (collides is None)
    assert heights[False] == pytest.approx(-0.03, abs=1e-6)
    assert 0 < heights[True] - arm.TIP_TO_END < 0.02


def test_an_arm_at_rest_in_front_of_an_obstacle_stays_at_rest():
    drive = driven(collides=lambda q: bool(q[0] > 0.2))
    for lift in (0.05, 0.5):
        drive.to(np.array([lift, 0.5]), 1.0)
    rest = drive.command
    drive.to(np.array([0.5, 0.5]), 1.0)
    np.testing.assert_array_equal(drive.command, rest)
