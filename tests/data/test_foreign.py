"""Datasets of other programs: golden files written by lerobot (golden/write_golden.py) read as they were recorded."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data.dataset import EpisodeDataset
from vla.data.framecache import FrameCache

GOLDEN = Path(__file__).parent / "golden"
_spec = importlib.util.spec_from_file_location("write_golden", GOLDEN / "write_golden.py")
assert _spec is not None and _spec.loader is not None
recorded = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recorded)

NUMBERS = [(episode, step) for episode, length in enumerate(recorded.LENGTHS) for step in range(length)]


@pytest.fixture(params=["lerobot-0.4.4", "lerobot-0.6.1"])
def dataset(request):
    """One of the golden datasets: h264 in two files by 0.4.4, AV1 by 0.6.1."""
    return EpisodeDataset(GOLDEN / request.param)


def test_episodes_and_tasks_are_those_recorded(dataset):
    assert tuple(episode.length for episode in dataset.episodes) == recorded.LENGTHS
    assert [episode.tasks[0] for episode in dataset.episodes] == list(recorded.TASKS)
    assert dataset.column("task") == [recorded.TASKS[episode] for episode, _ in NUMBERS]
    assert dataset.fps == recorded.FPS


def test_columns_are_those_recorded(dataset):
    frames = [recorded.frame(*numbers) for numbers in NUMBERS]
    for key in ("observation.state", "action"):
        np.testing.assert_array_equal(dataset.column(key), [frame[key] for frame in frames])
    assert dataset.column("next.success").tolist() == [bool(frame["next.success"][0]) for frame in frames]
    assert dataset.column("subtask") == [frame["subtask"] for frame in frames]


def test_video_frames_are_those_recorded(dataset):
    order = np.random.default_rng(0).permutation(len(NUMBERS))
    images = dataset.frames("front", order).astype(int)
    truth = np.stack([recorded.frame(*NUMBERS[index])["observation.images.front"] for index in order])
    levels = np.abs(images[..., 2].mean((1, 2)) - truth[..., 2].mean((1, 2)))
    assert levels.max() < 4  # neighbours differ by 10
    assert np.abs(images - truth).mean() < 4


def test_embedded_images_are_exact(dataset):
    images = dataset.frames("still", [13, 0])
    truth = [recorded.frame(*NUMBERS[index])["observation.images.still"] for index in (13, 0)]
    np.testing.assert_array_equal(images, truth)


def test_windows_and_the_cache_take_foreign_datasets(dataset, tmp_path):
    window = dataset.window(3, horizon=4)
    assert window["action"][:, 0].tolist() == [3, 4, 4, 4]
    assert window["observation.images.still"].shape == (8, 8, 3)
    cache = FrameCache(dataset, cameras={"front": (64, 96), "still": (4, 4)}, folder=tmp_path, workers=1)
    np.testing.assert_array_equal(cache["front"], dataset.frames("front", range(len(NUMBERS))))
    assert cache["still"].shape == (14, 4, 4, 3)


def test_statistics_are_computed_again_and_not_believed(dataset):
    actions = np.stack([recorded.frame(*numbers)["action"] for numbers in NUMBERS]).astype(float)
    np.testing.assert_allclose(dataset.stats["action"]["q90"], np.quantile(actions, 0.9, axis=0))
    stills = np.stack([recorded.frame(*numbers)["observation.images.still"] for numbers in NUMBERS]) / 255
    np.testing.assert_allclose(dataset.image_stats("still")["std"].ravel(), stills.std((0, 1, 2)))


def test_lerobot_044_quantiles_are_wrong_which_is_why_they_are_computed_again():
    dataset = EpisodeDataset(GOLDEN / "lerobot-0.4.4")
    stored = json.loads((dataset.root / "meta/stats.json").read_text())["action"]["q90"]
    assert abs(stored[0] - dataset.stats["action"]["q90"][0]) > 0.5


@pytest.fixture
def copy(tmp_path):
    """A golden dataset to spoil."""
    shutil.copytree(GOLDEN / "lerobot-0.6.1", tmp_path / "copy")
    return tmp_path / "copy"


def test_index_of_tasks_may_have_the_name_of_044(copy):
    path = copy / "meta/tasks.parquet"
    table = pq.read_table(path)
    names = ["__index_level_0__" if name == "task" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), path)
    assert EpisodeDataset(copy).column("task")[5] == "push the cube"


def test_unknown_keys_of_info_and_columns_of_episodes_do_no_harm(copy):
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps(info | {"tools": [], "codebase_version": "v3.1"}))
    path = next(copy.glob("meta/episodes/*/*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.append_column("operator", pa.array(["ann", "bob", "ann"])), path)
    assert [episode.extra["operator"] for episode in EpisodeDataset(copy).episodes] == ["ann", "bob", "ann"]


def test_missing_files_are_named(copy):
    next(copy.glob("videos/*/*/*.mp4")).unlink()
    with pytest.raises(FileNotFoundError, match=r"file-000\.mp4 is named by the dataset but is not there"):
        EpisodeDataset(copy).frames("front", [0])


def test_missing_rows_are_noticed(copy):
    path = next(copy.glob("data/*/*.parquet"))
    pq.write_table(pq.read_table(path).slice(0, 9), path)
    with pytest.raises(ValueError, match="has 9 rows of data for 14 frames"):
        EpisodeDataset(copy).column("action")
