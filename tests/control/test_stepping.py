"""Beside a loop, the planner thinks without stopping it, and the subtask that is checked goes on meanwhile."""

import dataclasses
import threading

import numpy as np
import pytest

from tests.control.test_grammar import TABLETOP
from tests.control.test_planner import Eyes
from tests.video.chat_server import serving
from vla.control.hierarchy import Pacing
from vla.control.planner import ScriptedPlanner
from vla.control.steering import Verbatim
from vla.control.stepping import Stepping, by_chat, by_policy, who_reads, without_planner
from vla.control.supervisor import Supervisor
from vla.types import ActionChunk, Observation

FIRST, SECOND = "put the red cube in the blue bowl", "press the button"


class SlowPlanner(ScriptedPlanner):
    """Answers when it is let."""

    def __init__(self, subtasks):
        super().__init__(subtasks)
        self.may_answer = threading.Event()

    def next_subtasks(self, requests):
        assert self.may_answer.wait(20)
        return super().next_subtasks(requests)


def seen(time_s):
    return Observation({"front": np.zeros((8, 8, 3), np.uint8)}, np.zeros(6, np.float32), "tidy up, then rest", time_s)


def done(time_s, probability=0.9):
    return ActionChunk(np.zeros((16, 6), np.float32), 0.1, time_s, done=probability)


def look(stepping, time_s):
    """Look until the planner has answered."""
    text = stepping.look(seen(time_s))
    if stepping._thinking is not None:
        stepping._thinking.exception(20)
        text = stepping.look(seen(time_s))
    return text


@pytest.fixture
def planner():
    return SlowPlanner([FIRST, SECOND])


@pytest.fixture
def stepping(planner):
    eyes = Eyes(["red cube", "blue bowl"], true=["is the red cube in the blue bowl", "is the button lit"])
    stepping = Stepping(Supervisor(planner, TABLETOP, eyes), "tidy up, then rest", Pacing(), control_hz=10)
    yield stepping
    planner.may_answer.set()
    stepping.close()


def test_the_arm_holds_until_the_planner_has_spoken(stepping, planner):
    assert [stepping.look(seen(t)) for t in (0.0, 0.1, 0.2)] == [None] * 3
    planner.may_answer.set()
    assert look(stepping, 0.3) == FIRST


def test_the_next_subtask_follows_when_the_first_is_done_and_checked(stepping, planner):
    planner.may_answer.set()
    assert look(stepping, 0.0) == FIRST
    stepping.hear(done(0.3), FIRST)
    stepping.hear(done(0.6), FIRST)
    planner.may_answer.clear()  # the check is answered, the plan after it is not
    assert stepping.look(seen(0.9)) == FIRST  # goes on meanwhile
    planner.may_answer.set()
    assert look(stepping, 1.0) == SECOND
    for t in (1.3, 1.6):
        stepping.hear(done(t), SECOND)
    assert look(stepping, 1.9) is None and stepping.hierarchy.ended == "done"


def test_what_happens_is_told_once_and_in_order(stepping, planner):
    told = []
    stepping.tell = told.append
    planner.may_answer.set()
    look(stepping, 0.0)
    stepping.hear(done(0.3), FIRST)
    stepping.hear(done(0.6), FIRST)
    for time_s in (0.9, 1.0, 1.1):
        look(stepping, time_s)
    stepping.close()
    assert [(note.event, note.text) for note in told] == [("plan", FIRST), ("done", FIRST), ("plan", SECOND)]


def test_words_about_another_subtask_are_not_counted(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    for t in (0.3, 0.6, 0.9):
        stepping.hear(done(t), SECOND)
    assert look(stepping, 1.0) == FIRST and stepping.hierarchy.finished == []


def test_a_planner_that_breaks_is_a_refusal_and_the_arm_holds(stepping, planner, monkeypatch):
    def broken(requests):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(planner, "next_subtasks", broken)
    texts = [look(stepping, 0.5 * i) for i in range(12)]
    assert texts == [None] * 12 and stepping.hierarchy.ended == "gave_up"
    assert "out of memory" in stepping.hierarchy.notes[0].text


class Gone(RuntimeError):
    """What a client raises while its server is away."""

    retry_in_s = 0.5


@pytest.mark.parametrize("away", ["next_subtasks", "generate"])
def test_a_server_that_is_away_for_a_while_costs_no_attempt(stepping, planner, monkeypatch, away):
    planner.may_answer.set()
    there = {"next_subtasks": planner, "generate": stepping.supervisor.eyes}[away]
    answering, asked = getattr(there, away), []

    def answer(*arguments):
        asked.append(arguments)
        if len(asked) < 15:
            raise Gone("it is not there")
        return answering(*arguments)

    monkeypatch.setattr(there, away, answer)
    texts = [look(stepping, 0.1 * tenth) for tenth in range(300)]
    assert texts[0] is None and texts[-1] == FIRST and stepping.hierarchy.ended is None
    assert texts.index(FIRST) > 100  # it is not asked in every frame


def test_the_same_words_given_again_are_carried_out_again_once_they_are_over(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    stepping.once_more()
    assert look(stepping, 0.1) == FIRST and [note.event for note in stepping.hierarchy.notes] == ["plan"]
    stepping.hierarchy._end("gave_up", 1)
    assert look(stepping, 0.2) is None
    stepping.once_more()
    assert look(stepping, 0.3) == FIRST and stepping.hierarchy.ended is None


def test_a_policy_that_says_nothing_about_done_does_not_stop_the_loop(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    for t in range(1, 15):
        stepping.hear(dataclasses.replace(done(float(t)), done=None), FIRST)
    assert [note.event for note in stepping.hierarchy.notes][:2] == ["plan", "timeout"]


def test_a_check_that_never_ends_is_not_waited_for_longer_than_five_seconds(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    for t in (0.3, 0.6):
        stepping.hear(done(t), FIRST)
    planner.may_answer.clear()
    assert [stepping.look(seen(t)) for t in (0.9, 5.8)] == [FIRST] * 2
    assert stepping.look(seen(6.0)) is None
    planner.may_answer.set()
    assert look(stepping, 6.1) == SECOND


def test_other_words_of_the_operator_start_it_anew(stepping, planner):
    planner.may_answer.set()
    assert look(stepping, 0.0) == FIRST
    other = dataclasses.replace(seen(0.1), instruction="press it, then rest")
    stepping.look(other)
    assert stepping.hierarchy.instruction == "press it, then rest" and stepping.hierarchy.finished == []


class Deaf(SlowPlanner):
    """Never answers about the first instruction."""

    def next_subtasks(self, requests):
        if requests[0].observation.instruction == "tidy up, then rest":
            return super().next_subtasks(requests)
        return ScriptedPlanner.next_subtasks(self, requests)


def test_other_words_do_not_wait_for_a_planner_that_is_stuck():
    planner, told = Deaf([SECOND]), []
    stepping = Stepping(Supervisor(planner, TABLETOP, Eyes([])), "tidy up, then rest", Pacing(), 10)
    stepping.tell = told.append
    assert stepping.look(seen(0.0)) is None
    other = dataclasses.replace(seen(0.1), instruction="tidy the table")
    assert stepping.look(other) is None
    assert stepping._thinking.exception(20) is None
    assert stepping.look(other) == SECOND
    planner.may_answer.set()  # what is thought about words that are gone changes nothing
    stepping.close()
    assert [note.text for note in told] == [SECOND]


def test_while_the_planner_thinks_the_subtask_of_words_that_are_gone_does_not_go_on(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    for t in (0.3, 0.6):
        stepping.hear(done(t), FIRST)
    planner.may_answer.clear()
    assert stepping.look(seen(0.9)) == FIRST
    assert stepping.look(dataclasses.replace(seen(1.0), instruction="press it")) is None


PACE = {"pacing": Pacing(), "control_hz": 10}


class Planning(Eyes):
    """A policy that names the next subtask itself, and knows some words."""

    def __init__(self, subtask, unknown=()):
        super().__init__(["red cube", "blue bowl"])
        self.subtask, self.unknown, self.asked = subtask, unknown, []

    def next_subtask(self, observations, finished, failed=()):
        self.asked += [observation.instruction for observation in observations]
        return [self.subtask] * len(observations)

    def unknown_words(self, text):
        return [word for word in text.split() if word in self.unknown]


@pytest.mark.parametrize(
    ("words", "text", "asked"),
    [
        ("hit the button", "hit the button", []),  # the grammar reads it: as it is
        ("make the button glow", SECOND, ["make the button glow"]),
        (f"{FIRST} and open the drawer", FIRST, []),  # two steps, both of which the grammar reads
        ("hit the button and make it glow", SECOND, ["hit the button and make it glow"]),
    ],
)
def test_a_policy_that_plans_for_itself_is_asked_what_the_grammar_cannot_read(words, text, asked):
    policy = Planning(SECOND)
    stepping = by_policy(policy=policy, grammar=TABLETOP, instruction=words, **PACE)
    seeing = dataclasses.replace(seen(0.0), instruction=words)
    stepping.look(seeing)
    if stepping._thinking is not None:
        stepping._thinking.exception(20)
    assert stepping.look(seeing) == text and policy.asked == asked
    stepping.close()


@pytest.mark.parametrize("words", ["press the button", "tidy up the table", f"{FIRST} and open the drawer"])
def test_an_endpoint_plans_whatever_the_words_are(words):
    with serving("press the button") as server:
        settings = {"url": server.url, "model": "m", "timeout_s": 20.0}
        stepping = by_chat(policy=Eyes([]), grammar=TABLETOP, instruction=words, **PACE, **settings)
        seeing = dataclasses.replace(seen(0.0), instruction=words)
        assert stepping.look(seeing) is None
        stepping._thinking.exception(20)
        assert stepping.look(seeing) == "press the button"
        stepping.close()
    ((_, body),) = server.asked
    assert words in body["messages"][1]["content"][0]["text"]


def test_a_subtask_with_words_that_the_policy_does_not_know_is_refused_and_the_planner_is_told():
    policy = Planning("", unknown=["drawer"])
    with serving("open the drawer", "press the button") as server:
        settings = {"url": server.url, "model": "m", "timeout_s": 20.0}
        stepping = by_chat(policy=policy, grammar=TABLETOP, instruction="tidy up, then rest", **PACE, **settings)
        texts = [look(stepping, time_s) for time_s in (0.0, 0.5, 1.0)]
        stepping.close()
    assert texts == [None, None, "press the button"]
    assert "does not know “drawer”" in server.asked[1][1]["messages"][1]["content"][0]["text"]


def test_the_words_of_an_operator_must_be_known_where_the_policy_reads_them():
    policy = Planning(SECOND, unknown=["tidy"])
    chat = {"url": "http://127.0.0.1:9/v1", "model": "m", "timeout_s": 1.0}
    made = {"policy": policy, "grammar": TABLETOP, "instruction": SECOND, **PACE}
    reads = [who_reads(steering, policy) for steering in (by_policy(**made), without_planner(**made))]
    assert [ask("tidy up") for ask in reads] == [["tidy"]] * 2
    assert who_reads(by_chat(**made, **chat), policy) is None
    assert who_reads(Verbatim(), object()) is None


def test_a_policy_whose_server_answers_with_chunks_only_cannot_plan():
    policy = Planning(SECOND)
    policy.talks = False
    with pytest.raises(ValueError, match="answers with chunks only; possible: planner=none"):
        by_policy(policy=policy, grammar=TABLETOP, instruction=SECOND, **PACE)


def test_why_there_is_nothing_to_do_is_told(stepping, planner):
    stepping.look(seen(0.0))
    assert stepping.look(seen(2.5)) is None and stepping.why_idle == "the planner has been thinking for 2.5 s"
    planner.may_answer.set()
    look(stepping, 2.6)
    stepping.hierarchy._end("done", 30)
    assert look(stepping, 2.7) is None and stepping.why_idle == "all that was asked for is done"


def test_a_planner_that_is_away_refused_or_given_up_is_told_apart(stepping, planner, monkeypatch):
    def away(requests):
        raise Gone("it is not there")

    monkeypatch.setattr(planner, "next_subtasks", away)
    assert look(stepping, 0.0) is None and stepping.why_idle == "the planner cannot be asked: it is not there"
    monkeypatch.setattr(planner, "next_subtasks", lambda requests: ["fly to the moon"])
    assert look(stepping, 2.0) is None
    assert stepping.why_idle.startswith(
        "the planner has named nothing that can be done: 'fly to the moon' is not a skill"
    )
    assert [look(stepping, 2.0 + time_s) for time_s in range(2, 12)] == [None] * 10
    assert stepping.hierarchy.ended == "gave_up"
    assert stepping.why_idle.startswith(
        "it was given up after 3 attempts; the planner has named nothing that can be done: 'fly"
    )


def test_a_subtask_that_was_tried_in_vain_is_named(stepping, planner):
    planner.may_answer.set()
    look(stepping, 0.0)
    stepping.hierarchy.failed = FIRST
    stepping.hierarchy._end("gave_up", 9)
    assert look(stepping, 1.0) is None
    assert stepping.why_idle == f"it was given up after 3 attempts; “{FIRST}” did not succeed"
