"""What the server counts, and how Prometheus and result.json read it."""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import numpy as np

QUANTILES = (0.5, 0.95, 0.99)
PREFIX = "vla_serve"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Durations:
    """Count and sum of all durations [s], quantiles of the latest `length`."""

    def __init__(self, length: int = 2048):
        """Begin empty."""
        self._latest: deque[float] = deque(maxlen=length)
        self.count, self.sum_s = 0, 0.0

    def add(self, seconds: float) -> None:
        """Note one more."""
        self._latest.append(seconds)
        self.count += 1
        self.sum_s += seconds

    def quantiles_s(self) -> dict[float, float]:
        """Return the quantiles QUANTILES, none while nothing was measured."""
        if not self._latest:
            return {}
        return dict(zip(QUANTILES, np.quantile(self._latest, QUANTILES).tolist(), strict=True))


class Metrics:
    """Counters of one server; read and written under a lock, since result.json is written by another thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._total, self._inference = Durations(), Durations()
        self._connections = 0

    def requested(self) -> None:
        """Count a request that arrived."""
        with self._lock:
            self._counts["requests"] += 1

    def error(self, code: str) -> None:
        """Count a request or a connection that was refused."""
        with self._lock:
            self._errors[code] += 1

    def answered(self, total_s: float, inference_s: float) -> None:
        """Note an answer: the time since its request had arrived, and how much of it the policy took."""
        with self._lock:
            self._counts["answers"] += 1
            self._total.add(total_s)
            self._inference.add(inference_s)

    def connected(self, change: int) -> None:
        """Note that a connection opened (1) or closed (-1)."""
        with self._lock:
            self._connections += change
            self._counts["connections"] += change > 0

    def text(self) -> str:
        """Return all of it in Prometheus' text format."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def summary(self) -> dict[str, Any]:
        """Return what result.json says: counts, errors by code, latency from request to answer [ms]."""
        with self._lock:
            return {
                **{name: self._counts[name] for name in ("requests", "answers", "connections")},
                "superseded": self._errors["superseded"],
                "errors": {code: count for code, count in sorted(self._errors.items()) if code != "superseded"},
                "latency_ms": {f"p{quantile * 100:.0f}": s * 1e3 for quantile, s in self._total.quantiles_s().items()},
            }

    def _lines(self) -> Iterator[str]:
        for name, words in (
            ("requests", "Requests that arrived."),
            ("answers", "Requests that were answered."),
            ("connections", "Connections that were opened."),
        ):
            yield from _described(f"{name}_total", "counter", words)
            yield f"{PREFIX}_{name}_total {self._counts[name]}"
        yield from _described("superseded_total", "counter", "Waiting requests that gave way to a newer one.")
        yield f"{PREFIX}_superseded_total {self._errors['superseded']}"
        yield from _described("errors_total", "counter", "Requests and connections that were refused, by code.")
        for code, count in sorted(self._errors.items()):
            if code != "superseded":
                yield f'{PREFIX}_errors_total{{code="{code}"}} {count}'
        yield from _described("connections", "gauge", "Connections that are open.")
        yield f"{PREFIX}_connections {self._connections}"
        for name, durations, words in (
            ("latency_seconds", self._total, "From a request's arrival to its answer."),
            ("inference_seconds", self._inference, "The policy's part of it."),
        ):
            yield from _described(name, "summary", words)
            for quantile, seconds in durations.quantiles_s().items():
                yield f'{PREFIX}_{name}{{quantile="{quantile}"}} {seconds:.6f}'
            yield f"{PREFIX}_{name}_sum {durations.sum_s:.6f}"
            yield f"{PREFIX}_{name}_count {durations.count}"


def _described(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {words}"
    yield f"# TYPE {PREFIX}_{name} {kind}"
