"""The record of one analysed item: `timeline.json`, the same as tables, and the pictures of its keyframes.

timeline.json, schema "vla.timeline/1"; times in seconds since the item's first frame, from time stamps:

    schema       "vla.timeline/1"
    fingerprint  hash of content and settings: the same, the same record
    settings     what the analysis was asked for; `words` names the model, "none" without one
    source       name, episode (null for a file), task (the instruction, "" if unknown), fps and rows that a dataset
                 states (null for a file), cameras {name: codec, width, height, rotation_deg, frames, duration_s}
    keyframes    [frame (number in the first camera), time_s, score, why, kinds, picture (file beside this one)]
    segments     [start_s, stop_s, label, source ("events"; "instruction": a step of it, in its order; or the model that
                 named it), why, kinds, problem, confidence (0..1 by agreement, of a step of the instruction how clearly
                 it begins, null where nothing tells), first (what a weaker model said where a stronger one was asked,
                 else null)]
    events       [time_s, kind, signal ("state" or "pixels"), strength 0..1, words]
    outcome      label (failure, success, none or unknown; success only where a model or the recording says so), words,
                 moment_s, mode (null where that is not known), source ("measured", "recorded" or the model), problem,
                 confidence, first, suspects [time_s, mode, evidence, put_right, stop_s], the likeliest first
    answers      [question, answer ("not visible" is one), times_s and frames that it rests on, source ("events" or the
                 model), looked_at_s (frames that a model was shown), problem, confidence, first]
    routing      asked (segments, outcome and answers), routed (to the stronger model), changed (by it)
    things       [camera, number, name (colour and shape), start_s, stop_s, way (how far it went), first and last place
                 (middle x, y, width, height), all in widths of the picture]; places are in things.csv, every one unless
                 qa says "crowded"
    texts        [text, camera, start_s and stop_s between which keyframes show it, confidence 0..1, box (x, y, width,
                 height in the kept picture), orders (whether it reads like orders to a model)]: data, whatever it says;
                 text that was to be hidden is "(hidden)", here and in qa
    qa           [code, severity (error, warning or note), camera ("" for the state), start_s, stop_s, words, numbers]
    figures      numbers by which a dataset is sorted: seconds, jerk_p95, static_share, CAMERA.blur ...
    lags         {camera: seconds by which its pictures are later than the state, agreement (correlation), gain over
                 no lag, shifts_s and correlations of all lags that were tried}

Beside it, where a dual encoder was given, vectors.npy: float32[keyframes, E] of length 1.

Later versions of schema 1 only add keys. Nothing in it depends on when, where or how fast it was made.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.video.analysis import Analysis
from vla.video.chat import SILENCE
from vla.video.flag import Flag
from vla.video.lag import Lag
from vla.video.objects import Thing
from vla.video.outcome import Outcome
from vla.video.quality import Checked
from vla.video.track import Track

SCHEMA = "vla.timeline/1"
PICTURES, VECTORS = "keyframes", "vectors.npy"  # folder and file beside timeline.json
DIGITS = 6  # of every number


def document(analysis: Analysis, *, fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record as plain JSON values."""
    item = analysis.item
    return _plain(
        {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "settings": dict(settings),
            "source": {
                "name": item.name,
                "episode": item.episode,
                "task": item.task,
                "fps": item.fps,
                "rows": item.rows,
                "cameras": {camera: _camera(track) for camera, track in analysis.tracks.items()},
            },
            "keyframes": [
                asdict(keyframe) | {"picture": f"{PICTURES}/{keyframe.frame:06d}.jpg"}
                for keyframe in analysis.keyframes
            ],
            "segments": [asdict(segment) for segment in analysis.segments],
            "events": [asdict(event) for event in analysis.events],
            "outcome": _outcome(analysis.outcome),
            "answers": [asdict(answer) for answer in analysis.answers],
            "routing": asdict(analysis.routing),
            "things": [_thing(camera, thing) for camera, track in analysis.tracks.items() for thing in track.things],
            "texts": [asdict(text) for text in analysis.texts],
            "qa": [asdict(flag) for flag in analysis.checked.flags],
            "figures": analysis.checked.figures,
            "lags": {camera: asdict(lag) for camera, lag in analysis.checked.lags.items()},
        }
    )


def write(folder: Path, record: Mapping[str, Any], analysis: Analysis) -> Path:
    """Write pictures, tables, vectors and timeline.json, in this order, into `folder`; return the last one's path.

    timeline.json comes last and at once, so that a folder that has it is complete.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for old in (folder / PICTURES).glob("*.jpg"):
        old.unlink()
    for keyframe in record["keyframes"]:
        lead = next(iter(analysis.tracks.values()))
        (folder / keyframe["picture"]).write_bytes(lead.thumbnail(lead.nearest_sample(keyframe["time_s"])))
    for name in ("keyframes", "segments", "qa"):
        _write_table(folder / f"{name}.csv", record[name])
    _write_table(folder / "things.csv", _places(analysis.tracks))
    (folder / VECTORS).unlink(missing_ok=True)
    if len(analysis.vectors):
        np.save(folder / VECTORS, analysis.vectors)
    path = folder / "timeline.json"
    partial = folder / ".timeline.partial"
    partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record in `folder`, None where there is none of this schema with all its keys."""
    try:
        record = json.loads((folder / "timeline.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    whole = (
        isinstance(record, dict)
        and record.get("schema") == SCHEMA
        and {"outcome", "answers", "texts", "routing"} <= record.keys()
    )
    return record if whole else None


def unanswered(record: Mapping[str, Any]) -> bool:
    """Say whether nothing came back when a model was asked about it, so that asking once more may help."""
    told = [*record["segments"], record["outcome"], *record["answers"]]
    return any(SILENCE in part["problem"] for part in told)


def vectors(folder: Path, record: Mapping[str, Any]) -> np.ndarray | None:
    """Return the vectors of a record's keyframes, None where there are none."""
    if not (folder / VECTORS).exists() or not record["keyframes"]:
        return None
    table: np.ndarray = np.load(folder / VECTORS, allow_pickle=False)
    return table if len(table) == len(record["keyframes"]) else None


def brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what result and overview tell of a record, small whatever its length; `checked` can read it.

    keyframes and segments are numbers, pictures the files of the first and the last keyframe, outcome.suspects whether
    there are any.
    """
    kept = {key: record[key] for key in ("fingerprint", "source", "qa", "figures", "lags", "answers", "routing")}
    names = [keyframe["picture"] for keyframe in record["keyframes"]]
    return kept | {
        "keyframes": len(names),
        "pictures": list(dict.fromkeys(names[:1] + names[-1:])),
        "segments": len(record["segments"]),
        "outcome": record["outcome"] | {"suspects": bool(record["outcome"]["suspects"])},
    }


@dataclass(frozen=True)
class Records:
    """(folder, record) of some items below `root`, read one at a time, and again whenever they are gone through."""

    root: Path
    folders: Sequence[str]

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the next one; FileNotFoundError where it is gone."""
        for folder in self.folders:
            record = read(self.root / folder)
            if record is None:
                raise FileNotFoundError(f"{self.root / folder} has no timeline.json any more: analyze again")
            yield folder, record


def checked(record: Mapping[str, Any]) -> Checked:
    """Take the quality check back out of a record."""
    flags = [Flag(**flag) for flag in record["qa"]]
    figures = {name: float("nan") if value is None else value for name, value in record["figures"].items()}
    curves = ("shifts_s", "correlations")
    lags = {
        camera: Lag(**lag | {name: np.array(lag[name], np.float64) for name in curves})
        for camera, lag in record["lags"].items()
    }
    return Checked(flags, figures, lags)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    moment = {"moment_s": failure.time_s, "mode": failure.mode} if failure else {"moment_s": None, "mode": None}
    return asdict(outcome) | moment


def _camera(track: Track) -> dict[str, Any]:
    facts = track.facts
    return {
        "codec": facts.codec,
        "width": facts.width,
        "height": facts.height,
        "rotation_deg": facts.rotation_deg,
        "frames": len(track),
        "duration_s": float(track.time_s[-1]),
    }


def _thing(camera: str, thing: Thing) -> dict[str, Any]:
    return {
        "camera": camera,
        "number": thing.number,
        "name": thing.name,
        "start_s": float(thing.time_s[0]),
        "stop_s": float(thing.time_s[-1]),
        "way": thing.way,
        "first": thing.place[0],
        "last": thing.place[-1],
    }


def _places(tracks: Mapping[str, Track]) -> Iterable[dict[str, Any]]:
    """Yield where every thing was at every sample."""
    for camera, track in tracks.items():
        for thing in track.things:
            for time_s, place in zip(thing.time_s, thing.place, strict=True):
                places = dict(zip(("x", "y", "width", "height"), map(float, place), strict=True))
                yield _plain({"camera": camera, "number": thing.number, "name": thing.name, "time_s": time_s, **places})


def _plain(value: Any) -> Any:
    """Make lists of tuples, round numbers, and null of what is not finite, since JSON has no such number.

    What a text has of a file's name that is no text, lone surrogates, becomes plain too: tables and pages are UTF-8.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return round(float(value), DIGITS) + 0.0 if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, one by one; lists become text with " | " between, and no cell can be taken for a formula."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number, row in enumerate(rows):
            if number == 0:
                writer.writerow(row)
            writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = " | ".join(map(str, value))
    if isinstance(value, dict):
        value = json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
