"""Does search find the moments that words are about? Queries are the true subtasks, answers are where they are done."""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vla.video.index import build, search

RANKS = (1, 5)
QUERIES = 50  # at most, evenly taken from all

Spans = list[tuple[float, float, str]]  # of one episode: from, until, subtask


def spans(subtask: Sequence[str], fps: float) -> Spans:
    """Return the stretches of an episode in which one subtask is done, from the subtask of every frame."""
    edges = [0, *(k for k in range(1, len(subtask)) if subtask[k] != subtask[k - 1]), len(subtask)]
    return [(start / fps, stop / fps, subtask[start]) for start, stop in pairwise(edges)]


def recall(records: Sequence[Mapping[str, Any]], true: Sequence[Spans]) -> dict[str, float | int | None]:
    """Return the share of queries with a right moment among the first 1 and 5; random_at_1 is that of one by chance.

    records: of the analysed episodes (timeline.py), true: their spans. A moment is right if it overlaps a stretch in
    which just this subtask is done.
    """
    queries = sorted({text for own in true for _, _, text in own})
    queries = [queries[k * len(queries) // min(QUERIES, len(queries))] for k in range(min(QUERIES, len(queries)))]
    hits: dict[int, list[bool]] = {rank: [] for rank in RANKS}
    chance: list[float] = []
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        out = Path(folder)
        build(out, [(str(number), record) for number, record in enumerate(records)], None)
        for query in queries:
            found = search(out, query, max(RANKS))
            right = [_is_right(hit.start_s, hit.stop_s, query, true[int(hit.folder)]) for hit in found]
            for rank in RANKS:
                hits[rank].append(any(right[:rank]))
            moments = [
                _is_right(part["start_s"], part["stop_s"], query, own)
                for record, own in zip(records, true, strict=True)
                for part in record["segments"]
            ]
            chance.append(sum(moments) / max(len(moments), 1))
    shares = {f"recall_at_{rank}": sum(own) / len(own) if own else None for rank, own in hits.items()}
    return shares | {"random_at_1": sum(chance) / len(chance) if chance else None, "queries": len(queries)}


def _is_right(start_s: float, stop_s: float, query: str, true: Spans) -> bool:
    return any(text == query and start_s < until_s and stop_s > from_s for from_s, until_s, text in true)
