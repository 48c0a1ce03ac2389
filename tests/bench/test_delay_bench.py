"""Cells are paired, go on where they were cut off, and never mix settings."""

from functools import partial

import pytest

from tests.evaluate.fake_trial import FakeTrial, GivenPolicy, load_given_policy
from tests.evaluate.fake_world import GRAMMAR
from vla.bench import delay
from vla.bench.cells import fly_cell
from vla.control.strategy import Overlap, Sequential
from vla.evaluate.episodes import Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.realtime import Realtime

FAKE = {"id": "tests.evaluate.fake_world:Fake-v0"}
SETTINGS = {"seed": 0, "weights": "x"}


def cases(count):
    return delay.spread({"red": FAKE, "blue": FAKE}, GivenPolicy(), count, seed=7)


def test_cases_are_spread_over_the_tasks_on_the_same_seeds():
    assert [(case.task, case.seed) for case in cases(5)] == [
        ("red", 7), ("blue", 7), ("red", 8), ("blue", 8), ("red", 9)
    ]  # fmt: skip


class Runs:
    """Flies at once, and is cut off after so many episodes."""

    def __init__(self, most=100):
        self.most, self.flown = most, []

    def __call__(self, those, *, on_episode, keep):
        for case in those:
            if len(self.flown) == self.most:
                raise KeyboardInterrupt
            self.flown.append((case.task, case.seed))
            on_episode(Episode(case, success=case.seed % 2 == 0, instruction="go red"))


def test_a_cell_goes_on_where_it_was_cut_off(tmp_path):
    path = tmp_path / "cells" / "rtc_200ms.jsonl"
    with pytest.raises(KeyboardInterrupt):
        fly_cell(path, cases(6), Runs(most=3), SETTINGS)
    with path.open("a") as lines:
        lines.write('{"task": "blue", "seed": 8, "succ')  # the power went
    rest = Runs()
    rows = fly_cell(path, cases(6), rest, SETTINGS)
    assert rest.flown == [(case.task, case.seed) for case in cases(6)[3:]]
    assert [row.case.seed for row in rows] == [7, 7, 8, 8, 9, 9]
    assert [row.success for row in rows] == [False, False, True, True, False, False]
    again = Runs()
    more = fly_cell(path, cases(8), again, SETTINGS)
    assert len(again.flown) == 2 and len(more) == 8


def test_cells_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "rtc_200ms.jsonl"
    fly_cell(path, cases(2), Runs(), SETTINGS)
    with pytest.raises(ValueError, match=r"was measured with another weights; give another out="):
        fly_cell(path, cases(2), Runs(), SETTINGS | {"weights": "y"})


def test_the_result_has_the_documented_keys_and_pairs_with_no_delay(tmp_path, monkeypatch):
    monkeypatch.setattr(delay, "load", load_given_policy)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    result = delay.measure(
        seed=0,
        out=str(tmp_path / "out"),
        checkpoint=str(tmp_path),
        device="cpu",
        workers=1,
        episodes=1,
        latencies_ms=[0, 400],
        lockstep=True,
        cross_check=False,
        wall_clock=delay.WallClock(FakeTrial, "overlap", 400, 1, 1.0),
        strategies={"sequential": partial(Sequential, replan_steps=3), "overlap": partial(Overlap)},
        tasks={"red": FAKE, "blue": FAKE},
        realtime=Realtime(FakeTrial),
        guarding=Guarding(None),
        skills=GRAMMAR,
        pacing={"linger_steps": 0},
    )
    for name in ("sequential", "overlap"):
        for row in result["strategies"][name].values():
            assert {"success_rate", "ci95", "idle_ticks", "missed", "velocity_jump_rad_s"} <= set(row)
            assert row["against_0ms"]["pairs"] == row["against_lockstep"]["pairs"] == 1
            assert row["success_rate"] == 1.0
    assert result["strategies"]["overlap"]["400"]["idle_ticks"] == 0
    assert result["strategies"]["sequential"]["400"]["idle_ticks"] > 20
    assert result["lockstep"]["success_rate"] == 1.0 and result["best"]["400"]["against_0ms"]["difference"] == 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 5
