"""One episode in progress: its frames go to a hidden folder that is renamed into the staging area when complete.

Any number of processes may record different episodes of a dataset at the same time; they share only the folder.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import schema
from vla.data.stats import array_stats, histogram_stats, image_histogram, to_json
from vla.data.video import VideoEncoder, header

ROOM_BYTES = 64 * 2**20  # refuse to begin an episode with less free room on the disk


def staged_folder(root: Path, episode_index: int) -> Path:
    """Where a complete episode waits for the writer."""
    return root / schema.STAGING / f"episode-{episode_index:06d}"


@contextmanager
def disk_errors(root: Path):
    """Turn a full or unwritable disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        free_mb = shutil.disk_usage(existing(root)).free / 2**20
        raise OSError(
            error.errno,
            f"cannot write to {root} ({error.strerror or error}; {free_mb:.0f} MiB free there). Complete episodes are "
            "safe: make room or choose a folder that you may write to, then run the same command to resume",
        ) from error


def existing(path: Path) -> Path:
    """The nearest folder upwards of `path` that exists."""
    path = Path(path).absolute()
    return path if path.exists() else existing(path.parent)


class EpisodeRecorder:
    """Record episode `episode_index`: `add` frames, then `save` or `discard` (leaving a `with` block discards)."""

    def __init__(self, root: Path, episode_index: int, fps: int, features: schema.Features, codec: str) -> None:
        self.root, self.episode_index, self.fps, self.features = Path(root), episode_index, fps, features
        self.length = 0
        self._columns: dict[str, list] = {key: [] for key in features if features[key]["dtype"] != "video"}
        self._tasks: list[str] = []
        self._folder = self.root / schema.STAGING / f".recording-{episode_index:06d}-{os.getpid()}"
        with disk_errors(self.root):
            if shutil.disk_usage(existing(self.root)).free < ROOM_BYTES:
                raise OSError(28, f"less than {ROOM_BYTES // 2**20} MiB are free")
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._videos = {
                key: VideoEncoder(self._folder / f"{key}.mp4", fps, *features[key]["shape"][:2], codec=codec)
                for key in schema.video_keys(features)
            }
        self._histograms = {key: np.zeros((3, 256), np.int64) for key in self._videos}

    def add(self, frame: dict[str, Any], task: str) -> None:
        """Append one frame: a value for every feature; images are uint8[H, W, 3] RGB, `task` is the instruction."""
        if frame.keys() != self.features.keys():
            missing, unknown = self.features.keys() - frame.keys(), frame.keys() - self.features.keys()
            raise ValueError(f"frame misses {sorted(missing)} and has unknown {sorted(unknown)}")
        for key, value in frame.items():
            if key in self._videos:
                with disk_errors(self.root):
                    self._videos[key].add(value)
                self._histograms[key] += image_histogram(value)
            else:
                self._columns[key].append(self._checked(key, value))
        self._tasks.append(task)
        self.length += 1

    def _checked(self, key: str, value: Any) -> Any:
        feature = self.features[key]
        if feature["dtype"] == "string":
            if not isinstance(value, str):
                raise ValueError(f"{key} takes a string, got {type(value).__name__} {value!r}")
            return value
        array = np.asarray(value, dtype=feature["dtype"]).reshape(-1)
        if array.shape != tuple(feature["shape"]):
            raise ValueError(f"{key} has {array.size} values, this dataset takes {feature['shape'][0]}")
        if not np.isfinite(array).all():
            raise ValueError(f"{key} holds a value that is not finite: {array.tolist()}")
        return array.copy()

    def fill(self, columns: Mapping[str, Sequence]) -> None:
        """Replace columns that could not be known before the end: name -> one value for each frame."""
        for key, values in columns.items():
            if len(values) != self.length:
                raise ValueError(f"{key} has {len(values)} values, the episode has {self.length} frames")
            self._columns[key] = [self._checked(key, value) for value in values]

    def save(self, extra: dict[str, int | float | str] | None = None) -> None:
        """Make the episode part of the dataset, in one rename; `extra` are columns of the table of episodes."""
        if not self.length:
            raise ValueError(f"episode {self.episode_index} has no frames: add some or discard it")
        with disk_errors(self.root):
            for video in self._videos.values():
                video.close()
            self._write_columns()
            content = {"length": self.length, "extra": extra or {}, "stats": to_json(self._stats())}
            content["histograms"] = {key: counts.tolist() for key, counts in self._histograms.items()}
            content["encoding"] = {key: (header(self._folder / f"{key}.mp4") or b"").hex() for key in self._videos}
            (self._folder / "episode.json").write_text(json.dumps(content))
            for path in self._folder.iterdir():
                schema.flush(path)
            self._publish()

    def _write_columns(self) -> None:
        columns = {key: feature for key, feature in self.features.items() if key in self._columns}
        columns["task"] = {"dtype": "string", "shape": [1], "names": None}
        kinds = schema.arrow_schema(columns)
        values = self._columns | {"task": self._tasks}
        arrays = [schema.arrow_column(values[field.name], field.type) for field in kinds]
        pq.write_table(pa.Table.from_arrays(arrays, schema=kinds), self._folder / "frames.parquet")

    def _stats(self) -> dict[str, dict[str, np.ndarray]]:
        stats = {key: array_stats(np.stack(self._columns[key])) for key in schema.numeric_keys(self.features)}
        return stats | {key: histogram_stats(counts, self.length) for key, counts in self._histograms.items()}

    def _publish(self) -> None:
        target = staged_folder(self.root, self.episode_index)
        if target.exists():
            raise FileExistsError(17, f"episode {self.episode_index} was recorded already, in {target}")
        schema.flush(self._folder)
        os.rename(self._folder, target)
        schema.flush(target.parent)

    def discard(self) -> None:
        """Forget the frames."""
        for video in self._videos.values():
            with suppress(OSError):  # a full disk is why it is discarded, perhaps
                video.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "EpisodeRecorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder.exists():
            self.discard()
