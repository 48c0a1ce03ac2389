"""Give every frame of a dataset a text, such as the subtask that it belongs to: in a copy, or in place where asked."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import schema
from vla.data.dataset import EpisodeDataset

JOURNAL = "meta/.annotate.json"  # names the files that are complete and wait to take the place of the old ones
_ENTRY: dict[str, Any] = {"dtype": "string", "shape": [1], "names": None}


def annotate(root: Path, feature: str, texts: Mapping[int, Sequence[str]], target: Path | None) -> Path:
    """Write the dataset `root` with the string feature `feature` to the new folder `target`, and return its path.

    texts: episode number -> one text for each of its frames; the frames of other episodes get "". With target None the
    dataset itself is changed: a kill leaves it as it was, or half replaced in a way that every reader bears and that
    the next call completes. ValueError where the feature exists, the target does, or texts and frames do not match.
    """
    _complete(root)
    check_annotation(root, feature, target)
    info = json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
    for episode in EpisodeDataset(root).episodes:
        own = texts.get(episode.index)
        if own is not None and len(own) != episode.length:
            raise ValueError(f"episode {episode.index} has {episode.length} frames and {len(own)} texts")
    info["features"][feature] = _ENTRY
    return _in_place(root, feature, texts, info) if target is None else _copy(root, feature, texts, info, target)


def check_annotation(root: Path, feature: str, target: Path | None) -> None:
    """Raise ValueError where `annotate` would refuse whatever the texts are; nothing is changed."""
    info = json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
    if feature in info["features"]:
        there = ", ".join(info["features"])
        raise ValueError(f"{root} has a feature {feature!r} already: choose another name; it has {there}")
    schema.check_features({feature: _ENTRY})
    if target is not None:
        check_target(root, target)


def check_target(root: Path, target: Path) -> None:
    """Raise ValueError where a copy of the dataset `root` cannot be put."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists: name a folder that does not, the dataset is copied there")
    if root.resolve() in target.resolve().parents:
        raise ValueError(f"{target} lies inside the dataset {root}: name a folder outside it")


def _copy(root: Path, feature: str, texts: Mapping[int, Sequence[str]], info: dict[str, Any], target: Path) -> Path:
    """Build the copy in a hidden folder beside the target, which appears whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(root, partial, ignore=shutil.ignore_patterns(".*"))
    for path in _data_files(root):
        _write_data(path, partial / path.relative_to(root), feature, texts)
    schema.write_json(partial / "meta/info.json", info)
    os.replace(partial, target)
    schema.flush(target.parent.absolute())
    return target


def _in_place(root: Path, feature: str, texts: Mapping[int, Sequence[str]], info: dict[str, Any]) -> Path:
    """Write all new files beside the old ones, then the journal, then rename them all."""
    paths = [*_data_files(root), root / "meta/info.json"]
    for path in paths[:-1]:
        _write_data(path, _waiting(path), feature, texts)
    schema.write_json(_waiting(paths[-1]), info)
    schema.write_json(root / JOURNAL, [str(path.relative_to(root)) for path in paths])
    _complete(root)
    return root


def _complete(root: Path) -> None:
    """Finish what a kill interrupted: with a journal the new files take their places, without one they go."""
    journal = root / JOURNAL
    if journal.exists():
        for name in json.loads(journal.read_text(encoding="utf-8")):
            if _waiting(root / name).exists():
                os.replace(_waiting(root / name), root / name)
                schema.flush((root / name).parent)
        journal.unlink()
    for path in [*_data_files(root), root / "meta/info.json"]:
        _waiting(path).unlink(missing_ok=True)


def _waiting(path: Path) -> Path:
    return path.with_name(f".{path.name}.waiting")


def _data_files(root: Path) -> list[Path]:
    return sorted(root.glob("data/*/[!.]*.parquet"))


def _write_data(source: Path, target: Path, feature: str, texts: Mapping[int, Sequence[str]]) -> None:
    """Copy a data file with one more column, one row group after the other."""
    with pq.ParquetFile(source) as file:
        kinds = file.schema_arrow.append(pa.field(feature, pa.string()))
        kinds = kinds.with_metadata(_described(kinds.metadata, feature))

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, kinds) as writer:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number)
                    column = pa.array(_texts_of(table, texts), pa.string())
                    writer.write_table(pa.Table.from_arrays([*table.columns, column], schema=kinds))

        schema.write_whole(target, write)


def _texts_of(table: pa.Table, texts: Mapping[int, Sequence[str]]) -> list[str]:
    pairs = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    return [texts[episode][int(frame)] if episode in texts else "" for episode, frame in pairs]


def _described(metadata: dict[bytes, bytes] | None, feature: str) -> dict[bytes, bytes]:
    """Add the feature to the metadata from which `datasets` restores its types, where there are such."""
    metadata = dict(metadata or {})
    known = json.loads(metadata.get(b"huggingface", b"null"))
    if known:
        known["info"]["features"][feature] = {"dtype": "string", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(known).encode()
    return metadata
