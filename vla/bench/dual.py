"""What a dual encoder finds and names: frames by sentences, and labels that it was never taught as such.

Frames are of episodes that no weight was chosen on. Facts, such as "a red cube", "the drawer is open" and "the gripper
is holding the red cube", are those of the captions that the simulator's truth wrote.

| measure    | asked                                               | right                                         |
|------------|-----------------------------------------------------|-----------------------------------------------|
| `facts`    | for every fact, the frames that are nearest to it   | it is true of the frame                       |
| `pairs`    | the same for two facts of one frame at once         | both are                                      |
| `captions` | for a whole caption, the frames of all episodes     | the one it was written of; one an episode     |
| `labels`   | for a frame, the nearest of some sentences          | it is true: things (one of four), the drawer, |
|            |                                                     | what is held (one of the things on the table) |

`grey` is all of it again with grey pictures, which is what the sentences alone come to; `random` is chance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from vla.bench.recordings import Recordings, recorded
from vla.data.dataset import EpisodeDataset
from vla.evaluate.statistics import Rate
from vla.model.checkpoint import load
from vla.train.captions import facts_of
from vla.types import Observation

DEFAULT = "dual"  # the checkpoint that ships
RANKS = (1, 5)
BATCH, GREY = 64, 128
A_THING, HOLDS = ("a ", "an "), "the gripper is holding the "
DRAWER = ("the drawer is open", "the drawer is closed")
OFTEN = 0.5  # facts that are true of a larger share of the frames are no queries


class Encoder(Protocol):
    """Whoever makes vectors of frames and of sentences."""

    def embed_images(self, observations: Sequence[Observation]) -> np.ndarray:
        """Return float32[N, E] of length 1."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32[N, E] of length 1."""
        ...


@dataclass(frozen=True)
class Frame:
    """A moment of an episode."""

    episode: int
    images: Mapping[str, np.ndarray]  # camera -> uint8[H, W, 3]
    facts: tuple[str, ...]  # true of it


def measure(
    *,
    seed: int,
    out: str,
    checkpoint: str | None,
    device: str,
    threads: int,
    demonstrations: Recordings,
    episodes: int,
    frames: int,
    queries: int,
) -> dict[str, Any]:
    """Record episodes, show the checkpoint some frames of each, and score what it finds and names.

    checkpoint: a name or folder, None for the one that ships; frames: of an episode at most; queries: pairs of facts.
    """
    torch.set_num_threads(threads)
    policy = load(checkpoint or DEFAULT, device=device)
    policy.embed_texts([""])  # a checkpoint without a dual encoder is refused before episodes are recorded
    data = EpisodeDataset(recorded(demonstrations, Path(out) / "episodes", episodes))
    shown = drawn(data, sorted(policy.embodiment.cameras), frames)
    return scored(policy, shown, queries, np.random.default_rng(seed)) | {"episodes": episodes, "frames": len(shown)}


def drawn(data: EpisodeDataset, cameras: Sequence[str], most: int) -> list[Frame]:
    """Return up to so many frames of each episode whose facts are known, evenly spread."""
    found = []
    for row, episode in enumerate(data.episodes):
        asked = data.column("vqa")[episode.start : episode.start + episode.length]
        known = [(episode.start + place, facts) for place, text in enumerate(asked) if (facts := facts_of(text))]
        known = [known[k * len(known) // most] for k in range(most)] if len(known) > most else known
        if known:
            images = {camera: data.frames(camera, [index for index, _ in known]) for camera in cameras}
            for k, (_, facts) in enumerate(known):
                found.append(Frame(row, {camera: images[camera][k] for camera in cameras}, tuple(facts)))
    return found


def scored(encoder: Encoder, frames: Sequence[Frame], queries: int, rng: np.random.Generator) -> dict[str, Any]:
    """Score it with the frames, and again with grey ones."""
    held = [frame.facts for frame in frames]
    ways: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
        "facts": _search(encoder, held, [(fact,) for fact in sorted({fact for facts in held for fact in facts})]),
        "pairs": _search(encoder, held, _pairs(held, queries, rng)),
        "captions": _captions(encoder, frames),
        "labels": _labels(encoder, held, rng),
    }
    seen = {name: ask(_images(encoder, frames, False)) for name, ask in ways.items()}
    return seen | {"grey": {name: ask(_images(encoder, frames, True)) for name, ask in ways.items()}}


def _images(encoder: Encoder, frames: Sequence[Frame], grey: bool) -> np.ndarray:
    rows = []
    for start in tqdm(range(0, len(frames), BATCH), unit="batch", desc="look", leave=False):
        part = frames[start : start + BATCH]
        views = [{name: np.full_like(view, GREY) if grey else view for name, view in f.images.items()} for f in part]
        rows.append(encoder.embed_images([Observation(view, np.zeros(0, np.float32), "", 0.0) for view in views]))
    return np.concatenate(rows)


def _pairs(held: Sequence[tuple[str, ...]], count: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    every = sorted({pair for facts in held for pair in combinations(sorted(facts), 2)})
    return [every[k] for k in sorted(rng.permutation(len(every))[:count])]


def _search(
    encoder: Encoder, held: Sequence[tuple[str, ...]], queries: Sequence[tuple[str, ...]]
) -> Callable[[np.ndarray], dict[str, Any]]:
    """Prepare to rank frames by sentences that are true of some of them."""
    true = np.array([[set(query) <= set(facts) for facts in held] for query in queries])
    kept = [row for row in range(len(queries)) if 0 < true[row].mean() <= OFTEN]
    true, texts = true[kept], encoder.embed_texts([", ".join(queries[row]) for row in kept])

    def ask(images: np.ndarray) -> dict[str, Any]:
        order = np.argsort(-(texts @ images.T), axis=1, kind="stable")
        right = np.take_along_axis(true, order, axis=1)
        found = {f"recall_at_{rank}": _rate(row[:rank].any() for row in right) for rank in RANKS}
        chances = {f"random_at_{rank}": float(np.mean([_chance(row, rank) for row in true])) for rank in RANKS}
        return {**found, **chances, "average_precision": float(np.mean(_precision(right))), "queries": len(kept)}

    return ask


def _chance(true: np.ndarray, rank: int) -> float:
    """Of some frames, drawn at random, at least one is right."""
    return 1 - comb(int((~true).sum()), rank) / comb(len(true), rank)


def _precision(right: np.ndarray) -> np.ndarray:
    """Average precision of each ranking, bool[Q, N]: float[Q]."""
    hits = right.cumsum(axis=1)
    return (hits / np.arange(1, right.shape[1] + 1) * right).sum(axis=1) / right.sum(axis=1)


def _captions(encoder: Encoder, frames: Sequence[Frame]) -> Callable[[np.ndarray], dict[str, Any]]:
    """Prepare to find the frame that a caption was written of, among those in the middle of all episodes."""
    rows_of: dict[int, list[int]] = {}
    for row, frame in enumerate(frames):
        rows_of.setdefault(frame.episode, []).append(row)
    middle = [rows[len(rows) // 2] for rows in rows_of.values()]
    texts = encoder.embed_texts([", ".join(frames[row].facts) for row in middle])

    def ask(images: np.ndarray) -> dict[str, Any]:
        scores = texts @ images[middle].T
        places = (scores >= scores.diagonal()[:, None]).sum(axis=1) - 1  # who makes the same of all frames finds none
        found = {f"recall_at_{rank}": _rate(place < rank for place in places) for rank in RANKS}
        return {**found, "random_at_1": 1 / len(middle), "queries": len(middle)}

    return ask


def _labels(
    encoder: Encoder, held: Sequence[tuple[str, ...]], rng: np.random.Generator
) -> Callable[[np.ndarray], dict[str, Any]]:
    """Prepare to choose among sentences of which one is true."""
    things = sorted({fact for facts in held for fact in facts if fact.startswith(A_THING)})
    asked: dict[str, list[tuple[int, list[str]]]] = {"things": [], "drawer": [], "held": []}
    for row, facts in enumerate(held):
        there = [fact for fact in facts if fact in things]
        absent = [thing for thing in things if thing not in there]
        if there and len(absent) >= 3:
            others = [absent[k] for k in rng.permutation(len(absent))[:3]]
            asked["things"].append((row, [there[rng.integers(len(there))], *others]))
        asked["drawer"] += [(row, [fact, *(set(DRAWER) - {fact})]) for fact in facts if fact in DRAWER]
        if true := [fact for fact in facts if fact.startswith(HOLDS)]:
            names = [HOLDS + thing.partition(" ")[2] for thing in there]
            asked["held"].append((row, [*true, *(name for name in names if name not in true)]))
    sentences = sorted({text for cases in asked.values() for _, texts in cases for text in texts})
    place, vectors = {text: k for k, text in enumerate(sentences)}, encoder.embed_texts(sentences)

    def ask(images: np.ndarray) -> dict[str, Any]:
        told = {}
        for kind, cases in asked.items():
            best = [int((vectors[[place[t] for t in texts]] @ images[row]).argmax()) for row, texts in cases]
            chance = float(np.mean([1 / len(texts) for _, texts in cases])) if cases else None
            told[kind] = _rate(number == 0 for number in best) | {
                "random": chance,
                "asked": len(cases),
            }
        return told

    return ask


def _rate(right: Iterable[Any]) -> dict[str, Any]:
    rate = Rate.of(right)
    return {"value": rate.value, "ci95": rate.ci95}
