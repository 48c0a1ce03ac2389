"""The ways differ in what they are meant to differ in, and the result has the documented keys."""

import pytest

from tests.evaluate.fake_world import GRAMMAR, WordPolicy
from vla.bench import hierarchy
from vla.control.grammar import Grammar
from vla.control.hierarchy import Pacing
from vla.evaluate.guarded import Guarding

PACING = {"replan_steps": 4, "confirm_steps": 1, "timer_steps": 12, "subtask_timeout_steps": 25, "linger_steps": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("hierarchy")
    (out / "model.safetensors").write_bytes(b"weights")
    return out


@pytest.fixture(scope="module")
def result(folder):
    return measured(folder, GRAMMAR)


def measured(out, skills):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hierarchy, "load", lambda folder, device: WordPolicy())
        return hierarchy.measure(
            seed=0,
            out=str(out),
            checkpoint=str(out),
            device="cpu",
            threads=1,
            workers=2,
            episodes=2,
            world={"id": "tests.evaluate.fake_world:Fake-v0", "kwargs": {"subtasks": 2}},
            guarding=Guarding(None, mode="off"),
            skills=skills,
            pacing=PACING,
        )


@pytest.mark.usefixtures("result")
def test_what_other_questions_measured_is_not_taken_for_this(folder):
    other = Grammar({"wave": {"say": "wave {how}", "check": "does it wave"}}, {"how": [["high"]]}, things=[])
    with pytest.raises(ValueError, match="was measured with another skills"):
        measured(folder, other)


def test_every_way_reports_success_and_subtasks(result):
    for way in ("flat", "timer", "completion", "unrevised", "disturbed", "replan"):
        assert {"success_rate", "ci95", "subtasks_per_episode"} <= set(result[way])
        assert result[way]["episodes"] == 2
    assert {"difference", "ci95", "pairs"} <= set(result["paired"]["completion_against_flat"])


def test_a_policy_that_hears_the_first_word_only_needs_the_hierarchy(result):
    assert result["flat"]["success_rate"] == 0.0 and result["flat"]["subtasks_per_episode"] == 1.0
    assert result["completion"]["success_rate"] == 1.0 and result["completion"]["subtasks_per_episode"] == 2.0
    assert result["paired"]["completion_against_flat"]["difference"] == 1.0


def test_only_the_last_three_ways_meet_mishaps_and_only_the_last_replans():
    those = hierarchy.ways(Pacing(threshold=0.3))
    unrevised = next(way for way in those if way.name == "unrevised").pacing
    assert (unrevised.check, unrevised.attempts, unrevised.threshold) == (False, 1, 0.5)
    kinds = {way.name: (way.stepping, way.disturbed, way.pacing.switch, way.pacing.replan) for way in those}
    assert kinds["flat"] == (False, False, "completion", False)
    assert kinds["timer"] == (True, False, "timer", False)
    assert kinds["completion"] == (True, False, "completion", False)
    assert kinds["unrevised"] == (True, True, "completion", False)
    assert kinds["disturbed"] == (True, True, "completion", False)
    assert kinds["replan"] == (True, True, "completion", True)


def test_no_episodes_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        hierarchy.measure(
            seed=0, out="", checkpoint=None, device="cpu", threads=1, workers=1, episodes=0, world={},
            skills=GRAMMAR, guarding=Guarding(None, mode="off"), pacing={},
        )  # fmt: skip
