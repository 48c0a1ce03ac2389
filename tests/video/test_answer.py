"""Frames are chosen by what a question asks, answers rest on frames that were looked at, or say "not visible"."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.chat_server import serving
from tests.video.test_words import story  # noqa: F401 (a fixture)
from vla.video.analysis import ASKED, frames_for
from vla.video.answer import NOT_VISIBLE, measured_answer, relevance
from vla.video.chat import NoReply
from vla.video.chat_answer import read_answer
from vla.video.chat_outcome import read_verdict, shown_times
from vla.video.chat_words import ChatWords
from vla.video.events import STATE
from vla.video.outcome import FAILURE, NONE, SUCCESS, Suspect, decided
from vla.video.select import aks, bolt, uniform
from vla.video.words import NoWords

scores = st.lists(st.floats(0, 1), min_size=1, max_size=80).map(np.array)


@settings(deadline=None)
@given(scores, st.integers(1, 32), st.sampled_from([bolt, aks]))
def test_chosen_frames_exist_differ_and_are_not_too_many(relevant, frames, choose):
    chosen = choose(relevant, frames)
    assert chosen == sorted(set(chosen)) and 1 <= len(chosen) <= frames
    assert chosen[0] >= 0 and chosen[-1] < len(relevant)


@settings(deadline=None)
@given(st.integers(40, 400), st.integers(0, 1000), st.integers(4, 16))
def test_bolt_looks_where_it_matters_and_uniform_everywhere(count, place, frames):
    start = place % (count - 20)
    relevant = np.zeros(count)
    relevant[start : start + 20] = 1.0
    inside = [start <= k < start + 20 for k in bolt(relevant, frames)]
    assert all(inside) and len(inside) == frames
    even = uniform(count, frames)
    assert even[0] == 0 and even[-1] == count - 1 and np.ptp(np.diff(even)) <= 1
    assert bolt(np.zeros(count), frames) == even


def test_frames_for_a_question_lie_where_it_happens(story):  # noqa: F811
    grasps = [event.time_s for event in story.events if (event.signal, event.kind) == (STATE, "grasp")]
    chosen = frames_for("when is the disc grasped?", story)
    near = [min(abs(time_s - grasp) for grasp in grasps) < 0.6 for time_s in chosen]
    assert len(chosen) <= ASKED and np.mean(near) > 0.7
    lead = story.tracks["top"]
    assert (chosen[0], chosen[-1]) == (lead.time_s[0], lead.time_s[-1])
    about_nothing = frames_for("is the sky blue?", story)
    assert max(np.diff(about_nothing)) < 0.8


def test_a_similarity_takes_the_place_of_common_words(story):  # noqa: F811
    lead = story.tracks["top"]
    time_s = lead.time_s[lead.sample]
    wanted = relevance("x", time_s, story.events, story.outcome, [], lambda texts: [("grasp" in t) for t in texts])
    assert wanted.max() > 0.9
    peak_s = time_s[wanted.argmax()]
    assert any(event.kind == "grasp" and abs(event.time_s - peak_s) < 0.2 for event in story.events)


@pytest.mark.parametrize(
    ("question", "kind"),
    [("when is the disc dropped?", "release"), ("When was it picked up?", "grasp"), ("when does it grab it", "grasp")],
)
def test_without_a_model_measured_moments_are_cited_and_what_was_not_checked_is_said(story, question, kind):  # noqa: F811
    answer = NoWords().answer(story, question, [])
    true = [event.time_s for event in story.events if (event.signal, event.kind) == (STATE, kind)]
    assert answer.times_s == pytest.approx(true, abs=0.06) and len(answer.frames) == len(true)
    assert "needs a model" in answer.problem


def test_without_a_model_what_was_not_measured_is_not_visible(story):  # noqa: F811
    answer = measured_answer("is the sky blue?", story.events, story.outcome, story.tracks["top"])
    assert (answer.answer, answer.times_s, answer.frames) == (NOT_VISIBLE, (), ())


def test_a_models_answer_cites_frames_that_it_was_shown(story):  # noqa: F811
    times_s = frames_for("when is the disc grasped?", story)
    with serving(json.dumps({"answer": "It is\ngrasped.", "times_s": [times_s[3] + 0.01, 99]})) as server:
        answer = ChatWords(server.url, "m").answer(story, "when is the disc grasped?", times_s)
    assert (answer.answer, answer.times_s, answer.problem) == ("It is grasped.", (times_s[3],), "")
    assert answer.looked_at_s == tuple(times_s) and answer.source.startswith("m, at http")
    ((_, body),) = server.asked
    assert '"when is the disc grasped?"' in body["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize("bad", ["", "it is there", '{"answer": "there"}', '{"answer": "there", "times_s": [99]}', 500])
def test_an_answer_that_rests_on_nothing_is_asked_for_again_once_and_then_not_given(story, bad):  # noqa: F811
    good = json.dumps({"answer": "not visible", "times_s": []})
    with serving(bad, good, bad, bad) as server:
        words = ChatWords(server.url, "m")
        assert words.answer(story, "where?", [0.0, 1.0]).problem == ""
        failed = words.answer(story, "where?", [0.0, 1.0])
        assert len(server.asked) == 4
    assert failed.answer == NOT_VISIBLE and failed.problem.startswith("not answered: ") and not failed.frames


def test_a_models_verdict_takes_the_measured_time_of_a_suspect_nearby(story):  # noqa: F811
    suspects = (Suspect(2.0, "slip", ("the gripper closes",)), Suspect(4.5, "missed_grasp", ("empty",)))
    doubted = type(story)(story.item, story.tracks, story.events, story.segments, decided(suspects))
    shown_s = shown_times(suspects, float(story.tracks["top"].time_s[-1]))
    near_s = min(shown_s, key=lambda time_s: abs(time_s - 4.8))
    said = {"outcome": "failure", "time_s": near_s, "mode": "slip", "evidence": "it falls"}
    replies = [said, {"outcome": "success"}, {"outcome": "unclear"}, "", ""]
    with serving(*[json.dumps(reply) if reply else "" for reply in replies]) as server:
        words = ChatWords(server.url, "m")
        failed, fine, unclear, silent = (words.judge(doubted) for _ in range(4))
    assert failed.failure == Suspect(4.5, "slip", ("it falls", "empty")) and failed.source == words.identity
    assert (fine.label, fine.failure) == (SUCCESS, None)
    assert unclear.failure == silent.failure == suspects[0] and unclear.source == "measured"
    assert unclear.problem == "not judged: the model cannot tell" and silent.problem.startswith("not judged: ")


def test_a_model_may_see_no_failure_where_nothing_is_suspected(story):  # noqa: F811
    assert story.outcome.label == NONE
    with serving('{"outcome": "success", "time_s": null, "mode": null, "evidence": ""}') as server:
        assert ChatWords(server.url, "m").judge(story).label == SUCCESS
    ((_, body),) = server.asked
    assert "Sensors suspect these moments: none" in body["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999", "9" * 400, "9" * 5000], ids=lambda text: text[:9])
def test_a_number_that_no_clock_shows_is_no_answer(number):
    with pytest.raises(NoReply):
        read_verdict(f'{{"outcome": "failure", "time_s": {number}, "mode": "slip", "evidence": ""}}', [0.0, 1.0])
    with pytest.raises(NoReply):
        read_answer(f'{{"answer": "there", "times_s": [{number}]}}', [0.0, 1.0])


@settings(deadline=None)
@given(st.floats(0, 30), st.lists(st.floats(0, 20), max_size=3))
def test_only_moments_that_were_shown_can_be_named(time_s, moments):
    shown_s = shown_times([Suspect(moment, "slip", ("seen",)) for moment in moments], 20.0)
    assert shown_s == sorted(shown_s) and shown_s[0] == 0 and len(shown_s) <= 9 * len(moments) + 12
    reply = json.dumps({"outcome": "failure", "time_s": time_s, "mode": "slip", "evidence": 3})
    if min(abs(time_s - shown) for shown in shown_s) <= 0.3:
        label, suspect = read_verdict(reply, shown_s)
        assert label == FAILURE and suspect is not None and suspect.time_s in shown_s
    else:
        with pytest.raises(Exception, match="no frame was shown"):
            read_verdict(reply, shown_s)
