"""Moments are found by words and by meaning, one hit a moment, whatever the query says."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.chat_server import serving
from vla.cli import run
from vla.video.chat import EndpointError
from vla.video.embed import EndpointEmbedder
from vla.video.index import NAME, build, search

MEANINGS = {"cup": 0, "mug": 0, "drawer": 1, "cupboard": 1, "button": 2}


def meaning(text: str) -> list[float]:
    """A vector that knows that a mug is a cup."""
    vector = [0.0, 0.0, 0.0, 0.1]
    for word in text.lower().replace(".", " ").split():
        if word in MEANINGS:
            vector[MEANINGS[word]] += 1.0
    return vector


def record_of(name: str, *parts: tuple[float, float, str, str]) -> dict:
    """A record with segments (start, stop, label, why)."""
    return {
        "source": {"name": name, "task": "tidy up"},
        "segments": [{"start_s": a, "stop_s": b, "label": label, "why": [why]} for a, b, label, why in parts],
        "qa": [{"code": "cut_off", "words": "the file ends early", "start_s": 5.0, "stop_s": 9.0}],
        "outcome": {"label": "none", "words": "nothing", "moment_s": None, "suspects": []},
        "keyframes": [{"time_s": t, "picture": f"keyframes/{t}.jpg"} for t in (0.0, 2.0, 4.0)],
    }


RECORDS = [
    (
        "items/a",
        record_of(
            "a",
            (0, 2, "pick up the cup", "gripper closes"),
            (2.5, 4, "open the drawer", "the arm stops"),
            (4, 6, "rest", "sets off"),
        ),
    ),
    (
        "items/b",
        record_of("b", (0, 3, "miss the cup", "gripper closes fully"), (3, 3.5, "miss the cup again", "stalls")),
    ),
]


@pytest.fixture
def index(tmp_path) -> Path:
    """An index without vectors."""
    build(tmp_path, RECORDS, None)
    return tmp_path


def test_words_find_moments_by_their_stems_and_labels_weigh_most(index):
    hits = search(index, "gripper misses the cup", 10)
    assert {(hit.item, hit.label) for hit in hits[:2]} == {("b", "miss the cup"), ("b", "miss the cup again")}
    (first, *_) = search(index, "opening drawers", 10)
    assert (first.item, first.start_s, first.stop_s, first.picture) == ("a", 2.5, 4.0, "keyframes/4.0.jpg")
    assert first.ranks == {"text": 1} and [hit.kind for hit in search(index, "early", 10)] == ["flag", "flag"]
    assert search(index, "elephant", 10) == [] and len(search(index, "cup", 1)) == 1


def test_hits_are_different_moments(tmp_path):
    close = record_of("c", *((k * 0.3, k * 0.3 + 0.3, "shake the cup", "turns") for k in range(10)))
    build(tmp_path, [("items/c", close)], None)
    starts = sorted(hit.start_s for hit in search(tmp_path, "cup", 10))
    assert len(starts) >= 2 and (np.diff(starts) >= 1.0).all()


GRAMMAR = ['"', "cup AND", "NEAR(", "label:cup", "cup*", "'; DROP TABLE words"]


@settings(deadline=None, max_examples=60)
@given(query=st.text(max_size=30) | st.sampled_from(GRAMMAR))
def test_no_query_breaks_the_index(tmp_path_factory, query):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        folder.mkdir()
        build(folder, RECORDS, None)
    try:
        assert all(hit.score > 0 for hit in search(folder, query, 5))
    except ValueError as error:
        assert "asks for nothing" in str(error)


def test_meaning_finds_what_words_do_not_and_both_together_win(tmp_path):
    with serving(meaning) as server:
        embedder = EndpointEmbedder(server.url, "little", key_variable="NONE", timeout_s=30.0)
        build(tmp_path, RECORDS, embedder)
        assert search(tmp_path, "mug", 3) == []
        found = search(tmp_path, "mug", 3, embedder)
        assert {hit.label for hit in found} >= {"pick up the cup", "miss the cup"}
        assert all(set(hit.ranks) == {"meaning"} for hit in found)
        best = search(tmp_path, "pick cup", 3, embedder)[0]
        assert best.label == "pick up the cup" and set(best.ranks) == {"text", "meaning"}
        asked = len(server.asked)
        build(tmp_path, RECORDS, embedder)
        assert len(server.asked) == asked  # vectors are taken from the older index
        other = EndpointEmbedder(server.url, "large", key_variable="NONE", timeout_s=30.0)
        with pytest.raises(
            ValueError, match=r"the embedding model 'little, at http[^']+', the query would be with 'large"
        ):
            search(tmp_path, "mug", 3, other)
    with (
        serving(500, 500) as server,
        pytest.raises(EndpointError, match="gave no vectors, twice"),
    ):
        EndpointEmbedder(server.url, "little", key_variable="NONE", timeout_s=30.0).embed(["x"])


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no index\.sqlite: give the folder that vla analyze wrote"):
        search(tmp_path, "cup", 3)
    (tmp_path / NAME).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ValueError, match=r"has schema None, vla\.index/2 is read"):
        search(tmp_path, "cup", 3)


def test_an_index_is_the_same_bytes_every_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build(tmp_path / name, RECORDS, None)
    assert (tmp_path / "one" / NAME).read_bytes() == (tmp_path / "two" / NAME).read_bytes()
    assert sqlite3.connect(tmp_path / "one" / NAME).execute("SELECT count(*) FROM moments").fetchone() == (7,)


def test_the_command_line_searches(index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["search", f"index={index}", "query=miss, the cup!", "top=2", "out=found"]) == 0
    assert "b: miss the cup" in capsys.readouterr().out
    result = json.loads(Path("found/result.json").read_text())
    assert {hit["label"] for hit in result["hits"]} == {"miss the cup", "miss the cup again"}
