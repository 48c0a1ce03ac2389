"""The writer: what is written is read back, the format is the published one, and no kill loses a complete episode."""

import json
import os
import signal
import subprocess
import sys
import time
from stat import S_ISDIR

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import schema
from vla.data.dataset import EpisodeDataset
from vla.data.recorder import EpisodeRecorder, staged_folder
from vla.data.writer import DatasetWriter

FPS = 10
FEATURES = {
    "observation.images.front": {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["pan", "gripper"]},
    "action": {"dtype": "float32", "shape": [2], "names": ["pan", "gripper"]},
    "subtask": {"dtype": "string", "shape": [1], "names": None},
    "done": {"dtype": "bool", "shape": [1], "names": None},
}


def frame(episode, step):
    """A frame whose content says where it belongs."""
    image = np.full((32, 48, 3), (episode * 40 + step * 5) % 250, np.uint8)
    image[:, :24] = 10 * episode
    vector = np.array([episode, step], np.float32)
    return {
        "observation.images.front": image,
        "observation.state": vector,
        "action": vector + 0.5,
        "subtask": f"subtask {step // 3}",
        "done": step > 3,
    }


def record(writer, episode, length=7, **extra):
    """Stage one episode."""
    with EpisodeRecorder(writer.root, episode, FPS, FEATURES, "h264") as recorder:
        for step in range(length):
            recorder.add(frame(episode, step), task=f"task {episode % 2}")
        recorder.save(extra={"kind": "pick", "attempts": 1} | extra)


@pytest.fixture
def root(tmp_path):
    """Five episodes in several shards."""
    with DatasetWriter(tmp_path / "dataset", FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
        for episode in range(5):
            record(writer, episode, length=5 + episode)
    return tmp_path / "dataset"


def test_what_is_written_is_read_back(root):
    dataset = EpisodeDataset(root)
    assert [episode.length for episode in dataset.episodes] == [5, 6, 7, 8, 9]
    assert dataset.column("observation.state")[5 + 3].tolist() == [1, 3]
    assert dataset.column("subtask")[4] == "subtask 1"
    assert dataset.column("task")[:6] == ["task 0"] * 5 + ["task 1"]
    assert dataset.column("done")[:5].tolist() == [False] * 4 + [True]
    assert dataset.episodes[2].extra == {"kind": "pick", "attempts": 1}
    order = [34, 0, 12, 12, 20]
    expected = [frame(4, 8), frame(0, 0), frame(2, 1), frame(2, 1), frame(3, 2)]
    images = dataset.frames("front", order).astype(int)
    truth = np.stack([one["observation.images.front"] for one in expected])
    assert np.abs(images - truth).mean() < 4


def test_size_limit_splits_files_and_episodes_never_span_them(root):
    videos = sorted(root.glob("videos/*/*/*.mp4"))
    assert len(videos) == len(sorted(root.glob("data/*/*.parquet"))) > 1
    groups = sum(pq.ParquetFile(path).num_row_groups for path in root.glob("data/*/*.parquet"))
    assert groups == 5


def test_index_columns_follow_the_format(root):
    dataset = EpisodeDataset(root)
    assert dataset.column("index").tolist() == list(range(35))
    assert dataset.column("frame_index")[5:11].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(dataset.column("timestamp"), (dataset.column("frame_index") / FPS).astype("float32"))
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 35, 2)
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "h264"


def test_statistics_are_exact_over_all_frames(root):
    stats = EpisodeDataset(root).stats
    steps = np.concatenate([np.arange(5 + episode) for episode in range(5)])
    assert stats["observation.state"]["q90"][1] == np.quantile(steps, 0.9)
    assert stats["observation.state"]["std"][1] == pytest.approx(steps.std())
    pixels = np.concatenate(
        [frame(e, s)["observation.images.front"].reshape(-1, 3) for e in range(5) for s in range(5 + e)]
    )
    assert stats["observation.images.front"]["mean"].ravel() == pytest.approx(pixels.mean(0) / 255)
    assert stats["observation.images.front"]["std"].ravel() == pytest.approx(pixels.std(0) / 255)
    assert stats["observation.images.front"]["q99"].ravel() == pytest.approx(np.quantile(pixels, 0.99, axis=0) / 255)


def test_the_order_in_which_episodes_complete_does_not_matter(root, tmp_path):
    with DatasetWriter(tmp_path / "other", FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
        for episode in (3, 0, 4, 1, 2):
            record(writer, episode, length=5 + episode)
    assert EpisodeDataset(tmp_path / "other").hash == EpisodeDataset(root).hash


def test_writing_goes_on_after_a_pause_and_keeps_the_statistics_exact(tmp_path):
    for part in (range(2), range(2, 4)):
        with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
            assert writer.saved() == set(range(part[0]))
            for episode in part:
                record(writer, episode)
    dataset = EpisodeDataset(tmp_path)
    assert len(dataset) == 28
    assert dataset.stats["observation.images.front"]["count"] == [28]


def test_an_episode_that_is_not_saved_leaves_nothing(tmp_path):
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        record(writer, 0)
        with writer.record() as recorder:
            recorder.add(frame(1, 0), task="task")
        assert writer.saved() == {0}
    assert len(EpisodeDataset(tmp_path)) == 7


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from test_writer import *
with DatasetWriter(sys.argv[1], FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
    while True:
        episode = len(writer.saved())
        record(writer, episode)
        print(episode + 1, flush=True)
        writer.join_staged()
"""


def test_kill_loses_at_most_the_episode_in_progress(tmp_path):
    random, acknowledged = np.random.default_rng(0), 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random.uniform(0, 0.12))
        os.kill(child.pid, signal.SIGKILL)
        lines = (first + child.communicate()[0]).split()
        acknowledged = max([acknowledged, *map(int, lines)])
        with DatasetWriter(tmp_path, FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
            assert len(writer.saved()) >= acknowledged
        dataset = EpisodeDataset(tmp_path)
        assert len(dataset.episodes) >= acknowledged
        assert dataset.column("index").tolist() == list(range(len(dataset)))
        last = dataset.frames("front", [len(dataset) - 1])[0].astype(int)
        truth = frame(len(dataset.episodes) - 1, 6)["observation.images.front"]
        assert np.abs(last - truth).mean() < 5
        assert not [*tmp_path.glob("**/*.tmp*"), *tmp_path.glob(f"{schema.STAGING}/.recording*")]
    assert acknowledged >= 4


def test_opening_removes_a_shard_that_was_not_committed(tmp_path):
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        record(writer, 0)
    writer = DatasetWriter(tmp_path, FPS, FEATURES)
    record(writer, 1)
    writer._write_shard([1])
    episodes = sorted(tmp_path.glob("meta/episodes/*/*.parquet"))
    episodes[-1].unlink()
    writer.__exit__(RuntimeError, None, None)
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        assert writer.saved() == {0}
        record(writer, 1)
    assert EpisodeDataset(tmp_path).column("index").tolist() == list(range(14))


@pytest.mark.parametrize("step", range(8))
def test_a_failure_at_any_step_of_joining_loses_nothing(tmp_path, monkeypatch, step):
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        record(writer, 0)
    write_whole, left = schema.write_whole, step
    writer = DatasetWriter(tmp_path, FPS, FEATURES)
    record(writer, 1)

    def fail_at_step(path, write):
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        left -= 1
        write_whole(path, write)

    monkeypatch.setattr(schema, "write_whole", fail_at_step)
    if step < 7:  # video, histograms, tasks, data, episodes, statistics, info
        with pytest.raises(OSError, match="Complete episodes are safe"):
            writer.close()
    else:
        writer.close()
    monkeypatch.setattr(schema, "write_whole", write_whole)
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        assert writer.saved() == {0, 1}
    dataset = EpisodeDataset(tmp_path)
    assert dataset.column("index").tolist() == list(range(14))
    assert dataset.stats["observation.images.front"]["count"] == [14]
    assert len(list(tmp_path.glob("videos/*/*/*"))) == len(list(tmp_path.glob("data/*/*"))) == 2


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done, replace = [], os.replace
    kinds = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda opened: done.append(kinds[S_ISDIR(os.fstat(opened).st_mode)]))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    schema.write_json(tmp_path / "meta/info.json", {"fps": 10})
    assert done == ["file", "rename", "folder"]


def test_staged_copy_of_a_joined_episode_is_dropped(root, tmp_path):
    with DatasetWriter(root, FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
        record(writer, 5)
        os.rename(staged_folder(root, 5), staged_folder(root, 4))
    with DatasetWriter(root, FPS, FEATURES, video_files_size_in_mb=0.004) as writer:
        assert writer.saved() == set(range(5))
    assert len(EpisodeDataset(root).episodes) == 5


def test_other_features_are_refused_by_name(root):
    changed = FEATURES | {"action": {"dtype": "float32", "shape": [3], "names": None}}
    with pytest.raises(ValueError, match=r"choose another folder.*feature action"):
        DatasetWriter(root, FPS, changed)


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files: choose an empty or new folder"):
        DatasetWriter(tmp_path, FPS, FEATURES)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{}")
    with pytest.raises(ValueError, match="another program's dataset"):
        DatasetWriter(tmp_path, FPS, FEATURES)


def test_two_writers_do_not_mix(tmp_path):
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        with pytest.raises(RuntimeError, match="being written by another process"):
            DatasetWriter(tmp_path, FPS, FEATURES)
        record(writer, 0)


def test_full_disk_says_what_to_do(tmp_path, monkeypatch):
    with DatasetWriter(tmp_path, FPS, FEATURES) as writer:
        record(writer, 0)
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(OSError, match="Complete episodes are safe: make room"):
            record(writer, 1)
    assert len(EpisodeDataset(tmp_path).episodes) == 1


def test_unwritable_place_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a folder that you may write to"):
        DatasetWriter(tmp_path / "file" / "dataset", FPS, FEATURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subtask": 3}, "subtask takes a string"),
        ({"action": [1.0]}, "action has 1 values, this dataset takes 2"),
        ({"action": [1.0, np.nan]}, "action holds a value that is not finite"),
        ({"observation.images.front": np.zeros((8, 8, 3), np.uint8)}, r"frame is uint8\[8, 8, 3\]"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
)
def test_a_wrong_frame_is_refused(tmp_path, change, message):
    with EpisodeRecorder(tmp_path, 0, FPS, FEATURES, "h264") as recorder, pytest.raises(ValueError, match=message):
        recorder.add(frame(0, 0) | change, task="task")


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"a/b": {"dtype": "float32", "shape": [1], "names": None}}, "holds '/'"),
        ({"index": {"dtype": "int64", "shape": [1], "names": None}}, "is not possible"),
        ({"x": {"dtype": "complex64", "shape": [1], "names": None}}, "possible are"),
        ({"x": {"dtype": "video", "shape": [3, 8, 8], "names": None}}, r"must be \[height, width, 3\]"),
        ({"x": {"dtype": "float32", "shape": [2, 2], "names": None}}, r"must be \[n\]"),
    ],
)
def test_impossible_features_are_refused(tmp_path, feature, message):
    with pytest.raises(ValueError, match=message):
        DatasetWriter(tmp_path, FPS, feature)
