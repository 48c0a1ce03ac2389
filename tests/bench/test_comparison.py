"""Runs of a comparison are done once, again only where they were asked for otherwise, and pooled with intervals."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from vla.bench import comparison
from vla.bench.comparison import draw, for_people, line, pooled, speed, step
from vla.evaluate.statistics import Rate


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    monkeypatch.setitem(comparison.VERBS, "train", "tests.bench.fake_verb")


def ran(out):
    return (out / "ran").read_text().count("once")


def test_a_finished_step_is_not_done_again(tmp_path):
    out = tmp_path / "a, run"
    assert step("train", out, ["say=hello"]) == step("train", out, ["say=hello"]) == {"said": "hello"}
    assert ran(out) == 1


def test_a_step_begun_otherwise_or_on_other_data_is_not_taken_for_finished(tmp_path):
    step("train", tmp_path, ["say=hello"], after={"hash": "a"})
    for words, after in ((["say=goodbye"], {"hash": "a"}), (["say=hello"], {"hash": "b"})):
        with pytest.raises(ValueError, match="was begun with other settings or on other data"):
            step("train", tmp_path, words, after=after)
    assert ran(tmp_path) == 1


def test_a_step_that_fails_says_where_to_look_and_is_tried_again(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 1.*log\.txt"):
        step("train", tmp_path, ["fail=true"])
    assert "as it was told to" in (tmp_path / "log.txt").read_text()
    with pytest.raises(RuntimeError):
        step("train", tmp_path, ["fail=true"])
    assert ran(tmp_path) == 2


def test_a_step_that_stopped_early_goes_on(tmp_path):
    for times in (1, 2):
        with pytest.raises(RuntimeError, match="stopped before its end"):
            step("train", tmp_path, ["say=half", "complete=false"])
        assert ran(tmp_path) == times


def test_speed_is_told_by_a_short_training_and_by_single_chunks_of_the_trained_policy(tmp_path, monkeypatch):
    asked = []

    def told(name, out, words, after):
        asked.append((name, words, after))
        return {"samples_per_s": 95.0} if name == "train" else {"chunk_latency_ms": {"p50": 12.0, "p95": 20.0}}

    monkeypatch.setattr(comparison, "step", told)
    trained = {"checkpoint": "run/checkpoints/last"}
    assert speed(tmp_path, ["recipe=heads/l1"], trained) == SPEED
    assert [name for name, _, _ in asked] == ["train", "bench"] and all(after == trained for _, _, after in asked)
    assert 'bench.checkpoint="run/checkpoints/last"' in asked[1][1]


def test_a_comparison_times_every_design_once_in_the_end_and_goes_on_with_more_seeds(tmp_path, monkeypatch):
    asked = []

    def told(name, out, words, after=None):
        asked.append((name, out.relative_to(tmp_path).as_posix(), after))
        if name == "train":
            return TRAINED | SPEED | {"checkpoint": str(out)}
        return flown(5, 20) | {"chunk_latency_ms": {"p50": 12.0}}

    monkeypatch.setattr(comparison, "step", told)
    settings = dict(seed=0, out=str(tmp_path), recipes=["heads/l1", "heads/fast"], collect=[], train=["steps=5"])
    results = [comparison.measure(**settings, seeds=n, evaluate=[], eval_seed=7) for n in (1, 2)]
    assert [len(result["rows"]) for result in results] == [2, 4]
    assert {row["chunk_latency_ms"] for row in results[1]["rows"]} == {12.0}
    times = [(out, after["checkpoint"]) for _, out, after in asked if "/speed/" in out]
    assert len(times) == 8 and len(set(times)) == 4  # the second run finds the speeds of the first
    assert [out for _, out, _ in asked][-4:] == [out for out, _ in times][-4:]


@pytest.mark.parametrize("module", comparison.VERBS.values())
def test_every_verb_runs_as_a_module(module):
    assert 'if __name__ == "__main__":\n    main()' in Path(str(find_spec(module).origin)).read_text()


def flown(successes, episodes):
    return {
        "success_rate": successes / episodes,
        "ci95": [0.0, 1.0],
        "episodes": episodes,
        "per_task": {"pick": {"success_rate": successes / episodes, "episodes": episodes}},
        "controls": {"blank_camera": 0.1},
        "controls_per_task": {"blank_camera": {"pick": {"asked": 0.1, "episodes": 10}}},
    }


TRAINED = {"parameters": 1_200_000, "samples": 320, "loss": 2.0}
SPEED = {"samples_per_s": 95.0, "chunk_latency_ms": 12.0}


@pytest.fixture
def summary():
    rows = [line("heads/flow", seed, TRAINED, flown(successes, 20)) for seed, successes in enumerate((5, 10, 15))]
    rows += [line("heads/fast", 0, TRAINED, flown(0, 20))]
    return pooled([row | SPEED for row in rows])


def test_seeds_are_pooled_and_their_spread_is_shown(summary):
    flow = summary["heads/flow"]
    assert flow["success_rate"] == 0.5 and flow["seeds"] == [0.25, 0.5, 0.75]
    assert flow["blank_camera"] == pytest.approx(0.1)
    assert flow["blank_camera_ci95"] == Rate(3, 30).ci95
    assert 0.37 < flow["ci95"][0] < 0.39 and 0.61 < flow["ci95"][1] < 0.63  # Wilson, 30 of 60
    table = for_people(summary).splitlines()
    assert table[2].startswith("| heads/flow | 50 % (38-62) | 25, 50, 75 | 10 % (3-26) | 12 | 95 | 1.20 M |")
    assert table[3].startswith("| heads/fast | 0 %") and json.dumps(summary)
    assert flow["better_than_blind"] and not summary["heads/fast"]["better_than_blind"]
    assert "not told apart" in table[3]


def test_runs_that_all_crashed_are_shown_as_such(tmp_path):
    crashed = flown(0, 20) | {"success_rate": None, "ci95": None, "episodes": 0, "per_task": {}}
    crashed |= {"controls": {"blank_camera": None}, "controls_per_task": {}}
    summary = pooled([line("heads/l1", 0, TRAINED, crashed) | SPEED])
    assert "crashed" in for_people(summary)
    draw(summary, tmp_path / "comparison.png")


def test_the_picture_is_drawn_where_matplotlib_is(summary, tmp_path):
    pytest.importorskip("matplotlib")
    assert draw(summary, tmp_path / "comparison.png") == "comparison.png"
    assert (tmp_path / "comparison.png").stat().st_size > 5000
