"""An episode told 50 times a second goes as the one stepped in lockstep, if both get the same targets."""

import gymnasium
import numpy as np
import pytest

from envs.robots.trial import Trial
from envs.tabletop import arm

ID, HZ = "envs:tabletop/PressButton-v0", 50.0


@pytest.fixture(scope="module")
def env():
    env = gymnasium.make(ID, cameras=[])
    yield env
    env.close()


def lockstep(env, targets):
    """Return the joints after each control step and all infos."""
    observation, info = env.reset(seed=5)
    joints, infos = [observation["agent_pos"]], [info]
    for target in targets:
        observation, _, _, _, info = env.step(target)
        joints.append(observation["agent_pos"])
        infos.append(info)
    return joints, infos


def test_the_same_seed_and_targets_give_the_same_motion_and_the_same_truth(env):
    env.reset(seed=5)
    start = arm.to_state(env.unwrapped.servo_target).astype(np.float64)
    steps = np.random.default_rng(0).uniform(-0.05, 0.05, (8, 6))
    targets = np.clip(start + np.cumsum(steps, axis=0), [-1.5] * 5 + [0.0], [1.5] * 5 + [1.0])
    joints, infos = lockstep(env, targets)

    now = {"s": 0.0}
    trial = Trial(env, lambda: now["s"], HZ, 5, {})
    felt, before, ticks = [trial.read_joints().joints], start, round(HZ / 10)
    for target in targets:
        for tick in range(1, ticks + 1):
            trial.send_action(before + (target - before) * tick / ticks)
            now["s"] += 1 / HZ
        before = target
        felt.append(trial.read_joints().joints)
    np.testing.assert_allclose(felt, joints, atol=1e-4)
    assert len(trial.infos) == len(infos)
    assert [info["instruction"] for info in trial.infos] == [info["instruction"] for info in infos]
    assert [info["is_success"] for info in trial.infos] == [info["is_success"] for info in infos]


def test_physics_passes_by_the_clock_whatever_is_asked(env):
    now = {"s": 100.0}
    trial = Trial(env, lambda: now["s"], HZ, 5, {"kind": "press"})
    assert trial.read_joints().time_s == 100.0 and len(trial.infos) == 1
    now["s"] += 1.0
    assert trial.read_joints().time_s == 101.0 and len(trial.infos) == 11


def test_frames_are_exposed_on_time_and_kept_until_the_next():
    env = gymnasium.make(ID, cameras=["front"], image_size={"front": (32, 48)})
    now = {"s": 0.0}
    trial = Trial(env, lambda: now["s"], HZ, 5, {}, camera_hz=30.0)
    camera, times_s = trial.cameras["front"], []
    for tick in range(51):
        now["s"] = tick / HZ
        assert camera.latest() is camera.latest()
        times_s.append(camera.latest().time_s)
    assert len(set(times_s)) == 31  # 30 a second and the first, though ticks and exposures do not meet
    assert max(np.arange(51) / HZ - times_s) < 1 / 30
    assert camera.latest().image.shape == (32, 48, 3)
    env.close()


def test_a_world_that_cannot_be_stepped_is_refused():
    other = gymnasium.make("CartPole-v1")
    with pytest.raises(TypeError, match="cannot be stepped between control periods"):
        Trial(other, lambda: 0.0, HZ, 0, {})
    other.close()


def test_a_world_that_blew_up_is_a_crash_and_no_fault_of_the_bus(env):
    now = {"s": 0.0}
    trial = Trial(env, lambda: now["s"], HZ, 5, {})
    trial._plant.blow_up()
    now["s"] += 0.1
    with pytest.raises(RuntimeError, match="is void"):
        trial.read_joints()
    with pytest.raises(OSError, match="is void"):
        env.unwrapped.step(env.action_space.sample())  # nor is it a failure in lockstep
    Trial(env, lambda: now["s"], HZ, 5, {}).read_joints()  # the next episode is another one
