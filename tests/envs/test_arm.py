"""The arm: its kinematics agree with MuJoCo and with the published numbers, its servos stay inside their limits."""

import mujoco
import numpy as np
import pytest

from envs.tabletop import arm, scene


@pytest.fixture(scope="module")
def model():
    return scene.build_model()


def test_forward_kinematics_agree_with_mujoco(model):
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(arm.JOINT_MIN, arm.JOINT_MAX)
        data.qpos[arm.joint_addresses(model)] = joints
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(arm.tip_position(joints), data.site(arm.TIP_SITE).xpos, atol=1e-6)


def test_joint_limits_are_the_published_ones(model):
    ranges = np.array([model.joint(name).range for name in arm.JOINTS])
    np.testing.assert_allclose(ranges.T, [arm.JOINT_MIN, arm.JOINT_MAX], atol=1e-6)


def test_inverse_kinematics_invert_forward_kinematics():
    rng = np.random.default_rng(1)
    for _ in range(300):
        radius, azimuth = rng.uniform(0.12, 0.30), rng.uniform(-1.0, 1.0)
        place = [arm.PAN_X + radius * np.cos(azimuth), radius * np.sin(azimuth), rng.uniform(0.005, 0.09)]
        offset = rng.choice([arm.TIP_SIDE, arm.CLOSED_SIDE, arm.WIDE_SIDE])
        joints = arm.ik_vertical(*place, roll=rng.uniform(-2.5, 2.5), offset=offset)
        np.testing.assert_allclose(arm.tip_position(joints, offset), place, atol=1e-9)


def test_grasps_at_table_height_reach_from_8_to_33_cm_around_the_pan_axis():
    for radius in np.linspace(0.08, 0.33, 26):
        for azimuth in np.linspace(-1.2, 1.2, 7):
            x, y = arm.PAN_X + radius * np.cos(azimuth), radius * np.sin(azimuth)
            joints = arm.ik_vertical(x, y, 0.012)
            lean = np.pi / 2 - joints[1:4].sum()
            assert lean <= (1e-9 if radius <= 0.265 else np.radians(20))


def test_a_place_out_of_reach_is_refused_with_what_is_possible():
    with pytest.raises(arm.Unreachable, match=r"x=0\.600.*out of reach.*0\.08 to 0\.33 m"):
        arm.ik_vertical(0.6, 0.0, 0.02)


def test_state_units_are_inverted():
    joints = np.random.default_rng(2).uniform(arm.JOINT_MIN, arm.JOINT_MAX, (5, 6))
    np.testing.assert_allclose(arm.from_state(arm.to_state(joints)), joints, atol=1e-6)
    np.testing.assert_allclose(arm.to_state(np.stack([arm.JOINT_MIN, arm.JOINT_MAX]))[:, 5], [0, 1], atol=1e-6)


def test_servo_targets_never_outrun_the_velocity_limit():
    low, high = arm.JOINT_MIN, np.append(arm.POSITION_MAX[:5], 1.0)
    ramp = arm.servo_ramp(low, high, substeps=20, dt_s=0.005)
    speed = np.abs(np.diff(arm.to_state(np.vstack([low, ramp])).astype(float), axis=0)) / 0.005
    assert (speed <= arm.VELOCITY_MAX * 1.01).all()
    near = arm.to_state(low) + 0.01
    np.testing.assert_allclose(arm.servo_ramp(low, near, 20, 0.005)[-1], arm.from_state(near), atol=1e-6)


def test_the_arm_holds_still_against_gravity(model):
    data = mujoco.MjData(model)
    home = arm.from_state(arm.HOME)
    data.qpos[arm.joint_addresses(model)] = data.ctrl[arm.actuator_addresses(model)] = home
    mujoco.mj_step(model, data, nstep=200)
    assert np.abs(data.qpos[arm.joint_addresses(model)] - home).max() < 0.005


def test_open_jaws_leave_room_for_objects_with_tolerance(model):
    data = mujoco.MjData(model)
    data.qpos[arm.joint_addresses(model)] = arm.from_state(arm.HOME)
    mujoco.mj_kinematics(model, data)
    ends = []
    for name, side in (("fixed_jaw", 1), ("moving_jaw", -1)):
        geom = data.geom(name)
        size = model.geom(name).size
        ends.append(geom.xpos + geom.xmat.reshape(3, 3) @ [size[0], 0, side * size[2]])
    assert np.linalg.norm((ends[1] - ends[0])[:2]) > 0.055
