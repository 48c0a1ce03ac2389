"""What one client may cost the others."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Caps of the server."""

    message_bytes: int = 8 * 2**20  # of one message; longer ones end the connection before they are read
    connections: int = 16  # open at the same time
    requests_per_s: float = 200.0  # of one connection, in the long run
    burst: int = 50  # requests of one connection that may come at once
    refusals: int = 200  # in a row for sending too fast, then the connection is closed

    def __post_init__(self) -> None:
        """Refuse limits under which nothing works."""
        for name in ("message_bytes", "connections", "requests_per_s", "burst", "refusals"):
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name}={getattr(self, name)} must be above 0")


class Bucket:
    """Allow `rate_per_s` in the long run and `burst` at once."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]):
        """Begin full; `clock` returns monotonic seconds."""
        self._rate, self._burst, self._clock = rate_per_s, burst, clock
        self._left, self._then_s = float(burst), clock()
        self.refused = 0  # in a row

    def take(self) -> bool:
        """Say whether one more is allowed now."""
        now_s = self._clock()
        self._left = min(self._left + (now_s - self._then_s) * self._rate, self._burst)
        self._then_s = now_s
        if self._left < 1:
            self.refused += 1
            return False
        self._left, self.refused = self._left - 1, 0
        return True
