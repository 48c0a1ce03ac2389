"""What the guard cannot see by itself: silent cameras, a policy that fails or hangs, a bus that errs."""

from collections.abc import Mapping

from vla.control.guard import Guard
from vla.control.robot import Frame
from vla.control.severity import State

CAMERA_DEGRADED_S, CAMERA_HOLD_S = 0.2, 0.5  # age of the newest frame
POLICY_S = 1.0  # that one call may take
BUS_S = 5.0  # without the bus, after which somebody has to look


class Vigil:
    """Sounds the guard's alarms when something begins, and clears them when it is over."""

    def __init__(self, guard: Guard):
        """Take whose alarms."""
        self._guard = guard
        self._standing: dict[str, tuple[State, str]] = {}
        self._bus_since_s: dict[str, float] = {}

    def report(self, name: str, state: State | None, reason: str = "") -> None:
        """Say how bad a cause is now, None: it is gone."""
        before = self._standing.get(name)
        if state is None:
            if before:
                del self._standing[name]
                self._guard.clear(name)
        elif before != (state, reason):  # also where it is as bad as before for another reason
            if before and before[0] is not state:
                self._guard.clear(name)
            self._standing[name] = state, reason
            self._guard.alarm(name, state, reason)

    def cameras(self, frames: Mapping[str, Frame | None], now_s: float, since_s: float) -> None:
        """Judge the newest frame of each camera; one that has shown none yet is as old as the run."""
        for name, frame in frames.items():
            age_s = now_s - (frame.time_s if frame else since_s)
            state = State.HOLD if not age_s <= CAMERA_HOLD_S else State.DEGRADED if age_s > CAMERA_DEGRADED_S else None
            self.report(f"camera {name}", state, f"its newest frame is {age_s:.3f} s old")

    def pictures(self, wrong: Mapping[str, str]) -> None:
        """Report what is wrong with the pictures of each camera; how long it may last their age decides."""
        for name, reason in wrong.items():
            self.report(f"picture {name}", State.DEGRADED if reason else None, reason)

    def bus(self, name: str, error: OSError | None, now_s: float) -> None:
        """Judge one exchange on the bus: a servo that has shut down, or a bus that stays away, needs a human."""
        if error is None:
            self._bus_since_s.pop(name, None)
            self.report(name, None)
            return
        since_s = self._bus_since_s.setdefault(name, now_s)
        grave = getattr(error, "latched", False) or now_s - since_s > BUS_S
        self.report(name, State.STOP1 if grave else State.HOLD, str(error))

    def policy(self, waiting_s: float) -> None:
        """Judge how long the policy has been thinking; what it then misses the guard judges by the age of commands."""
        late = State.DEGRADED if waiting_s > POLICY_S else None
        self.report("policy silent", late, f"it has been thinking for more than {POLICY_S} s")
