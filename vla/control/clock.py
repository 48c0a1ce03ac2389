"""Time that passes, time that is made to pass, and ticks at absolute deadlines on either."""

import time
from math import floor
from typing import Protocol

SHARE = 1e-9  # of a period: what rounding may do to a time that is meant to be a deadline


class Clock(Protocol):
    """A monotonic clock [s]."""

    def now(self) -> float:
        """Return the time."""
        ...

    def sleep_until(self, t_s: float) -> None:
        """Return when it is that late, at once if it is already."""
        ...


class RealClock:
    """The monotonic clock of this machine."""

    def __init__(self, spin_s: float = 0.0):
        """Spend the last `spin_s` of a sleep awake: it then ends closer to its deadline, and costs a processor."""
        self._spin_s = spin_s

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    def sleep_until(self, t_s: float) -> None:
        """Sleep; signal handlers run meanwhile."""
        left_s = t_s - self._spin_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        while time.monotonic() < t_s:
            pass


class VirtualClock:
    """A clock that stands still until it is told to go on: the same run gives the same times."""

    def __init__(self, now_s: float = 0.0):
        """Begin at a time."""
        self._now_s = now_s

    def now(self) -> float:
        """Return the time."""
        return self._now_s

    def sleep_until(self, t_s: float) -> None:
        """Be that late."""
        self._now_s = max(self._now_s, t_s)

    def advance(self, seconds: float) -> None:
        """Let time pass that something took."""
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s")
        self._now_s += seconds


class Metronome:
    """Ticks at start, start + period, start + 2 periods and so on, whatever happens between them.

    A tick that comes too late is not made up for: the periods that have passed are skipped and counted in `missed`, and
    the next deadline is where it always was, so that nothing drifts and nothing bursts.
    """

    def __init__(self, clock: Clock, hz: float):
        """Take the ticks a second; the first one is due when `wait` is called first."""
        self.period_s = 1 / hz
        self.missed = 0
        self.tick = -1  # number of the present one, missed ones counted
        self.due_s = 0.0  # when it was due
        self._clock, self._start_s = clock, 0.0

    def wait(self) -> float:
        """Sleep until the next deadline that is not over, and return it."""
        now_s = self._clock.now()
        if self.tick < 0:
            self._start_s = now_s
        passed = floor((now_s - self._start_s) / self.period_s - SHARE) + 1  # deadlines that are over
        following = max(self.tick + 1, passed)
        self.missed += following - self.tick - 1
        self.tick, self.due_s = following, self._start_s + following * self.period_s
        self._clock.sleep_until(self.due_s)
        return self.due_s
