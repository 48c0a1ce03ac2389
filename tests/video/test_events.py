"""What joints, grippers, efforts and pictures tell: when something was grasped, let go, stopped, blocked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import Scene, record
from tests.video.test_decode import write
from vla.bench.rivals import random, score
from vla.video.appearance import novelty, subgoals
from vla.video.decode import Limits, VideoClip
from vla.video.events import from_movement, from_state
from vla.video.keyframes import all_events, boundaries
from vla.video.state import State
from vla.video.track import Track, watch


def state_of(joints, gripper=None, command=None, effort=None, fps=20.0) -> State:
    """A state with joints float[N, J] that range over -1..1 and a gripper over 0..1."""
    joints = np.asarray(joints, np.float64)
    gripper = np.zeros((len(joints), 0)) if gripper is None else np.asarray(gripper, np.float64).reshape(-1, 1)
    count = joints.shape[1]
    return State(
        time_s=np.arange(len(joints)) / fps,
        joints=joints,
        joint_names=tuple(f"joint {k}" for k in range(count)),
        joint_low=-np.ones(count),
        joint_high=np.ones(count),
        gripper=gripper,
        gripper_names=("gripper",) * gripper.shape[1],
        gripper_low=np.zeros(gripper.shape[1]),
        gripper_high=np.ones(gripper.shape[1]),
        command=command,
        effort=effort,
        effort_names=() if effort is None else ("load",),
    )


def track_of(scene: Scene, folder: Path) -> Track:
    """Encode a scene and watch it."""
    clip = VideoClip(write(folder / "scene.mp4", scene.frames, fps=scene.fps))
    return watch(clip, Limits(), folder / "thumbnails", lambda time_s: None)


def times(events, *kinds):
    """Times of the events of some kinds."""
    return [event.time_s for event in events if event.kind in kinds]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), fps=st.sampled_from([10, 30]), discs=st.integers(1, 3))
def test_every_grasp_release_and_departure_is_told_by_the_state_at_its_time(seed, fps, discs):
    scene = record(seed, fps, discs)
    events = from_state(scene.state)
    assert len(times(events, "grasp")) == len(times(events, "release")) == discs
    assert score([times(events, "grasp", "release")], [scene.deeds_s], 0.3)["f1"] == 1.0
    assert score([times(events, "set_off")], [scene.starts_s], 0.3)["recall"] == 1.0 or not scene.starts_s
    assert all(0 <= event.strength <= 1 and event.words for event in events)


def test_pixels_alone_find_most_of_it_and_state_more_both_far_above_chance(tmp_path):
    rng, scenes = np.random.default_rng(0), [record(seed, 10, 2) for seed in range(6)]
    found: dict[str, list[list[float]]] = {"state": [], "pixels": [], "random": []}
    for scene in scenes:
        tracks = {"top": track_of(scene, tmp_path)}
        time_s, length_s = tracks["top"].time_s, float(tracks["top"].time_s[-1])
        found["state"].append(boundaries(all_events(tracks, scene.state), time_s))
        found["pixels"].append(boundaries(all_events(tracks, None), time_s))
        found["random"].append(random(length_s, len(found["state"][-1]), rng))
    true = [sorted(scene.deeds_s + scene.starts_s) for scene in scenes]
    f1 = {name: score(boundary_s, true, 0.35)["f1"] for name, boundary_s in found.items()}
    assert f1["state"] > 0.85 and f1["pixels"] > 0.6 and f1["random"] < 0.45, f1


def test_a_gripper_that_closes_on_nothing_and_opens_again_fumbled():
    opening = np.interp(np.arange(60), [0, 20, 24, 28, 32, 60], [1, 1, 0.3, 0.3, 1, 1])
    (event,) = from_state(state_of(np.zeros((60, 1)), opening))
    assert event.kind == "fumble" and event.time_s == pytest.approx(1.2, abs=0.15)


def test_a_gripper_that_closes_all_the_way_holds_nothing():
    opening = np.interp(np.arange(60), [0, 20, 26, 60], [1, 1, 0.0, 0.0])
    (event,) = from_state(state_of(np.zeros((60, 1)), opening))
    assert event.kind == "gripper_closes" and "100 to 0 % open" in event.words


def test_an_arm_that_is_blocked_stalls_and_one_that_only_lags_does_not():
    wish = np.interp(np.arange(100), [0, 20, 80, 100], [-0.8, -0.8, 0.8, 0.8])[:, None]
    lagging = np.vstack([wish[:1]] * 3 + [wish[:-3]])
    blocked = np.minimum(lagging, 0.2)
    assert not times(from_state(state_of(lagging, command=wish)), "stall")
    (stall_s,) = times(from_state(state_of(blocked, command=wish)), "stall")
    reaches_wall_s = float(np.argmax(lagging[:, 0] > 0.2)) / 20
    assert stall_s == pytest.approx(reaches_wall_s, abs=0.3)


def test_a_contact_steps_the_effort_and_noise_does_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (100, 1))
    step = noise + (np.arange(100) >= 50)[:, None] * 0.5
    still = np.zeros((100, 1))
    assert times(from_state(state_of(still, effort=step)), "effort_step") == [pytest.approx(2.5, abs=0.1)]
    ramp = np.linspace(0, 1, 100)[:, None] + noise / 10
    assert not times(from_state(state_of(still, effort=ramp)), "effort_step")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7])
def test_short_and_still_states_and_pictures_are_silent(length, tmp_path):
    assert from_state(state_of(np.zeros((length, 2)), np.zeros(length))) == []
    if length:
        still = Scene(np.full((length, 48, 64, 3), 90, np.uint8), state_of(np.zeros((length, 1))), 10, [], [])
        track = track_of(still, tmp_path)
        assert from_movement({"top": track}) == [] and all_events({"top": track}, None) == []


def test_novelty_peaks_and_a_subgoal_lies_where_the_looks_turn():
    stations = np.eye(3)
    where = np.interp(np.arange(60), [0, 25, 30, 60], [0, 0, 1, 1])
    looks = (1 - where)[:, None] * stations[0] + where[:, None] * stations[1]
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    time_s = np.arange(60) / 10
    assert time_s[novelty(looks, time_s).argmax()] == pytest.approx(2.75, abs=0.2)
    there_and_back = np.concatenate([np.linspace(0, 1, 30), np.linspace(1, 0, 30)])
    path = np.stack([np.cos(there_and_back), np.sin(there_and_back)], axis=1)
    (turn,) = subgoals(path, time_s)
    assert time_s[turn] == pytest.approx(3.0, abs=0.2)
