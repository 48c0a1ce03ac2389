"""A clean copy of a dataset: broken episodes are gone, idle ends are cut, the rest is as it was."""

from pathlib import Path

import numpy as np
import pytest

from tests.video.scenes import HEIGHT, WIDTH, record
from tests.video.test_analyze import go
from vla.data.dataset import EpisodeDataset
from vla.data.writer import DatasetWriter
from vla.video.analyze import check_clean

FPS, IDLE = 10, 60
NAMES = ["rail_x", "rail_y", "gripper"]
FEATURES = {
    "observation.images.top": {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [3], "names": NAMES},
    "action": {"dtype": "float32", "shape": [3], "names": NAMES},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Three episodes: one stands for six seconds before it begins, one is black for two seconds, one is fine."""
    root = tmp_path_factory.mktemp("clean") / "dataset"
    with DatasetWriter(root, FPS, FEATURES) as writer:
        for number in range(3):
            scene = record(number, FPS)
            frames, state = scene.frames.copy(), np.hstack([scene.state.joints, scene.state.gripper])
            if number == 0:
                noise = np.random.default_rng(0).integers(
                    0, 4, (IDLE, *frames.shape[1:])
                )  # a camera's, else it is frozen
                still = np.clip(frames[:1].astype(int) + noise, 0, 255).astype(np.uint8)
                frames, state = np.concatenate([still, frames]), np.concatenate([np.repeat(state[:1], IDLE, 0), state])
            if number == 1:
                frames[20:40] = 0
            with writer.record() as recorder:
                for image, row in zip(frames, state, strict=True):
                    recorder.add(
                        {"observation.images.top": image, "observation.state": row, "action": row},
                        task=f"carry {number}",
                    )
                recorder.save()
    return root


def test_broken_episodes_are_left_out_and_idle_ends_cut(dataset, tmp_path):
    result = go(dataset, tmp_path / "out", clean=tmp_path / "clean")
    source, found = EpisodeDataset(dataset), EpisodeDataset(result["clean"])
    assert "black" in result["items"][1]["qa"]["error"] and "idle_start" in result["items"][0]["qa"]["note"]
    assert [episode.tasks[0] for episode in found.episodes] == ["carry 0", "carry 2"]
    cut = source.episodes[0].length - found.episodes[0].length
    assert IDLE - 10 <= cut <= IDLE + 2
    first = found.column("observation.state")[: found.episodes[0].length]
    np.testing.assert_array_equal(first, source.column("observation.state")[cut : source.episodes[0].length])
    again = go(tmp_path / "clean", tmp_path / "again")
    assert not any(item["qa"]["error"] for item in again["items"])
    assert "idle_start" not in again["items"][0]["qa"]["note"]


def test_only_what_was_analysed_is_copied(dataset, tmp_path):
    result = go(dataset, tmp_path / "out", clean=tmp_path / "clean", episodes=[1, 2])
    assert [episode.tasks[0] for episode in EpisodeDataset(result["clean"]).episodes] == ["carry 2"]


def test_where_there_is_no_dataset_or_no_room_it_is_said_before_anything_is_analysed(dataset, tmp_path):
    with pytest.raises(ValueError, match="is no LeRobot v3 dataset"):
        check_clean(tmp_path, tmp_path / "clean")
    with pytest.raises(ValueError, match="lies inside the dataset"):
        check_clean(dataset, dataset / "clean")


def test_where_every_episode_is_broken_the_analysis_stands_and_nothing_is_copied(dataset, tmp_path, caplog):
    result = go(dataset, tmp_path / "out", clean=tmp_path / "clean", episodes=[1])
    assert result["clean"] is None and not (tmp_path / "clean").exists()
    assert len(result["items"]) == 1 and "there is nothing to copy" in caplog.text
