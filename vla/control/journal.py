"""What the guard did and why: counts of every rule, and the latest interventions with their times."""

from collections import Counter, deque
from dataclasses import dataclass


@dataclass
class Intervention:
    """One rule at work, without another rule in between."""

    rule: str
    reason: str  # the first
    first_s: float  # monotonic clock [s]
    last_s: float
    count: int = 1


class Journal:
    """Counts the guard's own rules, remembers everything in the latest `length` entries."""

    def __init__(self, length: int = 1000):
        """Begin empty."""
        self.counts: Counter[str] = Counter()
        self.recent: deque[Intervention] = deque(maxlen=length)

    def note(self, rule: str, reason: str, now_s: float, counts: bool = True) -> None:
        """Write an intervention down; one that repeats the last entry's rule lengthens that entry.

        counts: whether it is a rule of the guard, and not the alarm of another monitor or of a human.
        """
        if counts:
            self.counts[rule] += 1
        if self.recent and self.recent[-1].rule == rule:
            self.recent[-1].last_s = now_s
            self.recent[-1].count += 1
        else:
            self.recent.append(Intervention(rule, reason, now_s, now_s))
