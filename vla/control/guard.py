"""The guard: the last thing between whatever commands a robot and its motors, on by default.

What it promises for any input, tick for tick: the commands it sends are finite, inside the position limits, and their
differences inside the velocity, acceleration and jerk limits (joint.py); where it is told what collides, it brakes
rather than go there (motion.py). A command that may not be followed (admission.py) makes it brake from its own last
command, and so do clocks that run out (watchdogs.py) and alarms (severity.py). It never drops the torque, never jumps
to the measured pose and never starts a motion by itself: all that a fault can do is brake.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np

from vla.control.admission import Admission, Demand
from vla.control.journal import Journal
from vla.control.motion import Motion
from vla.control.severity import Alarms, State
from vla.control.watchdogs import Watchdogs
from vla.types import Embodiment

CLEAR_S = 0.5  # a cause must be gone for so long before its alarm goes too
OUTSIDE_TOL = 0.02  # [rad]; an arm that rests so little outside its range may be engaged

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What the guard made of one tick."""

    state: State
    reasons: tuple[str, ...]  # what is wrong, the worst first
    interventions: Mapping[str, int]  # so far, by rule of the guard; alarms of others and of humans are none
    at_rest: bool  # the commands, not the arm
    engaging: bool  # a command has yet to meet the arm before any is followed


class Guard:
    """Turns commands that nobody trusts into commands that keep every limit.

    Call `engage` with the measured pose, then `step` in every tick. All times are of this machine's monotonic clock.
    `estop`, `acknowledge`, `alarm` and `clear` may be called from any thread and from signal handlers, and take effect
    in the next step. `journal` counts the interventions by rule and keeps the latest with time and reason, alarms of
    others too, which it does not count.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        hz: float,
        collides: Callable[[np.ndarray], bool] | None = None,
        mode: str = "on",
        hardware: bool = True,
        off_on_hardware: bool = False,
        engage_tol: float = 0.1,
        slow_approach: bool = False,
        approach_speed: float = 0.25,
        max_age_s: float = 0.1,
    ):
        """Check the limits and be IDLE.

        Args:
          hz: ticks a second; need not be the embodiment's `control_hz`, at which commands are made.
          collides: says of joint positions float64[A] whether the arm would touch itself or what it must not.
          mode: "on", or "off" to let every finite command through unchanged unless an alarm holds the arm.
          hardware: whether a real robot is at the other end; "off" is refused there without `off_on_hardware`.
          engage_tol: how far from the measured pose the first command may be [rad].
          slow_approach: whether a first command that is further away is approached slowly, else it is refused.
          approach_speed: of a slow approach, at most [rad/s].
          max_age_s: how long after it was due a command may still be followed.
        """
        self._off = _is_off(mode, hardware, off_on_hardware)
        self.embodiment, self.hz, self.journal = embodiment, hz, Journal()
        self._motion, self._engage_tol = Motion(embodiment, hz, None if self._off else collides), engage_tol
        self._full_speed = [1.0] * len(embodiment.joints)
        self._slow_speed = [min(1.0, approach_speed / speed) for speed in embodiment.velocity_max]
        self._admission, self._demand = Admission(embodiment, hz, max_age_s), Demand(embodiment, hz)
        self._watchdogs, self._alarms = Watchdogs(hz, max_age_s), Alarms(ceil(CLEAR_S * hz), self.journal)
        self._phase = State.IDLE  # IDLE, ENGAGING or NORMAL: what to do as far as no alarm objects
        self.slow_approach, self._slow_approach, self._must_engage = slow_approach, slow_approach, False
        self._goal: list[float] | None = None  # what is being followed
        self._followed: list[float] | None = None  # what was followed last, since the last hold
        if self._off:
            reason = f"the guard of {embodiment.name} is off, no limit is kept"
            logger.warning(reason)
            self._alarms.stand("off", State.DEGRADED, reason)

    def engage(self, measured: np.ndarray, slow_approach: bool | None = None) -> None:
        """Command the measured pose, at rest; the first command must then meet it, or is approached slowly.

        measured: float[A] joint positions [rad], gripper 0..1. slow_approach: None as when made. Raises ValueError if
        the arm cannot start from there, and RuntimeError while the guard is moving it or an alarm from HOLD up stands.
        """
        if self._alarms.level >= State.HOLD:
            reasons = "; ".join(self._alarms.reasons)
            raise RuntimeError(f"cannot engage in {self._alarms.level.name}: {reasons}; step until that has cleared")
        if not self._motion.at_rest:
            raise RuntimeError("cannot engage while the arm moves; step with target None until it is at rest")
        pose = self._start_pose(measured)
        if self._motion.collides(pose):
            raise ValueError(f"cannot engage at {np.round(pose, 3).tolist()}: it collides there; move the arm by hand")
        self._motion.place(pose)
        self._watchdogs.start()
        self._phase, self._must_engage = State.ENGAGING, False
        self._slow_approach = self.slow_approach if slow_approach is None else slow_approach
        self._goal = self._followed = None

    def step(
        self,
        target: np.ndarray | None,
        measured: np.ndarray | None,
        now_s: float,
        due_s: float | None = None,
        measured_s: float | None = None,
    ) -> tuple[np.ndarray | None, Status]:
        """Return the command of this tick, float64[A] joint positions [rad], gripper 0..1, and the status.

        target: A joint targets; None: none came, the last one counts until it is too old. due_s: when the target was
        due. measured: A joint positions; None: none came. measured_s: when they came, by default now. While IDLE the
        command is None: send nothing. Whatever target and measured hold, this does not raise.
        """
        now_s = self._watchdogs.tick(now_s)
        self._alarms.begin(now_s)
        if self._phase is not State.IDLE:
            self._listen(measured, measured_s)
            if target is not None:
                self._goal = self._admit(target, now_s, due_s)
            if not self._off:
                for finding in self._watchdogs.findings():
                    self._alarms.sound(*finding)
        self._settle(self._alarms.settle(self._motion.at_rest))
        self._move(now_s)
        state = max(self._phase, self._alarms.level)
        counts, engaging = dict(self.journal.counts), self._phase is State.ENGAGING
        status = Status(state, self._alarms.reasons, counts, self._motion.at_rest, engaging)
        return None if self._phase is State.IDLE else np.array(self._motion.pose), status

    def estop(self, reason: str) -> None:
        """Brake and hold; only `acknowledge` and then `engage` lead out of it."""
        self._alarms.post(self._alarms.sound, "estop", State.ESTOP, reason, False)

    def acknowledge(self) -> None:
        """Say that a human has seen what happened: STOP1 and ESTOP end when their causes have cleared."""
        self._alarms.post(self._alarms.acknowledge)

    def alarm(self, name: str, state: State, reason: str) -> None:
        """Sound the alarm of another monitor until `clear(name)`: DEGRADED, HOLD, STOP1 or ESTOP."""
        if state < State.DEGRADED:
            raise ValueError(f"alarm {name!r} cannot be {state.name}; possible: DEGRADED, HOLD, STOP1, ESTOP")
        self._alarms.post(self._alarms.stand, name, state, reason)

    def clear(self, name: str) -> None:
        """Say that the cause of another monitor's alarm is gone."""
        self._alarms.post(self._alarms.withdraw, name)

    def _start_pose(self, measured: np.ndarray) -> list[float]:
        """Return where commands begin: the measured pose, or the edge of the range right beside it."""
        verdict = self._admission.read(measured)
        if verdict.goal is None:
            raise ValueError(f"cannot engage on this measurement: {verdict.rule}: {verdict.reason}")
        body = self.embodiment
        pose = np.clip(verdict.goal, body.position_min, body.position_max).tolist()
        for name, position, inside in zip(body.joints, verdict.goal, pose, strict=True):
            if abs(position - inside) > OUTSIDE_TOL and not self._off:
                raise ValueError(
                    f"cannot engage with {name} at {position:.4g}, the range ends at {inside:.4g}; "
                    "move it inside by hand, or check its calibration"
                )
        return pose

    def _listen(self, measured: np.ndarray | None, measured_s: float | None) -> None:
        """Take note of a measurement that can be one."""
        if measured is None:
            return
        verdict = self._admission.read(measured)
        if verdict.goal is None:
            self._alarms.refuse("measured", f"{verdict.rule}: {verdict.reason}")
        else:
            self._watchdogs.saw_state(measured_s)

    def _admit(self, target: np.ndarray, now_s: float, due_s: float | None) -> list[float] | None:
        """Return the goal that a command sets, None if it may not be followed."""
        if self._off:
            verdict = self._admission.read(target)
        else:
            verdict = self._admission.judge(target, now_s, due_s, self._followed)
        if verdict.goal is None:
            self._alarms.refuse(verdict.rule, verdict.reason)
        elif verdict.rule:
            self.journal.note(verdict.rule, verdict.reason, now_s)
        if verdict.goal is not None and due_s is not None:
            self._watchdogs.saw_command(due_s)
        return verdict.goal

    def _settle(self, level: State) -> None:
        """Decide from the severity whether commands are followed, and what has to come before they are again."""
        self._must_engage |= level is State.ESTOP
        if level >= State.HOLD or self._must_engage:
            self._goal = self._followed = None
        if level >= State.HOLD and self._phase is State.NORMAL:
            self._phase = State.ENGAGING  # the command that ends the hold must meet the arm as the first one did
        if level < State.HOLD and self._must_engage:
            self._phase, self._must_engage = State.IDLE, False

    def _move(self, now_s: float) -> None:
        """Advance all joints by one tick: towards the goal, or braking."""
        goal, shares = self._goal, self._full_speed
        if goal is not None and self._phase is State.ENGAGING:
            if self._off or self._meets(goal):
                self._phase = State.NORMAL
            elif self._slow_approach:
                shares = self._slow_speed
            else:
                goal = self._goal = None
        if self._off:
            self._motion.place(goal or self._motion.pose)
            return
        if goal is not None and self._phase is State.NORMAL:
            self._followed = goal
            if excess := self._demand.excess(goal):
                self.journal.note(*excess, now_s)
        else:
            self._demand.forget()
        if goal is None:
            self._motion.brake()
        elif not self._motion.approach(goal, shares):
            self._alarms.refuse("collision", "the arm would collide there, or braking from there; what can follow does")

    def _meets(self, goal: list[float]) -> bool:
        """Say whether a goal is as close to the arm as the first one must be."""
        ways = [abs(there - here) for there, here in zip(goal, self._motion.pose, strict=True)]
        if max(ways) <= self._engage_tol:
            return True
        if not self._slow_approach:
            name = self.embodiment.joints[ways.index(max(ways))]
            far = f"the command is {max(ways):.3g} away from {name}, at most {self._engage_tol:g}"
            self._alarms.refuse("engage", f"{far}; come closer, or engage with slow_approach", State.ENGAGING)
        return False


def _is_off(mode: str, hardware: bool, off_on_hardware: bool) -> bool:
    """Say whether the guard is off; raise ValueError unless that was spelled out."""
    if mode not in ("on", "off"):
        raise ValueError(f"guard mode {mode!r}; possible: 'on', 'off' (in YAML with the quotes, a bare off is false)")
    if mode == "off" and hardware and not off_on_hardware:
        raise ValueError("guard mode 'off' is refused on hardware; off_on_hardware=true as well if you mean it")
    return mode == "off"
