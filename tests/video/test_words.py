"""Models name segments and never move them; what they do not say, or say wrongly, is recorded as such."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.control.test_grammar import TABLETOP
from tests.video.chat_server import serving
from tests.video.scenes import Scene, record
from tests.video.test_events import track_of
from vla.video.analysis import UNREAD
from vla.video.answer import NOT_VISIBLE
from vla.video.chat import EndpointError, NoReply
from vla.video.chat_words import LABEL, ChatWords, read_names
from vla.video.keyframes import all_events
from vla.video.outcome import judge
from vla.video.plan_words import PlanWords, between_rests, deed, fit
from vla.video.segments import INSTRUCTION, MEASURED, Segment, cut, merged
from vla.video.sheet import COLUMNS, ROWS, TILE, sheets
from vla.video.source import Item
from vla.video.words import Story


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    """A scene of two discs with its measured segments."""
    scene = record(3)
    track = track_of(scene, tmp_path_factory.mktemp("scene"))
    events = all_events({"top": track}, scene.state)
    item = Item("scene", track.thumbnails, {}, task='carry the "discs"')
    judged = judge(replace(item, state=scene.state), {"top": track})
    return Story(item, {"top": track}, events, cut(events, track.time_s[track.sample]), judged)


def edges(segments) -> list[tuple[float, float]]:
    """Times of segments."""
    return [(segment.start_s, segment.stop_s) for segment in segments]


def names(count: int, name: str = "move {}") -> str:
    """A reply in the form that was asked for."""
    return json.dumps({"names": [name.format(k) for k in range(count)]})


def test_a_reply_names_the_segments_and_moves_nothing(story, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    with serving(names(len(story.segments))) as server:
        words = ChatWords(server.url, "some-model", key_variable="A_KEY")
        named = words.name(story)
    assert edges(named) == edges(story.segments)
    assert [segment.label for segment in named] == [f"move {k}" for k in range(len(named))]
    assert {segment.source for segment in named} == {words.identity} and words.identity.startswith(
        "some-model, at http"
    )
    ((path, body),) = server.asked
    assert path == "/v1/chat/completions" and body["model"] == "some-model" and body["temperature"] == 0
    assert server.headers_seen[0]["Authorization"] == "Bearer secret"
    text, *images = body["messages"][0]["content"]
    assert json.dumps(story.item.task) in text["text"]
    assert all(f"{segment.stop_s:.2f} s" in text["text"] for segment in story.segments)
    sheet = Image.open(io.BytesIO(base64.b64decode(images[0]["image_url"]["url"].partition(",")[2])))
    assert sheet.width == COLUMNS * TILE and not sheet.getexif()


def test_one_name_for_neighbours_drops_the_boundary_between_them(story):
    with serving(names(len(story.segments), "tidy up")) as server:
        joined = merged(ChatWords(server.url, "m").name(story))
    assert edges(joined) == [(story.segments[0].start_s, story.segments[-1].stop_s)]


@pytest.mark.parametrize("bad", ["", "I see a robot.", '{"names": ["one"]}', '{"names": 3}', {}, 500, 429, "{" * 99999])
def test_a_bad_reply_is_asked_for_again_once_and_then_recorded(story, bad):
    with serving(bad, names(len(story.segments)), bad, bad) as server:
        words = ChatWords(server.url, "m")
        assert {segment.problem for segment in words.name(story)} == {""}
        unnamed = words.name(story)
        assert len(server.asked) == 4
    assert edges(unnamed) == edges(story.segments)
    assert {(segment.source, segment.problem[:10]) for segment in unnamed} == {(MEASURED, "not named:")}
    assert [segment.label for segment in unnamed] == [segment.label for segment in story.segments]


def test_what_cannot_be_seen_keeps_its_measured_label(story):
    with serving(names(len(story.segments), "")) as server:
        (problem,) = {segment.problem for segment in ChatWords(server.url, "m").name(story)}
    assert problem == "not named: the model cannot see what is done"


def test_an_endpoint_that_cannot_be_used_ends_the_run_and_says_what_to_change(story):
    with (
        serving(401) as server,
        pytest.raises(EndpointError, match=r"refuses with 401: .* the environment variable MY_KEY"),
    ):
        ChatWords(server.url, "m", key_variable="MY_KEY").name(story)
    with pytest.raises(EndpointError, match=r"cannot be reached .*: is it running, is url right\?"):
        ChatWords(server.url, "m").name(story)  # it serves no longer
    with pytest.raises(EndpointError, match="is no address"):
        ChatWords("localhost:8000", "m")


texts = st.text(max_size=40)


@settings(deadline=None)
@given(
    said=st.lists(texts, min_size=1, max_size=6), around=st.sampled_from(["", "Sure!\n```json\n{}\n```\nDone.", "{}"])
)
def test_names_are_read_whatever_stands_around_them_as_one_line_each(said, around):
    reply = json.dumps({"names": said})
    read = read_names(around.replace("{}", reply) if around else reply, len(said))
    assert len(read) == len(said) and all(name.isprintable() and len(name) <= LABEL for name in read)
    plain = [name.strip() for name in said]
    assert [b for a, b in zip(plain, read, strict=True) if a.isprintable() and a.isascii()] == [
        a for a in plain if a.isprintable() and a.isascii()
    ]


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 4))
def test_anything_else_is_no_reply(reply, count):
    with pytest.raises(NoReply):
        read_names(reply, count)


def test_sheets_show_every_frame_once_with_a_legible_time(story):
    track = story.tracks["top"]
    many = sheets(track, [k / 10 for k in range(COLUMNS * ROWS + 3)])
    assert [sheet.size for sheet in many] == [(COLUMNS * TILE, ROWS * TILE), (3 * TILE, TILE)]
    corner = np.asarray(many[0])[: round(0.14 * TILE), : TILE // 3]
    assert (corner == 255).mean() > 0.3 and (corner == 0).any()


def segment(number: int, *kinds: str) -> Segment:
    """One second."""
    return Segment(number, number + 1.0, "x", kinds=kinds)


def test_a_rest_divides_stretches():
    parts = [segment(0, "grasp"), segment(1, "finish"), segment(2, "set_off"), segment(3, "grasp"), segment(4)]
    assert between_rests(parts) == [parts[:3], parts[3:]]
    assert between_rests(parts[2:3]) == [parts[2:3]]


TASK = "push the drawer in, then place the red cube into the blue bowl, then stack the red cube on the red cylinder"
IN_BOWL, AT_CYLINDER = TASK.index(", then stack"), len(TASK)


@pytest.mark.parametrize(
    ("answer", "told", "fitted"),
    [
        ("close the drawer", 0, ("close the drawer", 0)),
        ("put the red cube in the blue bowl", 0, ("put the red cube in the blue bowl", IN_BOWL)),
        ("put the red cylinder in the red bowl", 0, ("put the red cube in the blue bowl", IN_BOWL)),
        ("stack the red cube on the red cylinder", 0, ("stack the red cube on the red cylinder", AT_CYLINDER)),
        ("stack the red cube on the blue cube", IN_BOWL, ("stack the red cube on the red cylinder", AT_CYLINDER)),
        ("pick up the green cube", AT_CYLINDER, None),
        ("close the drawer", AT_CYLINDER, ("close the drawer", AT_CYLINDER)),
    ],
)
def test_names_that_the_instruction_does_not_give_are_replaced_by_its_next_ones(answer, told, fitted):
    assert fit(answer, TASK, told) == fitted


def test_an_instruction_that_the_grammar_reads_is_told_in_its_order_and_its_labels_name_no_model(story, monkeypatch):
    words = PlanWords(threads=1, skills=TABLETOP)
    asked: list[object] = []
    monkeypatch.setattr(words._policy, "next_subtask", lambda *given: asked.append(given))
    tracks = {camera: story.tracks["top"] for camera in ("front", "wrist")}
    item = replace(story.item, task="pull the drawer out, then hit the button")
    named = words.name(Story(item, tracks, story.events, story.segments, UNREAD))
    labels = [part.label for part in named]
    assert labels[0] == "open the drawer" and set(labels) <= {"open the drawer", "press the button"}
    assert labels == sorted(labels) and {part.source for part in named} == {INSTRUCTION}
    assert not asked and all(part.confidence is not None and not part.problem for part in named)
    assert words._steps("do as you like, then hit the button") == []


def test_a_deed_is_an_answer_without_its_things():
    assert (
        deed("put the red cube in the blue bowl") == "put the _ in the _"
        and deed("open the drawer") == "open the drawer"
    )


@pytest.fixture(scope="module")
def shipped() -> PlanWords:
    """The shipped checkpoint."""
    return PlanWords(threads=1)


def test_the_shipped_checkpoint_names_stretches_or_says_why_not(shipped, tmp_path):
    scene = record(4)
    wide = Scene(np.repeat(scene.frames, 2, axis=2), scene.state, scene.fps, scene.deeds_s, scene.starts_s)
    tracks = {}
    for camera in ("front", "wrist"):
        (tmp_path / camera).mkdir()
        tracks[camera] = track_of(wide, tmp_path / camera)
    events = all_events(tracks, scene.state)
    parts = cut(events, tracks["front"].time_s)
    item = Item("scene", tmp_path, {}, task="open the drawer, then put the red cube in the blue bowl")
    named = shipped.name(Story(item, tracks, events, parts, UNREAD))
    assert edges(named) == edges(parts)
    for part in named:
        assert (part.source == shipped.identity) != part.problem.startswith("not named:")
        assert part.problem or fit(part.label, item.task, 0) is not None
    assert named == shipped.name(Story(item, tracks, events, parts, UNREAD))
    told = Story(item, tracks, events, parts, UNREAD)
    times_s = (0.0, 1.0, 2.0, 3.0)
    answer = shipped.answer(told, "Is the drawer open?", times_s)
    assert (answer.source, answer.looked_at_s) == (shipped.identity, times_s) and set(answer.times_s) <= set(times_s)
    moment = shipped.answer(told, "When is the drawer open?", times_s)
    assert moment.answer == NOT_VISIBLE or moment.answer.startswith(("from ", "at "))
    unknown = shipped.answer(told, "when is the disc dropped?", times_s)
    assert unknown.source == "events" and "was never taught the words ['disc', 'dropped']" in unknown.problem
    assert len(unknown.frames) == 2  # it is let go twice


def test_what_the_shipped_checkpoint_cannot_read_is_said(shipped, story):
    def problem(task: str, cameras: tuple[str, ...]) -> str:
        item = replace(story.item, task=task)
        tracks = {camera: story.tracks["top"] for camera in cameras}
        (words,) = {part.problem for part in shipped.name(Story(item, tracks, story.events, story.segments, UNREAD))}
        return words

    assert "reads plans out of an instruction, and none is known" in problem("", ("front", "wrist"))
    assert "looks through cameras ['wrist'], which are not there" in problem("open the drawer", ("front",))
    assert "was never taught the words ['flibber']" in problem("flibber the drawer", ("front", "wrist"))
