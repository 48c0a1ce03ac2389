"""The clocks that run out: of the guard's own ticks, of measurements and of commands."""

from collections.abc import Iterator
from math import isfinite

from vla.control.severity import State

Finding = tuple[str, State, str]  # name, severity and reason of an alarm that should sound now

STATE_TICKS = 3  # how old a measurement may be
LATE_TICKS, LATE_S = 3, 0.020  # a tick may come so long after the one before, whichever is longer
STALLED_S = 0.200  # but never later than this


class Watchdogs:
    """Compare times on one monotonic clock [s]; what is not a number is too old."""

    def __init__(self, hz: float, max_age_s: float):
        """Take the number of ticks a second and how long a command lasts after it was due."""
        self._period_s, self._max_age_s = 1 / hz, max_age_s
        self._late_s = min(max(LATE_TICKS / hz, LATE_S), STALLED_S)
        self.start()

    def start(self) -> None:
        """Forget all times; the clocks start at the next tick, that of commands at the first command."""
        self._now_s = 0.0
        self._gap_s: float | None = None  # since the tick before
        self._state_s: float | None = None
        self._due_s: float | None = None

    def tick(self, now_s: float) -> float:
        """Begin a tick and return its time, an estimate where the given one is none."""
        started, before_s = self._gap_s is not None, self._now_s
        self._gap_s = now_s - before_s if started else self._period_s
        self._now_s = now_s if isfinite(now_s) else before_s + self._period_s
        return self._now_s

    def saw_state(self, measured_s: float | None) -> None:
        """Note a measurement that arrived at a time, None: just now."""
        self._state_s = self._now_s if measured_s is None else measured_s

    def saw_command(self, due_s: float) -> None:
        """Note a command that may be followed."""
        self._due_s = due_s

    def findings(self) -> Iterator[Finding]:
        """Yield what ran out in this tick."""
        gap_s = self._period_s if self._gap_s is None else self._gap_s
        if not 0 <= gap_s < float("inf"):
            yield "clock", State.HOLD, f"went by {gap_s:.6g} s in one tick"
        elif gap_s > STALLED_S:
            yield "stalled", State.HOLD, f"no tick for {gap_s:.3f} s, at most {STALLED_S} s"
        elif gap_s > self._late_s:
            yield "late", State.DEGRADED, f"no tick for {gap_s:.3f} s, at most {self._late_s:.3f} s"
        if self._state_s is None:
            self._state_s = self._now_s
        allowed_s = (STATE_TICKS + 0.5) * self._period_s  # half a tick for jitter
        if not abs(self._now_s - self._state_s) <= allowed_s:
            yield "state", State.HOLD, f"measured {self._now_s - self._state_s:.3f} s ago, at most {STATE_TICKS} ticks"
        if self._due_s is not None and not abs(self._now_s - self._due_s) <= self._max_age_s:
            age_s = self._now_s - self._due_s
            yield "command", State.HOLD, f"the latest was due {age_s:.3f} s ago, at most {self._max_age_s} s"
