"""How fast our stack is beside lerobot's, in one process and in turns: data, inference, a step of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vla.bench.recordings import Recordings, recorded
from vla.bench.speed_data import measure_data
from vla.bench.speed_policy import measure_inference, measure_training
from vla.bench.speed_shape import Shape

PARTS = ("data", "inference", "training")


def measure(
    *,
    seed: int,
    out: str,
    parts: Sequence[str],
    demonstrations: Recordings,
    dataset: str | None = None,
    episodes: int = 20,
    shape: Mapping[str, Any] | None = None,
    action_horizon: int = 16,
    windows: int = 200,
    window_rounds: int = 7,
    rounds: int = 5,
    batch: int = 2,
    precisions: Sequence[str] = ("float32",),
    threads: int = 1,
    device: str | None = None,
) -> dict[str, Any]:
    """Run some of the parts; keys of each are told by `measure_data`, `measure_inference` and `measure_training`.

    dataset: a LeRobotDataset v3.0, else so many episodes are collected in `out`; shape: what differs from SmolVLA's,
    see `Shape`; action_horizon, windows, window_rounds: of data; rounds: of the networks; batch: of training;
    precisions: float32, and bfloat16 by autocast on both sides; device: left out for a GPU where there is one.
    Raises ValueError where lerobot is not installed.
    """
    unknown = sorted({*parts} - {*PARTS})
    if unknown or not parts:
        raise ValueError(f"parts {unknown or 'is empty'}: choose some of {', '.join(PARTS)}")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {}
    if "data" in parts:
        root = Path(dataset) if dataset else recorded(demonstrations, Path(out) / "dataset", episodes)
        with TemporaryDirectory() as folder:
            result["data"] = measure_data(root, Path(folder), seed, action_horizon, windows, window_rounds)
    sizes = Shape(**{name: _plain(value) for name, value in (shape or {}).items()})
    if "inference" in parts:
        result["inference"] = measure_inference(sizes, rounds, precisions, device)
    if "training" in parts:
        result["training"] = measure_training(sizes, rounds, batch, precisions, device)
    named = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    return {**result, "threads": threads, "device": named, "torch": torch.__version__}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
