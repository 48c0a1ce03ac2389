"""Write a LeRobotDataset v3.0: complete episodes wait in a staging folder and are joined into shards of limited size.

What is on disk survives a kill at any moment. An episode counts from the rename of its staged folder on; a shard counts
from the rename of its table of episodes on, which is its last file. Opening removes what did not get that far.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vla.data import language as language_columns
from vla.data import schema
from vla.data.recorder import EpisodeRecorder, disk_errors, staged_folder
from vla.data.stats import Stats, array_stats, histogram_stats, to_json
from vla.data.video import describe, join

FORMAT = {"writer": "vla", "version": 1, "statistics": "exact"}


class DatasetWriter:
    """The only process that changes the shards of a dataset; opening an unfinished one repairs and continues it.

    `metadata` is kept under "vla" in meta/info.json and, like the features, must be the same when writing goes on.
    `extra` values given to `EpisodeRecorder.save` become columns of the table of episodes and must have the same keys.
    """

    def __init__(
        self,
        root: Path,
        fps: int,
        features: schema.Features,
        robot_type: str | None = None,
        metadata: dict[str, Any] | None = None,
        codec: str = "h264",
        language: bool = False,
        data_files_size_in_mb: float = 100,
        video_files_size_in_mb: float = 200,
    ) -> None:
        schema.check_features(features)
        if fps != int(fps) or fps <= 0:
            raise ValueError(f"fps is {fps}; the format takes positive whole numbers")
        self.root, self.fps, self.features, self.codec = Path(root), int(fps), features, codec
        self.all_features = features | (language_columns.FEATURES if language else {}) | schema.INDEX_FEATURES
        if language and not {"subtask", "vqa"} <= features.keys():
            raise ValueError(f"language columns are made from subtask and vqa; the features are {sorted(features)}")
        self._language = language
        self._limits_mb = (data_files_size_in_mb, video_files_size_in_mb)
        self._robot_type, self._metadata = robot_type, metadata or {}
        self._known: dict[int, tuple[dict[str, int], dict[str, str]]] = {}
        with disk_errors(self.root):
            self._lock = self._open()
        self._check_same()
        self._recover()

    def _open(self) -> Any:
        """Make the folder and take its lock, which the system releases when this process ends, however it ends."""
        info = self.root / "meta/info.json"
        if self.root.is_dir() and any(self.root.iterdir()) and not (self.root / schema.STAGING).exists():
            what = "another program's dataset" if info.exists() else "other files"
            raise ValueError(f"{self.root} holds {what}: choose an empty or new folder")
        (self.root / schema.STAGING).mkdir(parents=True, exist_ok=True)
        lock = (self.root / schema.STAGING / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{self.root} is being written by another process: wait for it or stop it") from None
        return lock

    def _check_same(self) -> None:
        """Refuse to continue a dataset with other features."""
        features = {f"feature {key}": value for key, value in self.features.items()}
        now = {"fps": self.fps, "codec": self.codec, "language": self._language} | features | flat(self._metadata)
        now = json.loads(json.dumps(now))
        path = self.root / schema.STAGING / "identity.json"
        if not path.exists():
            return schema.write_json(path, now)
        before = json.loads(path.read_text())
        different = [
            f"{key}: {before.get(key)} before, {now.get(key)} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if different:
            raise ValueError(
                f"{self.root} was begun with other settings, choose another folder or the same settings: "
                + "; ".join(different)
            )

    def _recover(self) -> None:
        """Remove what a kill left: half-recorded episodes, files of an unfinished shard, copies of joined episodes."""
        self.tasks = schema.read_tasks(self.root)
        tables = sorted(self.root.glob("meta/episodes/*/file-*.parquet"))
        rows = [pq.read_table(path, columns=["dataset_to_index", "episode_index"]) for path in tables]
        self.shards = len(tables)
        self.joined_episodes = sum(len(table) for table in rows)
        self.joined_frames = max((table["dataset_to_index"][-1].as_py() for table in rows), default=0)
        for path in [*self.root.glob(f"{schema.STAGING}/.recording-*"), *self.root.glob("**/.*.tmp*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in [
            *self.root.glob("data/*/file-*"),
            *self.root.glob("videos/*/*/file-*"),
            *self.root.glob("meta/histograms/*/file-*"),
        ]:
            if _shard_of(path) >= self.shards:
                path.unlink()
        for index in range(self.joined_episodes):
            shutil.rmtree(staged_folder(self.root, index), ignore_errors=True)
        if self.shards:
            self._write_summary()

    def saved(self) -> set[int]:
        """Numbers of the episodes that are safe on disk, joined or staged."""
        staged = {int(path.name[-6:]) for path in self.root.glob(f"{schema.STAGING}/episode-*")}
        return staged | set(range(self.joined_episodes))

    def record(self) -> EpisodeRecorder:
        """Begin the next episode."""
        saved = self.saved()
        following = next(index for index in count() if index not in saved)
        return EpisodeRecorder(self.root, following, self.fps, self.features, self.codec)

    def join_staged(self, everything: bool = False) -> None:
        """Join staged episodes, in order of number, into full shards, and with `everything` a last one that is not."""
        with disk_errors(self.root):
            joined = 0
            for episodes, full in self._plan():
                if full or everything:
                    self._write_shard(episodes)
                    joined += 1
            if joined:
                self._write_summary()

    def _plan(self) -> Iterator[tuple[list[int], bool]]:
        """Yield ranges of staged episodes without a hole that fill one shard each, and whether it is full."""
        saved, episodes, sizes = self.saved(), [], {}
        index = self.joined_episodes
        while index in saved:
            added, encoding = self._staged(index)
            grown = {name: sizes.get(name, 0) + size for name, size in added.items()}
            if episodes and (self._too_large(grown) or encoding != self._staged(episodes[0])[1]):
                yield episodes, True
                episodes, grown = [], added
            episodes, sizes, index = [*episodes, index], grown, index + 1
        if episodes:
            yield episodes, False

    def _staged(self, index: int) -> tuple[dict[str, int], dict[str, str]]:
        """Sizes of the files of a staged episode [bytes] and the encodings of its videos."""
        if index not in self._known:
            folder = staged_folder(self.root, index)
            encoding = json.loads((folder / "episode.json").read_text())["encoding"]
            self._known[index] = ({path.name: path.stat().st_size for path in folder.iterdir()}, encoding)
        return self._known[index]

    def _too_large(self, sizes: dict[str, int]) -> bool:
        data_mb, video_mb = self._limits_mb
        limits_mb = {".parquet": data_mb, ".mp4": video_mb, ".json": np.inf}
        return any(size > limits_mb[Path(name).suffix] * 2**20 for name, size in sizes.items())

    def _write_shard(self, episodes: list[int]) -> None:
        """Write the files of the next shard, then the table of its episodes, then remove the staged copies."""
        folders = [staged_folder(self.root, index) for index in episodes]
        contents = [json.loads((folder / "episode.json").read_text()) for folder in folders]
        lengths = [content["length"] for content in contents]
        tables = [pq.read_table(folder / "frames.parquet") for folder in folders]
        for table in tables:
            for task in table["task"].unique().to_pylist():
                self.tasks.setdefault(task, len(self.tasks))
        for key in schema.video_keys(self.features):
            paths = [folder / f"{key}.mp4" for folder in folders]
            shown = tqdm(paths, desc=f"join {key}", unit="episode", delay=1, leave=False)
            target = schema.file_of(self.root, schema.VIDEO_PATH, self.shards, video_key=key)
            schema.write_whole(target, lambda path, shown=shown: join(shown, lengths, path, self.fps))
        self._write_histograms(contents)
        schema.write_tasks(self.root, self.tasks)
        rows = self._write_frames(episodes, tables, contents)
        path = schema.file_of(self.root, schema.EPISODES_PATH, self.shards)
        schema.write_whole(path, lambda target: pq.write_table(pa.Table.from_pylist(rows), target))
        self.shards += 1
        self.joined_episodes += len(episodes)
        self.joined_frames += sum(lengths)
        for folder in folders:
            shutil.rmtree(folder)

    def _write_histograms(self, contents: list[dict]) -> None:
        keys = schema.video_keys(self.features)
        sums: Any = {key: np.sum([content["histograms"][key] for content in contents], axis=0) for key in keys}
        path = schema.file_of(self.root, schema.HISTOGRAM_PATH, self.shards)
        schema.write_whole(path, lambda target: np.savez(target, **sums))

    def _write_frames(self, episodes: list[int], tables: list[pa.Table], contents: list[dict]) -> list[dict]:
        """Write the data file, one row group an episode, and return the rows of the table of episodes."""
        kinds = schema.arrow_schema(self.all_features)
        rows, start, first = [], self.joined_frames, self.joined_frames

        def write(path: Path) -> None:
            nonlocal start
            with pq.ParquetWriter(path, kinds) as writer:
                for index, table, content in zip(episodes, tables, contents, strict=True):
                    columns = self._index_columns(index, table, start)
                    writer.write_table(self._complete(table, columns, kinds))
                    rows.append(self._row(index, table, content, columns, (start, first)))
                    start += len(table)

        schema.write_whole(schema.file_of(self.root, schema.DATA_PATH, self.shards), write)
        return rows

    def _complete(self, table: pa.Table, columns: dict[str, np.ndarray], kinds: pa.Schema) -> pa.Table:
        """Return the recorded frames of an episode with the index columns, and the language columns if wanted."""
        arrays = {name: schema.arrow_column(values, kinds.field(name).type) for name, values in columns.items()}
        if self._language:
            camera = next(iter(schema.video_keys(self.features)), None)
            arrays |= language_columns.columns(table, self.fps, camera)
        chosen = [arrays[name] if name in arrays else table[name].combine_chunks() for name in kinds.names]
        return pa.Table.from_arrays(chosen, schema=kinds)

    def _index_columns(self, episode_index: int, table: pa.Table, start: int) -> dict[str, np.ndarray]:
        frames = np.arange(len(table))
        return {
            "timestamp": (frames / self.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(len(table), episode_index),
            "index": frames + start,
            "task_index": np.array([self.tasks[task] for task in table["task"].to_pylist()]),
        }

    def _row(
        self, index: int, table: pa.Table, content: dict, columns: dict, starts: tuple[int, int]
    ) -> dict[str, Any]:
        """Describe one episode; `starts` are the first frame of the episode and of its file."""
        (start, first), length = starts, len(table)
        place = {"chunk_index": self.shards // schema.CHUNK_SIZE, "file_index": self.shards % schema.CHUNK_SIZE}
        row = {"episode_index": index, "tasks": table["task"].unique().to_pylist(), "length": length}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": start, "dataset_to_index": start + length}
        for key in schema.video_keys(self.features):
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            row[f"videos/{key}/from_timestamp"] = (start - first) / self.fps
            row[f"videos/{key}/to_timestamp"] = (start - first + length) / self.fps
        stats = content["stats"] | to_json({key: array_stats(values) for key, values in columns.items()})
        row |= {f"stats/{key}/{name}": value for key, entry in stats.items() for name, value in entry.items()}
        row |= {f"meta/episodes/{name}": value for name, value in place.items()}
        return row | content["extra"]

    def _write_summary(self) -> None:
        """Write meta/stats.json and meta/info.json from the shards that exist."""
        schema.write_json(self.root / "meta/stats.json", to_json(self._stats()))
        features = {key: dict(feature) for key, feature in self.all_features.items()}
        for key in schema.video_keys(self.features):
            path = schema.file_of(self.root, schema.VIDEO_PATH, 0, video_key=key)
            features[key]["info"] = describe(path, self.fps)
        info = {
            "codebase_version": schema.VERSION,
            "robot_type": self._robot_type,
            "total_episodes": self.joined_episodes,
            "total_frames": self.joined_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": schema.CHUNK_SIZE,
            "data_files_size_in_mb": self._limits_mb[0],
            "video_files_size_in_mb": self._limits_mb[1],
            "fps": self.fps,
            "splits": {"train": f"0:{self.joined_episodes}"},
            "data_path": schema.DATA_PATH,
            "video_path": schema.VIDEO_PATH if schema.video_keys(self.features) else None,
            "features": features,
            "vla": FORMAT | self._metadata,
        }
        schema.write_json(self.root / "meta/info.json", info)

    def _stats(self) -> dict[str, Stats]:
        """Exact statistics of all joined frames: numbers read back, images from the sums of the shards."""
        keys = schema.numeric_keys(self.all_features)
        table = pa.concat_tables(
            pq.read_table(schema.file_of(self.root, schema.DATA_PATH, shard), columns=keys)
            for shard in range(self.shards)
        )
        stats = {key: array_stats(column_array(table[key])) for key in keys}
        paths = [schema.file_of(self.root, schema.HISTOGRAM_PATH, shard) for shard in range(self.shards)]
        for key in schema.video_keys(self.features):
            stats[key] = histogram_stats(np.sum([np.load(path)[key] for path in paths], axis=0), self.joined_frames)
        return stats

    def close(self) -> None:
        """Join all staged episodes and let go of the folder."""
        if not self._lock.closed:
            try:
                self.join_staged(everything=True)
            finally:
                self._lock.close()

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        self._lock.close()


def saved_episodes(root: Path) -> set[int]:
    """Numbers of the episodes of a dataset that are safe on disk, without opening it."""
    joined = sum(pq.read_metadata(path).num_rows for path in root.glob("meta/episodes/*/file-*.parquet"))
    return {int(path.name[-6:]) for path in root.glob(f"{schema.STAGING}/episode-*")} | set(range(joined))


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to one level, keys joined by dots."""
    entries: dict[str, Any] = {}
    for key, value in content.items():
        entries |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return entries


def column_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return numbers [N] or [N, D] of a parquet column of scalars or of lists of one length."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _shard_of(path: Path) -> int:
    return int(path.parent.name[-3:]) * schema.CHUNK_SIZE + int(path.stem[-3:])
