"""The latest record of one process, for others to read at any time: shared memory without locks."""

from multiprocessing import get_context
from typing import Any

import numpy as np

_SLOTS = 8  # a reader is torn only if the writer laps it, which it notices
_COUNTER_BYTES = 64  # a cache line of its own


class Mailbox:
    """Keeps the newest of the records that one writer puts in; handed to a process as an argument of its start.

    A lock could be held by a process that was killed; so the writer fills a slot that nobody is asked to read yet, and
    then says that it is the newest. A reader that was so slow that its slot was filled anew reads again.
    """

    def __init__(self, fields: list[tuple]):
        """Take the fields of a record, as for `numpy.dtype`."""
        self._fields = fields
        size = _COUNTER_BYTES + _SLOTS * np.dtype(fields).itemsize
        self._memory = get_context("spawn").RawArray("B", size)

    def put(self, **values: Any) -> None:
        """Make a record the newest; every field must be there."""
        counter, slots = self._views()
        number = int(counter[0]) + 1
        slot = slots[number % _SLOTS]
        for name in slots.dtype.names or ():
            slot[name] = values[name]
        counter[0] = number

    def get(self, after: int = 0) -> tuple[int, np.void] | None:
        """Return number and copy of the newest record, None if there is none of a number above `after`."""
        counter, slots = self._views()
        while (number := int(counter[0])) > after:
            record = slots[number % _SLOTS].copy()
            if int(counter[0]) < number + _SLOTS - 1:
                return number, record
        return None

    def _views(self) -> tuple[np.ndarray, np.ndarray]:
        counter = np.frombuffer(self._memory, np.int64, 1)
        return counter, np.frombuffer(self._memory, np.dtype(self._fields), _SLOTS, _COUNTER_BYTES)
