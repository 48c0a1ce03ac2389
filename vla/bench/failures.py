"""Does the analysis find what failed, when and how, and nothing where nothing failed? Scored on mishaps with truth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla.bench.ledger import Ledger
from vla.bench.mishaps import NONE, RECOVERED
from vla.data.dataset import EpisodeDataset
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.outcome import FAILURE, Outcome, Suspect
from vla.video.source import Item, find
from vla.video.words import NoWords, Words

NEAR_S = 1.0  # a moment counts as found within this


@dataclass(frozen=True)
class Case:
    """One episode: what went wrong and when, and what was found."""

    mode: str  # how it failed; NONE or RECOVERED where it did not
    failed_s: float
    length_s: float
    outcome: Outcome

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Case":
        """Read what asdict wrote."""
        outcome = row["outcome"]
        suspects = tuple(Suspect(**suspect) for suspect in outcome["suspects"])
        return cls(**{**row, "outcome": Outcome(**{**outcome, "suspects": suspects})})

    @property
    def fails(self) -> bool:
        """Whether it fails in truth."""
        return self.mode not in (NONE, RECOVERED)

    def found_among(self, most: int) -> bool:
        """Say whether the true moment is near one of the first suspects of an episode that is called a failure."""
        suspects = self.outcome.suspects[:most] if self.outcome.label == FAILURE else ()
        return any(abs(suspect.time_s - self.failed_s) <= NEAR_S + 1e-9 for suspect in suspects)

    @property
    def chance(self) -> float:
        """How likely a moment drawn evenly from the episode is near the true one."""
        return (min(self.failed_s + NEAR_S, self.length_s) - max(self.failed_s - NEAR_S, 0)) / self.length_s


def examine(root: Path, decoder: Decoder, ledger: Ledger, words: Words | None = None) -> list[Case]:
    """Analyse every episode of a dataset that `Mishaps` wrote, but those that the ledger holds."""
    data, cases = EpisodeDataset(root), []
    pairs = zip(find(root), data.episodes, strict=True)
    for item, episode in tqdm(pairs, total=len(data.episodes), unit="episode", desc="failures", leave=False):
        length_s = (episode.length - 1) / data.fps

        def case(item: Item = item, extra: Mapping[str, Any] = episode.extra, length_s: float = length_s):
            outcome = _outcome(item, decoder, words or NoWords())
            return asdict(Case(extra["mode"], extra["failed_s"], length_s, outcome))

        cases.append(Case.of(ledger.once(item.name, case)))
    return cases


def _outcome(item: Item, decoder: Decoder, words: Words) -> Outcome:
    found = analyse(replace(item, succeeded=None), decoder, words)  # the recording knows how it ended
    for track in found.tracks.values():
        track.thumbnails.unlink()
    return found.outcome


def score(cases: Sequence[Case]) -> dict[str, Any]:
    """Return shares: of failures with the moment within 1 s, of runs without one that are called failures."""
    failing = [case for case in cases if case.fails]
    named = [case for case in failing if case.found_among(1)]
    errors = [abs(case.outcome.suspects[0].time_s - case.failed_s) for case in failing if case.outcome.failure]
    return {
        "top1": _share(case.found_among(1) for case in failing),
        "top3": _share(case.found_among(3) for case in failing),
        "random_top1": float(np.mean([case.chance for case in failing])) if failing else None,
        "false_failures": _share(case.outcome.label == FAILURE for case in cases if case.mode == NONE),
        "false_failures_recovered": _share(case.outcome.label == FAILURE for case in cases if case.mode == RECOVERED),
        "mode_accuracy": _share(case.outcome.suspects[0].mode == case.mode for case in named),
        "median_error_s": float(np.median(errors)) if errors else None,
        "by_mode": {
            mode: _share(case.found_among(1) for case in failing if case.mode == mode)
            for mode in sorted({case.mode for case in failing})
        },
        "episodes": {mode: sum(case.mode == mode for case in cases) for mode in sorted({case.mode for case in cases})},
    }


def _share(hits) -> float | None:
    hits = list(hits)
    return float(np.mean(hits)) if hits else None
