"""Answers are scored as words, boxes by their overlap."""

import numpy as np
import pytest

from tests.evaluate.fake_world import WordPolicy
from vla.evaluate.questions import Answer, ask, box_iou, score
from vla.model.vocabulary import read_box


def test_equal_boxes_overlap_fully_and_distant_ones_not_at_all():
    assert box_iou((10, 10, 19, 19), (10, 10, 19, 19)) == 1.0
    assert box_iou((10, 10, 19, 19), (20, 10, 29, 19)) == 0.0


def test_half_covered_box():
    assert box_iou((0, 0, 9, 9), (0, 0, 9, 4)) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "yes", "<box 5 5 4 9>", "<box 1 2 3>", "<box 0 0 9 1024>"])
def test_what_is_no_box_is_not_read_as_one(text):
    assert read_box(text) is None


def test_pointing_is_right_from_half_overlap_on():
    truth = "<box 0 0 9 9>"
    assert Answer("point to it", "point", truth, "<box 0 0 9 4>").right
    assert not Answer("point to it", "point", truth, "<box 0 0 9 3>").right
    assert not Answer("point to it", "point", truth, "not visible").right
    assert Answer("point to it", "point", "not visible", "not visible").right


def test_always_yes_shows_in_the_yes_ratio():
    answers = [Answer("is it", "yesno", truth, "yes") for truth in ("yes", "no")]
    summary = score(answers)
    assert (summary["accuracy"], summary["yes_ratio"], summary["true_yes_ratio"]) == (0.5, 1.0, 0.5)


def test_other_types_do_not_touch_the_yes_no_accuracy():
    summary = score([Answer("where", "where", "left", "right"), Answer("is it", "yesno", "no", "no")])
    assert summary["accuracy"] == 1.0
    assert summary["by_type"]["where"]["accuracy"] == 0.0


def test_every_question_is_asked_once_in_order():
    observation = {"pixels": {"front": np.ones((4, 4, 3), np.uint8)}, "agent_pos": np.zeros(6, np.float32)}
    questions = [{"question": f"is it {i}", "answer": "yes", "type": "yesno"} for i in range(5)]
    answers = ask(WordPolicy(), [(observation, questions), (observation, questions[:2])], batch=3)
    assert [answer.question[-1] for answer in answers] == list("0123401")
