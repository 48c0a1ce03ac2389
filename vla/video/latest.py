"""A queue of one in which the latest wins: who takes is never behind, who puts never waits, what is lost is counted."""

import threading
import time
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Latest(Generic[Value]):
    """Hands values from one thread to another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._values: list[Value] = []  # none or one
        self._closed = False
        self.put_count, self.dropped = 0, 0

    def put(self, value: Value) -> None:
        """Leave a value; one that was not taken yet is dropped."""
        with self._changed:
            self.put_count += 1
            self.dropped += len(self._values)
            self._values = [value]
            self._changed.notify()

    def close(self) -> None:
        """Say that nothing comes any more; what lies there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, until_s: float | None = None) -> Value | None:
        """Wait for a value and take it; None once there is none and nothing comes any more.

        until_s: on the monotonic clock, when waiting ends in any case, with None.
        """
        with self._changed:
            waits_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            self._changed.wait_for(lambda: self._values or self._closed, waits_s)
            return self._values.pop() if self._values else None
