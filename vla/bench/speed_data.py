"""Windows at random places of one dataset: our reader beside lerobot's."""

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.bench.lerobot_peer import ACTION, STATE, open_dataset
from vla.bench.turns import seconds_each
from vla.data.dataset import EpisodeDataset
from vla.data.framecache import FrameCache

Window = dict[str, torch.Tensor]  # frames uint8[3, H, W] by camera key, state float32[A], actions float32[T, A]
Reader = Callable[[int], Window]


def measure_data(root: Path, folder: Path, seed: int, horizon: int, windows: int, rounds: int) -> dict[str, Any]:
    """Read windows one after the other, a frame of each camera, the state and the next `horizon` actions.

    windows_per_s: ours as training reads, from decoded frames in `folder`, beside `limit_windows_per_s`, which is
    copying the frames out of the page cache; decoding_windows_per_s: ours without them, from the videos; lerobot: its
    LeRobotDataset with either of its decoders that is installed, `lerobot_windows_per_s` is the faster; ratio: ours to
    that, decoding_ratio without decoded frames; prepare{seconds, bytes, per_frame_bytes, paid_back_after_windows}: what
    the decoded frames cost and when reading from them has saved the time; max_pixel_diff: ours to lerobot's. Raises
    ValueError where states or actions differ.
    """
    dataset = EpisodeDataset(root)
    cached, prepare = _prepared(dataset, folder)
    readers = {"ours": _from_cache(dataset, cached, horizon), "decoding": _from_videos(dataset, horizon)}
    readers |= {name: read for name, read in _of_lerobot(dataset, horizon).items()}
    index = np.random.default_rng(seed).integers(0, len(dataset), windows)
    off = _difference(readers, index[:20].tolist())
    turns = {name: _each(read, index.tolist()) for name, read in readers.items()}
    turns["limit"] = _copies(cached, index.tolist())
    rates = {name: windows / taken for name, taken in seconds_each(turns, rounds, "windows").items()}
    theirs = {name: rates.pop(name) for name in list(rates) if name.startswith("lerobot")}
    best = max(theirs.values())
    saved_s = 1 / best - 1 / rates["ours"]
    prepare["paid_back_after_windows"] = prepare["seconds"] / saved_s if saved_s > 0 else None
    return {
        "windows_per_s": rates["ours"],
        "decoding_windows_per_s": rates["decoding"],
        "lerobot_windows_per_s": best,
        "lerobot": theirs,
        "ratio": rates["ours"] / best,
        "decoding_ratio": rates["decoding"] / best,
        "limit_windows_per_s": rates["limit"],
        "prepare": prepare,
        "max_pixel_diff": off,
        "frames": len(dataset),
        "cameras": {name: list(array.shape[1:3]) for name, array in cached.arrays.items()},
        "action_horizon": horizon,
        "windows": windows,
        "rounds": rounds,
    }


def _prepared(dataset: EpisodeDataset, folder: Path) -> tuple[FrameCache, dict[str, Any]]:
    """Decode all frames at their own size with one process; the caller gives a new folder, so that nothing is there."""
    sizes = {name: dataset.features[key]["shape"] for name, key in dataset.cameras.items()}
    start_s = time.perf_counter()
    cache = FrameCache(dataset, {name: (shape[0], shape[1]) for name, shape in sizes.items()}, folder, workers=1)
    taken = time.perf_counter() - start_s
    size = sum(array.nbytes for array in cache.arrays.values())
    return cache, {"seconds": taken, "bytes": size, "per_frame_bytes": size // len(dataset)}


def _from_cache(dataset: EpisodeDataset, cache: FrameCache, horizon: int) -> Reader:
    """As training does, columns in memory and frames out of the page cache."""
    state, action = (np.asarray(dataset.column(name), np.float32) for name in (STATE, ACTION))
    last = np.concatenate([np.full(e.length, e.start + e.length - 1) for e in dataset.episodes])
    steps = np.arange(horizon)

    def read(index: int) -> Window:
        rows = np.array([index])
        images = {key: cache.gather(name, rows)[0] for name, key in dataset.cameras.items()}
        actions = action[np.minimum(index + steps, last[index])]
        return _window(images, state[index], actions)

    return read


def _from_videos(dataset: EpisodeDataset, horizon: int) -> Reader:
    def read(index: int) -> Window:
        found = dataset.window(index, horizon)
        images = {key: found[key] for key in dataset.cameras.values()}
        return _window(images, found[STATE], found[ACTION])

    return read


def _window(images: Mapping[str, np.ndarray], state: np.ndarray, actions: np.ndarray) -> Window:
    tensors = {key: torch.from_numpy(image).permute(2, 0, 1) for key, image in images.items()}
    return tensors | {STATE: torch.from_numpy(np.array(state)), ACTION: torch.from_numpy(np.array(actions))}


def _of_lerobot(dataset: EpisodeDataset, horizon: int) -> dict[str, Reader]:
    """Its dataset with each of its decoders that is installed; pyav comes with it."""
    names = ["pyav", *(["torchcodec"] if find_spec("torchcodec") else [])]
    cameras, readers = [key.split(".")[-1] for key in dataset.cameras.values()], {}
    for name in names:
        opened = open_dataset(str(dataset.root), cameras, horizon, dataset.fps, name)
        readers[f"lerobot_{name}"] = opened.__getitem__
    return readers


def _difference(readers: Mapping[str, Reader], index: list[int]) -> int:
    """Return how far pixels of ours are from lerobot's at most; ValueError where states or actions differ at all."""
    most = 0
    for number in index:
        found = {name: read(number) for name, read in readers.items()}
        ours = found["ours"]
        for name, other in found.items():
            for key, value in ours.items():
                theirs = other[key][0] if other[key].ndim > value.ndim else other[key]
                if key in (STATE, ACTION):
                    if not torch.equal(value, theirs):
                        raise ValueError(f"{name} reads another {key} of frame {number} than we do: {theirs}, {value}")
                    continue
                most = max(most, int((value.int() - theirs.int()).abs().max()))
    return most


def _each(read: Reader, index: list[int]) -> Callable[[], None]:
    def run() -> None:
        for number in index:
            read(number)

    return run


def _copies(cache: FrameCache, index: list[int]) -> Callable[[], None]:
    arrays = list(cache.arrays.values())

    def run() -> None:
        for number in index:
            for array in arrays:
                np.array(array[number])

    return run
