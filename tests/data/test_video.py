"""Video files: small coloured things keep their colour, joined files keep their frames, any frame is found."""

from pathlib import Path

import numpy as np
import pytest

from vla.data.video import CODECS, VideoEncoder, VideoReader, describe, header, join


def encode(path: Path, frames: np.ndarray, codec: str = "h264") -> Path:
    """Write uint8[N, H, W, 3]."""
    encoder = VideoEncoder(path, 10, *frames.shape[1:3], codec=codec)
    for frame in frames:
        encoder.add(frame)
    encoder.close()
    return path


def counted(start: int, length: int) -> np.ndarray:
    """Grey frames whose level is their number times ten."""
    levels = np.arange(start, start + length, dtype=np.uint8) * 10
    return np.broadcast_to(levels[:, None, None, None], (length, 64, 64, 3)).copy()


def levels(images: np.ndarray) -> list[int]:
    """Numbers of frames made by `counted`."""
    return np.round(images.mean((1, 2, 3)) / 10).astype(int).tolist()


def test_full_resolution_keeps_the_colour_of_small_objects(tmp_path):
    scene = np.full((4, 64, 64, 3), 170, np.uint8)
    scene[:, 21:26, 31:36] = (220, 30, 30)
    error = {}
    for codec in ("h264", "h264_444"):
        reader = VideoReader(encode(tmp_path / f"{codec}.mp4", scene, codec))
        images = reader.frames_at(np.arange(4) / 10, tolerance_s=0.01).astype(float)
        error[codec] = np.abs(images - scene)[:, 21:26, 31:36].mean()
    assert error["h264_444"] < 12
    assert error["h264_444"] < error["h264"] / 2


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_joined_files_hold_all_frames_in_order(tmp_path, codec):
    lengths = (5, 1, 8)
    starts = np.cumsum([0, *lengths[:-1]])
    paths = [
        encode(tmp_path / f"{start}.mp4", counted(start, length), codec)
        for start, length in zip(starts, lengths, strict=True)
    ]
    assert len({header(path) for path in paths}) == 1
    join(paths, lengths, tmp_path / "all.mp4", fps=10)
    reader = VideoReader(tmp_path / "all.mp4")
    assert levels(reader.frames_at(np.arange(14) / 10, tolerance_s=0.001)) == list(range(14))
    assert levels(reader.frames_at(np.array([0.3, 0.9, 1.3]), tolerance_s=0.001)) == [3, 9, 13]


def test_far_apart_frames_are_found(tmp_path):
    frames = np.concatenate([counted(0, 24), counted(0, 24)])
    reader = VideoReader(encode(tmp_path / "long.mp4", frames))
    assert levels(reader.frames_at(np.array([0.1, 2.2, 4.7]), tolerance_s=0.001)) == [1, 22, 23]


def test_a_time_between_frames_is_an_error(tmp_path):
    reader = VideoReader(encode(tmp_path / "short.mp4", counted(0, 3)))
    with pytest.raises(ValueError, match=r"no frame at 0\.1500 s"):
        reader.frames_at(np.array([0.15]), tolerance_s=0.01)
    with pytest.raises(ValueError, match=r"the nearest is at 0\.2000 s"):
        reader.frames_at(np.array([0.9]), tolerance_s=0.01)


def test_joining_a_wrong_length_or_encoding_is_refused(tmp_path):
    first, second = encode(tmp_path / "a.mp4", counted(0, 3)), encode(tmp_path / "b.mp4", counted(0, 3), "h264_444")
    with pytest.raises(ValueError, match="holds 3 frames, its episode has 4"):
        join([first], [4], tmp_path / "all.mp4", fps=10)
    with pytest.raises(ValueError, match="other settings"):
        join([first, second], [3, 3], tmp_path / "all.mp4", fps=10)


def test_what_cannot_be_encoded_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'mpeg' is unknown; choose one of"):
        VideoEncoder(tmp_path / "x.mp4", 10, 64, 64, codec="mpeg")
    with pytest.raises(ValueError, match="both sides must be even"):
        VideoEncoder(tmp_path / "x.mp4", 10, 63, 64)


def test_description_names_codec_and_pixels(tmp_path):
    info = describe(encode(tmp_path / "x.mp4", counted(0, 3), "h264_444"), fps=10)
    assert (info["video.codec"], info["video.pix_fmt"], info["video.fps"]) == ("h264", "yuv444p", 10)
