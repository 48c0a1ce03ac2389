"""The bench of stages starts each one from the outcome of the one before, and measures every outcome alike."""

from typing import Any

import pytest

from vla.bench import stages
from vla.bench.stages import STAGES, for_people, measure

RATES = {"accuracy": 0.75, "ci95": [0.5, 0.9], "questions": 4}
COUNTING = {"accuracy": 0.5, "chair": 0.25, "recall": 0.5, "exact": 0.0, "captions": 4}


def told(name: str, out: Any, words: Any, after: Any = None) -> dict[str, Any]:
    if name == "train":
        return {"checkpoint": f"{out}/checkpoints/last", "samples": 64}
    if name == "bench":
        answers = {"yesno": RATES, "relations": RATES, "counting": COUNTING}
        return {"pope": {"adversarial": RATES}, "pointing_iou50": 0.5, **answers, "without_image": answers}
    tasks = {"pick": {"success_rate": 0.5, "episodes": 2}}
    blind = {"controls": {"blank_camera": 0.0}}
    return {"success_rate": 0.5, "ci95": [0.1, 0.9], "episodes": 2, "per_task": tasks, **blind}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    calls = []

    def step(name: str, out: Any, words: Any, after: Any = None) -> dict[str, Any]:
        calls.append((name, out.relative_to(tmp_path).as_posix(), list(words), after))
        return told(name, out, words)

    monkeypatch.setattr(stages, "step", step)
    steps = {"alignment": 5, "instruction": 6, "preference": 7, "preference_actions": 8}
    result = measure(
        seed=3, out=str(tmp_path), init="nano", collect=["episodes=1"], steps=steps, train=["x=1"],
        evaluate=["episodes=1"], eval_seed=9, grounding=[],
    )  # fmt: skip
    return calls, result["rows"], tmp_path


def words_of(calls: list, stage: str, verb: str = "train") -> list[str]:
    return next(words for name, out, words, _ in calls if name == verb and out.split("/")[0] == stage)


def test_each_stage_starts_from_the_outcome_of_the_one_before(asked):
    calls, rows, folder = asked
    assert [row["name"] for row in rows] == ["init", *STAGES]
    for stage, (_, before) in STAGES.items():
        start = f"{folder}/{before}/train/checkpoints/last" if before else "nano"
        assert f'init="{start}"' in words_of(calls, stage)


def test_a_stage_builds_on_what_the_one_before_came_to(asked):
    calls, _, folder = asked
    after = {out: after for name, out, _, after in calls if name == "train"}
    assert after["preference/train"]["checkpoint"] == f"{folder}/instruction/train/checkpoints/last"


def test_skipping_the_first_stage_changes_nothing_else(asked):
    calls, _, _ = asked
    one, other = words_of(calls, "instruction"), words_of(calls, "instruction_alone")
    assert [word for word in one if "init=" not in word] == [word for word in other if "init=" not in word]


def test_every_outcome_is_flown_and_asked_with_the_same_words(asked):
    calls, rows, _ = asked
    for verb in ("eval", "bench"):
        same = {
            tuple(word for word in words if "checkpoint=" not in word) for name, _, words, _ in calls if name == verb
        }
        assert len(same) == 1
        assert sum(name == verb for name, *_ in calls) == len(rows)


def test_failed_rollouts_are_collected_by_the_recipe_itself(asked):
    calls, _, _ = asked
    assert not [word for word in words_of(calls, "preference_actions") if word.startswith("dataset=")]
    assert [word for word in words_of(calls, "preference") if word.startswith("dataset=")]


def test_the_table_has_a_line_a_stage(asked):
    _, rows, folder = asked
    lines = for_people(rows).splitlines()
    assert len(lines) == 2 + len(rows) and (folder / "stages.md").read_text() == for_people(rows)
    assert lines[2].startswith("| init |  | 0 k | 50 % (10-90) | 75 % | 75 % | 75 % | 50 % | 75 % | 25 % / 50 % |")
