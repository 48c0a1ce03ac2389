"""A live source is decoded by a limited child: what breaks it is said, and breaks nothing else."""

import json
from pathlib import Path

import pytest

from tests.video.bad_clips import BadClip
from tests.video.scenes import record
from tests.video.test_decode import counted, write
from vla.cli import run
from vla.video.decode import ClipError, Facts, Limits, VideoClip
from vla.video.live_child import ChildClip
from vla.video.stream import PacedClip

LIMITS = Limits(stall_s=1.0, memory_mb=300)


def test_frames_are_those_of_the_source(tmp_path):
    clip, facts = PacedClip(VideoClip(write(tmp_path / "a.mp4", counted(8)))), Facts()
    here, there = list(clip.frames(LIMITS, Facts())), list(ChildClip(clip).frames(LIMITS, facts))
    assert [frame.time_s for frame in there] == [frame.time_s for frame in here]
    assert all((one.image == other.image).all() for one, other in zip(here, there, strict=True))
    assert (facts.width, facts.height) == (64, 48)


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("hang", r"hang\.mp4: no new frame for 1 s: is it still on"),
        ("eat", r"eat\.mp4 needs more than 300 MB to decode: raise the limit memory_mb"),
        ("die", r"die\.mp4: the decoder broke \(SIGABRT\): the source is damaged"),
    ],
)
def test_what_breaks_the_child_is_said(deed, words):
    with pytest.raises(ClipError, match=words):
        list(ChildClip(BadClip(deed)).frames(LIMITS, Facts()))


def test_a_fault_of_ours_is_not_taken_for_a_bad_source():
    with pytest.raises(RuntimeError, match=r"(?s)decoding fail\.mp4 failed.*a fault of ours"):
        list(ChildClip(BadClip("fail")).frames(LIMITS, Facts()))


def test_the_command_decodes_nothing_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", record(1).frames[:20], fps=20)
    monkeypatch.setattr(VideoClip, "frames", None)
    assert run(["analyze", "path=a.mp4", "live=true", "vlm=none", "out=seen"]) == 0
    assert json.loads(Path("seen/result.json").read_text())["frames"] == 20
