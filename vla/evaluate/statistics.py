"""Rates with their 95 % intervals, paired differences, and how well the completion output tells the truth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """Successes out of episodes, with the Wilson 95 % interval."""

    successes: int
    episodes: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.episodes:
            raise ValueError(f"{self.successes} successes in {self.episodes} episodes")

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "Rate":
        """Count the true ones."""
        outcomes = list(outcomes)
        return cls(sum(map(bool, outcomes)), len(outcomes))

    @property
    def value(self) -> float | None:
        """Share of successes 0..1; None without episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def ci95(self) -> list[float] | None:
        """Wilson interval [low, high]; None without episodes."""
        if not self.episodes:
            return None
        interval = binomtest(self.successes, self.episodes).proportion_ci(CONFIDENCE, method="wilson")
        return [float(interval.low), float(interval.high)]


@dataclass(frozen=True)
class PairedDifference:
    """Success of A minus success of B on the same episodes."""

    difference: float
    ci95: list[float]
    only_a: int  # episodes where A alone succeeded
    only_b: int
    pairs: int
    p_value: float  # exact McNemar, two-sided

    @classmethod
    def of(cls, a: Sequence[bool], b: Sequence[bool]) -> "PairedDifference":
        """Compare outcomes of the same seeds in the same order.

        The interval is Bonett and Price's (2012): Wald's after half a pair is added to each discordant cell twice,
        which keeps its coverage when few or no pairs differ.
        """
        if len(a) != len(b) or not a:
            raise ValueError(f"{len(a)} outcomes of A against {len(b)} of B: the same seeds are needed, at least one")
        only_a = sum(x and not y for x, y in zip(a, b, strict=True))
        only_b = sum(y and not x for x, y in zip(a, b, strict=True))
        share_a, share_b = (only_a + 1) / (len(a) + 2), (only_b + 1) / (len(a) + 2)
        centre = share_a - share_b
        spread = float(norm.ppf(0.5 + CONFIDENCE / 2)) * np.sqrt((share_a + share_b - centre**2) / (len(a) + 2))
        discordant = only_a + only_b
        return cls(
            difference=(only_a - only_b) / len(a),
            ci95=[max(-1.0, float(centre - spread)), min(1.0, float(centre + spread))],
            only_a=only_a,
            only_b=only_b,
            pairs=len(a),
            p_value=float(binomtest(only_a, discordant).pvalue) if discordant else 1.0,
        )


@dataclass(frozen=True)
class CompletionScore:
    """How often "done" was true when declared, and declared when true."""

    precision: float | None
    recall: float | None
    declared: int
    completed: int
    delay_s: float | None  # median of declaration minus truth, over the declared completions; early is negative


def completion_score(
    episodes: Iterable[tuple[Sequence[tuple[float, str]], Sequence[tuple[float, str]]]], *, tolerance_s: float = 0.5
) -> CompletionScore:
    """Score declarations against the truth; both are lists of (time [s], subtask) for each episode.

    A declaration is right when its subtask is truly complete no later than `tolerance_s` after it. A true completion
    is found when a right declaration comes no later than `tolerance_s` after it. Only the first declaration of a
    subtask counts.
    """
    declared = right = completed = found = 0
    delays = []
    for claims, truths in episodes:
        first_claim = {subtask: time_s for time_s, subtask in reversed(claims)}
        first_truth = {subtask: time_s for time_s, subtask in reversed(truths)}
        declared += len(first_claim)
        completed += len(first_truth)
        for subtask in first_claim.keys() & first_truth.keys():
            delay = first_claim[subtask] - first_truth[subtask]
            delays.append(delay)
            # The sums of control periods carry rounding errors, hence the small slack.
            right += delay >= -tolerance_s - 1e-6
            found += -tolerance_s - 1e-6 <= delay <= tolerance_s + 1e-6
    return CompletionScore(
        precision=right / declared if declared else None,
        recall=found / completed if completed else None,
        declared=declared,
        completed=completed,
        delay_s=float(np.median(delays)) if delays else None,
    )


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float | None]:
    """Median and 95th percentile in milliseconds; None without measurements."""
    if not latencies_s:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(latencies_s) * 1e3, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
