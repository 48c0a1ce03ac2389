"""Score events and keyframes on a dataset of our own, whose columns tell when things happened.

    python tests/video/score_events.py DATASET --half held --every 4

Truth, from the columns `subtask`, `progress` and `done` alone:
- deeds: a carried thing is grasped (the progress of a subtask that begins with pick, put or stack rises to 0.5 or more
  for 3 frames, which is when both jaws hold it), is lost again (falls below 0.45 for 3 frames), and a subtask is
  fulfilled (progress reaches 1 and stays until `done`);
- changes: the text of `subtask` changes. Only episodes of kind "long" have any.
Truths at most 0.5 s apart become one at their mean, since no tolerance below tells them apart. The first and the last
frame count on neither side. Episodes are split by instruction: the SHA-256 of the first task text is even (`tune`, on
which the weights in vla/video/keyframes.py were chosen) or odd (`held`). All episodes of kind "long" are taken, and
every n-th of the others.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vla.bench.rivals import peract, random, score, uniform
from vla.data.dataset import Episode, EpisodeDataset
from vla.video.child import Decoder
from vla.video.events import Event
from vla.video.keyframes import all_events, boundaries, choose
from vla.video.source import Item, find

TOLERANCES_S = (0.25, 0.5, 1.0)
BUDGETS, RECALL_S = (8, 16, 24), 0.3
CARRYING = ("pick", "put", "stack")
HELD, NOT_HELD, LASTS = 0.5, 0.45, 3
MERGED_S = 0.5
OPEN = 0.2  # of the gripper, for PerAct's heuristic
TRUTHS = {
    "deeds": ("grasp", "lost", "fulfilled"),
    "changes": ("change",),
    "all": ("grasp", "lost", "fulfilled", "change"),
}


@dataclass(frozen=True)
class Scored:
    """One episode with its truth and what was found."""

    long: bool
    length_s: float
    truth: list[tuple[float, str]]  # (time, what), before merging
    found: dict[str, dict[str, list[float]]]  # signals -> truth -> times
    keyframes: dict[str, dict[int, list[float]]]  # signals -> budget -> times
    peract: list[float]


def half(episode: Episode) -> str:
    """Say in which half of the instructions an episode is."""
    return ("tune", "held")[int(hashlib.sha256(episode.tasks[0].encode()).hexdigest(), 16) % 2]


def truth(dataset: EpisodeDataset, episode: Episode) -> list[tuple[float, str]]:
    """Return (time, what happened) in order."""
    rows = slice(episode.start, episode.start + episode.length)
    subtask = dataset.column("subtask")[rows]
    progress, done = (np.asarray(dataset.column(name)[rows]).reshape(-1) for name in ("progress", "done"))
    edges = [0, *(k for k in range(1, episode.length) if subtask[k] != subtask[k - 1]), episode.length]
    found = [(edge, "change") for edge in edges[1:-1]]
    for start, stop in pairwise(edges):
        if subtask[start].startswith(CARRYING):
            found += _holding(progress, start, stop)
        if done[start:stop].any():
            fulfilled = start + int(done[start:stop].argmax())
            while fulfilled > start and progress[fulfilled - 1] >= 1:
                fulfilled -= 1
            found += [(fulfilled, "fulfilled")] * (fulfilled > 0)
    return sorted((frame / dataset.fps, what) for frame, what in found)


def _holding(progress: np.ndarray, start: int, stop: int) -> list[tuple[int, str]]:
    found, held = [], False
    for k in range(start, stop):
        ahead = progress[k : min(k + LASTS, stop)]
        if not held and HELD <= progress[k] < 1 and (ahead >= NOT_HELD).all():
            found.append((k, "grasp"))
            held = True
        elif held and (ahead < NOT_HELD).all():
            found.append((k, "lost"))
            held = False
    return found


def merged(truth: list[tuple[float, str]], kinds: tuple[str, ...]) -> list[float]:
    """Return the times of some kinds, those close together as one."""
    groups: list[list[float]] = []
    for time_s, kind in truth:
        if kind in kinds:
            if groups and time_s - groups[-1][-1] <= MERGED_S:
                groups[-1].append(time_s)
            else:
                groups.append([time_s])
    return [float(np.mean(group)) for group in groups]


def examine(dataset: EpisodeDataset, item: Item, decoder: Decoder) -> Scored:
    """Find the events of an episode with its state and without, and choose keyframes."""
    assert item.episode is not None and item.state is not None
    episode = dataset.episodes[item.episode]
    tracks = {camera: decoder.track(clip) for camera, clip in item.clips.items()}
    lead = next(iter(tracks.values()))
    time_s = lead.time_s[lead.sample]
    found: dict[str, dict[str, list[float]]] = {}
    keyframes: dict[str, dict[int, list[float]]] = {}
    for signals, state in (("state", item.state), ("pixels", None)):
        events: list[Event] = all_events(tracks, state)
        found[signals] = {
            "deeds": boundaries(events, time_s, without=("set_off",)),
            "changes": boundaries(events, time_s, only=("set_off",)),
            "all": boundaries(events, time_s),
        }
        keyframes[signals] = {
            budget: [keyframe.time_s for keyframe in choose(tracks, events, budget)] for budget in BUDGETS
        }
    heuristic = peract(item.state.joints, item.state.gripper[:, 0] > OPEN, dataset.fps)
    length_s = (episode.length - 1) / dataset.fps
    return Scored(episode.extra["kind"] == "long", length_s, truth(dataset, episode), found, keyframes, heuristic)


def report(episodes: list[Scored]) -> dict:
    """Put ours beside uniform and random at our count with state, and PerAct's heuristic."""
    rng = np.random.default_rng(0)
    table: dict = {"episodes": len(episodes), "hours": round(sum(e.length_s for e in episodes) / 3600, 3)}
    for name, kinds in TRUTHS.items():
        true = [merged(episode.truth, kinds) for episode in episodes]
        counts = [len(episode.found["state"][name]) for episode in episodes]
        rivals = {
            "state": [episode.found["state"][name] for episode in episodes],
            "pixels": [episode.found["pixels"][name] for episode in episodes],
            "uniform": [uniform(e.length_s, n) for e, n in zip(episodes, counts, strict=True)],
            "random": [random(e.length_s, n, rng) for e, n in zip(episodes, counts, strict=True)],
            "peract": [episode.peract for episode in episodes],
        }
        scores = {rival: {str(t): score(times, true, t) for t in TOLERANCES_S} for rival, times in rivals.items()}
        table[name] = {"true": sum(map(len, true)), **scores}
    for signals in ("state", "pixels", "uniform"):
        table[f"keyframe_recall_{signals}"] = {budget: _recall(episodes, signals, budget) for budget in BUDGETS}
    return table


def _recall(episodes: list[Scored], signals: str, budget: int) -> dict[str, float]:
    hits, total, chosen = 0, 0, 0
    for episode in episodes:
        if signals == "uniform":
            times = list(np.linspace(0, episode.length_s, len(episode.keyframes["state"][budget])))
        else:
            times = episode.keyframes[signals][budget]
        chosen, total = chosen + len(times), total + len(episode.truth)
        hits += sum(any(abs(time_s - other) <= RECALL_S + 1e-9 for other in times) for time_s, _ in episode.truth)
    return {"recall": round(hits / max(total, 1), 3), "keyframes": round(chosen / max(len(episodes), 1), 1)}


def main() -> None:
    """Print the scores of one half as JSON: of all its chosen episodes, and of the long ones among them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--half", choices=("tune", "held"), default="held")
    parser.add_argument("--every", type=int, default=4)
    arguments = parser.parse_args()
    dataset, scored = EpisodeDataset(arguments.dataset), []
    items = [
        item
        for item, episode in zip(find(arguments.dataset), dataset.episodes, strict=True)
        if half(episode) == arguments.half and (episode.extra["kind"] == "long" or episode.index % arguments.every == 0)
    ]
    with Decoder() as decoder:
        for item in items:
            scored.append(examine(dataset, item, decoder))
            print(f"\r{len(scored)} of {len(items)}", end="", file=sys.stderr, flush=True)
    print(json.dumps({"all": report(scored), "long": report([e for e in scored if e.long])}, indent=1))


if __name__ == "__main__":
    main()
