"""Captions are scored by what they name, and the bench asks real scenes of a real checkpoint."""

import json

import pytest

from vla.bench.grounding import counting, things
from vla.cli import run
from vla.evaluate.questions import Answer

TRUTH = "a red cube, an orange bowl, the drawer is open, the gripper is holding the red cube"


def caption(said):
    return Answer("describe the scene", "caption", TRUTH, said)


def test_things_are_what_a_caption_lists():
    assert things(TRUTH) == ["red cube", "orange bowl"]
    assert things("") == things("the drawer is open") == []


def test_counting_invention_and_recall():
    scored = counting([caption(TRUTH), caption("a red cube, a blue cube"), caption("a red cube, a red cube, a cube")])
    assert scored["accuracy"] == pytest.approx(2 / 3)
    assert scored["chair"] == pytest.approx(2 / 7)  # a blue cube and a cube, of seven named
    assert scored["recall"] == pytest.approx(4 / 6)
    assert scored["exact"] == pytest.approx(1 / 3) and scored["captions"] == 3


def test_the_bench_leaves_the_documented_keys(tmp_path):
    words = ["bench.sight.scenes=2", "bench.sight.degraded=4", "questions=3", "threads=1", f"out={tmp_path}"]
    assert run(["bench", "grounding", *words]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["pope"]) == {"random", "popular", "adversarial"}
    for key in ("pointing_iou50", "counting", "relations", "without_image"):
        assert key in result
    assert 0 <= result["pointing_iou50"] <= 1
