"""All frames of a dataset, decoded once and resized, in memory maps: training reads pixels from the page cache."""

import fcntl
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from vla.data.dataset import EpisodeDataset
from vla.data.schema import flush, write_json
from vla.data.video import resize

PART_FRAMES = 4000  # frames that one job decodes: large against a seek, small against the whole


class FrameCache:
    """`cache[camera]` is a read-only uint8[N, H, W, 3] memory map over all frames of `dataset`, in its order.

    `gather` copies some of them without stopping other threads, which a page fault in a memory map would do.

    `cameras` maps camera names to (height, width) in pixels. A complete cache of the same frames in `folder` is used
    again; one that was interrupted goes on where it stopped.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        cameras: dict[str, tuple[int, int]],
        folder: Path | str,
        workers: int | None = None,
    ) -> None:
        self.arrays: dict[str, np.memmap] = {
            camera: _fill(dataset, camera, (size[0], size[1]), Path(folder), workers or os.cpu_count() or 1)
            for camera, size in cameras.items()
        }
        self._files = {camera: _open_for_random_reads(array) for camera, array in self.arrays.items()}

    def gather(self, camera: str, index: np.ndarray) -> np.ndarray:
        """Copy the frames of a camera at index int[B] -> uint8[B, H, W, 3]; raises OSError where the file is cut."""
        array, file = self[camera], self._files[camera]
        images = np.empty((len(index), *array.shape[1:]), np.uint8)
        size = images[0].nbytes if len(images) else 0
        for row, number in enumerate(index.tolist()):
            if os.preadv(file, [memoryview(images[row])], array.offset + number * size) != size:
                raise OSError(5, f"{array.filename} ends before frame {number}: delete it, it is decoded again")
        return images

    def __del__(self) -> None:
        for file in self.__dict__.pop("_files", {}).values():
            os.close(file)

    def __getitem__(self, camera: str) -> np.memmap:
        if camera not in self.arrays:
            raise KeyError(f"camera {camera!r} is not in this cache; it has {sorted(self.arrays)}")
        return self.arrays[camera]


class EarlierFrames:
    """The frames of a cache, each with those before it in its episode."""

    def __init__(self, cache: FrameCache, starts: np.ndarray, frames: int, stride: int) -> None:
        """starts: number of the first frame of every episode, in order; frames, stride: see `History`."""
        self.cache, self.arrays, self.starts = cache, cache.arrays, starts
        self.ages = stride * np.arange(1 + frames)

    def numbers(self, index: np.ndarray) -> np.ndarray:
        """Numbers int[B, 1 + N] of frames int[B] and of those before; the first stands for what was before it."""
        return and_before(index, self.starts, self.ages)

    def gather(self, camera: str, index: np.ndarray) -> np.ndarray:
        """Copy frames int[B] of a camera and those before them -> uint8[B, 1 + N, H, W, 3], the present one first."""
        numbers = self.numbers(index)
        images = self.cache.gather(camera, numbers.ravel())
        return images.reshape(*numbers.shape, *images.shape[1:])


def and_before(index: np.ndarray, starts: np.ndarray, ages: np.ndarray) -> np.ndarray:
    """Numbers int[B, 1 + N] of frames int[B] and of those that are `ages` int[1 + N] older, in the same episode.

    starts: number of the first frame of every episode, in order; that frame stands for what was before it.
    """
    start = starts[np.searchsorted(starts, index, side="right") - 1]
    return np.maximum(index[:, None] - ages, start[:, None])


def _fill(dataset: EpisodeDataset, camera: str, size: tuple[int, int], folder: Path, workers: int) -> np.memmap:
    """Return the memory map of one camera, decoded now or before, here or in another process."""
    name = f"{dataset.hash}-{camera}-{size[0]}x{size[1]}"
    path = folder / f"{name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of runs that share the folder, one decodes and the others wait
            if not path.exists():
                _decode(dataset, camera, size, path, workers)
    frames, shape = np.load(path, mmap_mode="r"), (len(dataset), *size, 3)
    if frames.shape != shape:
        raise ValueError(f"{path} has shape {frames.shape}, expected {shape}: delete it")
    return frames


def _decode(dataset: EpisodeDataset, camera: str, size: tuple[int, int], path: Path, workers: int) -> None:
    """Decode part by part what is missing; the file takes its name when it is whole."""
    parts, marks = _parts(dataset, dataset.camera_key(camera)), path.with_suffix(".parts")
    marks.mkdir(exist_ok=True)
    partial = marks / "frames.npy"
    if not partial.exists():
        _reserve(partial, (len(dataset), *size, 3))
    missing = [part for part in parts if not (marks / f"{part[0]}-{part[1]}").exists()]
    jobs = [(dataset.root, camera, size, marks, part) for part in missing]
    _run(jobs, workers, f"decode {camera} {size[0]}x{size[1]}", len(parts))
    os.replace(partial, path)
    flush(path.parent)
    shutil.rmtree(marks)


def _open_for_random_reads(array: np.memmap) -> int:
    file = os.open(str(array.filename), os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):  # reading ahead would push other frames out of the page cache
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    return file


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Make an empty array file of `shape` if the disk has room for it."""
    need, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if need > free:
        raise OSError(
            28,
            f"{path.parent} needs {need / 2**20:.0f} MiB for decoded frames and has {free / 2**20:.0f} "
            "MiB free: make room, choose another folder or smaller images",
        )
    temporary = path.with_suffix(".tmp")
    np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).flush()
    os.replace(temporary, path)


def _parts(dataset: EpisodeDataset, key: str) -> list[tuple[int, int]]:
    """Split all frames into ranges that lie in one video file each, cut between episodes."""
    parts, start = [], 0
    for episode, following in zip(dataset.episodes, [*dataset.episodes[1:], None], strict=True):
        stop = episode.start + episode.length
        other_file = following is None or following.files.get(key) != episode.files.get(key)
        if other_file or stop - start >= PART_FRAMES:
            parts.append((start, stop))
            start = stop
    return parts


def _run(jobs: list[tuple], workers: int, title: str, total: int) -> None:
    """Do the jobs, in this process if one worker is enough."""
    with tqdm(total=total, initial=total - len(jobs), desc=title, unit="part", disable=not jobs) as bar:
        if workers == 1 or len(jobs) < 2:
            for job in jobs:
                _decode_part(*job)
                bar.update()
            return
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(_decode_part, *job) for job in jobs]):
                future.result()
                bar.update()


def _decode_part(root: Path, camera: str, size: tuple[int, int], marks: Path, part: tuple[int, int]) -> None:
    """Decode frames part[0] .. part[1] into the array of a camera, then leave a mark."""
    cv2.setNumThreads(1)
    dataset = EpisodeDataset(root)
    frames = np.load(marks / "frames.npy", mmap_mode="r+")
    start, stop = part
    for first in range(start, stop, 256):
        last = min(first + 256, stop)
        for index, image in enumerate(dataset.frames(camera, np.arange(first, last)), start=first):
            frames[index] = resize(image, size)
    frames.flush()
    write_json(marks / f"{start}-{stop}", {"frames": stop - start})
