"""Contenders that take turns: each runs once a round, so that what slows the machine down slows all of them."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tqdm import tqdm

MATRIX = 1024  # side of the matrices whose product tells the processor's rate


def seconds_each(
    contenders: Mapping[str, Callable[[], object]], rounds: int, title: str, warm_up: int = 1
) -> dict[str, float]:
    """Return the median seconds of each contender over rounds, after turns that are not counted."""
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: give at least 1")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(warm_up + rounds), desc=title, unit="round", leave=False):
        for name, run in contenders.items():
            start_s = time.perf_counter()
            run()
            settle()
            if turn >= warm_up:
                taken[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(values) for name, values in taken.items()}


def settle() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_growth(run: Callable[[], object], device: str) -> int | None:
    """Return by how many bytes memory grew at most while something ran, None where the system does not tell.

    On a GPU what torch allocated, else the resident memory of this process, whose high-water mark Linux takes back.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it counts when it is used again
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0)
    except (OSError, AttributeError):
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def flops_per_s(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], device: str, seconds: float) -> float:
    """Return the best rate of a float32 product of two large square matrices within some time."""
    a, b = torch.randn(2, MATRIX, MATRIX, device=device)
    best, end_s = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        multiply(a, b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start_s)
    return 2 * MATRIX**3 / best
