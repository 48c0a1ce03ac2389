"""How fast a policy answers, beside what the processor's arithmetic alone would allow."""

import math
import resource
import shutil
import sys
import time
from typing import Any

import numpy as np
import torch
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import trange

from vla.bench.turns import flops_per_s
from vla.model.checkpoint import DEFAULT, load
from vla.model.policy import VLAPolicy
from vla.types import Embodiment, Observation, Policy

MATMUL_S = 0.5  # for which the processor's rate is measured


def measure(
    *, seed: int, checkpoint: str | None, device: str, calls: int, threads: int | None, compiled: bool
) -> dict[str, Any]:
    """Time `calls` single observations through `policy.act`, frame to joint targets; one result.json worth of values.

    `delay_ticks` is how many control steps pass between a frame and its chunk in 95 % of the cases. `safe_control_hz`
    is the highest control rate at which that delay still leaves half of the chunk to execute. The limit is the time of
    the same floating-point operations at the rate of a large matrix product measured in this run. `question_ms` is how
    long the first word of an answer takes, about another frame than that of the chunk before, and about the same one.
    compiled: also time chunks with what sees and what reads compiled by torch, `compiled_latency_ms`, and how far its
    joint targets then differ. `memory_mb` is the most that this process, or the device, held before that.
    """
    if calls < 20:
        raise ValueError(f"calls={calls} is too few for a 95th percentile; give at least 20")
    if threads is not None:
        torch.set_num_threads(threads)
    policy = load(checkpoint or DEFAULT, device=device)
    rng = np.random.default_rng(seed)
    observations = [_noise(policy.embodiment, rng) for _ in range(8)]
    with FlopCounterMode(display=False) as counter:
        chunk = policy.act(observations[:1])[0]
    latency_s = _latencies(policy, observations, calls)
    p95 = float(np.percentile(latency_s, 95))
    asked_s = _question_latencies(policy, observations, calls)
    matmul = flops_per_s(torch.matmul, device, MATMUL_S)
    weights = sum(tensor.nbytes for tensor in policy.network.state_dict().values())
    memory = {"weights": weights / 2**20, "peak": _peak_mb(device)}
    return {
        "chunk_latency_ms": _percentiles(latency_s),
        "question_ms": {which: _percentiles(seconds) for which, seconds in asked_s.items()},
        "memory_mb": memory,
        **(_compiled(policy, observations, calls) if compiled else {}),
        "safe_control_hz": len(chunk.actions) / 2 / p95,
        "delay_ticks": math.ceil(p95 / chunk.dt_s),
        "control_hz": policy.embodiment.control_hz,
        "action_horizon": len(chunk.actions),
        "parameters": sum(parameter.numel() for parameter in policy.network.parameters()),
        "flops_per_chunk": counter.get_total_flops(),
        "matmul_gflops_per_s": matmul / 1e9,
        "limit_ms": counter.get_total_flops() / matmul * 1e3,
        "calls": calls,
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _percentiles(seconds: np.ndarray) -> dict[str, float]:
    found = np.percentile(seconds, [50, 95, 99]) * 1e3
    return dict(zip(("p50", "p95", "p99"), map(float, found), strict=True))


def _peak_mb(device: str) -> float:
    """Return the most memory held so far [MiB], of the device where it has its own, else of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _compiled(policy: VLAPolicy, observations: list[Observation], calls: int) -> dict[str, Any]:
    """Compile the two parts that take the time, for these shapes; says why where it cannot be done."""
    if torch.device(policy.device).type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return {"compiled_latency_ms": None, "not_compiled": "there is no C++ compiler; apt-get install g++"}
    before = [policy.act([observation])[0].actions for observation in observations]
    with inductor.patch(freezing=True):  # weights as constants, packed for this processor
        for part in (policy.network.vision, policy.network.language):
            part.compile(dynamic=False)
        after = [policy.act([observation])[0].actions for observation in observations]
        latency_s = _latencies(policy, observations, calls)
    largest = max(float(np.abs(one - other).max()) for one, other in zip(before, after, strict=True))
    return {"compiled_latency_ms": _percentiles(latency_s), "compiled_max_abs_diff": largest}


def _noise(embodiment: Embodiment, rng: np.random.Generator) -> Observation:
    """Make an observation of the right shapes; the words do not change how long an answer takes by much."""
    images = {
        name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        for name, camera in embodiment.cameras.items()
    }
    state = rng.uniform(embodiment.position_min, embodiment.position_max).astype(np.float32)
    return Observation(images, state, "put the red cube in the blue bowl", time.monotonic())


def _latencies(policy: Policy, observations: list[Observation], calls: int) -> np.ndarray:
    """Return float64[calls], seconds of each call after warming up."""
    for observation in observations:
        policy.act([observation])
    seconds = np.empty(calls)
    for call in trange(calls, desc="act", unit="chunk", leave=False):
        start = time.perf_counter()
        policy.act([observations[call % len(observations)]])
        seconds[call] = time.perf_counter() - start
    return seconds


def _question_latencies(policy: Policy, observations: list[Observation], calls: int) -> dict[str, np.ndarray]:
    """Return float64[calls] for each kind of frame, seconds of the first word of an answer."""
    seconds = {"another_frame": np.empty(calls), "same_frame": np.empty(calls)}
    for call in trange(calls, desc="ask", unit="question", leave=False):
        present, other = (observations[(call + ahead) % len(observations)] for ahead in (0, len(observations) // 2))
        policy.act([present])
        for name, observation in (("same_frame", present), ("another_frame", other)):
            start = time.perf_counter()
            policy.generate([observation], ["is there a red cube"], 1)
            seconds[name][call] = time.perf_counter() - start
    return seconds
