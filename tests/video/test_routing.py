"""What a first model does not know, or is not sure of, goes to a stronger one; how much, and what came of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.video.chat_server import serving
from tests.video.scenes import record
from tests.video.test_decode import write
from tests.video.test_words import story  # noqa: F401 (a fixture)
from vla.cli import run
from vla.video.answer import NOT_VISIBLE
from vla.video.chat_words import ChatWords
from vla.video.outcome import NONE, SUCCESS, Outcome, Suspect
from vla.video.routing import RoutedWords, Routing
from vla.video.segments import MEASURED, Segment, divided, merged
from vla.video.source import Item
from vla.video.words import NoWords, Story

DRAWN = Item("drawn", Path("drawn.mp4"), {})


class Sure(NoWords):
    """Says what a test gives it, as sure as it is told."""

    def __init__(self, *confidences: float | None, name: str = "weak") -> None:
        self.identity, self._confidences, self.asked = name, confidences, []

    def name(self, told: Story) -> list[Segment]:
        """Name every segment by its number, where there is a confidence."""
        self.asked.append([segment.start_s for segment in told.segments])
        confidences = self._confidences or [1.0] * len(told.segments)
        return [
            replace(part, problem="not named: too dark")
            if value is None
            else replace(part, label=f"{self.identity} {part.start_s:g}", source=self.identity, confidence=value)
            for part, value in zip(told.segments, confidences, strict=True)
        ]


def parts(count: int) -> list[Segment]:
    """Segments of a second each."""
    return [Segment(float(k), k + 1.0, "move") for k in range(count)]


@given(st.lists(st.one_of(st.none(), st.sampled_from([0.2, 0.6, 0.8, 1.0])), min_size=1, max_size=9))
def test_only_what_is_in_doubt_is_asked_again_and_nothing_is_moved(confidences):
    told = Story(DRAWN, {}, [], parts(len(confidences)), Outcome(NONE, ""))
    strong = Sure(name="strong")
    named = RoutedWords(Sure(*confidences), strong, sure=0.8).name(told)
    doubtful = [value is None or value < 0.8 for value in confidences]
    assert [(part.start_s, part.stop_s) for part in named] == [(part.start_s, part.stop_s) for part in told.segments]
    assert [part.source for part in named] == ["strong" if doubt else "weak" for doubt in doubtful]
    assert sorted(start_s for run in strong.asked for start_s in run) == [
        float(k) for k, doubt in enumerate(doubtful) if doubt
    ]
    firsts = [
        ("" if value is None else f"weak {k}") if doubt else None
        for k, (value, doubt) in enumerate(zip(confidences, doubtful, strict=True))
    ]
    assert [part.first for part in named] == firsts
    assert Routing.of(named) == Routing(len(named), sum(doubtful), sum(doubtful))


class Halves(Sure):
    """Cuts every segment in two, and is sure of the first half alone."""

    def name(self, told: Story) -> list[Segment]:
        """Name the halves."""
        halves = divided(told.segments, [part.middle_s for part in told.segments], told.events)
        return [
            replace(part, label="half", source="halves", confidence=1.0 if part.start_s % 1 == 0 else 0.1)
            for part in halves
        ]


def test_what_the_first_one_cut_further_stays_cut():
    told, strong = Story(DRAWN, {}, [], parts(2), Outcome(NONE, "")), Sure(name="strong")
    named = RoutedWords(Halves(), strong, sure=0.8).name(told)
    assert [(part.start_s, part.source) for part in named] == [
        *((0.0, "halves"), (0.5, "strong"), (1.0, "halves"), (1.5, "strong"))
    ]
    assert strong.asked == [[0.5], [1.5]] and named[-1].stop_s == 2.0


def test_where_the_stronger_one_has_no_words_the_first_ones_stand_and_both_problems_are_told():
    told = Story(DRAWN, {}, [], parts(2), Outcome(NONE, ""))
    named = RoutedWords(Sure(0.5, None), Sure(None, None, name="strong")).name(told)
    assert [(part.label, part.source, part.first) for part in named] == [
        ("weak 0", "weak", "weak 0"),
        ("move", MEASURED, ""),
    ]
    assert named[0].problem == "the stronger model: not named: too dark"
    assert named[1].problem == "not named: too dark; the stronger model: not named: too dark"
    assert Routing.of(named) == Routing(2, 2, 0)


def test_joined_segments_keep_the_least_confidence_and_what_was_said_first():
    same = {"label": "tidy up", "source": "strong"}
    joined = merged([Segment(0, 1, confidence=0.9, **same), Segment(1, 2, confidence=0.4, first="dust", **same)])
    assert [(part.stop_s, part.confidence, part.first) for part in joined] == [(2, 0.4, "dust")]


def test_an_outcome_that_nothing_speaks_against_stands_and_a_suspected_one_is_judged_again(story):  # noqa: F811
    with serving('{"outcome": "success"}') as server:
        words = RoutedWords(NoWords(), ChatWords(server.url, "m"))
        assert words.judge(story) is story.outcome and not server.asked
        suspected = replace(story, outcome=Outcome("failure", "it slips", (Suspect(2.0, "slip", ("seen",)),)))
        outcome = words.judge(suspected)
    assert (outcome.label, outcome.first, len(server.asked)) == (SUCCESS, "failure", 1)


def test_a_question_that_measured_events_do_not_settle_goes_to_the_endpoint(story):  # noqa: F811
    with serving('{"answer": "The red one.", "times_s": [0.0]}', "", "") as server:
        words = RoutedWords(NoWords(), ChatWords(server.url, "m"))
        answer = words.answer(story, "which disc?", [0.0, 1.0])
        silent = words.answer(story, "which disc?", [0.0, 1.0])
    assert (answer.answer, answer.first) == ("The red one.", NOT_VISIBLE)
    assert silent.answer == NOT_VISIBLE and "the stronger model: not answered" in silent.problem


def test_the_agreement_of_samples_is_the_confidence_of_an_endpoint(story):  # noqa: F811
    few = replace(story, segments=story.segments[:2])
    names = ['{"names": ["Pick up", "rest"]}', '{"names": ["pick up.", "wait"]}', "", '{"names": ["drop", "stand"]}']
    verdicts = ['{"outcome": "success"}', '{"outcome": "unclear"}', '{"outcome": "success"}', '{"outcome": "success"}']
    said = [("a", [0.0]), ("b", [0.3]), ("c", [2.0]), ("not visible", [])]
    answers = [json.dumps({"answer": text, "times_s": times_s}) for text, times_s in said]
    with serving(*names, *verdicts, *answers) as server:
        words = ChatWords(server.url, "m", samples=4)
        named = words.name(few)
        assert [(part.label, part.confidence) for part in named] == [("Pick up", 0.5), ("rest", 0.25)]
        outcome = words.judge(story)
        assert (outcome.label, outcome.confidence) == (SUCCESS, 0.75)
        answer = words.answer(story, "where?", [0.0, 0.3, 2.0])
    assert (answer.answer, answer.confidence) == ("a", 0.5)
    assert {body["temperature"] for _, body in server.asked} == {0.7} and len(server.asked) == 12
    assert (
        words.identity.endswith(", 4 samples") and ChatWords(server.url, "m").identity + ", 4 samples" == words.identity
    )
    with pytest.raises(ValueError, match="samples=0 answers nothing"):
        ChatWords("http://x", "m", samples=0)


@pytest.mark.parametrize("sure", [-0.1, 1.1])
def test_a_threshold_that_is_no_share_is_refused(sure):
    with pytest.raises(ValueError, match=r"is no share: give 0"):
        RoutedWords(NoWords(), NoWords(), sure)


def test_the_command_line_tells_how_much_was_routed_and_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", record(1).frames)
    assert run(["analyze", "path=a.mp4", "out=alone"]) == 0
    alone = json.loads(Path("alone/result.json").read_text())
    count = alone["items"][0]["segments"]
    assert alone["routing"] == {"asked": count + 1, "routed": 0, "changed": 0, "share": 0.0}
    names = json.dumps({"names": [f"part {k}" for k in range(count)]})
    with serving(names, '{"outcome": "unclear"}', '{"outcome": "unclear"}') as server:
        assert run(["analyze", "path=a.mp4", "out=both", f"stronger.url={server.url}"]) == 0
    both = json.loads(Path("both/result.json").read_text())
    assert both["routing"]["asked"] == count + 1 and both["routing"]["routed"] == count + 1
    assert both["routing"]["changed"] == count and both["routing"]["share"] == 1.0
    page = Path(both["items"][0]["report"]).read_text(encoding="utf-8")
    assert "part 0" in page and "first: no name" in page
