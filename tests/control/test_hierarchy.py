"""The hierarchy goes on when a subtask is accomplished, tries again when not, and always ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.control.grammar import Skill
from vla.control.hierarchy import Hierarchy, Pacing, within_reach
from vla.types import READY

PICK = Skill("pick up the cube", "pick", ("cube",), check="is the gripper holding the cube", holds=True)
PLACE = Skill("put the cube in the bowl", "place", ("cube", "bowl"), check="is the cube in the bowl")
PRESS = Skill("press the button", "press")


def begun(skill, **pacing):
    hierarchy = Hierarchy("do it", Pacing(**pacing))
    assert hierarchy.wants_plan
    hierarchy.take_plan(skill, 0)
    return hierarchy


def say_done(hierarchy, step):
    for i in range(hierarchy.pacing.k):
        hierarchy.take_prediction(0.9, step + i)


def events(hierarchy):
    return [note.event for note in hierarchy.notes]


def test_done_counts_once_the_check_agrees():
    hierarchy = begun(PLACE)
    say_done(hierarchy, 10)
    assert hierarchy.subtask == PLACE.text and hierarchy.wants_checks == [PLACE] and not hierarchy.wants_plan
    hierarchy.take_checks([False], 12)
    assert hierarchy.subtask == PLACE.text and hierarchy.wants_checks == [] and hierarchy.finished == []
    say_done(hierarchy, 20)
    hierarchy.take_checks([True], 22)
    assert hierarchy.finished == [PLACE] and hierarchy.wants_plan and hierarchy.subtask is None
    assert events(hierarchy) == ["plan", "not_done", "done"]


def test_a_skill_without_a_question_is_done_when_it_says_so():
    hierarchy = begun(PRESS)
    say_done(hierarchy, 5)
    assert hierarchy.finished == [PRESS] and hierarchy.wants_plan


def test_what_takes_too_long_is_planned_again_with_the_lesson_and_given_up_in_the_end():
    hierarchy, step = begun(PICK, subtask_timeout_steps=20, attempts=3), 0
    for _ in range(3):
        step += 20
        hierarchy.take_prediction(0.1, step)
        assert hierarchy.wants_checks == [PICK] and not hierarchy.wants_plan
        hierarchy.take_checks([False], step)
        assert hierarchy.wants_plan and hierarchy.failed == PICK.text
        hierarchy.take_plan(PICK, step)
    assert hierarchy.ended == "gave_up" and hierarchy.subtask is None and not hierarchy.wants_plan


def test_another_plan_after_a_failure_starts_its_attempts_anew():
    hierarchy = begun(PICK, subtask_timeout_steps=20, attempts=1)
    hierarchy.take_prediction(0.1, 20)
    hierarchy.take_checks([False], 20)
    hierarchy.take_plan(PRESS, 20)
    assert hierarchy.subtask == PRESS.text and hierarchy.ended is None


def test_a_planner_that_is_always_refused_ends_in_giving_up():
    hierarchy = Hierarchy("do it", Pacing(attempts=3))
    for step in range(4):
        assert hierarchy.wants_plan
        hierarchy.take_refusal("not a skill", step)
    assert hierarchy.ended == "gave_up"


def test_the_timer_asks_nothing_and_switches_by_itself():
    hierarchy = begun(PLACE, switch="timer", timer_steps=60)
    hierarchy.take_prediction(0.99, 59)
    assert hierarchy.subtask == PLACE.text
    hierarchy.take_prediction(None, 60)
    assert hierarchy.finished == [PLACE] and hierarchy.wants_checks == []


def test_what_came_undone_is_done_again_before_the_end():
    hierarchy = begun(PLACE, replan=True)
    say_done(hierarchy, 10)
    hierarchy.take_checks([True], 11)
    hierarchy.take_plan(PRESS, 12)
    say_done(hierarchy, 20)
    hierarchy.take_plan(None, 22)
    assert hierarchy.wants_checks == [PLACE] and not hierarchy.wants_plan and hierarchy.ended is None
    hierarchy.take_checks([False], 22)
    assert hierarchy.subtask == PLACE.text
    say_done(hierarchy, 40)
    hierarchy.take_checks([True], 41)
    hierarchy.take_plan(None, 42)
    hierarchy.take_checks([True], 42)
    assert hierarchy.ended == "done" and hierarchy.finished == [PLACE, PRESS]


def test_what_a_later_subtask_takes_back_or_moves_on_is_not_done_again():
    opens, closes = Skill("open it", "open", check="open?"), Skill("close it", "close", check="closed?", undoes="open")
    hierarchy, skills = Hierarchy("do it", Pacing(replan=True)), [opens, PICK, closes, PLACE]
    for number, skill in enumerate(skills):
        hierarchy.take_plan(skill, 20 * number)
        say_done(hierarchy, 20 * number + 5)
        hierarchy.take_checks([True], 20 * number + 8)
    hierarchy.take_plan(None, 90)
    assert hierarchy.finished == skills and hierarchy.wants_checks == [closes, PLACE]


def test_without_replanning_the_planner_has_the_last_word():
    hierarchy = begun(PLACE, replan=False)
    say_done(hierarchy, 10)
    hierarchy.take_checks([True], 11)
    hierarchy.take_plan(None, 12)
    assert hierarchy.ended == "done"


def test_the_same_subtask_asked_for_twice_counts_twice():
    hierarchy = begun(PRESS)
    say_done(hierarchy, 5)
    hierarchy.take_plan(PRESS, 8)
    say_done(hierarchy, 20)
    assert hierarchy.finished == [PRESS, PRESS]


def settle(hierarchy, step):
    """Let the arm go on until it has left alone what it has done, and say when that is."""
    text, wait = hierarchy.subtask, hierarchy.pacing.settle_steps
    for later in range(wait):
        hierarchy.take_prediction(0.9, step + later)
        assert hierarchy.subtask == text != READY and not hierarchy.wants_plan and not hierarchy.wants_checks
    hierarchy.take_prediction(0.9, step + wait)
    return step + wait


def back(hierarchy, step):
    """Let the arm step back until it is there."""
    assert hierarchy.subtask == READY and not hierarchy.wants_plan and not hierarchy.wants_checks
    hierarchy.take_prediction(0.0, step)
    assert hierarchy.subtask == READY
    hierarchy.take_prediction(1.0, step + 3)
    assert hierarchy.subtask != READY


def test_what_was_declared_done_is_looked_at_again_from_the_ready_pose():
    hierarchy = begun(PLACE, step_back=True)
    say_done(hierarchy, 10)
    hierarchy.take_checks([True], 12)
    back(hierarchy, settle(hierarchy, 12))
    assert hierarchy.wants_checks == [PLACE] and hierarchy.finished == []
    hierarchy.take_checks([True], 30)
    assert hierarchy.finished == [PLACE] and hierarchy.wants_plan
    assert [(note.step, note.event) for note in hierarchy.notes] == [(0, "plan"), (11, "done")]


def test_what_the_second_look_denies_is_tried_again_and_at_the_last_attempt_the_first_look_is_believed():
    hierarchy = begun(PLACE, step_back=True, attempts=3)
    for step in (10, 40):
        assert hierarchy.subtask == PLACE.text
        say_done(hierarchy, step)
        hierarchy.take_checks([True], step + 2)
        back(hierarchy, settle(hierarchy, step + 2))
        hierarchy.take_checks([False], step + 20)
    say_done(hierarchy, 70)
    hierarchy.take_checks([True], 72)
    back(hierarchy, settle(hierarchy, 72))
    assert hierarchy.finished == [PLACE] and hierarchy.wants_plan
    assert events(hierarchy) == ["plan", "not_done", "not_done", "done"]


def test_what_every_look_denies_is_given_up_in_the_end():
    hierarchy, step = begun(PLACE, step_back=True, attempts=2, subtask_timeout_steps=50), 0
    while hierarchy.ended is None and step < 500:
        step += 1
        if hierarchy.wants_plan:
            hierarchy.take_plan(PLACE, step)
        elif hierarchy.wants_checks:
            hierarchy.take_checks([False], step)
        else:
            hierarchy.take_prediction(0.9, step)
    assert hierarchy.ended == "gave_up" and hierarchy.finished == []


def test_each_attempt_believes_the_completion_output_sooner():
    hierarchy = begun(PRESS, threshold=0.6, subtask_timeout_steps=20, k=1)
    hierarchy.take_prediction(0.4, 20)
    assert hierarchy.finished == []
    hierarchy.take_plan(PRESS, 20)
    hierarchy.take_prediction(0.4, 21)
    assert hierarchy.finished == [PRESS]
    hierarchy.take_plan(PLACE, 30)
    hierarchy.take_prediction(0.4, 31)
    assert hierarchy.subtask == PLACE.text and not hierarchy.wants_checks


@pytest.mark.parametrize("accomplished", [True, False])
def test_what_has_taken_too_long_is_looked_at_before_it_is_tried_again(accomplished):
    hierarchy = begun(PLACE, step_back=True, subtask_timeout_steps=20)
    hierarchy.take_prediction(0.1, 20)
    back(hierarchy, 23)
    assert hierarchy.wants_checks == [PLACE]
    hierarchy.take_checks([accomplished], 26)
    assert hierarchy.finished == [PLACE] * accomplished and hierarchy.wants_plan
    assert hierarchy.failed == ("" if accomplished else PLACE.text)


def test_what_is_in_the_hand_at_last_is_kept_there():
    hierarchy = begun(PICK, step_back=True, subtask_timeout_steps=20)
    hierarchy.take_prediction(0.1, 20)
    hierarchy.take_checks([True], 20)
    settle(hierarchy, 20)
    assert hierarchy.finished == [PICK] and hierarchy.wants_plan


def test_nobody_steps_back_with_something_in_the_hand_but_the_hand_goes_on_for_a_moment():
    for switch in ("completion", "timer"):
        hierarchy = begun(PICK, step_back=True, switch=switch, timer_steps=12)
        say_done(hierarchy, 11)
        if switch == "completion":
            hierarchy.take_checks([True], 12)
        assert hierarchy.subtask == PICK.text and hierarchy.finished == []  # it may not be lifted all the way yet
        settle(hierarchy, 12)
        assert hierarchy.finished == [PICK] and hierarchy.wants_plan


def test_after_a_skill_without_a_question_the_arm_steps_back_once():
    hierarchy = begun(PRESS, step_back=True)
    say_done(hierarchy, 5)
    back(hierarchy, settle(hierarchy, 6))
    assert hierarchy.finished == [PRESS] and hierarchy.wants_plan


def test_another_attempt_begins_at_the_ready_pose():
    hierarchy = begun(PICK, step_back=True, subtask_timeout_steps=20)
    hierarchy.take_prediction(0.1, 20)
    hierarchy.take_checks([False], 20)
    back(hierarchy, 23)
    assert hierarchy.wants_plan and hierarchy.failed == PICK.text


def test_the_way_back_takes_no_longer_than_it_may():
    hierarchy = begun(PRESS, step_back=True, step_back_steps=40)
    say_done(hierarchy, 5)
    began = settle(hierarchy, 6)
    hierarchy.take_prediction(0.0, began + 39)
    assert hierarchy.subtask == READY
    hierarchy.take_prediction(None, began + 40)
    assert hierarchy.subtask is None and hierarchy.wants_plan


def test_only_a_policy_with_a_ready_pose_steps_back():
    class Knows:
        ready = (0.0, 0.0)

    asked = Pacing(step_back=True)
    assert within_reach(asked, Knows()).step_back and not within_reach(asked, object()).step_back
    assert not within_reach(Pacing(step_back=False), Knows()).step_back


def test_an_unknown_switch_is_refused():
    with pytest.raises(ValueError, match="possible: completion, timer"):
        Pacing(switch="clock")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 4)), max_size=400),
    st.booleans(),
    st.booleans(),
)
def test_it_always_knows_what_it_wants(moves, replan, step_back):
    """Whatever is answered, it either has a subtask, wants a plan, wants checks, or has ended; never two at once."""
    pacing, plans = Pacing(replan=replan, step_back=step_back, subtask_timeout_steps=30), [PICK, PLACE, PRESS, None]
    hierarchy = Hierarchy("do it", pacing)
    for step, (done, answer, plan) in enumerate(moves):
        if hierarchy.wants_checks:
            hierarchy.take_checks([answer] * len(hierarchy.wants_checks), 3 * step)
        elif hierarchy.wants_plan and plan == 4:
            hierarchy.take_refusal("no", 3 * step)
        elif hierarchy.wants_plan:
            hierarchy.take_plan(plans[plan], 3 * step)
        elif hierarchy.subtask:
            hierarchy.take_prediction(done, 3 * step)
        wants = [bool(hierarchy.ended), hierarchy.wants_plan, bool(hierarchy.subtask or hierarchy.wants_checks)]
        assert sum(wants) == 1
