"""Videos carry words and commands, and pages are well-formed."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.evaluate.fake_world import EMBODIMENT
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.pilot import Prediction
from vla.evaluate.videos import HEIGHT, WIDTH, Caption, Painter, captions, order_views, title_card, write_video
from vla.evaluate.workers import Recording, World
from vla.page import boxed_image, forest, interval, lines_chart, percent, render_page

VIEWS = {"front": np.full((32, 32, 3), 60, np.uint8), "wrist": np.full((16, 16, 3), 90, np.uint8)}


def caption(**changes):
    values = {
        "instruction": "go red",
        "subtask": "go red",
        "number": 1,
        "finished": 0,
        "progress": 0.2,
        "done": 0.1,
        "time_s": 1.0,
        "command": np.zeros(6, np.float32),
        "state": np.zeros(6, np.float32),
    }
    return Caption(**{**values, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "go blue"},
        {"subtask": "go green"},
        {"subtask": "go green", "number": 2},
        {"finished": 1},
        {"progress": 0.9},
        {"done": 0.9},
        {"command": np.full(6, 0.7, np.float32)},
        {"state": np.full(6, 0.7, np.float32)},
        {"verdict": "success", "good": True},
        {"progress": None},
    ],
)
def test_everything_in_the_caption_shows_in_the_frame(change):
    painter = Painter(EMBODIMENT)
    plain, other = painter.draw(VIEWS, caption()), painter.draw(VIEWS, caption(**change))
    assert plain.shape == (HEIGHT, WIDTH, 3)
    assert (plain != other).sum() > 50


def test_a_subtask_keeps_its_words_and_its_number_until_the_next_is_named():
    truth = {"true_subtask": "", "true_done": False, "true_progress": 0.0}
    words = {0: "go red", 2: "go red", 3: "go red", 4: "go blue"}
    plans = [(0, "go red"), (1, "go red"), (4, "go blue")]
    said = [Prediction(step, text, 0.5, 0.5, **truth) for step, text in words.items()]
    case = Case("red", World("none"), 0, stepping=True)
    episode = Episode(case, spoken="go red, then go blue", plans=plans, claims=[(2, "go red")], predictions=said)
    recording = Recording([VIEWS] * 6, [np.zeros(6, np.float32)] * 6, [np.zeros(6, np.float32)] * 5)
    told = [(one.number, one.subtask, one.finished) for one in captions(episode, recording, control_hz=10)]
    assert told == [(1, "go red", 0)] * 2 + [(1, "go red", 1)] * 2 + [(2, "go blue", 1)] * 2


def test_a_long_instruction_stays_inside_the_frame():
    frame = Painter(EMBODIMENT).draw(VIEWS, caption(instruction="put the red cube in the bowl, then " * 4))
    assert (frame[26:70, -20:] == frame[0, 0]).all()


def test_video_plays_at_the_control_rate_with_every_frame(tmp_path: Path):
    frames = title_card(["one", "two"], fps=10, seconds=0.7)
    assert write_video(tmp_path / "x.mp4", frames, fps=10) == 7
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10 and stream.codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == 7


def test_the_environments_own_picture_is_shown_large():
    assert next(iter(order_views({**VIEWS, "render": VIEWS["front"]}))) == "render"


def test_what_a_person_typed_cannot_break_the_page():
    page = render_page("title", "<p>{{ words }}</p>", words="<script>alert(1)</script>")
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_chart_escapes_names_and_survives_unknown_rates():
    chart = forest([("<b>", None, None, "no episodes"), ("pick", 0.5, [0.3, 0.7], "half")])
    assert "<b>" not in chart and chart.count("<circle") == 1


def test_a_constant_joint_can_be_charted():
    chart = lines_chart("pan", np.zeros(5), np.zeros(6), low=0.0, high=0.0, unit="°")
    assert "nan" not in chart


def test_boxes_lie_over_the_image():
    drawn = boxed_image(VIEWS["front"], [("cube", (100, 200, 300, 400), "#fff", False)], side=64)
    assert 'x="100" y="200" width="200" height="200"' in drawn and "stroke-dasharray" in drawn


def test_a_wide_image_is_not_squeezed_and_its_boxes_follow():
    wide = np.full((32, 64, 3), 60, np.uint8)
    drawn = boxed_image(wide, [("cube", (100, 200, 300, 400), "#fff", True)], side=64)
    assert 'viewBox="0 0 1024 512"' in drawn and 'width="1024" height="512"' in drawn
    assert 'x="100" y="100" width="200" height="100"' in drawn


def test_shares_are_written_as_percentages():
    assert percent(0.125, 1) == "12.5 %" and percent(None) == "–" and interval([0.5, 1.0]) == "50–100 %"
