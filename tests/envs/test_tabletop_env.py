"""The tabletop keeps gymnasium's contract and LeRobot's conventions."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.tabletop import arm
from envs.tabletop.env import TabletopEnv

SMALL = {"front": (24, 32), "wrist": (16, 16)}
NAMES = ("Pick", "Place", "Stack", "Push", "OpenDrawer", "CloseDrawer", "PressButton", "Mixed", "LongHorizon")
IDS = [f"envs:tabletop/{name}-v0" for name in NAMES]


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(kinds=("place", "press"), image_size=SMALL)
    yield env
    env.close()


def wiggle(observation: dict, rng: np.random.Generator) -> np.ndarray:
    return np.clip(observation["agent_pos"] + rng.normal(0, 0.05, 6), arm.POSITION_MIN, arm.POSITION_MAX).astype("f4")


def rollout(env, seed: int, steps: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    values = [*observation["pixels"].values(), observation["agent_pos"]]
    for _ in range(steps):
        observation, *_ = env.step(wiggle(observation, rng))
        values += [*observation["pixels"].values(), observation["agent_pos"]]
    return [*values, env.data.qpos.copy(), env.data.qvel.copy()]


def test_passes_check_env():
    env = gymnasium.make(IDS[0], image_size=SMALL, disable_env_checker=True)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_every_id_asks_for_its_kind_and_starts_unsolved(name):
    env = gymnasium.make(name, cameras=())
    for seed in range(6):
        _, info = env.reset(seed=seed)
        assert info["subtask"]["kind"] in env.unwrapped.kinds
        assert not info["is_success"] and not info["swapped"]["is_success"] and not info["subtask"]["done"]
        assert info["instruction"] != info["swapped"]["instruction"]
    env.close()


def test_same_seed_gives_the_same_frames_and_trajectory_bit_for_bit(env):
    first = rollout(env, seed=11)
    rollout(env, seed=12)
    other = TabletopEnv(kinds=("place", "press"), image_size=SMALL)
    for again in (rollout(env, seed=11), rollout(other, seed=11)):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(rollout(env, seed=12)[0], first[0])
    other.close()


def test_reset_without_seed_goes_on_to_another_scene(env):
    env.reset(seed=5)
    first = env.layout
    env.reset()
    assert env.layout != first


def test_looks_without_randomization_do_not_depend_on_the_seed():
    env = TabletopEnv(kinds=("press",), randomize=False, cameras=())
    looks = []
    for seed in (1, 2):
        env.reset(seed=seed)
        model = env.model
        looks.append(
            np.concatenate([x.ravel() for x in (model.cam_pos, model.cam_quat, model.light_dir, model.tex_data)])
        )
    np.testing.assert_array_equal(*looks)


def test_instruction_given_by_words_is_what_the_scene_is_made_for(env):
    _, info = env.reset(seed=0, options={"instruction": "put the green cube in the red bowl"})
    assert info["instruction"] == env.task_description == "put the green cube in the red bowl"
    assert {"green cube", "red bowl"} <= set(env.world.items)
    _, info = env.reset(seed=0, options={"instruction": "open the drawer, then press the button"})
    assert info["subtask"]["count"] == 2 and info["subtask"]["text"] == "open the drawer"


def test_instruction_outside_the_world_is_refused(env):
    with pytest.raises(ValueError, match="make me a coffee"):
        env.reset(options={"instruction": "make me a coffee"})


def test_wrong_arguments_are_refused(env):
    with pytest.raises(ValueError, match=r"reset options \['task'\] are not known; possible: instruction, kind"):
        env.reset(options={"task": "pick"})
    with pytest.raises(ValueError, match=r"task kinds \['juggle'\] are not known; possible: pick"):
        env.reset(options={"kind": "juggle"})
    with pytest.raises(ValueError, match="split 'test' is not known"):
        TabletopEnv(split="test")
    with pytest.raises(ValueError, match=r"cameras \['side'\] are not known; possible: front, wrist"):
        TabletopEnv(cameras=("front", "side"))
    with pytest.raises(ValueError, match=r"image_size of \['top'\] .*possible: front, wrist"):
        TabletopEnv(image_size={"top": (8, 8)})


def test_action_that_is_not_finite_is_refused(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="6 finite joint targets"):
        env.step(np.full(6, np.nan))


def test_action_moves_the_joints_to_the_targets(env):
    observation, _ = env.reset(seed=0)
    target = observation["agent_pos"] + np.array([0.3, 0, 0, 0, 0.2, 0.2], np.float32)
    for _ in range(15):
        observation, *_ = env.step(target)
    np.testing.assert_allclose(observation["agent_pos"], target, atol=0.03)


def test_embodiment_names_joints_and_cameras(env):
    body = env.embodiment()
    assert body["joints"] == list(arm.JOINTS) and body["control_hz"] == 10.0
    assert body["cameras"] == {"front": {"height": 24, "width": 32}, "wrist": {"height": 16, "width": 16}}


@pytest.mark.parametrize("vector", [gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv])
def test_vector_environments_equal_single_ones(vector, env):
    make = lambda: gymnasium.make(IDS[1], image_size=SMALL)  # noqa: E731
    envs = vector([make, make])
    observation, info = envs.reset(seed=[7, 8])
    observation, *_ = envs.step(np.asarray(observation["agent_pos"]))
    alone = make()
    for index, seed in enumerate((7, 8)):
        start, start_info = alone.reset(seed=seed)
        after, *_ = alone.step(start["agent_pos"])
        assert start_info["instruction"] == info["instruction"][index]
        np.testing.assert_array_equal(after["pixels"]["front"], observation["pixels"]["front"][index])
    envs.close()
    alone.close()


@pytest.mark.parametrize("hz", [5, 15, 30, 0])
def test_commands_that_do_not_fit_into_a_control_period_are_refused(hz):
    with pytest.raises(ValueError, match="possible: 10, 20, 40, 50, 100, 200"):
        TabletopEnv(cameras=[]).send_through(lambda target, measured: target, hz)
