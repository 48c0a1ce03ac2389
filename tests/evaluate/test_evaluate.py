"""The verb itself, from the command line's words to the files that it leaves."""

import json
import sys

import pytest

from tests.evaluate.fake_world import WordPolicy
from vla.evaluate import evaluate

TASKS = "+tasks={red: {id: 'tests.evaluate.fake_world:Fake-v0'}, blue: {id: 'tests.evaluate.fake_world:Fake-v0'}}"
WORDS = ["episodes=2", "seed=5", "workers=2", "held_out.episodes=0", "controls.episodes=1", "long_horizon.episodes=0"]


@pytest.fixture
def result(tmp_path, monkeypatch):
    """Evaluate a policy that listens against one that never moves."""
    policies = {"A": WordPolicy(), "B": WordPolicy(stubborn=True)}
    monkeypatch.setattr(evaluate, "load", lambda checkpoint, device: policies[checkpoint])
    monkeypatch.setattr(evaluate.torch, "set_num_threads", lambda threads: None)
    words = ["checkpoint=A", "against=B", f"out={tmp_path}", "latency_repeats=3", "~tasks", TASKS, *WORDS]
    monkeypatch.setattr(sys, "argv", ["vla eval", *words])
    evaluate.main()
    return json.loads((tmp_path / "result.json").read_text())


def test_a_comparison_leaves_result_report_records_and_videos(result, tmp_path):
    assert result["success_rate"] == 1.0 and result["episodes"] == 4 and result["seed"] == 5
    assert list(result["per_task"]) == ["red", "blue"]
    assert result["against"]["success_rate"] == 0.0
    paired = result["against"]["paired"]
    assert paired["difference"] == 1.0 and paired["pairs"] == 4 and paired["ci95"][0] > 0
    assert result["chunk_latency_ms"]["measured"] == 3
    assert result["long_horizon"]["success_rate"] is None
    assert (tmp_path / result["report"]).exists()
    assert all((tmp_path / video).exists() for video in result["videos"])
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 4 + 3 * 2 + 4
