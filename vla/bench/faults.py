"""Does the loop end up in the right state whatever fails, soon enough, without dropping what it carries?"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla.bench.fault_driver import Demonstration
from vla.bench.fault_flight import AFTER_S, Flight, Stage, fly
from vla.bench.fault_table import ELSEWHERE, REFUSED, ROWS, SERVOS, START, Row
from vla.bench.ledger import Ledger
from vla.control.grammar import Grammar
from vla.control.inference import Controller
from vla.control.robot import Robot
from vla.control.severity import State
from vla.control.strategy import Strategy
from vla.model.checkpoint import DEFAULT, digest, load
from vla.model.history import follow

NOMINAL_S = 7.0  # that the undisturbed task may take
BRAKED_S = 0.5  # after which a hold must stand still
BACK_S = 2.0  # after the fault, or its acknowledgement, within which commands must be followed again
CHECKPOINT_S = 5.0


@dataclass(frozen=True)
class Scenario:
    """One fault in one phase for one duration in one scene."""

    row: Row
    phase: str
    for_s: float
    seed: int

    @property
    def expected(self) -> str:
        """The state that must be reached."""
        state = self.row.after[self.for_s][0]
        return state.name if isinstance(state, State) else state

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.row.fault}, {self.phase}, {self.for_s}, {self.seed}"

    @property
    def within_s(self) -> float:
        """How soon."""
        return self.row.after[self.for_s][1]


@dataclass(frozen=True)
class Verdict:
    """What a scenario came to; `wrong` says what was not as it should be, empty if all was."""

    reached: str
    detect_s: float | None  # from the beginning of the fault to the expected state
    wrong: tuple[str, ...]


def measure(
    *,
    seed: int,
    out: str,
    scenes: int,
    only: str,
    connect: Callable[..., Robot],
    demonstrate: Callable[..., Demonstration],
    collides: Callable[[np.ndarray], bool],
    strategy: Callable[[], Strategy],
    skills: Grammar,
    instruction: str,
    pick: str,
    hz: float,
    latency_ms: float,
    checkpoint: str | None,
) -> dict[str, Any]:
    """Run the whole table, or the rows whose words contain `only`; one result.json worth of values.

    `scenes` scenes take turns. A scenario is right if the state that was reached is the expected one, was reached in
    time, no command broke a limit, a hold stood still, the object was not dropped, and the task was finished where the
    loop must go on by itself. `out`/table.md shows the table for people, a line for each row. The same call goes on
    where it was cut off, see `Ledger`.
    """
    stage = Stage(connect, demonstrate, collides, strategy, skills, instruction, pick, hz, latency_ms / 1000)
    hangar = Hangar(stage, checkpoint)
    todo = list(scenarios([row for row in ROWS if only in row.fault], range(seed, seed + scenes)))
    if not todo:
        raise ValueError(f"only={only!r} is in no row; the rows are: {'; '.join(row.fault for row in ROWS)}")
    weights = digest(Path(checkpoint or DEFAULT))
    settings = {"instruction": instruction, "pick": pick, "hz": hz, "latency_ms": latency_ms, "weights": weights}
    settings |= {"strategy": repr(strategy), "connect": repr(connect)}
    ledger, table = Ledger(Path(out) / "scenarios.jsonl", settings), []
    with tqdm(todo, desc="faults", unit="scenario", leave=False) as bar:
        for scenario in bar:
            if scenario.key not in ledger.rows:
                ledger.add(scenario.key, line(scenario, hangar.judge(scenario)))
            table.append(ledger.rows[scenario.key])
            if not table[-1]["ok"]:
                bar.write(f"not right: {table[-1]}")
            bar.set_postfix_str(f"{sum(entry['ok'] for entry in table)}/{len(table)} right")
    (Path(out) / "table.md").write_text(for_people(table))
    return {
        "scenarios": len(table),
        "right": sum(entry["ok"] for entry in table),
        "table": table,
        "elsewhere": ELSEWHERE,
    }


def scenarios(rows: Iterable[Row], seeds: range) -> Iterator[Scenario]:
    """Yield every row in each of its phases for each of its durations, in the scenes by turns."""
    turn = count()
    for row in rows:
        for for_s in row.after:
            for phase in row.phases:
                yield Scenario(row, phase, for_s, seeds[next(turn) % len(seeds)])


def line(scenario: Scenario, verdict: Verdict) -> dict[str, Any]:
    """Return one line of the table, in plain types."""
    return {
        "fault": scenario.row.fault,
        "phase": scenario.phase,
        "duration": scenario.for_s if isfinite(scenario.for_s) else "for ever",
        "seed": scenario.seed,
        "expected": scenario.expected,
        "reached": verdict.reached,
        "detect_ms": None if verdict.detect_s is None else round(1000 * verdict.detect_s),
        "ok": not verdict.wrong,
        "wrong": list(verdict.wrong),
    }


def for_people(table: Iterable[Mapping[str, Any]]) -> str:
    """Return the table as Markdown, scenarios of one fault and one expected state in one line."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in table:
        rows.setdefault((entry["fault"], entry["expected"]), []).append(entry)
    lines = ["| fault | phase | for [s] | state | after [ms], at most | right |", "| --- " * 6 + "|"]
    for (fault, expected), entries in rows.items():
        phases, durations = (", ".join(dict.fromkeys(str(e[key]) for e in entries)) for key in ("phase", "duration"))
        slowest_ms = max((e["detect_ms"] for e in entries if e["detect_ms"] is not None), default="")
        right = f"{sum(entry['ok'] for entry in entries)} of {len(entries)}"
        lines.append(f"| {fault} | {phases} | {durations} | {expected} | {slowest_ms} | {right} |")
    return "\n".join(lines) + "\n"


class Hangar:
    """Keeps what flights share: demonstrations and undisturbed flights of each scene, and the checkpoint."""

    def __init__(self, stage: Stage, checkpoint: str | None = None):
        """Take where to fly, and the folder of the checkpoint, None: the shipped one."""
        self.stage, self._checkpoint = stage, checkpoint
        self._paths: dict[int, Demonstration] = {}
        self._nominal: dict[tuple[int, bool], Flight] = {}
        self._policy: Controller | None = None

    def path(self, seed: int) -> Demonstration:
        """Return the path of a scene."""
        if seed not in self._paths:
            self._paths[seed] = self.stage.demonstrate(seed=seed, instruction=self.stage.instruction)
        return self._paths[seed]

    def nominal(self, seed: int, planned: bool = False) -> Flight:
        """Return the undisturbed flight in a scene; raises RuntimeError if that alone goes wrong."""
        if (seed, planned) not in self._nominal:
            flight = fly(self.stage, seed, self.path(seed), NOMINAL_S, Row("none", {}, planned=planned))
            if not flight.success:
                raise RuntimeError(f"the task fails in scene {seed} without any fault: {flight.states}")
            self._nominal[seed, planned] = flight
        return self._nominal[seed, planned]

    def fly(self, scenario: Scenario) -> tuple[Flight, float]:
        """Return the flight of a scenario, and when its fault began."""
        row, policy = scenario.row, None
        if row.checkpoint:
            self._policy = policy = follow(self._policy or load(self._checkpoint or DEFAULT))
            at_s, seconds = 0.0 if scenario.phase == START else 1.5, CHECKPOINT_S
        else:
            nominal = self.nominal(scenario.seed, row.planned)
            at_s, lasts_s = nominal.onset_s(scenario.phase), scenario.for_s if isfinite(scenario.for_s) else 0.0
            seconds = at_s + lasts_s + AFTER_S
            if self._finishes(scenario) or row.planned:
                seconds = nominal.success_s + lasts_s + _still_late_s(row) + AFTER_S + 1.0 * row.acknowledged
        return fly(
            self.stage, scenario.seed, self.path(scenario.seed), seconds, row, at_s, scenario.for_s, policy
        ), at_s

    def judge(self, scenario: Scenario) -> Verdict:
        """Fly a scenario and judge it."""
        flight, at_s = self.fly(scenario)
        if scenario.expected == REFUSED:
            wrong = [] if flight.refused else ["it started"]
            wrong += [] if scenario.row.because in flight.refused else [f"it was refused for {flight.refused!r}"]
            wrong += ["something moved"] if flight.moments else []
            return Verdict(REFUSED if flight.refused else "STARTED", None, tuple(wrong))
        reached, detect_s = _reached(flight, at_s, scenario)
        wrong = [*_state_errors(flight, at_s, scenario, reached, detect_s), *_motion_errors(flight, at_s)]
        wrong += self._object_errors(flight, at_s, scenario)
        if scenario.row.same_motion:
            nominal = self.nominal(scenario.seed)
            mine, theirs = (_motion_until(one, min(flight.end_s, nominal.end_s)) for one in (flight, nominal))
            wrong += [] if np.array_equal(mine, theirs) else ["it moved otherwise than without the fault"]
        return Verdict(reached, detect_s, tuple(wrong))

    def _finishes(self, scenario: Scenario) -> bool:
        """Say whether the task must be finished in spite of the fault."""
        row = scenario.row
        goes_on = row.recovers or scenario.expected in (State.NORMAL.name, State.DEGRADED.name)
        return goes_on and not row.checkpoint

    def _object_errors(self, flight: Flight, at_s: float, scenario: Scenario) -> Iterator[str]:
        row = scenario.row
        if row.event == "blow-up":
            if not flight.void:
                yield "the simulation counts, although it blew up"
        elif self._finishes(scenario):
            if not flight.success:
                yield "the task was not finished"
        elif row.checkpoint:
            pass  # the policy may open its hand, fault or none
        elif (_holds(flight, at_s) or row.planned) and not (flight.moments[-1].held or flight.success):
            yield "the object was dropped"
        if row.recording_ends and not flight.recording_fault:
            yield "recording did not end"
        if row.drops_frames and not flight.dropped_frames:
            yield "no frame of the recording was dropped"
        steps = {self.stage.pick, self.stage.instruction}
        if row.planned and not (flight.words == steps if self._finishes(scenario) else flight.words <= steps):
            yield f"the controller was asked for {sorted(flight.words)}"


def _reached(flight: Flight, at_s: float, scenario: Scenario) -> tuple[str, float | None]:
    """Return the worst state from the fault on, and after how long the expected one was reached."""
    if scenario.row.event == "kill":
        silent = max(moment.time_s for moment in flight.moments[:-1]) <= at_s + scenario.within_s
        return (SERVOS if silent else "COMMANDED"), None
    states = [(max(time_s, at_s), state) for time_s, state in _lasting(flight, at_s)]
    worst = max((state for _, state in states), default=State.IDLE)
    expected = State[scenario.expected]
    times_s = [time_s for time_s, state in states if state >= expected]
    return worst.name, (times_s[0] - at_s if times_s and expected > State.NORMAL else None)


def _lasting(flight: Flight, at_s: float) -> list[tuple[float, State]]:
    """Return the state at a time and all that followed until the run was told to end."""
    before = [entry for entry in flight.states if entry[0] < at_s - 1e-9]
    after = [entry for entry in flight.states if at_s - 1e-9 <= entry[0] < flight.end_s - 1e-9]
    return before[-1:] + after


def _state_errors(
    flight: Flight, at_s: float, scenario: Scenario, reached: str, detect_s: float | None
) -> Iterator[str]:
    row, states = scenario.row, _lasting(flight, at_s)
    if reached != scenario.expected:
        yield f"reached {reached}: {'; '.join(flight.reasons[-3:])}"
        return
    if row.event == "kill":
        return
    if detect_s is not None and detect_s > scenario.within_s + 1e-9:
        yield f"after {detect_s:.3f} s, within {scenario.within_s} s was asked for"
    calm = State.DEGRADED if row.checkpoint else State.NORMAL  # a chunk of a checkpoint may be refused at any time
    if scenario.phase != START and not row.planned and not State.NORMAL <= states[0][1] <= calm:
        yield f"was {states[0][1].name} before the fault"
    expected, last = State[scenario.expected], states[-1][1]
    over_s = at_s + scenario.for_s
    if any(state in row.never for time_s, state in states if time_s < over_s):
        yield f"was in {' or '.join(state.name for state in row.never)} during the fault"
    if not isfinite(scenario.for_s) or not row.recovers:
        if last is not expected:
            yield f"ended in {last.name}, the fault lasted"
        return
    if row.acknowledged:
        over_s += 1.0
        first_s = next(time_s for time_s, state in states if state is expected)
        if any(state < expected for time_s, state in states if first_s <= time_s < over_s - 1e-6):
            yield "went on without a human"
    if expected > State.DEGRADED and not row.planned:
        back_s = [time_s for time_s, state in states if time_s > at_s and state in (State.NORMAL, State.DEGRADED)]
        if not back_s or back_s[-1] > over_s + BACK_S + _still_late_s(row):
            yield f"was not back within {BACK_S} s"


def _still_late_s(row: Row) -> float:
    """Return how long after a fault its last effect arrives: an answer that was late already, or is given up."""
    if row.name == "server" and row.kind == "stuck":
        return 2.0
    return row.amount if row.name in ("policy", "server") and row.kind in ("delayed", "slow") else 0.0


def _motion_errors(flight: Flight, at_s: float) -> Iterator[str]:
    """Say where commands broke a limit, or moved the arm while it should hold."""
    if flight.limits > 1 + 1e-9:
        yield f"used {flight.limits:.3g} of a limit"
    changes = [*flight.states, (inf, State.IDLE)]
    for (from_s, state), (to_s, _) in pairwise(changes):
        if state < State.HOLD:
            continue
        held = [m.command for m in flight.moments if from_s + BRAKED_S < m.time_s < to_s - 1e-9]
        if held and np.ptp(held, axis=0).any():
            yield f"moved while in {state.name}"


def _motion_until(flight: Flight, end_s: float) -> np.ndarray:
    """Return the commands up to a time."""
    return np.array([moment.command for moment in flight.moments if moment.time_s < end_s - 1e-9])


def _holds(flight: Flight, at_s: float) -> bool:
    """Say whether the object was in the gripper when the fault began."""
    before = [moment for moment in flight.moments if moment.time_s <= at_s + 1e-9]
    return bool(before and before[-1].held)
