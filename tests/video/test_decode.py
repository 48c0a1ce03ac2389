"""Clips of every kind give upright frames with true times, or one line that says what is wrong and what to do."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from vla.data.dataset import EpisodeDataset
from vla.data.video import VideoEncoder
from vla.video.decode import SIDE, ClipError, Facts, ImageClip, Limits, TableClip, VideoClip, small

GOLDEN = Path(__file__).parents[1] / "data/golden"


def write(path: Path, images, pts=None, fps=10, turn=0, gop=2) -> Path:
    """Encode uint8[N, H, W, 3] frames at times `pts` [frame periods]."""
    images = list(images)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(gop), "preset": "ultrafast", "bf": "0"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        if turn:
            stream.set_display_rotation(turn)
        for time, image in zip(pts if pts is not None else range(len(images)), images, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def counted(length: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Grey frames whose level is their number times ten, with a red corner at the top left."""
    images = np.broadcast_to((np.arange(length) * 10)[:, None, None, None], (length, height, width, 3))
    images = images.astype(np.uint8)
    images[:, : height // 3, : width // 3] = (255, 0, 0)
    return images


def read(clip, **limits):
    """Return times, images and facts of a clip."""
    facts = Facts()
    frames = list(clip.frames(Limits(**limits), facts))
    return [frame.time_s for frame in frames], [frame.image for frame in frames], facts


def numbers(images) -> list[int]:
    """Numbers of frames made by `counted`."""
    return [round(float(image[-image.shape[0] // 3 :].mean()) / 10) for image in images]


def test_times_come_from_the_file_and_not_from_frame_numbers(tmp_path):
    times, images, facts = read(VideoClip(write(tmp_path / "vfr.mp4", counted(6), pts=[0, 1, 2, 7, 8, 20])))
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.7, 0.8, 2.0], atol=1e-6)
    assert numbers(images) == list(range(6))
    assert (facts.codec, facts.width, facts.height, facts.cut_off) == ("h264", 64, 48, False)


def test_a_part_of_a_file_is_read_alone_and_counted_from_its_own_zero(tmp_path):
    path = write(tmp_path / "joined.mp4", counted(20), gop=20)
    times, images, _ = read(VideoClip(path, start_s=0.65, stop_s=1.15, zero_s=0.7))
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    assert numbers(images) == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_rotation_stored_in_the_file_is_honoured(tmp_path, turn, corner):
    _, images, facts = read(VideoClip(write(tmp_path / "turned.mp4", counted(2), turn=turn)))
    height, width = images[0].shape[:2]
    assert (height, width) == ((64, 48) if turn % 180 else (48, 64))
    assert (facts.height, facts.width, facts.rotation_deg) == (height, width, turn % 360)
    red = images[0][4 if corner[0] == 0 else -4, 4 if corner[1] == 0 else -4].astype(int)
    assert red[0] > 200 and red[1:].max() < 60


@pytest.mark.parametrize(("height", "width"), [(33, 47), (1, 301), (2160, 3840)])
def test_odd_and_large_sizes_are_scaled_and_never_enlarged(tmp_path, height, width):
    _, images, facts = read(VideoClip(write(tmp_path / "size.mkv", np.full((2, height, width, 3), 90, np.uint8))))
    assert images[0].shape[:2][::-1] == small(width, height)
    assert max(images[0].shape) <= SIDE and (facts.height, facts.width) == (height, width)


def test_av1_is_read(tmp_path):
    encoder = VideoEncoder(tmp_path / "a.mp4", 10, 64, 96, codec="av1")
    for image in counted(4, 64, 96):
        encoder.add(image)
    encoder.close()
    _, images, facts = read(VideoClip(tmp_path / "a.mp4"))
    assert facts.codec == "av1" and numbers(images) == [0, 1, 2, 3]


def test_a_file_that_was_cut_off_gives_what_is_there_and_says_so(tmp_path):
    path = write(tmp_path / "whole.mp4", np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8))
    content = path.read_bytes()
    (tmp_path / "part.mp4").write_bytes(content[: len(content) // 2])
    times, _, facts = read(VideoClip(tmp_path / "part.mp4"))
    assert facts.cut_off and 0.5 < times[-1] < 2.0 and facts.declared_s == pytest.approx(3.0)
    assert not read(VideoClip(path))[2].cut_off


def test_a_damaged_stretch_is_told_with_its_time(tmp_path):
    path = write(tmp_path / "whole.mp4", np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 10] = bytes(len(content) // 10)
    path.write_bytes(content)
    facts = read(VideoClip(path))[2]
    assert facts.damaged_s and 0.5 < np.median(facts.damaged_s) < 2.5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.mp4", b"", r"is empty \(0 bytes\).*copy it again"),
        ("noise.mp4", bytes(range(256)) * 20, "is not a video that can be read.*possible are .mp4"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is not a video that can be read"),
        ("join.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a video that can be read"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError, match=words) as refusal:
        read(VideoClip(tmp_path / name))
    assert "\n" not in str(refusal.value) and name in str(refusal.value)


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="holds no video, only audio"):
        read(VideoClip(tmp_path / "sound.mp4"))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2000))
    with pytest.raises(ClipError, match="is not a video that can be read"):
        read(VideoClip(tmp_path / "sound.wav"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"pixels": 64 * 47}, r"pictures of 64x48 = 0\.0 megapixels, at most 0\.0 are taken: scale it"),
        ({"duration_s": 1.0}, r"has 2 s or more .* at most 1 s .* are taken: cut it"),
        ({"frames": 10}, r"\(11 frames so far\), at most .* 10 frames"),
        ({"streams": 0}, "has 1 streams, at most 0 are taken: keep the video with ffmpeg"),
        ({"file_gb": 1e-6}, "GiB, at most 1e-06 are taken: cut it"),
    ],
)
def test_limits_refuse_with_numbers(tmp_path, limits, words):
    path = write(tmp_path / "a.mp4", counted(20))
    with pytest.raises(ClipError, match=words):
        read(VideoClip(path), **limits)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ClipError, match=r"gone\.mp4 is not a file: give the path"):
        read(VideoClip(tmp_path / "gone.mp4"))


def test_images_are_turned_as_their_tag_says_and_timed_by_their_number(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    Image.fromarray(counted(1)[0]).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(counted(2)[1]).save(tmp_path / "b.png")
    times, images, facts = read(ImageClip((tmp_path / "a.jpg", tmp_path / "b.png"), fps=4.0))
    assert times == [0.0, 0.25] and facts.codec == "png"
    assert images[0].shape == (64, 48, 3) and images[0][4, -4, 0] > 200 and images[1].shape == (48, 64, 3)


def test_half_an_image_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ClipError, match=r"a\.jpg is not a whole image of PNG, JPEG"):
        read(ImageClip((tmp_path / "a.jpg",), fps=1.0))
    with pytest.raises(ClipError, match="megapixels"):
        Image.fromarray(counted(1)[0]).save(tmp_path / "b.png")
        read(ImageClip((tmp_path / "b.png",), fps=1.0), pixels=100)


def test_images_inside_tables_are_those_of_the_episode():
    dataset = EpisodeDataset(GOLDEN / "lerobot-0.6.1")
    episode = dataset.episodes[2]
    stop = episode.start + episode.length
    times, images, facts = read(TableClip(dataset.root, "observation.images.still", episode.start, stop, 10.0))
    np.testing.assert_array_equal(images, dataset.frames("still", range(episode.start, stop)))
    assert len(times) == episode.length and times[1] == 0.1 and facts.codec == "png"


def test_a_turned_video_shows_what_other_players_show(tmp_path):
    """OpenCV turns by the same tag; it stands for other players."""
    path = write(tmp_path / "turned.mp4", counted(2), turn=-90)
    _, images, _ = read(VideoClip(path))
    player = cv2.VideoCapture(str(path))
    shown = cv2.cvtColor(player.read()[1], cv2.COLOR_BGR2RGB)
    assert shown.shape == images[0].shape and np.abs(shown.astype(int) - images[0]).mean() < 6
