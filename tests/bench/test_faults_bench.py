"""The fault table is whole, a slice of it is right, and a monitor that is taken away makes it wrong."""

from math import isfinite
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from vla.bench import faults
from vla.bench.fault_flight import Stage
from vla.bench.fault_table import ELSEWHERE, ROWS
from vla.control.admission import Admission, Verdict
from vla.control.faults.schedule import POSSIBLE, Fault, Kind
from vla.control.proprioception import Proprioception
from vla.control.sight import Eye
from vla.control.strategy import Sequential
from vla.control.vigil import Vigil

ROOT = Path(__file__).parents[2]
PARTS = {"connect", "demonstrate", "collides", "strategy", "skills"}


@pytest.fixture(scope="module")
def config():
    with initialize_config_module("configs", version_base="1.3"):
        return compose("bench", overrides=["bench=faults", "out=OUT"]).bench


@pytest.fixture(scope="module")
def hangar(config):
    parts = {name: instantiate(config[name]) for name in PARTS}
    return faults.Hangar(
        Stage(
            connect=parts["connect"],
            demonstrate=parts["demonstrate"],
            collides=parts["collides"],
            strategy=parts["strategy"],
            grammar=parts["skills"],
            instruction=config.instruction,
            pick=config.pick,
            hz=config.hz,
            latency_s=config.latency_ms / 1000,
        )
    )


def scenario(fault, phase="carry", for_s=None):
    row = next(row for row in ROWS if row.fault == fault)
    return faults.Scenario(row, phase, max(row.after) if for_s is None else for_s, seed=7)


def test_every_row_can_be_injected_and_expects_something_for_every_duration():
    for row in ROWS:
        assert bool(row.name) != bool(row.event) and row.after and row.phases
        for for_s in row.after:
            if row.name:
                Fault(row.name, Kind(row.kind), 0.0, for_s, row.how, row.amount)
            assert for_s > 0 and (isfinite(for_s) or not row.acknowledged)


def test_the_table_has_every_part_every_kind_and_enough_scenarios():
    injected = {(row.name.partition(".")[0], row.kind) for row in ROWS if row.name}
    assert {part for part, _ in injected} == set(POSSIBLE)
    assert {kind for _, kind in injected} == {str(kind) for kind in Kind if kind is not Kind.OK}
    whole = list(faults.scenarios(ROWS, range(3)))
    assert len(whole) >= 60 and {scenario.seed for scenario in whole} == {0, 1, 2}
    assert len({(s.row.fault, s.phase, s.for_s) for s in whole}) == len(whole)


@pytest.mark.parametrize("test", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_what_is_judged_elsewhere_is_judged(test):
    file, _, name = test.partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text()


def test_people_get_one_line_for_each_fault_and_state():
    entry = {"fault": "bus", "phase": "reach", "duration": 2, "expected": "HOLD", "detect_ms": 20, "ok": True}
    others = [{"phase": "carry", "detect_ms": 40, "ok": False}, {"expected": "NORMAL", "detect_ms": None}]
    lines = faults.for_people([entry, *(entry | other for other in others)]).splitlines()
    assert lines[2:] == [
        "| bus | reach, carry | 2 | HOLD | 40 | 1 of 2 |",
        "| bus | reach | 2 | NORMAL |  | 1 of 1 |",
    ]


@pytest.mark.parametrize(
    ("fault", "phase", "for_s"),
    [
        ("camera frozen, time stamps go on", "carry", 2),
        ("NaN or infinity in a chunk", "reach", 0.6),
        ("a servo has shut down", "carry", 0.5),
        ("disk full", "carry", None),
    ],
)
def test_a_scenario_is_right(hangar, fault, phase, for_s):
    verdict = hangar.judge(scenario(fault, phase, for_s))
    assert verdict.wrong == ()


@pytest.mark.parametrize(
    ("fault", "phase", "owner", "monitor", "instead"),
    [
        ("camera frozen, time stamps go on", "carry", Eye, "_stands_still", lambda *_: ""),
        ("camera removed and put back", "carry", Vigil, "cameras", lambda *_: None),
        ("encoder leaps by 2 pi", "reach", Proprioception, "_judge", lambda *_: ""),
        ("a joint is blocked", "start", Proprioception, "behind", lambda *_: ""),
        ("degrees for radians", "reach", Admission, "_in_range", lambda self, goal, before: Verdict(goal)),
    ],
)
@pytest.mark.slow
def test_without_its_monitor_a_scenario_is_wrong(hangar, monkeypatch, fault, phase, owner, monitor, instead):
    hangar.nominal(7)
    monkeypatch.setattr(owner, monitor, instead)
    if fault == "degrees for radians":
        monkeypatch.setattr("vla.control.loop.leap", lambda *_: "")
    assert hangar.judge(scenario(fault, phase)).wrong


def test_a_row_that_nobody_knows_is_answered_with_those_that_there_are(config):
    arguments = {key: value for key, value in config.items() if key not in PARTS and key != "_target_"}
    with pytest.raises(ValueError, match="rows are: camera frozen"):
        faults.measure(seed=7, **(arguments | {"only": "wheel"}), **dict.fromkeys(PARTS))


def test_what_was_judged_is_not_flown_again(config, tmp_path, monkeypatch):
    arguments = {key: value for key, value in config.items() if key not in PARTS and key != "_target_"}
    arguments |= {"only": "camera removed", "out": str(tmp_path)} | dict.fromkeys(PARTS)
    flown = []

    def judge(most):
        def fly(_, scenario):
            if len(flown) == most:
                raise KeyboardInterrupt
            flown.append(scenario.key)
            return faults.Verdict(scenario.expected, 0.1, ())

        return fly

    monkeypatch.setattr(faults.Hangar, "judge", judge(2))
    with pytest.raises(KeyboardInterrupt):
        faults.measure(seed=7, **arguments)
    monkeypatch.setattr(faults.Hangar, "judge", judge(100))
    result = faults.measure(seed=7, **arguments)
    assert result["scenarios"] == result["right"] == len(flown) == len(set(flown)) > 2
    with pytest.raises(ValueError, match="was measured with another strategy"):
        faults.measure(seed=7, **arguments | {"strategy": Sequential})


@pytest.mark.slow
def test_the_whole_table_is_right(config, tmp_path):
    result = instantiate(config, _partial_=True)(seed=7, out=str(tmp_path))
    assert result["scenarios"] >= 60
    assert [entry for entry in result["table"] if not entry["ok"]] == []
    assert (tmp_path / "table.md").read_text() == faults.for_people(result["table"])
