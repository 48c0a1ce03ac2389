"""When things happened in an episode of our own, from its columns `subtask`, `progress` and `done` alone.

- grasp, lost: a carried thing is held by both jaws (the progress of a subtask that begins with pick, put or stack rises
  to 0.5 or more for 3 frames), and is held no longer (it falls below 0.45 for 3 frames);
- fulfilled: progress reaches 1 and stays there until `done`;
- change: the text of `subtask` changes.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vla.data.dataset import Episode, EpisodeDataset

CARRYING = ("pick", "put", "stack")
HELD, NOT_HELD, LASTS = 0.5, 0.45, 3
KINDS = ("grasp", "lost", "fulfilled", "change")
MERGED_S = 0.5  # truths as close as this are one, since no tolerance below tells them apart


def half(episode: Episode) -> str:
    """Say in which half of the instructions an episode is: weights were chosen on "tune", scores are of "held"."""
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


def merged(truth: list[tuple[float, str]], kinds: Sequence[str] = KINDS) -> list[float]:
    """Return the times of some kinds, those close together as one at their mean."""
    groups: list[list[float]] = []
    for time_s, kind in truth:
        if kind in kinds:
            if groups and time_s - groups[-1][-1] <= MERGED_S:
                groups[-1].append(time_s)
            else:
                groups.append([time_s])
    return [float(np.mean(group)) for group in groups]
