"""Keyframes, boundaries, labels, failures, quality flags, sight and speed of the video analysis against truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla.bench import alarms, failures, haste, retrieval, scored, selection
from vla.bench.ledger import Ledger
from vla.bench.recordings import Recordings, recorded
from vla.bench.scored import Scored
from vla.bench.sight import Sight
from vla.bench.truth import half
from vla.data.dataset import Episode, EpisodeDataset
from vla.video.child import Decoder
from vla.video.routing import RoutedWords
from vla.video.source import Item, find
from vla.video.words import NoWords, Words

PARTS = ("episodes", "quality", "failures", "sight", "speed")


@dataclass(frozen=True)
class Held:
    """Episodes of the half of the instructions on which no weight was chosen."""

    data: EpisodeDataset
    chosen: Sequence[tuple[Item, Episode]]
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """What rows about these episodes depend on."""
        return {"seed": self.seed, "data": self.data.hash}

    def rng(self, item: Item) -> np.random.Generator:
        """Return random numbers of an episode's own."""
        return np.random.default_rng([self.seed, item.episode or 0])


def measure(
    *,
    seed: int,
    out: str,
    parts: Collection[str] = PARTS,
    dataset: str | None,
    demonstrations: Recordings,
    episodes: int,
    spoilt_episodes: int,
    speed_s: float,
    words: Words | None = None,
    stronger: Words | None = None,
    sure: float = 0.8,
    mishaps: Recordings | None = None,
    failing_episodes: int = 0,
    sight: Sight | None = None,
) -> dict[str, Any]:
    """Measure some of PARTS; what was not asked for, or cannot be, is None in the result.

    episodes: boundaries, keyframes, labels, search and frames for questions, on at most `episodes` episodes of the held
    half of a dataset, which `demonstrations` record where none is given. quality: `spoilt_episodes` of them spoilt in
    every way of `vla.bench.spoilt`. failures: `failing_episodes` episodes of `mishaps`. sight: what is to be seen is
    asked. speed: a clip of `speed_s`. words: who names segments; None leaves label_accuracy out. stronger: names what
    that is less sure of than `sure`, and its gain is told.

    Every episode is written down in `out`/cells as it is done; the same call goes on where it was cut off. Raises
    ValueError for an unknown part, or where `out` was begun with other settings.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"parts has {unknown}; possible: {', '.join(PARTS)}")
    cells, result = Path(out) / "cells", dict[str, Any]()
    if {"episodes", "quality", "speed"} & set(parts):
        root = Path(dataset) if dataset else recorded(demonstrations, cells / "dataset", 2 * episodes)
        held = _held(root, episodes, seed)
        if "episodes" in parts:
            result |= _episodes(held, cells, words, stronger, sure)
        if "quality" in parts:
            result["quality"] = _quality(held, cells, spoilt_episodes)
        if "speed" in parts:
            ledger = Ledger(cells / "speed.jsonl", held.identity | {"seconds": speed_s})
            result |= ledger.once("speed", lambda: haste.measure(held.data, speed_s))
    if "failures" in parts and mishaps and failing_episodes:
        root = recorded(mishaps, cells / "mishaps", failing_episodes)
        ledger = Ledger(cells / "failures.jsonl", {"data": EpisodeDataset(root).hash})
        with Decoder() as decoder:
            result["failure_moment"] = failures.score(failures.examine(root, decoder, ledger))
    if "sight" in parts and sight:
        result |= sight.measure(Ledger(cells / "sight.jsonl", sight.identity))
    return dict.fromkeys(KEYS) | result | {"parts": [part for part in PARTS if part in parts]}


KEYS = (
    *("episodes", "hours", "true_boundaries", "boundary_f1", "boundary_f1_of_several_steps", "against_best_rival"),
    *("count_ratio", "keyframe_recall_at_16", "keyframes", "false_failures", "label_accuracy", "routing", "search"),
    *(
        "frames_for_questions",
        "failure_moment",
        "quality",
        "pope",
        "pope_never_shown",
        "pope_by_views",
        "pointing",
        "degraded",
    ),
    *("speed_x_realtime", "speed_x_processor", "decode_x_realtime", "peak_rss_mb"),
)  # of the result, whatever was asked for


def _held(root: Path, episodes: int, seed: int) -> Held:
    """Choose at most so many episodes of the held half."""
    data = EpisodeDataset(root)
    pairs = [(i, e) for i, e in zip(find(root), data.episodes, strict=True) if half(e) == "held"]
    if not pairs:
        raise ValueError(f"{root} has no episode of the held half of instructions: give or collect more episodes")
    order = np.random.default_rng(seed).permutation(len(pairs))[:episodes]
    return Held(data, [pairs[k] for k in sorted(order)], seed)


def _episodes(held: Held, cells: Path, words: Words | None, stronger: Words | None, sure: float) -> dict[str, Any]:
    """Score every episode and add them up."""
    told = RoutedWords(words or NoWords(), stronger, sure) if stronger else words or NoWords()
    ledger = Ledger(cells / "episodes.jsonl", held.identity | {"words": told.identity})
    rows: list[Scored] = []
    with Decoder() as decoder:
        for item, episode in tqdm(held.chosen, unit="episode", desc="score", leave=False):

            def row(item: Item = item, episode: Episode = episode) -> dict[str, Any]:
                return scored.examine(held.data, item, episode, decoder, told, held.rng(item)).to_dict()

            rows.append(Scored(**ledger.once(item.name, row)))
    labels = [label for own in rows for label in own.labels]
    return {
        "episodes": len(rows),
        "hours": sum(own.length_s for own in rows) / 3600,
        **scored.summary(rows),
        "label_accuracy": scored.label_accuracy(labels, sure) if words else None,
        "routing": scored.gain(rows) if stronger else None,
        "search": retrieval.recall([own.record for own in rows], [own.spans for own in rows]),
        "frames_for_questions": selection.score([own.shown for own in rows]),
    }


def _quality(held: Held, cells: Path, episodes: int) -> dict[str, Any]:
    """Spoil the first of the episodes in every way."""
    ledger, rows = Ledger(cells / "quality.jsonl", held.identity), []
    with Decoder() as decoder:
        for item, _ in tqdm(held.chosen[:episodes], unit="episode", desc="spoil", leave=False):

            def row(item: Item = item) -> dict[str, Any]:
                return alarms.examine(held.data, item, decoder, held.rng(item))

            rows.append(ledger.once(item.name, row))
    return alarms.summary(rows)
