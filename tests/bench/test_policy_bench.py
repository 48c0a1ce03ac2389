"""The policy bench: what it times is what it says."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from vla.bench import policy as bench
from vla.types import ActionChunk, Camera, Embodiment, Observation

EMBODIMENT = Embodiment(
    name="two joints",
    joints=("a", "gripper"),
    position_min=(-1.0, 0.0),
    position_max=(1.0, 1.0),
    velocity_max=(1.0, 1.0),
    acceleration_max=(1.0, 1.0),
    jerk_max=(1.0, 1.0),
    control_hz=100.0,
    cameras={"front": Camera(8, 6)},
)


class SlowPolicy:
    """Multiplies one matrix and waits for 25 ms."""

    def __init__(self) -> None:
        self.embodiment = EMBODIMENT
        self.network = self.layer = torch.nn.Linear(64, 32, bias=False)
        self.seen: list[Observation] = []

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.seen += observations
        self.layer(torch.zeros(1, 64))
        time.sleep(0.025)
        self.acted = observations[0]
        return [ActionChunk(np.zeros((16, 2), np.float32), 0.01, observations[0].time_s)]

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int) -> list[str]:
        time.sleep(0.002 if observations[0] is self.acted else 0.06)
        return ["yes"]


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> SlowPolicy:
    made = SlowPolicy()
    monkeypatch.setattr(bench, "load", lambda checkpoint, device: made)
    return made


def measure(**changes: Any) -> dict[str, Any]:
    """Measure with few calls."""
    return bench.measure(
        **{"seed": 0, "checkpoint": "", "device": "cpu", "calls": 20, "threads": None, "compiled": False} | changes
    )


def test_latency_delay_and_safe_rate_follow_from_the_time_that_a_chunk_takes(policy: SlowPolicy) -> None:
    result = measure()
    p50_ms, p95_ms = result["chunk_latency_ms"]["p50"], result["chunk_latency_ms"]["p95"]
    assert 25 <= p50_ms <= p95_ms
    assert result["delay_ticks"] == math.ceil(p95_ms / 10) >= 3
    assert result["safe_control_hz"] == pytest.approx(8 / (p95_ms / 1e3))
    assert result["parameters"] == 64 * 32
    assert result["flops_per_chunk"] == 2 * 64 * 32
    assert result["limit_ms"] < p50_ms
    assert p95_ms <= result["chunk_latency_ms"]["p99"]
    assert result["memory_mb"]["weights"] == 64 * 32 * 4 / 2**20 and result["memory_mb"]["peak"] > 50


def test_questions_about_the_frame_of_the_chunk_are_told_from_those_about_another(policy: SlowPolicy) -> None:
    asked = measure()["question_ms"]
    assert 2 <= asked["same_frame"]["p50"] < 60 <= asked["another_frame"]["p50"]


def test_observations_fit_the_embodiment_and_follow_the_seed(policy: SlowPolicy) -> None:
    measure(seed=1)
    first = policy.seen[0]
    assert first.images["front"].shape == (8, 6, 3) and first.images["front"].dtype == np.uint8
    assert first.state.shape == (2,) and first.state.dtype == np.float32
    policy.seen.clear()
    measure(seed=1)
    np.testing.assert_array_equal(policy.seen[0].images["front"], first.images["front"])


def test_too_few_calls_for_a_percentile_are_refused(policy: SlowPolicy) -> None:
    with pytest.raises(ValueError, match="calls=5 is too few"):
        measure(calls=5)


@pytest.mark.slow
def test_compiled_it_answers_the_same(tmp_path):
    result = bench.measure(seed=0, checkpoint=None, device="cpu", calls=20, threads=1, compiled=True)
    assert result["compiled_max_abs_diff"] < 1e-4 and result["compiled_latency_ms"]["p50"] > 0


def test_without_a_compiler_it_is_said(policy, monkeypatch):
    policy.device = torch.device("cpu")
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    result = measure(compiled=True)
    assert result["compiled_latency_ms"] is None and "no C++ compiler" in result["not_compiled"]
