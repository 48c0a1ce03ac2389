"""Segments cover the video, the record is complete and says the same every time."""

import csv
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import record as scene
from tests.video.test_decode import write as encode
from tests.video.test_keyframes import event_lists
from vla.video import timeline
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.decode import VideoClip
from vla.video.fingerprint import fingerprint
from vla.video.segments import MEASURED, Segment, cut, merged
from vla.video.source import Item
from vla.video.words import NoWords, Story


@settings(max_examples=60, deadline=None)
@given(events=event_lists(), length=st.integers(1, 300))
def test_segments_cover_the_time_without_holes_and_end_at_events(events, length):
    time_s = np.arange(length) / 10
    segments = cut(events, time_s)
    assert segments[0].start_s == 0 and segments[-1].stop_s == time_s[-1]
    assert all(a.stop_s == b.start_s for a, b in pairwise(segments))
    for segment in segments[:-1]:
        assert segment.label and segment.why
        assert min(abs(event.time_s - segment.stop_s) for event in events) <= 0.4 + 1e-6


def test_neighbours_are_joined_only_where_a_model_says_that_they_are_one():
    labels = [("a", "m"), ("a", "m"), ("b", "m"), ("b", MEASURED), ("b", MEASURED), ("b", "m")]
    parts = [Segment(k, k + 1, label, source) for k, (label, source) in enumerate(labels)]
    joined = [(part.start_s, part.stop_s, part.label) for part in merged(parts)]
    assert joined == [(0, 2, "a"), (2, 3, "b"), (3, 4, "b"), (4, 5, "b"), (5, 6, "b")]


@pytest.fixture(scope="module")
def item(tmp_path_factory) -> Item:
    """A scene with its state."""
    recorded = scene(5)
    path = encode(tmp_path_factory.mktemp("item") / "scene.mp4", recorded.frames, fps=recorded.fps)
    return Item("a scene", path, {"top": VideoClip(path)}, task="carry discs", state=recorded.state)


def test_the_record_has_what_its_schema_says_and_reads_back(item, tmp_path):
    with Decoder() as decoder:
        analysis = analyse(item, decoder, NoWords())
        record = timeline.document(analysis, fingerprint="f", settings={"words": "none"})
        timeline.write(tmp_path, record, analysis)
    keys = ["schema", "fingerprint", "settings", "source", "keyframes", "segments", "events", "outcome", "answers"]
    keys += ["routing", "things", "texts", "qa", "figures", "lags"]
    assert list(record) == keys and timeline.read(tmp_path) == record
    assert all(f"    {key} " in timeline.__doc__ for key in keys)
    assert (tmp_path / record["keyframes"][0]["picture"]).read_bytes()[:3] == b"\xff\xd8\xff"
    back = timeline.checked(record)
    assert back.flags == analysis.checked.flags and back.figures.keys() == analysis.checked.figures.keys()
    with (tmp_path / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["stop_s"]) for row in rows] == [segment["stop_s"] for segment in record["segments"]]


def test_formulas_in_labels_do_not_reach_a_spreadsheet(item, tmp_path):
    class Hostile(NoWords):
        identity = "hostile"

        def name(self, story: Story) -> list[Segment]:
            return [Segment(0.0, 1.0, "=cmd|' /C calc'!A0", self.identity)]

    with Decoder() as decoder:
        analysis = analyse(item, decoder, Hostile())
        record = timeline.document(analysis, fingerprint="f", settings={})
        timeline.write(tmp_path, record, analysis)
    assert "\n0.0,1.0,'=cmd" in (tmp_path / "segments.csv").read_text()
    assert record["segments"][0]["label"].startswith("=cmd")


def test_a_camera_that_cannot_be_read_is_flagged_and_the_other_one_serves(item, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    clips = {"broken": VideoClip(tmp_path / "broken.mp4"), **item.clips}
    with Decoder() as decoder:
        analysis = analyse(Item("two", item.path, clips), decoder, NoWords())
        assert list(analysis.tracks) == ["top"] and analysis.checked.flags[0].code == "unreadable"
        with pytest.raises(ValueError, match=r"has no camera of \['left'\]; possible: broken, top"):
            analyse(Item("two", item.path, clips), decoder, NoWords(), cameras=["left"])


def test_the_fingerprint_follows_content_and_settings_and_not_the_place(item, tmp_path):
    (tmp_path / "copy.mp4").write_bytes(item.path.read_bytes())
    copy = Item("another", tmp_path, {"top": VideoClip(tmp_path / "copy.mp4")}, task=item.task)
    assert fingerprint(copy, {"a": 1}) == fingerprint(item, {"a": 1}) != fingerprint(item, {"a": 2})
    (tmp_path / "copy.mp4").write_bytes(item.path.read_bytes() + b"x")
    assert fingerprint(copy, {"a": 1}) != fingerprint(item, {"a": 1})
