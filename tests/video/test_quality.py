"""Every fault that a recording can have is flagged where it is, and a good one raises no alarm."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.video.scenes import record
from vla.bench.spoilt import FAULTS, Recording, noticed, tremble, write
from vla.video.child import Decoder
from vla.video.episode_quality import _leaps, lag_flag
from vla.video.flag import NOTE
from vla.video.lag import Lag
from vla.video.quality import Checked, check, compare
from vla.video.source import Item
from vla.video.state import State

CLEAN_SEEDS = range(4)


def recording(seed: int) -> Recording:
    """A scene with two cameras, the second one a mirror of the first, and a rest short enough not to be idle."""
    scene = record(seed, rest_s=0.8, speed=25.0)
    frames = {"top": scene.frames, "mirror": scene.frames[:, :, ::-1].copy()}
    return Recording(frames, np.arange(len(scene.frames)), scene.state, scene.fps)


@pytest.fixture(scope="module")
def decoder():
    """One child process for all tests here."""
    with Decoder() as serving:
        yield serving


def inspect(item: Item, decoder: Decoder) -> Checked:
    """Watch all cameras of an item and check it."""
    return check(item, {camera: decoder.track(clip) for camera, clip in item.clips.items()})


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_flagged_in_every_camera(name, decoder, tmp_path):
    for seed in (1, 2):
        spoilt = FAULTS[name][0](recording(seed), np.random.default_rng(seed))
        checked = inspect(write(spoilt, tmp_path, name), decoder)
        assert all(noticed(name, checked, ["top", "mirror"])), (seed, checked.flags)


def test_a_good_recording_raises_no_alarm(decoder, tmp_path):
    for seed in CLEAN_SEEDS:
        checked = inspect(write(recording(seed), tmp_path, "clean"), decoder)
        assert [flag for flag in checked.flags if flag.severity != NOTE] == []


def test_flags_tell_the_time_of_the_fault(decoder, tmp_path):
    good = recording(1)
    frames = {camera: images.copy() for camera, images in good.frames.items()}
    for images in frames.values():
        images[30:35] = 0
    checked = inspect(write(replace(good, frames=frames), tmp_path, "dark"), decoder)
    dark = [(flag.camera, flag.start_s, flag.stop_s) for flag in checked.flags if flag.code == "black"]
    assert sorted(dark) == [("mirror", pytest.approx(3.0), pytest.approx(3.5)), ("top", pytest.approx(3.0), 3.5)]


def boxes(*boxes: tuple[int, int, int], stands: tuple[int, int] = (0, 0), arm: float = 1.0) -> Recording:
    """Draw boxes, each from a frame on, so wide and so high, that go two pixels a frame until the next one sets off.

    The picture stands for some frames after one; the arm goes `arm` all the time.
    """
    frames, rows = np.full((60, 72, 96, 3), 120, np.uint8), np.arange(60)
    for number, frame in enumerate(frames):
        for row, ((start, wide, high), stop) in enumerate(
            zip(boxes, [*(box[0] for box in boxes[1:]), 60], strict=True)
        ):
            x, y = 5 + 2 * (min(max(number, start), stop) - start), 5 + 22 * row
            frame[y : y + high, x : x + wide] = (220, 60, 40)
    frames[stands[0] + 1 : stands[0] + 1 + stands[1]] = frames[stands[0]]
    joints = 0.5 + arm * np.stack([rows, -rows], axis=1) / 120
    state = replace(
        recording(1).state, time_s=rows / 10, joints=joints, gripper=np.ones((60, 1)), joint_high=np.ones(2)
    )
    return Recording({"top": frames}, rows, state, 10)


STANDS = {0: [], 1: ["duplicated"], 5: ["frozen"]}  # for so many frames


@pytest.mark.parametrize("stands", STANDS)
def test_a_picture_that_stands_is_told_by_what_moves_just_before_and_after(stands, decoder, tmp_path):
    slow_after_fast = boxes((0, 30, 20), (30, 6, 6), stands=(44, stands))
    assert still(slow_after_fast, decoder, tmp_path) == STANDS[stands]


@pytest.mark.parametrize("stands", STANDS)
def test_some_pixels_do_not_tell_that_a_picture_stands(stands, decoder, tmp_path):
    assert still(boxes((0, 30, 20), (4, 1, 2), (30, 1, 2), stands=(44, stands)), decoder, tmp_path) == []


def test_a_single_frame_that_repeats_while_all_moves_needs_no_witness(decoder, tmp_path):
    assert still(boxes((0, 30, 20), (30, 6, 6), stands=(14, 1), arm=0.05), decoder, tmp_path) == ["duplicated"]


def still(recording: Recording, decoder: Decoder, folder: Path) -> list[str]:
    """Return the codes of the flags that tell that a picture stands."""
    checked = inspect(write(recording, folder, "boxes"), decoder)
    return [flag.code for flag in checked.flags if flag.code in ("frozen", "duplicated")]


def test_an_arm_that_stands_for_most_of_the_time_may_set_off():
    rest, way = np.zeros((80, 2)), np.cumsum([0.1, 0.34, 0.3, 0.24, 0.2, 0.1])[:, None] * np.ones((1, 2)) / np.sqrt(2)
    joints = np.concatenate([way, way[-1] + 0.0005 * np.arange(80)[:, None] + rest])
    calm = replace(recording(1).state, time_s=np.arange(86) / 10, joints=joints, gripper=np.ones((86, 1)))
    calm = replace(calm, joint_low=np.zeros(2), joint_high=np.full(2, 2.0))
    assert list(_leaps(calm)) == []
    joints = joints.copy()
    joints[40] += 0.3
    assert [flag.start_s for flag in _leaps(replace(calm, joints=joints))] == [pytest.approx(3.9)]


@pytest.mark.parametrize(("peak_s", "height", "told"), [(0.3, 0.45, True), (0.8, 0.96, False), (0.3, 0.35, False)])
def test_a_lag_is_told_where_agreement_has_a_peak(peak_s, height, told):
    shifts_s = np.arange(-8, 9) / 10
    lag = Lag(peak_s, height, 0.2, shifts_s, height - np.abs(shifts_s - peak_s))
    assert bool(list(lag_flag("top", lag, 9.0))) == told


def test_an_episode_that_trembles_stands_out_among_others(decoder, tmp_path):
    rng = np.random.default_rng(0)
    recordings = [recording(seed) for seed in range(10)]
    states = [rec.state for rec in recordings]
    one = inspect(write(recordings[0], tmp_path, "one"), decoder)
    checked = [replace(one, figures=one.figures | {"jerk_p95": _jerk(state)}) for state in states]
    shaken = replace(one, figures=one.figures | {"jerk_p95": _jerk(tremble(recordings[0], rng).state)})
    own, _ = compare([*checked[:-1], shaken])
    assert [[flag.code for flag in flags] for flags in own] == [[]] * 9 + [["jerky"]]
    assert compare(checked[:3]) == ([[], [], []], [])  # too few to say what is usual


def _jerk(state: State) -> float:
    return float(np.percentile(np.linalg.norm(np.diff(state.joints, 3, axis=0), axis=1) * 1000, 95))
