"""What breaks the decoder breaks one clip: the child is limited, its end is explained, the next clip is served."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.video.bad_clips import BadClip
from tests.video.test_decode import counted, write
from vla.video.child import Decoder
from vla.video.decode import ClipError, Limits, VideoClip
from vla.video.track import watch


@pytest.fixture
def good(tmp_path) -> VideoClip:
    """A clip that can be read."""
    return VideoClip(write(tmp_path / "good.mp4", counted(8)))


def test_limits_on_time_and_memory_end_one_clip_and_not_the_next(good):
    deeds = {
        "hang": r"hang\.mp4: no new frame for 3 s, decoding was stopped.*raise the limit stall_s",
        "eat": r"eat\.mp4 needs more than 300 MB to decode: scale it.*raise the limit memory_mb",
        "die": r"die\.mp4: the decoder broke \(SIGABRT\).*convert it",
    }
    with Decoder(Limits(stall_s=3.0, memory_mb=300)) as decoder:
        for deed, words in deeds.items():
            with pytest.raises(ClipError, match=words):
                decoder.track(BadClip(deed))
        assert len(decoder.track(good)) == 8


def test_processor_time_is_limited_for_each_clip(good):
    with Decoder(Limits(cpu_s=1)) as decoder:
        with pytest.raises(ClipError, match=r"spin\.mp4: decoding took more than 1 s of processor time"):
            decoder.track(BadClip("spin"))
        assert len(decoder.track(good)) == 8


def test_a_fault_of_ours_is_not_taken_for_a_bad_file():
    with Decoder() as decoder, pytest.raises(RuntimeError, match=r"(?s)decoding fail\.mp4 failed.*a fault of ours"):
        decoder.track(BadClip("fail"))


def test_the_child_measures_what_the_parent_would(good, tmp_path):
    heard = []
    with Decoder() as decoder:
        there = decoder.track(good, progress=heard.append)
        picture = cv2.imdecode(np.frombuffer(there.thumbnail(3), np.uint8), cv2.IMREAD_COLOR)
        folder = there.thumbnails.parent
    here = watch(good, Limits(), tmp_path / "thumbnails", lambda time_s: None)
    for name in ("time_s", "difference", "changed", "dark", "bright", "contrast", "blur", "sample", "looks", "flow"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    assert heard == [0.0] and picture.shape == (48, 64, 3) and abs(picture[-8:].mean() - 30) < 4
    assert not folder.exists()


def test_thumbnails_stay_in_a_folder_of_ones_own(good, tmp_path):
    with Decoder(folder=tmp_path / "kept") as decoder:
        track = decoder.track(good)
    assert Path(track.thumbnails).parent == tmp_path / "kept" and len(track.thumbnail(0)) > 100
