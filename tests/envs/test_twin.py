"""The twin is the tabletop, in whatever time: the same motion in virtual time, its own pace in real time."""

import time
from multiprocessing import get_context

import gymnasium
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.robots.mailbox import Mailbox
from envs.robots.plant import Plant
from envs.robots.twin import SteppedTwin, Twin, TwinError, next_exposure
from envs.tabletop import arm, scene

PATIENCE_S = 120.0
SIZE = {"front": (32, 48)}


class Clock:
    def __init__(self):
        self.now_s = 7.0

    def now(self):
        return self.now_s


def commands(count: int) -> list[np.ndarray]:
    """Return joint targets that wander about the home pose."""
    rng = np.random.default_rng(0)
    return [*(arm.HOME + np.cumsum(rng.uniform(-0.05, 0.05, (count, 6)), axis=0)).astype(np.float32)]


def test_at_the_rate_of_its_tasks_the_twin_is_the_environment():
    env = gymnasium.make(
        "envs:tabletop/PressButton-v0", cameras=["front"], image_size=SIZE, randomize=False, disable_env_checker=True
    )
    options = {"instruction": "press the button"}
    observation, info = env.reset(seed=3, options=options)
    clock = Clock()
    twin = SteppedTwin(clock.now, 10.0, 3, "press the button", image_size=SIZE, randomize=False)
    assert twin.embodiment() == env.unwrapped.embodiment()
    for command in commands(12):
        np.testing.assert_array_equal(twin.read_joints().joints, observation["agent_pos"])
        twin.send_action(command)
        clock.now_s += 0.1
        observation, _, _, _, info = env.step(command)
    frame = twin.cameras["front"].latest()
    np.testing.assert_array_equal(frame.image, observation["pixels"]["front"])
    assert frame.time_s == clock.now_s
    truth = twin.truth()
    assert truth["subtask"] == info["subtask"] and truth["is_success"] == info["is_success"]
    twin.close()
    env.close()


@given(st.integers(0, 100_000), st.sampled_from([15.0, 25.0, 30.0, 60.0]))
@example(820, 30.0)  # 4.1 s, the 123rd exposure but for rounding: the twin exposed it for ever
@example(3380, 30.0)
def test_every_exposure_is_followed_by_one_to_come(steps, camera_hz):
    time_s, period_s = steps * scene.TIMESTEP_S, 1 / camera_hz
    exposures = int(time_s / period_s)
    for _ in range(2):
        if time_s >= exposures * period_s:
            exposures = next_exposure(exposures, time_s, period_s)
    assert time_s < exposures * period_s <= time_s + 2.001 * period_s


def test_physics_goes_on_without_commands_and_the_servos_hold():
    clock = Clock()
    twin = SteppedTwin(clock.now, 50.0)
    twin.send_action(arm.HOME + np.eye(6)[0] * 0.1)
    clock.now_s += 1.0
    reached = twin.read_joints()
    assert reached.time_s == 8.0
    assert reached.joints[0] == pytest.approx(arm.HOME[0] + 0.1, abs=0.01)
    clock.now_s += 5.0
    np.testing.assert_allclose(twin.read_joints().joints, reached.joints, atol=2e-3)
    twin.close()


def test_a_new_command_takes_over_from_where_the_servos_are():
    plant = Plant({"cameras": []}, 0, None, 50.0)
    targets = []
    for command in (arm.HOME + 0.04, arm.HOME - 0.04, arm.HOME):
        plant.command(command)
        for _ in range(2):  # of the four steps of its period
            plant.step()
            targets.append(plant._env.servo_target)
    fastest = arm.VELOCITY_MAX * 0.005 * 1.0001
    fastest[5] *= arm.JOINT_MAX[5] - arm.JOINT_MIN[5]
    assert (np.abs(np.diff(targets, axis=0)) <= fastest).all()


def test_success_stays_and_is_judged_at_the_rate_of_the_tasks():
    plant = Plant({"cameras": []}, 0, None, 100.0)
    judged = []
    plant._env.judge = lambda: judged.append(plant.time_s) or {"is_success": len(judged) == 3}
    for _ in range(100):
        plant.step()
    assert judged == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert plant.truth()["is_success"] and plant.truth()["success_s"] == pytest.approx(0.3)


def test_frames_come_at_the_pace_of_the_camera():
    clock = Clock()
    twin = SteppedTwin(clock.now, 50.0, camera_hz=20.0, image_size=SIZE)
    camera = twin.cameras["front"]
    seen = []
    for _ in range(20):
        seen.append(camera.latest())
        clock.now_s += 0.02
    times_s = sorted({frame.time_s for frame in seen})
    assert np.diff(times_s) == pytest.approx(0.06)  # the first look after 50 ms
    assert seen[0] is seen[1]
    twin.close()


@pytest.mark.parametrize("command", [np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))])
def test_a_command_that_is_none_is_refused(command):
    with pytest.raises(ValueError, match="finite joint targets"):
        Plant({"cameras": []}, 0, None, 50.0).command(command)


@pytest.mark.parametrize("hz", [5.0, 1000.0])
def test_a_rate_that_the_physics_cannot_follow_is_refused(hz):
    with pytest.raises(ValueError, match="commands a second"):
        Plant({"cameras": []}, 0, None, hz)


def _write(mailbox, count):
    for number in range(1, count + 1):
        mailbox.put(number=number, block=np.full(4096, number))


def test_a_mailbox_hands_over_whole_records_and_the_newest_last():
    mailbox, count = Mailbox([("number", np.int64), ("block", np.int64, 4096)]), 1000
    assert mailbox.get() is None
    writer = get_context("spawn").Process(target=_write, args=(mailbox, count))
    writer.start()
    before, limit_s = 0, time.monotonic() + PATIENCE_S
    while before < count:
        assert time.monotonic() < limit_s
        if newest := mailbox.get(after=before):
            number, record = newest
            assert number > before
            assert record["number"] == number and (record["block"] == number).all()
            before = number
    writer.join()
    assert mailbox.get(after=count) is None
    assert mailbox.get()[0] == count


@pytest.fixture(scope="module")
def twin():
    twin = Twin(50.0, seed=3, instruction="press the button", camera_hz=20.0, image_size=SIZE, randomize=False)
    yield twin
    twin.close()


def wait_for(condition):
    limit_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < limit_s
        time.sleep(0.005)
    return found


def test_in_real_time_the_world_goes_on_while_nobody_asks(twin):
    first = wait_for(twin.cameras["front"].latest)
    assert first.image.shape == (32, 48, 3) and first.image.std() > 5
    later = wait_for(lambda: (frame := twin.cameras["front"].latest()).time_s > first.time_s and frame)
    assert later.time_s <= time.monotonic()
    assert twin.cameras["front"].latest() is not None
    assert twin.embodiment()["joints"] == list(arm.JOINTS)
    truth = twin.truth()
    assert truth["instruction"] == "press the button" and truth["is_success"] is False
    assert truth["slipped_s"] >= 0


def test_in_real_time_commands_are_followed(twin):
    start = wait_for(twin.read_joints).joints
    goal = start + np.array([0.05, 0, 0, 0, 0, 0])
    twin.send_action(goal)
    reached = wait_for(lambda: abs((now := twin.read_joints()).joints[0] - goal[0]) < 0.01 and now)
    assert reached.time_s <= time.monotonic()


def test_what_cannot_be_laid_out_is_said_in_the_words_of_the_world():
    with pytest.raises(ValueError, match="window"):
        Twin(50.0, instruction="open the window", image_size=SIZE)


def test_a_twin_that_died_is_an_error_of_the_bus(twin):
    twin._process.kill()
    twin._process.join()
    with pytest.raises(TwinError, match="ended with code"):
        twin.send_action(np.zeros(6))
    with pytest.raises(OSError):
        twin.truth()
