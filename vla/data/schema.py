"""The LeRobotDataset v3.0 layout: paths, feature entries, arrow schemas, and files that appear whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import language

VERSION = "v3.0"
CHUNK_SIZE = 1000  # files in one chunk folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
# Counts of pixel values of one shard: not part of the format, others ignore it, it keeps image statistics exact.
HISTOGRAM_PATH = "meta/histograms/chunk-{chunk_index:03d}/file-{file_index:03d}.npz"
STAGING = ".staging"

ARROW = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "uint8": pa.uint8(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
INDEX_FEATURES = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}

Features = dict[str, dict[str, Any]]


def check_features(features: Features) -> None:
    """Refuse feature entries that this writer cannot store."""
    for key, feature in features.items():
        if "/" in key or key in INDEX_FEATURES:
            raise ValueError(f"feature name {key!r} is not possible: it holds '/' or is one of {list(INDEX_FEATURES)}")
        dtype, shape = feature["dtype"], list(feature["shape"])
        if dtype not in {*ARROW, "video"}:
            raise ValueError(f"feature {key!r} has dtype {dtype!r}; possible are {[*ARROW, 'video']}")
        if dtype == "video" and (len(shape) != 3 or shape[2] != 3):
            raise ValueError(f"video feature {key!r} has shape {shape}; it must be [height, width, 3]")
        if dtype != "video" and (len(shape) != 1 or (dtype == "string" and shape != [1])):
            raise ValueError(f"feature {key!r} has shape {shape}; it must be [n], and [1] for text")


def video_keys(features: Features) -> list[str]:
    """Names of the features that live in mp4 files."""
    return [key for key, feature in features.items() if feature["dtype"] == "video"]


def numeric_keys(features: Features) -> list[str]:
    """Names of the features that have numbers in the parquet files, so that statistics exist."""
    return [
        key for key, feature in features.items() if feature["dtype"] not in ("video", "image", "string", "language")
    ]


def arrow_schema(features: Features) -> pa.Schema:
    """Schema of the parquet files of `features`, with the metadata from which `datasets` restores its types."""
    columns = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    described = {"info": {"features": {key: _hugging_face_type(key, feature) for key, feature in columns.items()}}}
    fields = [(key, _arrow_type(key, feature)) for key, feature in columns.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps(described)})


def _arrow_type(key: str, feature: dict[str, Any]) -> pa.DataType:
    if feature["dtype"] == "language":
        return language.ARROW[key]
    kind = ARROW[feature["dtype"]]
    return kind if list(feature["shape"]) == [1] else pa.list_(kind, int(feature["shape"][0]))


def _hugging_face_type(key: str, feature: dict[str, Any]) -> dict[str, Any]:
    if feature["dtype"] == "language":
        return language.hugging_face_type(key)
    value: dict[str, Any] = {"dtype": feature["dtype"], "_type": "Value"}
    if list(feature["shape"]) == [1]:
        return value
    return {"feature": value, "length": int(feature["shape"][0]), "_type": "List"}


def arrow_column(values: list | np.ndarray, kind: pa.DataType) -> pa.Array:
    """Turn the values of all frames of an episode into one arrow array of `kind`."""
    if pa.types.is_fixed_size_list(kind):
        flat = np.asarray(values, dtype=kind.value_type.to_pandas_dtype()).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), kind.list_size)
    if pa.types.is_string(kind):
        return pa.array(list(values), kind)
    return pa.array(np.asarray(values, dtype=kind.to_pandas_dtype()).reshape(-1), kind)


def file_of(root: Path, pattern: str, shard: int, **names: str) -> Path:
    """Path of the file of shard number `shard`, its folder made."""
    path = root / pattern.format(chunk_index=shard // CHUNK_SIZE, file_index=shard % CHUNK_SIZE, **names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_tasks(root: Path) -> dict[str, int]:
    """Return task text -> task_index; the text column has different names in different versions of lerobot."""
    path = root / "meta/tasks.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if len(texts) != 1 or "task_index" not in table.column_names:
        raise ValueError(f"{path} has the columns {table.column_names}; expected task_index and one column of texts")
    return dict(zip(table[texts[0]].to_pylist(), table["task_index"].to_pylist(), strict=True))


def write_tasks(root: Path, tasks: dict[str, int]) -> None:
    """Write meta/tasks.parquet as the pandas frame, indexed by text, that lerobot reads."""
    numbers = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    texts = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
    described = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [numbers | {"metadata": None}, texts | {"metadata": None}],
        "creator": {"library": "vla"},
        "pandas_version": "2.0.0",
    }
    columns = {"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks), pa.string())}
    table = pa.table(columns).replace_schema_metadata({"pandas": json.dumps(described)})
    write_whole(root / "meta/tasks.parquet", lambda path: pq.write_table(table, path))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as the format does: UTF-8, four spaces."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    write_whole(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, flush it to disk and rename it: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Force a file or folder out of the operating system's cache onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
