"""The reader: random access to frames and windows, clear refusals; the cache of decoded frames agrees with it."""

import json
import os

import cv2
import numpy as np
import pytest

from vla.data import framecache
from vla.data.dataset import EpisodeDataset
from vla.data.framecache import FrameCache
from vla.data.writer import DatasetWriter

LENGTHS = (9, 1, 14, 6)
FEATURES = {
    "observation.images.front": {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    "observation.images.wrist": {"dtype": "video", "shape": [16, 16, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [3], "names": None},
    "action": {"dtype": "float32", "shape": [3], "names": None},
}


def image_of(index, height, width):
    """A smooth picture that is different for each frame of the dataset."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(y * 3 + index * 7) % 200, (x * 2 + index * 11) % 200, x * 0 + index * 6], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four episodes, one of a single frame, in several files."""
    folder, index = tmp_path_factory.mktemp("reader") / "dataset", 0
    with DatasetWriter(folder, 10, FEATURES, video_files_size_in_mb=0.002) as writer:
        for episode, length in enumerate(LENGTHS):
            with writer.record() as recorder:
                for _ in range(length):
                    images = {"front": image_of(index, 32, 48), "wrist": image_of(index, 16, 16)}
                    frame = {f"observation.images.{name}": image for name, image in images.items()}
                    vector = np.full(3, index, np.float32)
                    recorder.add(frame | {"observation.state": vector, "action": -vector}, task=f"task {episode}")
                    index += 1
                recorder.save()
    assert len(list(folder.glob("videos/*/*/*.mp4"))) > 2
    return folder


@pytest.fixture
def dataset(root):
    """The reader."""
    return EpisodeDataset(root)


def test_frames_come_in_the_order_asked_for(dataset):
    indices = np.random.default_rng(0).permutation(len(dataset))
    for camera, size in {"front": (32, 48), "wrist": (16, 16)}.items():
        images = dataset.frames(camera, indices).astype(int)
        truth = np.stack([image_of(index, *size) for index in indices])
        assert np.abs(images[..., :2] - truth[..., :2]).mean() < 6
        levels = np.abs(images[..., 2].mean((1, 2)) - truth[..., 2].mean((1, 2)))
        assert levels.max() < 3  # neighbours differ by 6


def test_window_pads_at_the_end_of_its_episode(dataset):
    window = dataset.window(7, horizon=4)
    assert window["action"][:, 0].tolist() == [-7, -8, -8, -8]
    assert window["action_is_pad"].tolist() == [False, False, True, True]
    assert window["observation.state"].tolist() == [7, 7, 7]
    assert window["task"] == "task 0"
    assert window["observation.images.front"].shape == (32, 48, 3)
    assert dataset.window(10, horizon=3, images=False)["action_is_pad"].tolist() == [False, False, False]


def test_window_inside_an_episode_has_no_padding(dataset):
    assert not dataset.window(11, horizon=10, images=False)["action_is_pad"].any()


def test_every_frame_knows_its_episode(dataset):
    owners = [dataset.episode_of(index).index for index in range(len(dataset))]
    assert owners == [episode for episode, length in enumerate(LENGTHS) for _ in range(length)]
    with pytest.raises(IndexError, match=r"frame 30 is not in 0\.\.29"):
        dataset.episode_of(30)


def test_unknown_names_are_answered_with_the_possible_ones(dataset):
    with pytest.raises(KeyError, match=r"camera 'wrst' is not in.*front.*wrist"):
        dataset.frames("wrst", [0])
    with pytest.raises(KeyError, match=r"column 'sate' is not in.*observation\.state"):
        dataset.column("sate")


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a finished LeRobotDataset"):
        EpisodeDataset(tmp_path)


def test_an_older_format_is_refused(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"has format v2\.1.*convert"):
        EpisodeDataset(tmp_path)


def test_a_cut_off_video_is_an_error(root, tmp_path):
    dataset = EpisodeDataset(root)
    dataset.fps = 1  # times that the file does not have
    with pytest.raises(ValueError, match="has no frame at"):
        dataset.frames("front", [20])


def test_cache_holds_the_resized_frames(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(framecache, "PART_FRAMES", 8)
    cache = FrameCache(dataset, cameras={"front": (16, 24), "wrist": (16, 16)}, folder=tmp_path, workers=2)
    indices = np.arange(len(dataset))
    front = [cv2.resize(image, (24, 16), interpolation=cv2.INTER_AREA) for image in dataset.frames("front", indices)]
    np.testing.assert_array_equal(cache["front"], np.stack(front))
    np.testing.assert_array_equal(cache["wrist"], dataset.frames("wrist", indices))
    some = np.array([3, 0, len(dataset) - 1, 3])
    np.testing.assert_array_equal(cache.gather("front", some), np.stack(front)[some])
    with pytest.raises(ValueError, match="read-only"):
        cache["front"][0] = 0
    with pytest.raises(KeyError, match="'top' is not in this cache"):
        cache["top"]


def test_frames_of_a_file_that_was_cut_are_refused(dataset, tmp_path):
    cache = FrameCache(dataset, cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)
    os.truncate(cache["wrist"].filename, 16 * 16 * 3 * 2)
    with pytest.raises(OSError, match=r"ends before frame 5: delete it"):
        cache.gather("wrist", np.array([5]))


def test_complete_cache_is_used_again(dataset, tmp_path, monkeypatch):
    FrameCache(dataset, cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)
    monkeypatch.setattr(framecache, "_decode_part", None)
    FrameCache(EpisodeDataset(dataset.root), cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)


def test_interrupted_cache_goes_on(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(framecache, "PART_FRAMES", 8)
    decode, done = framecache._decode_part, []

    def fail_later(*job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job[-1])
        decode(*job)

    monkeypatch.setattr(framecache, "_decode_part", fail_later)
    with pytest.raises(KeyboardInterrupt):
        FrameCache(dataset, cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)
    monkeypatch.setattr(framecache, "_decode_part", lambda *job: (done.append(job[-1]), decode(*job)))
    cache = FrameCache(dataset, cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)
    assert len(done) == len(set(done)) == len(framecache._parts(dataset, "observation.images.wrist"))
    np.testing.assert_array_equal(cache["wrist"], dataset.frames("wrist", np.arange(len(dataset))))


def test_cache_refuses_a_disk_that_is_too_small(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match="MiB for decoded frames"):
        FrameCache(dataset, cameras={"wrist": (16, 16)}, folder=tmp_path, workers=1)
