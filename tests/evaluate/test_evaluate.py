"""The verb itself, from the command line's words to the files that it leaves."""

import json
import sys

import pytest

from tests.evaluate.fake_trial import load_given_policy
from tests.evaluate.fake_world import WordPolicy
from vla.evaluate import evaluate

TASKS = "+tasks={red: {id: 'tests.evaluate.fake_world:Fake-v0'}, blue: {id: 'tests.evaluate.fake_world:Fake-v0'}}"
WORDS = ["episodes=2", "seed=5", "workers=2", "held_out.episodes=0", "controls.episodes=1", "long_horizon.episodes=0"]
UNGUARDED = "guard.mode=off"  # this world takes commands for whole control periods only


@pytest.fixture
def result(tmp_path, monkeypatch):
    """Evaluate a policy that listens against one that never moves."""
    policies = {"A": WordPolicy(), "B": WordPolicy(stubborn=True)}
    monkeypatch.setattr(evaluate, "load", lambda checkpoint, device: policies[checkpoint])
    monkeypatch.setattr(evaluate.torch, "set_num_threads", lambda threads: None)
    words = ["checkpoint=A", "against=B", f"out={tmp_path}", "latency_repeats=3", "~tasks", TASKS, *WORDS, UNGUARDED]
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


def test_in_real_time_the_loop_stands_in_result_report_and_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "load", load_given_policy)
    trial = "realtime.robot={_target_: tests.evaluate.fake_trial.FakeTrial, _partial_: true}"
    words = [
        "mode=realtime",
        "latency_ms=200",
        "strategy=overlap",
        "~realtime.robot",
        f"+{trial}",
        "guard.collides=null",
    ]
    words += [f"out={tmp_path}", "latency_repeats=3", "~tasks", TASKS, *WORDS, "workers=1"]
    monkeypatch.setattr(sys, "argv", ["vla eval", *words])
    evaluate.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["mode"] == "realtime" and result["latency_ms"] == 200 and result["success_rate"] == 1.0
    assert result["loop"]["idle_ticks"] == result["loop"]["missed"] == 0
    assert result["guard_interventions"]["total"] > 0 and result["guard_interventions"]["episodes"] == 4 + 3 * 2
    assert result["per_task"]["red"]["guard_interventions"]["episodes"] == 2
    assert "Overlap" in result["strategy"]["_target_"]
    records = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert all(record["loop"]["ticks"] > 0 for record in records)
    assert "Loop and guard" in (tmp_path / "report.html").read_text()
    assert "200 ms, idle 0 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["guard.mode=maybe"], "guard.mode='maybe'; possible: on, off"),
        (["latency_ms=200"], "latency_ms: in mode=lockstep the world waits"),
        (["strategy=overlap"], "strategy: in mode=lockstep"),
        (["mode=live"], "mode=live; possible: lockstep, realtime"),
        (["mode=realtime", "latency_ms=-1"], "cannot come before it was asked for"),
    ],
)
def test_keys_that_mean_nothing_in_a_mode_are_refused(words, answer, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as vla.cli does, else Hydra prints the error and exits
    monkeypatch.setattr(sys, "argv", ["vla eval", *words, f"out={tmp_path}"])
    with pytest.raises(ValueError, match=answer):
        evaluate.main()
