"""One run with a fault: a driver that carries an object, the real loop around it in virtual time, and a witness."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vla.bench.fault_driver import Demonstration, Eyes, Follower, LaterThread, Stream
from vla.bench.fault_table import CARRY, GRASP, REACH, START, Row
from vla.bench.guard import shares_of_limits
from vla.control.clock import VirtualClock
from vla.control.executor import Executor
from vla.control.faults.clock import wall_clock_ahead
from vla.control.faults.injection import Injection
from vla.control.faults.schedule import Fault, Kind
from vla.control.grammar import Grammar
from vla.control.guard import Guard, Status
from vla.control.hierarchy import Pacing
from vla.control.inference import Controller, Timed
from vla.control.logbook import Logbook
from vla.control.loop import Loop, StartError
from vla.control.planner import ScriptedPlanner
from vla.control.robot import Measurement, Robot
from vla.control.severity import State
from vla.control.steering import Steering, Verbatim
from vla.control.stepping import Stepping
from vla.control.strategy import Strategy
from vla.control.supervisor import Supervisor
from vla.types import ContractError, Embodiment

BEGAN_S = 100.0  # of the virtual clock
REACH_S = 0.6  # after the start the arm is on its way
AFTER_S = 3.0  # that a run goes on after its fault
ACKNOWLEDGED_S = 1.0  # after the fault is over
ASIDE_S = 2.0  # that the physics goes on when the controller is gone


@dataclass(frozen=True)
class Stage:
    """Where flights take place: what makes the robot, its collision check and the path, and how the loop is set."""

    connect: Callable[..., Robot]  # called with now, hz, seed and instruction
    demonstrate: Callable[..., Demonstration]  # called with seed and instruction
    collides: Callable[[np.ndarray], bool]
    strategy: Callable[[], Strategy]
    grammar: Grammar
    instruction: str
    pick: str  # the subtask that comes first where a planner steers
    hz: float
    latency_s: float


class Moment(NamedTuple):
    """What was sent, and what it did to the object."""

    time_s: float  # since the start
    command: np.ndarray
    held: str | None
    lifted_m: float


@dataclass
class Flight:
    """What became of one run; times since the start [s]."""

    moments: list[Moment] = field(default_factory=list)
    states: list[tuple[float, State]] = field(default_factory=list)  # changes of the guard
    reasons: list[str] = field(default_factory=list)  # of those
    end_s: float = inf  # when the run was told to end
    limits: float = 0.0  # share of any limit that the commands used at most
    refused: str = ""  # why it did not start
    success: bool = False
    success_s: float = inf  # when
    void: str = ""  # why the simulation is worth nothing
    recording_fault: str = ""
    dropped_frames: int = 0
    words: set[str] = field(default_factory=set)  # that the controller was asked for

    def commands(self) -> np.ndarray:
        """Return all commands float64[N, A]."""
        return np.array([moment.command for moment in self.moments])

    def onset_s(self, phase: str) -> float:
        """Return when a phase began in this run."""
        early = {START: 0.0, REACH: REACH_S}
        if phase in early:
            return early[phase]
        reached = [m.time_s for m in self.moments if m.held and (phase == GRASP or m.lifted_m > 0.03)]
        if not reached:
            raise ValueError(f"the undisturbed run never came to {phase!r}")
        return reached[0] + 0.1 * (phase == CARRY)


class WatchedGuard(Guard):
    """The guard, whose changes of state are written down by the true clock."""

    def __init__(self, clock: VirtualClock, *parts: Any, **more: Any):
        """Take the clock, then as the guard."""
        super().__init__(*parts, **more)
        self._clock, self.changes = clock, list[tuple[float, Status]]()

    def step(self, *inputs: Any, **more: Any) -> tuple[np.ndarray | None, Status]:
        """Step as the guard."""
        command, status = super().step(*inputs, **more)
        if not self.changes or status.state is not self.changes[-1][1].state:
            self.changes.append((self._clock.now() - BEGAN_S, status))
        return command, status


class Witness:
    """The robot, watched: writes down what is sent, and does at their times what only a human or chance does."""

    def __init__(self, robot: Robot, truth: Callable[[], dict[str, Any] | None], clock: VirtualClock):
        """Watch a robot; `truth` tells what the simulator knows."""
        self._robot, self._truth, self._clock = robot, truth, clock
        self.cameras, self.moments = robot.cameras, list[Moment]()
        self.agenda: list[tuple[float, Callable[[], object]]] = []  # when [s], what

    def embodiment(self) -> dict[str, Any]:
        """Return what the robot says."""
        return self._robot.embodiment()

    def read_joints(self) -> Measurement | None:
        """Do what is due, then read."""
        while self.agenda and self._clock.now() - BEGAN_S >= self.agenda[0][0] - 1e-9:
            self.agenda.pop(0)[1]()
        return self._robot.read_joints()

    def send_action(self, action: np.ndarray) -> None:
        """Write down, then send."""
        truth = self._truth() or {}
        self.moments.append(
            Moment(self._clock.now() - BEGAN_S, action.copy(), truth.get("held"), truth.get("lifted_m") or 0.0)
        )
        self._robot.send_action(action)

    def truth(self) -> dict[str, Any] | None:
        """Return what the robot says."""
        return self._robot.truth()

    def close(self) -> None:
        """Close the robot."""
        self._robot.close()


def fly(
    stage: Stage,
    seed: int,
    path: Demonstration,
    seconds: float,
    row: Row | None = None,
    at_s: float = 0.0,
    for_s: float = inf,
    policy: Controller | None = None,
) -> Flight:
    """Run once for at most so many seconds, with the fault of a row from `at_s` on for `for_s`; `policy` drives."""
    clock, flight, row = VirtualClock(BEGAN_S), Flight(), row or Row("none", {})
    with ExitStack() as stack:
        robot = stage.connect(now=clock.now, hz=stage.hz, seed=seed, instruction=stage.instruction)
        stack.callback(robot.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(wall_clock_ahead(3600.0) if row.event == "wall clock" else nullcontext())
        body = Embodiment.from_dict(robot.embodiment())
        driver = policy or Follower(body, path, stage.pick)
        faults = [Fault(row.name, Kind(row.kind), at_s, for_s, row.how, row.amount)] if row.name else []
        injection = Injection(faults, robot, driver, clock, hardware=False, seed=seed)
        witness = Witness(injection.robot, _truth_of(robot), clock)
        silent = (BEGAN_S + at_s, BEGAN_S + at_s + for_s) if row.event == "stream" else (inf, inf)
        words = f"{stage.pick}, then {stage.instruction}" if row.planned else stage.instruction
        steering = Stream(_steering(stage, words, injection, clock, body) if row.planned else Verbatim(), clock, silent)
        guard = WatchedGuard(clock, body, stage.hz, stage.collides, hardware=False)
        patient = row.kind != Kind.SLOW or row.name != "disk"
        logbook = Logbook(folder, body, words, stage.hz, patient=patient, disk=injection.disk)
        loop = Loop(
            robot=witness,
            guard=guard,
            executor=Executor(stage.strategy(), body),
            inference=injection.inference(Timed(injection.policy, clock, stage.latency_s)),
            steering=steering,
            clock=injection.clock,
            logbook=logbook,
            instruction=words,
            glimpses=getattr(injection.policy, "glimpses", {}),
        )
        witness.agenda = sorted(_agenda(row, at_s, for_s, loop, guard, robot, seconds), key=lambda entry: entry[0])
        try:
            _check(injection.policy, body)
            loop.run(inf)
        except (StartError, ContractError) as error:
            flight.refused = str(error)
        finally:
            logbook.close({"success": False})
        if row.event == "kill":
            clock.advance(ASIDE_S)
        flight.end_s = seconds
        _fill(flight, witness, logbook, steering, robot, guard)
    return flight


def _fill(
    flight: Flight, witness: Witness, logbook: Logbook, steering: Stream, robot: Robot, guard: WatchedGuard
) -> None:
    flight.moments, flight.words = witness.moments, steering.words
    flight.states = [(time_s, status.state) for time_s, status in guard.changes]
    flight.reasons = ["; ".join(status.reasons) for _, status in guard.changes]
    flight.limits = _limits_used(flight.commands(), guard)
    flight.recording_fault, flight.dropped_frames = logbook.fault, logbook.dropped_frames
    try:
        truth = robot.truth() or {}
    except OSError as error:
        flight.void = str(error)
        return
    flight.success = bool(truth.get("is_success"))
    flight.success_s = truth.get("success_s") or inf
    if flight.moments:
        last = flight.moments[-1]
        flight.moments.append(last._replace(held=truth.get("held"), lifted_m=truth.get("lifted_m") or 0.0))


def _limits_used(commands: np.ndarray, guard: Guard) -> float:
    """Return the largest share of a limit that commands float64[N, A] used, infinite outside the range."""
    if not len(commands):
        return 0.0
    body = guard.embodiment
    if not np.isfinite(commands).all() or (commands < body.position_min).any() or (commands > body.position_max).any():
        return inf
    shares = shares_of_limits(np.concatenate([commands[:1], commands]), body, guard.hz)
    return max(float(share.max()) for share in shares.values())


def _truth_of(robot: Robot) -> Callable[[], dict[str, Any] | None]:
    def truth() -> dict[str, Any] | None:
        try:
            return robot.truth()
        except OSError:
            return None

    return truth


def _steering(stage: Stage, words: str, injection: Injection, clock: VirtualClock, body: Embodiment) -> Steering:
    """Return a planner that takes the operator's words apart, with the faults that it has."""
    thread = LaterThread(clock)
    planner = ScriptedPlanner([stage.pick, stage.instruction])
    supervisor = Supervisor(planner, stage.grammar, Eyes(stage.grammar.parse(stage.instruction).things))
    return injection.steering(Stepping(supervisor, words, Pacing(), body.control_hz, thread), thread.delay)


def _agenda(
    row: Row, at_s: float, for_s: float, loop: Loop, guard: Guard, robot: Any, seconds: float
) -> list[tuple[float, Callable[[], object]]]:
    """Return what happens when, beside the faults that are injected."""
    agenda: list[tuple[float, Callable[[], object]]] = [(seconds, partial(loop.stop, "the time is over"))]
    if row.acknowledged:
        agenda.append((at_s + for_s + ACKNOWLEDGED_S, guard.acknowledge))
    signal = partial(loop.estop, "signal SIGINT")
    events: Mapping[str, list[tuple[float, Callable[[], object]]]] = {
        "signal": [(at_s, signal)],
        "two signals": [(at_s, signal), (at_s + 0.06, loop.leave)],
        "kill": [(at_s, loop.leave)],
        "blow-up": [(at_s, getattr(robot, "blow_up", loop.leave))],
    }
    return agenda + events.get(row.event, [])


def _check(policy: Any, body: Embodiment) -> None:
    """Refuse a policy for another body, as `vla deploy` does."""
    check = getattr(policy, "check", None)
    if check is not None:
        check(body)
