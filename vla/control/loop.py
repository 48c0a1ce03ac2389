"""The control loop: sense, executor, guard, actuate, at absolute deadlines, in the one process that moves the robot.

All that moves the robot goes through here. The policy thinks elsewhere (inference.py), the disk is written elsewhere
(logbook.py); nothing in a tick waits for either, and nothing that they do wrong raises here.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

import numpy as np

from vla.control.clock import Clock, Metronome
from vla.control.executor import Executor
from vla.control.guard import Guard, Status
from vla.control.inference import Answer, Inference, Request
from vla.control.logbook import Log, Moment, Tick
from vla.control.plan import leap, refusal
from vla.control.proprioception import Proprioception
from vla.control.robot import Measurement, Robot
from vla.control.severity import State
from vla.control.sight import Sight
from vla.control.steering import Steering
from vla.control.takeover import Takeover
from vla.control.vigil import Vigil
from vla.control.watchdogs import STATE_TICKS
from vla.model.glimpses import unlike
from vla.types import Observation

START_S = 10.0  # that the robot may take for its first measurement and frames
ENGAGE_S = 2.0  # that an alarm may take to clear after it was acknowledged
REST_S = 3.0  # that the arm may take to come to rest at the end
FOLLOWING = (State.NORMAL, State.DEGRADED)


class StartError(RuntimeError):
    """The robot cannot be engaged; nothing has moved."""


@dataclass
class Summary:
    """What became of a run."""

    ticks: int = 0
    missed: int = 0  # periods that were skipped
    idle_ticks: int = 0  # since the first motion, in which there was nothing new to do
    states: Counter[str] = field(default_factory=Counter)  # ticks in each state of the guard
    interventions: dict[str, int] = field(default_factory=dict)  # of the guard, by rule
    late_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))  # of the ticks
    ended: str = ""  # why it did


@dataclass(frozen=True)
class Latest:
    """What the newest tick saw and did, for whoever looks on."""

    status: Status
    joints: np.ndarray | None  # float32[A], measured
    command: np.ndarray | None  # float64[A], as sent
    observation: Observation | None  # its instruction is the operator's
    text: str | None  # what the controller is asked for
    progress: float | None  # as the newest chunk says
    done: float | None
    taken_over: bool


class Loop:
    """Runs one instruction on one robot.

    `stop`, `estop`, `leave`, `engage`, `instruct`, `take_over`, `jog` and `give_back` may be called from any thread,
    the first four from signal handlers too. `latest` is what the newest tick did.
    """

    def __init__(
        self,
        *,
        robot: Robot,
        guard: Guard,
        executor: Executor,
        inference: Inference,
        steering: Steering,
        clock: Clock,
        logbook: Log,
        instruction: str,
        glimpses: Mapping[str, np.ndarray] | None = None,
    ):
        """Take all parts; the rate is the guard's. The first frames must not look like `glimpses` mirrored or so."""
        self._robot, self._guard, self._executor, self._inference = robot, guard, executor, inference
        self._steering, self._clock, self._logbook, self._instruction = steering, clock, logbook, instruction
        self._vigil, self._metronome, self._glimpses = Vigil(guard), Metronome(clock, guard.hz), glimpses or {}
        self._sight, self._body = Sight(guard.embodiment), Proprioception(guard.embodiment, guard.hz)
        self._record_s = 1 / guard.embodiment.control_hz  # from one recorded frame to the next
        self._recorded_s = -np.inf
        self._past: deque[Measurement] = deque(maxlen=max(2, round(guard.hz)))  # of the last second
        self._felt: np.ndarray | None = None  # joints of this tick, None where there are only older ones
        self._observation: Observation | None = None
        self._text: str | None = None
        self._asked_s = -np.inf  # time of the newest frame that went to the policy
        self._status: Status | None = None
        self._command: np.ndarray | None = None  # the latest one sent
        self._noted: object = None  # the intervention that was logged last
        self._stopping, self._stopped_s, self._began_s = "", 0.0, 0.0
        self._left = self._wants_engage = False
        self._engage_by_s = -np.inf
        self._orders: SimpleQueue[Callable[[float], None]] = SimpleQueue()  # of an operator, for the next tick
        self._takeover = Takeover(guard.embodiment)
        self._progress: tuple[float | None, float | None] = None, None
        self.latest: Latest | None = None
        self.summary = Summary()

    def run(self, seconds: float) -> Summary:
        """Engage, run for so many seconds or until stopped, brake, and return what became of it."""
        self._start()
        end_s = self._clock.now() + seconds
        while not self._left and not self._stopped:
            self.tick(self._metronome.wait())
            if self._clock.now() >= end_s and not self._stopping:
                self.stop("the time is over")
        self.summary.missed = self._metronome.missed
        self.summary.ended = self._stopping or "left"
        self._logbook.event(self._clock.now(), "end", reason=self.summary.ended)
        self._logbook.dump(self._status.state if self._status else State.IDLE)
        return self.summary

    def stop(self, reason: str) -> None:
        """Brake, and end the run when at rest."""
        if not self._stopping:
            self._stopping, self._stopped_s = reason, self._clock.now()
        self._guard.alarm("end", State.HOLD, reason)

    def estop(self, reason: str) -> None:
        """Brake and hold, latched, and end the run when at rest."""
        self._guard.estop(reason)
        self.stop(reason)

    def leave(self) -> None:
        """End the run after the present tick, without waiting for rest; the servos hold the last command."""
        self._left = True

    def engage(self) -> None:
        """Engage anew as soon as what was acknowledged has cleared, within ENGAGE_S."""
        self._engage_by_s = self._clock.now() + ENGAGE_S
        self._wants_engage = True

    def instruct(self, text: str) -> None:
        """Carry out other words from the next frame on."""
        self._orders.put(lambda now_s: self._change_instruction(text, now_s))

    def take_over(self) -> None:
        """Hold where the commands are and follow `jog` from now on, instead of the policy."""
        self._orders.put(self._begin_takeover)

    def jog(self, joint: int, by: float) -> None:
        """Move the target of one joint by so much [rad], gripper [1]; only after `take_over`."""
        self._orders.put(lambda now_s: self._move_target(joint, by))

    def give_back(self) -> None:
        """Let the policy go on from where the arm is."""
        self._orders.put(self._end_takeover)

    def tick(self, due_s: float) -> Status:
        """Do what is due at this time, and return the guard's status."""
        late_s = self._clock.now() - due_s
        measurement = self._measure()
        now_s = self._clock.now()  # the bus may have taken its time
        joints, measured_s = (measurement.joints, measurement.time_s) if measurement else (None, None)
        self._obey(now_s)
        if self._wants_engage and joints is not None:
            self._wants_engage = False
            self._engage_again(joints, now_s)
        self._listen(now_s)
        self._look(now_s, due_s)
        self._listen(now_s)
        aim_s = due_s + self._metronome.period_s  # a command is for the end of its period
        target = self._executor.target(aim_s) if self._takeover.target is None else self._takeover.target
        command, status = self._guard.step(target, joints, now_s, due_s, measured_s)
        if joints is not None and self._command is not None:
            self._record(due_s, joints, self._command, status.state)
        if command is not None:
            self._send(command)
        self._command = command
        self._count(status, aim_s, late_s)
        self._logbook.tick(Tick(due_s, late_s, joints, target, command, status.state))
        self._note(status, now_s)
        self._steer_executor(status, now_s, joints if command is None else command, aim_s)
        self.latest = Latest(
            status, joints, command, self._observation, self._text, *self._progress, taken_over=self._takeover.on
        )
        return status

    def _obey(self, now_s: float) -> None:
        """Do what the operator has ordered since the last tick."""
        while True:
            try:
                order = self._orders.get_nowait()
            except Empty:
                return
            order(now_s)

    def _change_instruction(self, text: str, now_s: float) -> None:
        self._instruction, self._progress = text, (None, None)
        self._logbook.event(now_s, "instruction", text=text)

    def _begin_takeover(self, now_s: float) -> None:
        if not self._takeover.on and self._command is not None:
            self._takeover.begin(self._command)
            self._executor.halt(now_s, self._command)
            self._logbook.event(now_s, "takeover", on=True)

    def _move_target(self, joint: int, by: float) -> None:
        if self._command is not None:
            self._takeover.move(joint, by, self._command)

    def _end_takeover(self, now_s: float) -> None:
        if self._takeover.on:
            self._takeover.end()
            if self._command is not None:
                self._executor.halt(now_s, self._command)
            self._logbook.event(now_s, "takeover", on=False)

    def _start(self) -> None:
        """Wait for the robot to show itself, then engage the guard where it is."""
        limit_s = self._clock.now() + START_S
        while (measurement := self._measure()) is None or None in self._frames().values():
            if self._clock.now() > limit_s:
                raise StartError(
                    f"nothing came from {self._missing(measurement)} for {START_S} s; check power, cables and ports"
                )
            self._clock.sleep_until(self._clock.now() + self._metronome.period_s)
        images = {name: frame.image for name, frame in self._frames().items()}
        if wrong := unlike(images, self._glimpses):
            raise StartError(f"beside training, {wrong}: mount or set it as it was then, or say unlike_cameras=true")
        self._began_s = self._clock.now()
        self._guard.engage(measurement.joints)
        self._executor.halt(self._began_s, measurement.joints)
        self._logbook.event(self._began_s, "engage", joints=measurement.joints)

    def _missing(self, measurement: Measurement | None) -> str:
        """Say what has not been seen yet, and why."""
        silent = [f"camera {name}" for name, frame in self._frames().items() if frame is None]
        what = ["joints"] * (measurement is None) + silent
        wrong = {"joints": self._body.wrong} | {f"camera {name}": why for name, why in self._sight.wrong.items()}
        return ", ".join(f"{name} ({wrong[name]})" if wrong.get(name) else name for name in what)

    def _engage_again(self, joints: np.ndarray, now_s: float) -> None:
        self._body.forget()
        try:
            self._guard.engage(joints)
        except (ValueError, RuntimeError) as error:
            if now_s < self._engage_by_s:
                self._wants_engage = True  # what was acknowledged takes a moment to clear
            else:
                self._logbook.event(now_s, "engage refused", reason=str(error))
        else:
            self._executor.halt(now_s, joints)
            self._logbook.event(now_s, "engage", joints=joints)

    @property
    def missed(self) -> int:
        """Periods that were skipped so far."""
        return self._metronome.missed

    @property
    def _stopped(self) -> bool:
        """Whether the run was stopped and the commands have come to rest, or should have."""
        if not self._stopping or self._status is None:
            return False
        braked = self._status.at_rest and self._status.state not in (State.ENGAGING, *FOLLOWING)
        return braked or self._clock.now() > self._stopped_s + REST_S

    def _measure(self) -> Measurement | None:
        """Read the joints; a bus that fails is an alarm."""
        self._felt = None
        try:
            measurement = self._body.admit(self._robot.read_joints())
        except OSError as error:
            self._vigil.bus("bus read", error, self._clock.now())
            return None
        self._vigil.bus("bus read", None, self._clock.now())
        self._vigil.report("joints", State.DEGRADED if self._body.wrong else None, self._body.wrong)
        behind = self._body.behind(measurement, self._command)
        self._vigil.report("following", State.STOP1 if behind else None, behind)
        if measurement is not None:
            self._past.append(measurement)
            if self._clock.now() - measurement.time_s <= STATE_TICKS * self._metronome.period_s:
                self._felt = measurement.joints
        return measurement

    def _send(self, command: np.ndarray) -> None:
        try:
            self._robot.send_action(command)
        except OSError as error:
            self._vigil.bus("bus write", error, self._clock.now())
        else:
            self._vigil.bus("bus write", None, self._clock.now())

    def _frames(self) -> dict:
        return self._sight.look(self._robot.cameras, self._felt)

    def _look(self, now_s: float, due_s: float) -> None:
        """Make an observation of new frames, and ask the policy if it is time."""
        frames = self._frames()
        self._vigil.cameras(frames, now_s, self._began_s)
        self._vigil.pictures(self._sight.wrong)
        self._vigil.policy(self._inference.waiting_s())
        if None in frames.values():
            return
        frame_s = min((frame.time_s for frame in frames.values()), default=due_s)
        if self._observation is None or frame_s > self._observation.time_s:
            images = {name: frame.image for name, frame in frames.items()}
            self._observation = Observation(images, self._joints_at(frame_s), self._instruction, frame_s)
            self._text = self._steering.look(self._observation)
            something = self._text is not None or self._takeover.on
            self._vigil.report("steering", None if something else State.HOLD, "there is nothing to do")
        if self._text is None or self._takeover.on:
            return
        if self._observation.time_s <= self._asked_s:
            return
        if (self._status and self._status.state >= State.STOP1) or self._stopping:
            return
        asked_s = self._asked_s if self._inference.waiting_s() else None
        if question := self._executor.ask(self._observation.time_s, asked_s):
            self._asked_s = question.frame_s
            observation = replace(self._observation, instruction=self._text)
            self._inference.ask(Request(observation, question, now_s))

    def _joints_at(self, t_s: float) -> np.ndarray:
        """Return the measurement that is closest to a time."""
        return min(self._past, key=lambda measurement: abs(measurement.time_s - t_s)).joints

    def _listen(self, now_s: float) -> None:
        """Hand answers of the policy to the executor; what is wrong with them is an alarm."""
        for answer in self._inference.answers():
            wrong = answer.error
            if answer.chunk is not None:
                wrong = self._hear(answer, now_s)
            self._vigil.report("policy", State.DEGRADED if wrong else None, wrong)
            if wrong:  # a leap is refused, and no more; anything else is an error of the policy
                broken = answer.chunk is None or refusal(answer.chunk, self._guard.embodiment)
                self._logbook.event(now_s, "policy" if broken else "refused", reason=wrong)

    def _hear(self, answer: Answer, now_s: float) -> str:
        """Take a chunk; return what is wrong with it."""
        chunk, request = answer.chunk, answer.request
        assert chunk is not None
        question, text = request.question, request.observation.instruction
        self._steering.hear(chunk, text)
        self._progress = chunk.progress, chunk.done
        if text != self._text:
            self._executor.counts["other_words"] += 1
            return ""
        refused, body = self._executor.counts["refused"], self._guard.embodiment
        if why := refusal(chunk, body) or leap(chunk, request.observation.state, body, self._executor.halted):
            self._executor.counts["refused"] += 1
        else:
            why = self._executor.take(chunk, question, now_s)
        said = {"text": text, "progress": chunk.progress, "done": chunk.done, "dropped": why}
        self._logbook.chunk(now_s, chunk.actions, frame_s=question.frame_s, given=question.given_steps, **said)
        return why if self._executor.counts["refused"] > refused else ""

    def _steer_executor(self, status: Status, now_s: float, pose: np.ndarray | None, next_s: float) -> None:
        """Let the executor go on only while the guard follows it; it begins anew from where the arm is held."""
        if self._takeover.on:
            if not self._takeover.outlasts(status.state, self._command):
                self._end_takeover(now_s)
        elif status.state in FOLLOWING and self._text is not None:
            self._executor.resume(next_s)
        elif status.state is not State.ENGAGING and pose is not None and not (status.at_rest and self._executor.halted):
            self._executor.halt(now_s, pose)

    def _count(self, status: Status, aim_s: float, late_s: float) -> None:
        summary = self.summary
        summary.ticks += 1
        summary.states[status.state.name] += 1
        summary.interventions = dict(status.interventions)
        summary.late_s.append(late_s)
        if self._executor.counts["chunks"] and not self._stopping:
            summary.idle_ticks += self._executor.idle(aim_s)

    def _note(self, status: Status, now_s: float) -> None:
        """Log what the guard did, and dump the last seconds when it stops."""
        before = self._status.state if self._status else State.ENGAGING
        self._status = status
        if status.state is not before:
            self._logbook.event(now_s, "state", state=status.state.name, before=before.name, reasons=status.reasons)
            if status.state >= State.HOLD > before:
                self._logbook.dump(status.state)
        latest = self._guard.journal.recent[-1] if self._guard.journal.recent else None
        if latest is not None and latest is not self._noted:
            self._noted = latest
            self._logbook.event(now_s, "intervention", rule=latest.rule, reason=latest.reason)

    def _record(self, due_s: float, joints: np.ndarray, command: np.ndarray, state: State) -> None:
        """Add a frame to the episode, at the rate of the embodiment; `command` is the one for this moment."""
        if self._observation is None or due_s < self._recorded_s + self._record_s - 1e-6:
            return
        self._recorded_s = due_s if due_s > self._recorded_s + 2 * self._record_s else self._recorded_s + self._record_s
        told, observation = self._observation.instruction, replace(self._observation, instruction=self._text or "")
        self._logbook.frame(Moment(observation, joints, due_s - self._began_s, state, told), command)
