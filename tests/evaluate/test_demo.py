"""The demo: does what it is told, and says so when it cannot."""

import sys

import numpy as np
import pytest

from envs.tabletop.studio import StudioEnv, WindowError
from tests.evaluate.fake_world import GRAMMAR, WordPolicy
from vla.evaluate import demo
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.showcase import keyframes
from vla.evaluate.workers import Recording, WorkerCrash, Workers, World

SETTINGS = {
    "checkpoint": "checkpoints/x",
    "instructions": ["go red", "go green, then go blue"],
    "world": {"id": "tests.evaluate.fake_world:Fake-v0"},
    "max_steps": {"single": 30, "several": 60},
    "seed": 3,
    "workers": 2,
    "questions_asked": 3,
    "view": False,
    "pacing": {},
    "grammar": GRAMMAR,
    "guarding": Guarding(None, mode="off"),
}


def show(out, instruction=None, policy=None, **changes):
    return demo.show(policy or WordPolicy(), out=out, instruction=instruction, **{**SETTINGS, **changes})


def test_instructions_are_carried_out_and_shown(tmp_path):
    result = show(tmp_path)
    assert result["success"] and [row["success"] for row in result["episodes"]] == [True, True]
    assert result["episodes"][1]["plans"] == ["go green", "go blue", "done"]
    page = (tmp_path / "report.html").read_text()
    assert "2 of 2 instructions carried out" in page and 'src="demo.mp4"' in page
    assert "point to" not in page and "describe the scene" in page
    assert (tmp_path / "demo.mp4").stat().st_size > 1000


def test_the_users_own_words_come_first(tmp_path):
    result = show(tmp_path, "  Go BLUE. ", instructions=["go red"])
    assert [row["instruction"] for row in result["episodes"]] == ["go blue", "go red"]
    assert result["success"]


def test_unknown_words_are_named_and_nothing_moves(tmp_path, capsys):
    result = show(tmp_path, "go mauve banana")
    assert not result["success"] and result["video"] is None and not (tmp_path / "demo.mp4").exists()
    assert "“mauve”, “banana”" in result["refused"]
    said = capsys.readouterr().out
    assert "does not know these words: “mauve”, “banana”" in said and "go red" in said
    assert "The arm did not move" in (tmp_path / "report.html").read_text()


def test_known_words_without_a_meaning_are_answered_by_the_world(tmp_path):
    result = show(tmp_path, "go then go")
    assert not result["success"] and "names no place" in result["refused"]


def test_a_failed_demo_says_so(tmp_path, capsys):
    result = show(tmp_path, policy=WordPolicy(stubborn=True))
    assert not result["success"] and result["video"]
    assert "None of 2 instructions was carried out" in capsys.readouterr().out
    assert "None of 2 instructions was carried out" in (tmp_path / "report.html").read_text()


def test_a_crash_of_the_world_is_not_called_a_refusal(tmp_path, capsys):
    world = {**SETTINGS["world"], "kwargs": {"raise_seeds": [3]}}
    with pytest.raises(RuntimeError, match="the world breaks at seed 3"):
        show(tmp_path, "go red", world=world)
    result = show(tmp_path, world=world)
    assert result["episodes"][0]["outcome"] == "crash" and result["episodes"][1]["success"]
    assert "crashed: RuntimeError: the world breaks at seed 3" in capsys.readouterr().out
    assert "the world breaks at seed 3" in (tmp_path / "report.html").read_text()
    world["kwargs"] = {"raise_seeds": [3, 4]}
    with pytest.raises(WorkerCrash, match="the world breaks at seed 3"):
        show(tmp_path, world=world)


def test_who_closes_the_window_has_seen_enough(tmp_path, capsys):
    world = {**SETTINGS["world"], "kwargs": {"raise_seeds": [4], "because": demo.CLOSED}}
    result = show(tmp_path, view=True, instructions=["go red", "go green", "go blue"], world=world)
    assert [row["outcome"] for row in result["episodes"]] == ["success"]
    assert "The instruction was carried out" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_without_a_display_no_window_opens_and_the_reason_is_told(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WindowError, match="leave view out"):
        StudioEnv(render_mode="human")


def test_a_window_system_that_ends_the_process_is_told_as_a_window_that_cannot_open(tmp_path):
    world = {**SETTINGS["world"], "kwargs": {"die_seeds": [3]}}
    with pytest.raises(WorkerCrash) as crash:
        show(tmp_path, view=True, world=world)
    assert "leave view out" in crash.value.told


def test_what_a_world_says_to_people_comes_through():
    with Workers(1) as workers, pytest.raises(WorkerCrash) as crash:
        workers.all[0].ask("open", World("envs:tabletop/Mixed-v0", {"split": "nowhere"}))
    assert crash.value.told == crash.value.refusal and "possible: " in crash.value.told


def test_keyframes_begin_at_the_start_and_end_at_success():
    states = [np.array([0.0, min(1.0, step / 10)]) for step in range(40)]
    episode = Episode(Case("go", World("x"), 0), recording=Recording([{}] * 40, states, []), success_step=30)
    steps = keyframes(episode)
    assert steps[0] == 0 and steps[-1] == 30 and len(steps) == 5
