"""A clock that sleeps too long or tells the wrong time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vla.control.clock import Clock
from vla.control.faults.schedule import Faults, Kind


class FaultyClock:
    """Another clock, read through faults of "clock": only the loop is deceived, the robot is not.

    `slow` ends every sleep late by `amount`, `intermittent` now and then by 0.08 s, `delayed` one sleep by `amount`, as
    a collector of garbage or a suspended machine does; `wrong` tells times that are `amount` ahead.
    """

    OVERSLEPT_S = 0.08

    def __init__(self, clock: Clock, faults: Faults):
        """Take the true clock."""
        self._clock, self._faults, self._delayed = clock, faults, False

    def now(self) -> float:
        """Return the time, true or not."""
        fault = self._faults.of("clock")
        return self._clock.now() + (fault.amount if fault and fault.kind is Kind.WRONG else 0.0)

    def sleep_until(self, t_s: float) -> None:
        """Sleep, and perhaps longer."""
        self._clock.sleep_until(t_s - (self.now() - self._clock.now()))
        late_s = self._late_s()
        if late_s:
            self._clock.sleep_until(self._clock.now() + late_s)

    def _late_s(self) -> float:
        fault = self._faults.of("clock")
        if fault is None:
            self._delayed = False
            return 0.0
        if fault.kind is Kind.INTERMITTENT:
            return self.OVERSLEPT_S * self._faults.drops(fault)
        if fault.kind is Kind.DELAYED:
            before, self._delayed = self._delayed, True
            return 0.0 if before else fault.amount
        return fault.amount if fault.kind is Kind.SLOW else 0.0


@contextmanager
def wall_clock_ahead(seconds: float) -> Iterator[None]:
    """Let `time.time` of this process be wrong, as after a step of NTP; nothing that moves an arm may notice."""
    true = time.time
    time.time = lambda: true() + seconds
    try:
        yield
    finally:
        time.time = true
