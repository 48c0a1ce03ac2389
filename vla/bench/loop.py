"""How evenly a control loop ticks: ours beside the same loop in C, and beside how lerobot and openpi sleep.

Every loop does the same work in a tick, one step of the guard, except the one in C, which is the limit: it only wakes
up. Loaded means that a policy computes chunks all the time in another thread, as in `vla deploy`; ours is also measured
with the policy in another process, which is what a process of its own could come to at best.
"""

import multiprocessing
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.control.clock import Metronome, RealClock
from vla.control.guard import Guard
from vla.control.quiet import quiet_interpreter
from vla.model.checkpoint import DEFAULT, load
from vla.types import Embodiment, Observation

DRIFT_HZ = 100.0
READY_S = 120.0  # that a process may take until its policy is loaded
Loop = Callable[[float, int, Callable[[float], object]], np.ndarray]  # (hz, ticks, work) -> wake-up times [s]

C_LOOP = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int count, char **words) {
  (void)count;
  const double period_ns = 1e9 / atof(words[1]);
  const long ticks = atol(words[2]);
  int64_t *woke_ns = malloc(ticks * sizeof *woke_ns);
  struct timespec start, due, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (long tick = 0; tick < ticks; ++tick) {
    int64_t due_ns = start.tv_nsec + (int64_t)(tick * period_ns);
    due.tv_sec = start.tv_sec + due_ns / 1000000000;
    due.tv_nsec = due_ns % 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL)) {}
    clock_gettime(CLOCK_MONOTONIC, &now);
    woke_ns[tick] = (now.tv_sec - start.tv_sec) * 1000000000LL + now.tv_nsec - start.tv_nsec;
  }
  return fwrite(woke_ns, sizeof *woke_ns, ticks, stdout) != (size_t)ticks;
}
"""


def measure(
    seed: int,
    rates: Sequence[float],
    seconds: float,
    body: Mapping[str, Any],
    checkpoint: str | None = None,
    drift_seconds: float = 0.0,
) -> dict[str, Any]:
    """Run every loop for `seconds` at each rate, idle and loaded; `body` is the arm whose guard does the work.

    `drift_seconds`: ours alone once more at DRIFT_HZ, loaded, for so long; 0 leaves that out.
    """
    embodiment = Embodiment.from_dict({"control_hz": 10.0, "cameras": {}, **body})
    torch.set_num_threads(1)
    policy = load(checkpoint or DEFAULT)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = compile_c(Path(folder))
        loops: dict[str, Loop] = {"ours": _ours, "c": lambda hz, ticks, _: run_c(program, hz, ticks)}
        loops |= {"lerobot": _lerobot, "openpi": _openpi}
        for hz in rates:
            ticks, row = round(seconds * hz), {}
            for load_name in ("idle", "loaded"):
                for name, loop in loops.items():
                    with _thinking(policy, seed) if load_name == "loaded" else nullcontext():
                        woke_s = loop(hz, ticks, _guarded(embodiment, hz))
                    row[f"{name}_{load_name}"] = period_errors(woke_s, hz)
            with _thinking_apart(checkpoint, seed):
                row["loaded_by_process"] = period_errors(_ours(hz, ticks, _guarded(embodiment, hz)), hz)
            row = {"idle": row.pop("ours_idle"), "loaded": row.pop("ours_loaded"), "c": row.pop("c_loaded"), **row}
            row["loaded_p99_to_c"] = row["loaded"]["p99_us"] / row["c"]["p99_us"]
            rows[f"{hz:g}"] = row
    result = {"rates": rows, "seconds_each": seconds}
    if drift_seconds:
        with _thinking(policy, seed):
            woke_s = _ours(DRIFT_HZ, round(drift_seconds * DRIFT_HZ), _guarded(embodiment, DRIFT_HZ))
        result["drift"] = {"hz": DRIFT_HZ, "seconds": drift_seconds, **period_errors(woke_s, DRIFT_HZ)}
    return result


def period_errors(woke_s: np.ndarray, hz: float) -> dict[str, float]:
    """Return how far the time from tick to tick was from the period, and how far the last tick drifted [us]."""
    gaps_s = np.diff(woke_s)
    errors_us = np.abs(gaps_s - 1 / hz) * 1e6
    p50, p99, p999 = np.percentile(errors_us, [50, 99, 99.9])
    periods = np.maximum(np.rint(gaps_s * hz), 1)
    drift_s = woke_s[-1] - woke_s[0] - periods.sum() / hz
    return {
        "p50_us": float(p50),
        "p99_us": float(p99),
        "p999_us": float(p999),
        "max_us": float(errors_us.max()),
        "missed": int(periods.sum() - len(periods)),
        "drift_us": float(drift_s * 1e6),
    }


def compile_c(folder: Path) -> Path:
    """Compile the loop in C; raises RuntimeError where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("no C compiler for the loop to compare with; on Debian or Ubuntu: sudo apt-get install gcc")
    source, program = folder / "loop.c", folder / "loop"
    source.write_text(C_LOOP)
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def run_c(program: Path, hz: float, ticks: int) -> np.ndarray:
    """Run the loop in C and return its wake-up times [s]."""
    done = subprocess.run([str(program), str(hz), str(ticks)], check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.int64) * 1e-9


def _ours(hz: float, ticks: int, work: Callable[[float], object]) -> np.ndarray:
    """Tick as `vla deploy` does."""
    metronome, woke_s = Metronome(RealClock(), hz), np.empty(ticks)
    with quiet_interpreter():
        for tick in range(ticks):
            metronome.wait()
            woke_s[tick] = time.monotonic()
            work(woke_s[tick])
    return woke_s


def _lerobot(hz: float, ticks: int, work: Callable[[float], object]) -> np.ndarray:
    """Tick as lerobot's record loop: sleep for what the work has left of the period (0.6.2, `precise_sleep`)."""
    woke_s = np.empty(ticks)
    for tick in range(ticks):
        start_s = time.perf_counter()
        woke_s[tick] = time.monotonic()
        work(woke_s[tick])
        time.sleep(max(1 / hz - (time.perf_counter() - start_s), 0))
    return woke_s


def _openpi(hz: float, ticks: int, work: Callable[[float], object]) -> np.ndarray:
    """Tick as openpi's Runtime: sleep for what is left of the period, then count anew from the wake-up."""
    woke_s, last_s = np.empty(ticks), time.time()
    for tick in range(ticks):
        woke_s[tick] = time.monotonic()
        work(woke_s[tick])
        now_s = time.time()
        if now_s - last_s < 1 / hz:
            time.sleep(1 / hz - (now_s - last_s))
            last_s = time.time()
        else:
            last_s = now_s
    return woke_s


def _guarded(embodiment: Embodiment, hz: float) -> Callable[[float], object]:
    """Return the work of one tick: a guard that follows a slow wave."""
    guard = Guard(embodiment, hz, hardware=False)
    low, high = np.array(embodiment.position_min), np.array(embodiment.position_max)
    middle, reach = (low + high) / 2, (high - low) / 100
    guard.engage(middle)

    def work(now_s: float) -> object:
        target = middle + reach * np.sin(now_s)
        return guard.step(target, target, now_s, due_s=now_s)

    return work


@contextmanager
def _thinking(policy: Any, seed: int) -> Iterator[None]:
    """Keep a policy busy in its thread, one chunk after the other."""
    enough = threading.Event()
    thread = threading.Thread(target=_think, args=(policy, seed, enough), name="policy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@contextmanager
def _thinking_apart(checkpoint: str | None, seed: int) -> Iterator[None]:
    """Keep a policy busy in a process of its own, which nothing is handed to."""
    context = multiprocessing.get_context("forkserver")
    ready, enough = context.Event(), context.Event()
    process = context.Process(target=_think_apart, args=(checkpoint, seed, ready, enough), daemon=True)
    process.start()
    try:
        if not ready.wait(timeout=READY_S):
            raise RuntimeError(f"the process of the policy did not begin within {READY_S:.0f} s")
        yield
    finally:
        enough.set()
        process.join()


def _think_apart(checkpoint: str | None, seed: int, ready: Event, enough: Event) -> None:
    torch.set_num_threads(1)
    policy = load(checkpoint or DEFAULT)
    ready.set()
    _think(policy, seed, enough)


def _think(policy: Any, seed: int, enough: threading.Event | Event) -> None:
    rng, body = np.random.default_rng(seed), policy.embodiment
    images = {
        name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for name, camera in body.cameras.items()
    }
    state = (np.array(body.position_min) + np.array(body.position_max)).astype(np.float32) / 2
    observation = Observation(images, state, "pick up the red cube", 0.0)
    for turn in count():
        if enough.is_set():
            return
        rolled = {name: np.roll(image, turn, axis=1) for name, image in images.items()}  # no frame comes twice
        policy.act([replace(observation, images=rolled)])
