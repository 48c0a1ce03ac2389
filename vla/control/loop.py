"""The control loop: sense, executor, guard, actuate, at absolute deadlines, in the one process that moves the robot.

All that moves the robot goes through here. The policy thinks elsewhere (inference.py), the disk is written elsewhere
(logbook.py); nothing in a tick waits for either, and nothing that they do wrong raises here.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from vla.control.answers import Answers
from vla.control.clock import Clock, Metronome
from vla.control.executor import Executor
from vla.control.guard import Guard, Status
from vla.control.inference import Inference, Request
from vla.control.logbook import Log, Moment, Tick
from vla.control.proprioception import Proprioception
from vla.control.robot import Measurement, Robot
from vla.control.severity import State
from vla.control.sight import Sight
from vla.control.steering import Steering
from vla.control.summary import Latest, Summary
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
        self._answers = Answers(inference, executor, steering, guard, self._vigil, logbook)
        self.latest: Latest | None = None
        self.summary = Summary()

    def run(self, seconds: float) -> Summary:
        """Engage, run for so many seconds or until stopped, brake, and return what became of it.

        An error inside a tick brakes too, in STOP1, and is raised again when the arm is at rest.
        """
        self._start()
        end_s = self._clock.now() + seconds
        try:
            while not self._left and not self._stopped:
                self.tick(self._metronome.wait())
                if self._clock.now() >= end_s and not self._stopping:
                    self.stop("the time is over")
        except Exception as error:  # whatever it is, the arm is not left moving
            self._come_to_rest(error)
            raise
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
        self._answers.listen(self._text, now_s)
        self._look(now_s, due_s)
        self._answers.listen(self._text, now_s)
        aim_s = due_s + self._metronome.period_s  # a command is for the end of its period
        target = self._takeover.target
        if target is None:
            target = self._executor.target(aim_s, self._guard.slow_approach)
        command, status = self._guard.step(target, joints, now_s, due_s, measured_s)
        if joints is not None and self._command is not None:
            self._record(due_s, joints, self._command, status.state)
        if command is not None:
            self._send(command)
        self._command = command
        begun = self._executor.counts["chunks"] and not self._stopping
        self.summary.count(status, late_s, idle=bool(begun) and self._executor.idle(aim_s))
        self._logbook.tick(Tick(due_s, late_s, joints, target, command, status.state))
        self._note(status, now_s)
        self._steer_executor(status, now_s, joints if command is None else command, aim_s)
        said, seen = self._answers, self._observation
        self.latest = Latest(
            now_s, status, joints, command, seen, self._text, said.progress, said.done, self._takeover.on
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
        self._instruction = text
        self._answers.forget()
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

    def _come_to_rest(self, error: Exception) -> None:
        """Brake by guard and bus alone, since anything else may be what failed, and write down why."""
        words = f"{type(error).__name__}: {error}"
        self._guard.alarm("loop", State.STOP1, words)
        end_s, status = self._clock.now() + REST_S, None
        while not (self._left or (status and status.at_rest)) and self._clock.now() <= end_s:
            due_s = self._metronome.wait()
            now_s = self._clock.now()
            measurement = _try(self._measure, error)
            joints, measured_s = (measurement.joints, measurement.time_s) if measurement else (None, None)
            command, status = self._guard.step(None, joints, now_s, due_s, measured_s)
            if command is not None:
                _try(partial(self._send, command), error)
            self._command = command
            tick = Tick(due_s, now_s - due_s, joints, None, command, status.state)
            _try(partial(self._logbook.tick, tick), error)
            _try(partial(self._note, status, now_s), error)
        _try(partial(self._logbook.event, self._clock.now(), "end", reason=words), error)
        _try(partial(self._logbook.dump, status.state if status else State.STOP1), error)

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
    def age_s(self) -> float:
        """How long ago the newest tick was, infinite before there is one."""
        return np.inf if self.latest is None else self._clock.now() - self.latest.time_s

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
            self._vigil.report("steering", None if something else State.HOLD, self._steering.why_idle)
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

    def _steer_executor(self, status: Status, now_s: float, pose: np.ndarray | None, next_s: float) -> None:
        """Let the executor go on only while the guard follows it; it begins anew from where the arm is held."""
        engaging = status.engaging and status.state < State.HOLD
        if self._takeover.on:
            if not self._takeover.outlasts(status.state, self._command):
                self._end_takeover(now_s)
        elif status.state in FOLLOWING and self._text is not None and not engaging:
            self._executor.resume(next_s, pose)
        elif not engaging and pose is not None and not (status.at_rest and self._executor.halted):
            self._executor.halt(now_s, pose)

    def _note(self, status: Status, now_s: float) -> None:
        """Log what the guard did, and dump the last seconds when it stops."""
        before = self._status.state if self._status else State.ENGAGING
        self._status = status
        if status.state is not before:
            self._logbook.event(now_s, "state", state=status.state.name, before=before.name, reasons=status.reasons)
            if status.state >= State.HOLD and status.state > before:  # each time that it gets worse
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
        self._logbook.frame(Moment(observation, joints, due_s - self._began_s, state, told, self._takeover.on), command)


def _try(what: Callable[[], Any], error: Exception) -> Any:
    """Do one thing of many that may fail too; return None and add its words to the error that was first if it does."""
    try:
        return what()
    except Exception as another:  # the first error is the one to tell, and braking goes on
        note = f"while braking: {type(another).__name__}: {another}"
        if note not in getattr(error, "__notes__", []):
            error.add_note(note)
        return None
