"""Texts reach every frame of a copy, or of the dataset itself; nothing else changes, and a kill loses nothing."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import annotate as module
from vla.data.annotate import JOURNAL, annotate
from vla.data.dataset import EpisodeDataset

GOLDEN = Path(__file__).parents[1] / "data/golden/lerobot-0.6.1"


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset that another program wrote."""
    shutil.copytree(GOLDEN, tmp_path / "dataset")
    return tmp_path / "dataset"


def texts_for(root: Path) -> dict[int, list[str]]:
    """Name every frame by its episode and number, but those of episode 1."""
    episodes = EpisodeDataset(root).episodes
    return {e.index: [f"{e.index} at {k}" for k in range(e.length)] for e in episodes if e.index != 1}


def digests(root: Path) -> dict[str, str]:
    """Hash every file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_has_texts(root: Path, texts: dict[int, list[str]], feature: str = "label") -> None:
    """Compare what a fresh reader reads."""
    data = EpisodeDataset(root)
    column = data.column(feature)
    for episode in data.episodes:
        here = column[episode.start : episode.start + episode.length]
        assert here == texts.get(episode.index, [""] * episode.length)


def test_a_copy_has_the_texts_and_the_source_stays_as_it_was(dataset, tmp_path):
    before, texts = digests(dataset), texts_for(dataset)
    copy = annotate(dataset, "label", texts, tmp_path / "copy")
    assert digests(dataset) == before and not list(tmp_path.glob(".*"))
    assert_has_texts(copy, texts)
    after = digests(copy)
    changed = {name for name in before if after[name] != before[name]}
    assert after.keys() == before.keys() and all(
        name.startswith("data/") or name == "meta/info.json" for name in changed
    )
    ours, theirs = EpisodeDataset(copy), EpisodeDataset(dataset)
    np.testing.assert_array_equal(ours.column("action"), theirs.column("action"))
    for path in copy.glob("data/*/*.parquet"):
        described = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
        assert described["label"] == {"dtype": "string", "_type": "Value"}


def test_the_dataset_itself_is_changed_where_asked(dataset):
    texts = texts_for(dataset)
    before = digests(dataset)
    assert annotate(dataset, "label", texts, None) == dataset
    assert_has_texts(dataset, texts)
    assert digests(dataset).keys() == before.keys()


def test_a_kill_at_any_step_leaves_a_readable_dataset_and_the_next_call_completes_it(dataset, monkeypatch):
    texts, real = texts_for(dataset), module.os.replace
    action = EpisodeDataset(dataset).column("action")
    for survived in range(20):
        calls = iter(range(survived))

        def dies(*paths, calls=calls):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            real(*paths)

        monkeypatch.setattr(module.os, "replace", dies)
        try:
            annotate(dataset, f"text{survived}", texts, None)
        except KeyboardInterrupt:
            monkeypatch.setattr(module.os, "replace", real)
            np.testing.assert_array_equal(EpisodeDataset(dataset).column("action"), action)
            begun = (dataset / JOURNAL).exists()
            annotate(dataset, "after", texts, None)
            assert begun == (f"text{survived}" in EpisodeDataset(dataset).features)
            if begun:
                assert_has_texts(dataset, texts, f"text{survived}")
            assert_has_texts(dataset, texts, "after")
            assert not [path for path in dataset.rglob(".*") if path.is_file()]
            shutil.rmtree(dataset)
            shutil.copytree(GOLDEN, dataset)
        else:
            return
    pytest.fail("it never came to an end")


def test_what_cannot_be_done_is_refused_and_nothing_changes(dataset, tmp_path):
    before, texts = digests(dataset), texts_for(dataset)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for feature, target, words in (
        ("action", tmp_path / "copy", "has a feature 'action' already: choose another name"),
        ("label", tmp_path / "full", "exists: name a folder that does not"),
        ("label", dataset / "inside", "lies inside the dataset"),
        ("a/b", None, "feature name 'a/b' is not possible"),
    ):
        with pytest.raises(ValueError, match=words):
            annotate(dataset, feature, texts, target)
    with pytest.raises(ValueError, match=r"episode 0 has \d+ frames and 1 texts"):
        annotate(dataset, "label", {0: ["one"]}, None)
    assert digests(dataset) == before
