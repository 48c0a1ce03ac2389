"""What is kept does not grow with the length of a video, the number of things in it or the number of videos."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.video.scenes import record as scene
from tests.video.test_analyze import go
from tests.video.test_decode import write as encode
from tests.video.test_search import record_of
from vla.video import objects, overview, timeline
from vla.video.analysis import Analysis, analyse
from vla.video.child import Decoder
from vla.video.decode import VideoClip
from vla.video.index import build
from vla.video.objects import LOST_S, Follower, Sighting, Thing
from vla.video.quality import check
from vla.video.source import Item
from vla.video.words import NoWords

COLOURFUL = 20  # things in sight


def follow(samples: int) -> Follower:
    """Follow a crowd for so many samples, ten a second; every thing creeps on."""
    follower = Follower()
    for number in range(samples):
        seen = [
            Sighting(f"kind {k}", 0.1 + number / 1e5, k / COLOURFUL, 0.02, 0.02, 4e-4, 0.9) for k in range(COLOURFUL)
        ]
        follower.update(number / 10, seen, keep=True)
    return follower


def traced(work: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that are kept of what some work returns, and those that it held at most."""
    tracemalloc.start()
    kept = work()
    sizes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept is not False
    return sizes


def test_a_place_of_a_thing_costs_the_bytes_of_its_numbers():
    short, long = (traced(lambda samples=samples: follow(samples))[0] for samples in (400, 800))
    assert (long - short) / (400 * COLOURFUL) < 45  # 32 with the measures of its shape, and room to grow


def test_of_too_many_places_every_second_one_is_kept_and_it_is_said(monkeypatch):
    monkeypatch.setattr(objects, "MOST_PLACES", 1000)
    for samples in (300, 900):
        follower = follow(samples)
        things = follower.things()
        assert len(things) == COLOURFUL and sum(len(thing.time_s) for thing in things) <= 1000 + COLOURFUL
        assert f"every {follower._every}th sample" in follower.left_out
        for thing in things:
            assert thing.time_s[0] == 0 and samples / 10 - thing.time_s[-1] <= 2 * follower._every / 10
            np.testing.assert_allclose(np.diff(thing.time_s), follower._every / 10)
    assert not follow(20).left_out


def test_of_too_many_things_those_of_the_longest_time_are_kept_and_it_is_said(monkeypatch):
    monkeypatch.setattr(objects, "MOST_THINGS", 5)
    follower = Follower()
    for number in range(800):  # the mug goes after a minute, and a cup comes and goes every two seconds
        seen = [Sighting("mug", 0.2, 0.2, 0.05, 0.05, 2e-3)] * (number < 600)
        seen += [Sighting("cup", 0.8, 0.8, 0.05, 0.05, 2e-3)] * (number % 20 < 6)
        follower.update(number / 10, seen, keep=True)
    follower.update(80.0 + 2 * LOST_S, [], keep=True)
    names = [thing.name for thing in follower.things()]
    assert len(names) <= 2 * 5 and names.count("mug") == 1
    assert "things that were in sight for a short time are not told" in follower.left_out


@pytest.fixture(scope="module")
def analysis(tmp_path_factory) -> Analysis:
    """A short scene."""
    folder = tmp_path_factory.mktemp("scene")
    clip = VideoClip(encode(folder / "a.mp4", scene(1, discs=1).frames))
    with Decoder(folder=folder) as decoder:
        return analyse(Item("a", clip.path, {"top": clip}), decoder, NoWords(), budget=2)


def test_what_is_left_out_of_the_things_is_a_note_of_the_quality_check(analysis):
    crowded = replace(analysis.tracks["top"], left_out="most of it")
    (flag,) = [flag for flag in check(analysis.item, {"top": crowded}).flags if flag.code == "crowded"]
    assert (flag.words, flag.severity, flag.camera) == ("most of it", "note", "top")


def test_tables_are_written_in_the_same_memory_whatever_their_length(analysis, tmp_path):
    peaks = []
    for rows in (500, 5000):
        thing = Thing(0, "red box", np.arange(rows) / 10, np.zeros((rows, 4), np.float32))
        long = replace(analysis, tracks={"top": replace(analysis.tracks["top"], things=(thing,))})
        record = timeline.document(long, fingerprint="f", settings={})
        peaks.append(traced(lambda record=record, long=long: timeline.write(tmp_path, record, long))[1])
        with (tmp_path / "things.csv").open(encoding="utf-8") as file:
            assert sum(1 for _ in file) == rows + 1
    assert peaks[1] - peaks[0] < 100_000


def test_what_is_kept_of_a_record_is_as_small_whatever_its_length(analysis):
    record = timeline.document(analysis, fingerprint="f", settings={})
    long = dict(record)
    for part in ("keyframes", "segments", "events", "things", "texts"):
        long[part] = record[part] * 50
    long["outcome"] = record["outcome"] | {"suspects": [{"time_s": 1.0}] * 50}
    assert len(json.dumps(timeline.brief(long))) < len(json.dumps(timeline.brief(record))) + 100
    assert timeline.checked(timeline.brief(record)).flags == timeline.checked(record).flags


def test_of_many_items_only_what_the_overview_tells_is_kept(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        encode(tmp_path / f"in/{name}.mp4", scene(1, discs=1, rest_s=0.5).frames)
    seen, render = [], overview.render
    monkeypatch.setattr(overview, "render", lambda title, rows, *more: seen.extend(rows) or render(title, rows, *more))
    go(tmp_path / "in", tmp_path / "out")
    assert len(seen) == 2 and all(not {"events", "things"} & row["record"].keys() for row in seen)


class Many:
    """Records that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[str, dict]]:
        """Make the next one."""
        for number in range(self.count):
            parts = [(k, k + 1, f"move {number} {k}", "it stops, for a while, as it seems") for k in range(20)]
            yield f"items/{number}", record_of(f"item {number}", *parts)


def test_an_index_of_more_items_is_made_in_the_same_memory(tmp_path: Path):
    build(tmp_path, Many(1), None)
    few, many = (traced(lambda count=count: build(tmp_path, Many(count), None))[1] for count in (100, 400))
    assert many - few < 100_000
