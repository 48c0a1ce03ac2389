"""A disk that is full, nearly full or slow."""

import errno
import time
from collections.abc import Callable
from pathlib import Path

from vla.control.faults.schedule import Fault, Faults, Kind
from vla.control.logbook import Disk

LOOK_S = 0.001


class FaultyDisk(Disk):
    """A disk with faults of "disk": `off` has no room, `wrong` has almost none, `slow` stops while it lasts."""

    def __init__(self, faults: Faults):
        """Take what will be wrong with it."""
        self._faults = faults

    def run(self, job: Callable[[], object]) -> None:
        """Write, unless there is no room."""
        while self._is(Kind.SLOW):
            time.sleep(LOOK_S)
        fault = self._faults.of("disk")
        if fault is not None and (fault.kind is Kind.OFF or self._strikes(fault)):
            raise OSError(errno.ENOSPC, "No space left on device (injected)")
        job()

    def free_bytes(self, folder: Path) -> int:
        """Return how much more can be written."""
        return 2**20 if self._is(Kind.WRONG) else super().free_bytes(folder)

    def _is(self, kind: Kind) -> bool:
        fault = self._faults.of("disk")
        return fault is not None and fault.kind is kind

    def _strikes(self, fault: Fault) -> bool:
        return fault.kind is Kind.INTERMITTENT and self._faults.drops(fault)
