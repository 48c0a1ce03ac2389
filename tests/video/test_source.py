"""Whatever people point at becomes items with cameras, times and, where it was recorded, the robot's state."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_writer import FEATURES, FPS, frame, record
from vla.data.recorder import EpisodeRecorder
from vla.data.writer import DatasetWriter
from vla.video.decode import ClipError, Facts, ImageClip, Limits
from vla.video.source import Item, find
from vla.video.state import StateReader

GOLDEN = Path(__file__).parents[1] / "data/golden"


def lengths(item: Item) -> dict[str, int]:
    """Frames of each camera."""
    return {camera: sum(1 for _ in clip.frames(Limits(), Facts())) for camera, clip in item.clips.items()}


@pytest.fixture
def folder(tmp_path):
    """Files of all kinds, two folders deep."""
    (tmp_path / "in/deep/.hidden").mkdir(parents=True)
    for name in ("in/b.mp4", "in/deep/a.MKV", "in/deep/.hidden/c.mp4", "in/notes.txt", "in/frame10.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "in"


@pytest.mark.parametrize("version", ["lerobot-0.4.4", "lerobot-0.6.1"])
def test_episodes_of_a_foreign_dataset_have_all_frames_of_all_cameras_and_their_rows(version):
    items = find(GOLDEN / version)
    assert [item.rows for item in items] == [5, 1, 8]
    assert [lengths(item) for item in items] == [{"front": n, "still": n} for n in (5, 1, 8)]
    assert items[2].name == "episode 2" and items[2].episode == 2 and items[2].task
    state = items[2].state
    assert state.joint_names == ("pan",) and state.gripper_names == ("gripper",)
    np.testing.assert_allclose(state.time_s, np.arange(8) / 10, atol=1e-6)
    assert len(state.joints) == 8 and state.finite


def test_a_recorded_run_gives_the_episodes_of_the_dataset_inside(tmp_path):
    shutil.copytree(GOLDEN / "lerobot-0.6.1", tmp_path / "run/recording")
    (tmp_path / "run/result.json").write_text("{}")
    assert [item.name for item in find(tmp_path / "run")] == [f"recording episode {number}" for number in range(3)]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("feature", [True, False])
def test_a_recording_says_itself_how_it_ended_by_table_or_by_its_last_row(tmp_path, finished, feature):
    features = FEATURES | ({"next.success": {"dtype": "bool", "shape": [1], "names": None}} if feature else {})
    writer = DatasetWriter(tmp_path / "run", FPS, features)
    for episode, success in enumerate((False, True)):
        with EpisodeRecorder(writer.root, episode, FPS, features, "h264") as recorder:
            for step in range(5):
                told = {"next.success": success and step == 4} if feature else {}
                recorder.add(frame(episode, step) | told, task="task")
            recorder.save(extra={} if feature else {"success": success})
    if finished:
        writer.close()
    assert [item.succeeded for item in find(tmp_path)] == [False, True]


def test_a_recording_that_does_not_say_how_it_ended_is_not_judged_by_it(tmp_path):
    record(DatasetWriter(tmp_path / "run", FPS, FEATURES), 0)
    assert [item.succeeded for item in find(tmp_path)] == [None]


def test_a_run_that_was_killed_gives_its_complete_episodes(tmp_path):
    writer = DatasetWriter(tmp_path / "run", FPS, FEATURES)
    record(writer, 0, length=6)
    record(writer, 1, length=7)
    items = find(tmp_path)
    assert [(item.name, item.rows, lengths(item)) for item in items] == [
        ("run episode 0", 6, {"front": 6}),
        ("run episode 1", 7, {"front": 7}),
    ]
    assert items[1].task == "task 1" and items[1].state.gripper[:, 0].tolist() == list(range(7))


def test_a_folder_gives_its_visible_videos_in_order(folder):
    assert [item.name for item in find(folder)] == ["b.mp4", "deep/a.MKV"]


def test_images_count_only_where_there_is_nothing_else_and_nine_comes_before_ten(tmp_path):
    for number in (10, 9, 1):
        Image.new("RGB", (8, 8)).save(tmp_path / f"frame{number}.png")
    (item,) = find(tmp_path, images_fps=2.0)
    clip = item.clips["images"]
    assert isinstance(clip, ImageClip) and clip.fps == 2.0
    assert [path.stem for path in clip.paths] == ["frame1", "frame9", "frame10"]
    assert lengths(find(tmp_path / "frame9.png")[0]) == {"images": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "does not exist: give a video, an image, a folder of them or a dataset"),
        ("notes.txt", r"is of a kind that is not read; possible are \.mp4"),
        ("deep/.hidden/none", "does not exist"),
    ],
)
def test_what_cannot_be_analysed_is_refused_with_what_can(folder, name, words):
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        find(folder / name)


def test_an_empty_folder_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"holds nothing to analyse \(it is empty\); possible are videos"):
        find(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"nothing to analyse \(notes.txt\)"):
        find(tmp_path)


def test_an_old_dataset_is_refused_and_a_missing_video_is_an_error_of_its_clip(tmp_path):
    shutil.copytree(GOLDEN / "lerobot-0.6.1", tmp_path / "copy")
    next((tmp_path / "copy").glob("videos/*/*/*.mp4")).unlink()
    with pytest.raises(ClipError, match=r"file-000\.mp4 is not a file"):
        lengths(find(tmp_path / "copy")[0])
    info = json.loads((tmp_path / "copy/meta/info.json").read_text())
    (tmp_path / "copy/meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"has format v2\.1; v3\.x is read"):
        find(tmp_path / "copy")


def feature(*names, shape=None):
    """A feature of float32 with these names."""
    return {"dtype": "float32", "shape": [shape or len(names)], "names": list(names) or None}


def test_names_tell_joints_from_grippers_efforts_and_velocities():
    features = {
        "observation.state": feature("left_waist.pos", "left_waist.vel", "left_gripper.pos", "waist_current"),
        "observation.effort": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "action": feature("x", "y", "z", "w"),
    }
    table = np.arange(20.0).reshape(5, 4)
    columns = {"observation.state": table, "observation.effort": table[:, :2], "action": table}
    state = StateReader(features, columns.__getitem__, fps=5.0).read(1, 3)
    assert state.joint_names == ("left_waist.pos",) and state.gripper_names == ("left_gripper.pos",)
    assert state.effort_names == ("waist_current", "a", "b") and state.effort.shape == (3, 3)
    assert state.time_s.tolist() == [0, 0.2, 0.4] and state.command is None
    assert state.joint_high[0] == 16.0  # over all rows


def test_without_names_all_columns_are_joints_and_steps_are_no_targets():
    features = {"observation.state": feature(shape=2), "action": feature(shape=2)}
    places = np.cumsum(np.ones((50, 2)), axis=0)
    near = {"observation.state": places, "action": places + 1.0}
    steps = {"observation.state": places, "action": np.ones((50, 2))}
    assert StateReader(features, near.__getitem__, 10.0).read(0, 50).command is not None
    state = StateReader(features, steps.__getitem__, 10.0).read(0, 50)
    assert state.command is None and state.joints.shape == (50, 2) and state.gripper.shape == (50, 0)


def test_a_dataset_without_a_state_has_none():
    assert StateReader({"action": feature("x")}, lambda key: np.zeros((3, 1)), 10.0).read(0, 3) is None
