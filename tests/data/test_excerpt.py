"""Parts of a dataset as a new one: what is kept is as it was, what is not is gone, and the source is untouched."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_annotate import digests
from tests.data.test_writer import FEATURES, FPS, frame, record
from vla.data import excerpt as module
from vla.data.dataset import EpisodeDataset
from vla.data.excerpt import excerpt
from vla.data.writer import DatasetWriter

GOLDEN = Path(__file__).parent / "golden"
KEEP = {0: (2, 7), 3: (0, 4), 4: (6, 7)}


@pytest.fixture
def root(tmp_path):
    """Five episodes of seven rows."""
    with DatasetWriter(tmp_path / "dataset", FPS, FEATURES, robot_type="so101", metadata={"world": "x"}) as writer:
        for episode in range(5):
            record(writer, episode, kind=f"kind {episode}")
    return tmp_path / "dataset"


def test_what_is_kept_is_as_it_was_and_the_source_stays(root, tmp_path):
    before = digests(root)
    source, found = EpisodeDataset(root), EpisodeDataset(excerpt(root, KEEP, tmp_path / "part"))
    assert digests(root) == before and not list(tmp_path.glob(".*"))
    rows = np.concatenate([np.arange(*span) + source.episodes[index].start for index, span in KEEP.items()])
    assert [episode.length for episode in found.episodes] == [5, 4, 1]
    assert [episode.extra["kind"] for episode in found.episodes] == ["kind 0", "kind 3", "kind 4"]
    for column in ("observation.state", "action", "done"):
        np.testing.assert_array_equal(found.column(column), source.column(column)[rows])
    for column in ("subtask", "task"):
        assert found.column(column) == [source.column(column)[row] for row in rows]
    pictures, was = found.frames("front", np.arange(len(found))), source.frames("front", rows)
    assert np.abs(pictures.astype(int) - was).mean() < 2  # encoded once more
    assert found.info["robot_type"] == "so101" and found.info["vla"]["world"] == "x"
    np.testing.assert_allclose(found.column("timestamp"), np.concatenate([np.arange(n) / FPS for n in (5, 4, 1)]))
    np.testing.assert_allclose(found.stats["action"]["mean"], source.column("action")[rows].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["lerobot-0.4.4", "lerobot-0.6.1"])
def test_other_programs_datasets_are_cut_too(name, tmp_path):
    source = EpisodeDataset(GOLDEN / name)
    found = EpisodeDataset(excerpt(GOLDEN / name, {2: (3, 8)}, tmp_path / "part"))
    rows = np.arange(source.episodes[2].start + 3, source.episodes[2].start + 8)
    np.testing.assert_array_equal(found.column("action"), source.column("action")[rows])
    for camera in source.cameras:
        was = source.frames(camera, rows).astype(int)
        assert np.abs(found.frames(camera, np.arange(len(rows))) - was).mean() < 6, camera


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({}, "asked for none"),
        ({7: (0, 1)}, r"episodes 0 to 4; asked for \[7\]"),
        ({1: (3, 3)}, "episode 1 has 7 rows; asked for 3 to 3"),
        ({1: (0, 8)}, "episode 1 has 7 rows; asked for 0 to 8"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_written(root, tmp_path, keep, words):
    with pytest.raises(ValueError, match=words):
        excerpt(root, keep, tmp_path / "part")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


def test_a_target_with_files_or_inside_the_source_is_refused(root, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ValueError, match="exists: name a folder that does not"):
        excerpt(root, KEEP, tmp_path / "full")
    with pytest.raises(ValueError, match="lies inside the dataset"):
        excerpt(root, KEEP, root / "part")


def test_a_kill_half_way_leaves_no_target_and_the_next_call_succeeds(root, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.os, "replace", killed)
        excerpt(root, KEEP, tmp_path / "part")
    assert not (tmp_path / "part").exists()
    assert len(EpisodeDataset(excerpt(root, KEEP, tmp_path / "part"))) == 10


LANGUAGE = FEATURES | {"vqa": {"dtype": "string", "shape": [1], "names": None}}


@pytest.fixture
def spoken(tmp_path):
    """A dataset with language columns, as our writer makes them."""
    with DatasetWriter(tmp_path / "spoken", FPS, LANGUAGE, language=True) as writer, writer.record() as recorder:
        for step in range(7):
            recorder.add(frame(0, step) | {"vqa": "[]"}, task="task")
        recorder.save()
    return tmp_path / "spoken"


def test_language_columns_that_we_made_are_made_anew(spoken, tmp_path):
    found = EpisodeDataset(excerpt(spoken, {0: (4, 7)}, tmp_path / "part"))
    subtasks = [row["content"] for row in found.column("language_persistent")[0] if row["style"] == "subtask"]
    assert subtasks == ["subtask 1", "subtask 2"]  # and not that of the rows that were left out


def test_language_columns_of_another_program_are_not_dropped_silently(spoken, tmp_path):
    path = spoken / "meta/info.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "vla"}))
    with pytest.raises(ValueError, match="language_persistent of another program, which cannot be written anew"):
        excerpt(spoken, {0: (4, 7)}, tmp_path / "part")
