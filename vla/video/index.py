"""The search index of an analysed folder: segments, flags, failures and texts, as vectors too if there is a model.

Keyframes are found by what they show, if a dual encoder has made vectors of them. `index.sqlite` holds `moments` (one
row each), `words` (FTS5 over them, keyframes apart) and `about` (schema, the embedding model, the dual encoder).
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from vla.video import timeline
from vla.video.analysis import FrameEncoder
from vla.video.outcome import FAILURE, MODES

NAME, SCHEMA = "index.sqlite", "vla.index/2"
RRF = 60  # reciprocal rank fusion, Cormack et al. 2009: a rank counts 1 / (RRF + rank)
TOGETHER = 1024  # moments that are held at once while the index is written
DEEP = 200  # moments of each ranking that are fused
APART_S = 1.0  # hits of one item begin at least this far apart
_TOLD, _WEIGHTS = "label, task, why", "6.0, 1.0, 2.0"  # what is searched by words, and its weights in BM25
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE moments (id INTEGER PRIMARY KEY, item TEXT, folder TEXT, kind TEXT, start_s REAL, stop_s REAL,
  label TEXT, task TEXT, why TEXT, picture TEXT, vector BLOB, look BLOB);
CREATE VIRTUAL TABLE words USING fts5(label, task, why, content='moments', content_rowid='id',
  tokenize='porter unicode61');
"""


class Embedder(Protocol):
    """Turns texts into vectors of length 1, near each other where the meanings are."""

    @property
    def identity(self) -> str:
        """Vectors of another identity are not comparable."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32[N, D]."""
        ...


@dataclass(frozen=True)
class Hit:
    """One found moment."""

    item: str
    folder: str  # of the item, beside the index
    kind: str  # "segment", "flag", "text", "failure" or "frame"
    start_s: float
    stop_s: float
    label: str
    why: str
    picture: str  # of the nearest keyframe, inside `folder`; "" if there is none
    score: float  # only comparable within one search
    ranks: dict[str, int]  # "text", "meaning" and "sight", 1 is best, where it was found by it


def build(
    out: Path,
    records: Iterable[tuple[str, Mapping[str, Any]]],
    embedder: Embedder | None,
    encoder: FrameEncoder | None = None,
) -> Path:
    """Write the index of (folder of the item, its record) into `out` and return its path.

    records: are gone through twice, one at a time. encoder: made the vectors of the keyframes, which lie beside the
    records. Vectors of texts in an older index there are taken where text and model are the same.
    """
    path, partial = out / NAME, out / f".{NAME}.partial"
    rows = (row for folder, record in records for row in _moments(folder, record))
    frames = (row for folder, record in (records if encoder else ()) for row in _frames(out, folder, record))
    known = _known(path, embedder) if embedder else {}
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as base:
        base.executescript(_TABLES)
        base.execute("INSERT INTO about VALUES ('schema', ?)", (SCHEMA,))
        base.execute("INSERT INTO about VALUES ('embedder', ?)", (embedder.identity if embedder else "",))
        base.execute("INSERT INTO about VALUES ('encoder', ?)", (encoder.identity if encoder else "",))
        insert = f"INSERT INTO moments VALUES (NULL, {','.join('?' * 11)})"
        while part := list(islice(rows, TOGETHER)):
            vectors = _vectors(known, [_text(row) for row in part], embedder)
            base.executemany(insert, [(*row.values(), vector, None) for row, vector in zip(part, vectors, strict=True)])
        base.executemany(insert, ((*row.values(), None, look) for row, look in frames))
        base.execute(f"INSERT INTO words(rowid, {_TOLD}) SELECT id, {_TOLD} FROM moments WHERE look IS NULL")
        base.commit()
    partial.replace(path)
    return path


def _moments(folder: str, record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield what can be found in an item: its segments, flags, texts, and what seems to fail."""
    source = record["source"]
    found = [("segment", part, part["label"], "; ".join(part["why"])) for part in record["segments"]]
    found += [("flag", flag, flag["code"].replace("_", " "), flag["words"]) for flag in record["qa"]]
    found += [
        ("text", text, text["text"], f"text in the picture of {text['camera']}") for text in record.get("texts", ())
    ]
    for suspect in record["outcome"]["suspects"]:
        stop_s = suspect["stop_s"] if suspect["stop_s"] is not None else suspect["time_s"]
        state = "put right" if suspect["put_right"] else "failure"
        why = "; ".join([MODES[suspect["mode"]], *suspect["evidence"]])
        part = {"start_s": suspect["time_s"], "stop_s": stop_s}
        found.append(("failure", part, f"{suspect['mode'].replace('_', ' ')}, {state}", why))
    if record["outcome"]["label"] == FAILURE and record["outcome"]["moment_s"] is None and record["keyframes"]:
        end_s = record["keyframes"][-1]["time_s"]
        found.append(("failure", {"start_s": end_s, "stop_s": end_s}, "it failed", record["outcome"]["words"]))
    for kind, part, label, why in found:
        start_s, stop_s = part["start_s"], part["stop_s"]
        nearest = min(record["keyframes"], key=lambda k, t=(start_s + stop_s) / 2: abs(k["time_s"] - t), default=None)
        yield _row(source, folder, kind, (start_s, stop_s), label, why, nearest["picture"] if nearest else "")


def _frames(out: Path, folder: str, record: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], bytes]]:
    """Yield an item's keyframes, labelled as the segments that they lie in, with their vectors."""
    vectors = timeline.vectors(out / folder, record)
    for keyframe, vector in zip(record["keyframes"], () if vectors is None else vectors, strict=vectors is not None):
        time_s = keyframe["time_s"]
        parts = record["segments"]
        label = next((part["label"] for part in parts if time_s < part["stop_s"]), parts[-1]["label"] if parts else "")
        span, why = (time_s, time_s), "; ".join(keyframe["why"])
        yield _row(record["source"], folder, "frame", span, label, why, keyframe["picture"]), vector.tobytes()


def _row(
    source: Mapping[str, Any], folder: str, kind: str, span: tuple[float, float], label: str, why: str, picture: str
) -> dict[str, Any]:
    return {
        "item": source["name"],
        "folder": folder,
        "kind": kind,
        "start_s": span[0],
        "stop_s": span[1],
        "label": label,
        "task": source["task"],
        "why": why,
        "picture": picture,
    }


def _text(row: Mapping[str, Any]) -> str:
    return f"{row['label']}. {row['why']}. {row['task']}"


def _known(path: Path, embedder: Embedder) -> dict[str, bytes]:
    """Return the vectors that an older index has from this model."""
    if not path.exists():
        return {}
    with closing(_opened(path)) as base:
        same = _about(base).get("embedder") == embedder.identity
        told = base.execute("SELECT * FROM moments WHERE vector IS NOT NULL") if same else ()
        return {_text(row): row["vector"] for row in told}


def _vectors(known: dict[str, bytes], texts: Sequence[str], embedder: Embedder | None) -> list[bytes | None]:
    """Return the vectors of texts; those that are not known yet are made, and known from then on."""
    if embedder is None:
        return [None] * len(texts)
    fresh = list(dict.fromkeys(text for text in texts if text not in known))
    if fresh:
        known |= {text: vector.tobytes() for text, vector in zip(fresh, embedder.embed(fresh), strict=True)}
    return [known[text] for text in texts]


def search(
    out: Path, query: str, top: int, embedder: Embedder | None = None, encoder: FrameEncoder | None = None
) -> list[Hit]:
    """Return at most `top` moments, best first: ranked by BM25, and by vectors of texts and of frames, fused.

    ValueError where `out` has no index, the query has no word, or the vectors are of another model.
    """
    if not (out / NAME).is_file():
        raise ValueError(f"{out} has no {NAME}: give the folder that vla analyze wrote (its out=)")
    terms = re.findall(r"\w+", query)
    if not terms or top < 1:
        raise ValueError(f"query={query!r} with top={top} asks for nothing: give words, and top of 1 or more")
    with closing(_opened(out / NAME)) as base:
        about = _about(base)
        if about.get("schema") != SCHEMA:
            raise ValueError(f"{out / NAME} has schema {about.get('schema')!r}, {SCHEMA} is read: analyze again")
        rankings = {"text": _by_text(base, terms)}
        if embedder is not None:
            _compare("embedding model", about["embedder"], embedder.identity)
            rankings["meaning"] = _nearest(base, "vector", embedder.embed([query])[0])
        if encoder is not None:
            _compare("dual encoder", about["encoder"], encoder.identity)
            asked = encoder.sentence(query)
            rankings["sight"] = [] if asked is None else _nearest(base, "look", asked)
        return _fused(base, rankings, top)


def _by_text(base: sqlite3.Connection, terms: Sequence[str]) -> list[int]:
    """Rank by BM25 what has any of the terms; quoted, so that no term is an operator."""
    rows = base.execute(
        f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, {_WEIGHTS}), rowid LIMIT ?",
        (" OR ".join(f'"{term}"' for term in terms), DEEP),
    )
    return [row[0] for row in rows]


def closeness(embedder: Embedder, question: str, texts: Sequence[str]) -> np.ndarray:
    """Return how close each text is to a question, float64[N] 0..1."""
    if not texts:
        return np.zeros(0)
    asked, *table = embedder.embed([question, *texts]).astype(np.float64)
    return np.clip(np.stack(table) @ asked, 0.0, 1.0)


def _compare(what: str, indexed: str, asked: str) -> None:
    if indexed != asked:
        raise ValueError(
            f"the index was made with the {what} {indexed or 'none'!r}, the query would be with {asked!r}: search with "
            "the same one, or analyze again with this one"
        )


def _nearest(base: sqlite3.Connection, column: str, vector: np.ndarray) -> list[int]:
    """Rank the moments that have a vector by how near it is."""
    rows = base.execute(f"SELECT id, {column} FROM moments WHERE {column} IS NOT NULL").fetchall()
    if not rows:
        return []
    table = np.stack([np.frombuffer(row[column], np.float32) for row in rows])
    return [rows[k]["id"] for k in np.argsort(-(table @ vector), kind="stable")[:DEEP]]


def _fused(base: sqlite3.Connection, rankings: Mapping[str, list[int]], top: int) -> list[Hit]:
    ranks: dict[int, dict[str, int]] = {}
    for name, ranking in rankings.items():
        for rank, moment in enumerate(ranking, start=1):
            ranks.setdefault(moment, {})[name] = rank
    scores = {moment: sum(1 / (RRF + rank) for rank in own.values()) for moment, own in ranks.items()}
    hits: list[Hit] = []
    for moment in sorted(scores, key=lambda moment: (-scores[moment], moment)):
        row = base.execute("SELECT * FROM moments WHERE id = ?", (moment,)).fetchone()
        same = [hit for hit in hits if hit.folder == row["folder"] and hit.kind == row["kind"]]
        if all(abs(hit.start_s - row["start_s"]) >= APART_S for hit in same):
            fields = {name: row[name] for name in Hit.__annotations__ if name not in ("score", "ranks")}
            hits.append(Hit(**fields, score=scores[moment], ranks=ranks[moment]))
        if len(hits) == top:
            break
    return hits


def _opened(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    base.row_factory = sqlite3.Row
    return base


def _about(base: sqlite3.Connection) -> dict[str, str]:
    """Read what the index says about itself; nothing where it is none of ours."""
    try:
        return dict(base.execute("SELECT key, value FROM about").fetchall())
    except sqlite3.DatabaseError:
        return {}
