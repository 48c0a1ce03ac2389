"""Read a LeRobotDataset v3.0, our own or another program's: columns, frames and windows at random places."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import schema
from vla.data.stats import Stats, array_stats, from_json, histogram_stats, image_histogram
from vla.data.video import VideoReader
from vla.data.writer import FORMAT, column_array

OPEN_VIDEOS = 8


@dataclass(frozen=True)
class Episode:
    """One episode: the half-open range start .. start + length of the dataset's frames."""

    index: int
    length: int
    tasks: tuple[str, ...]
    start: int
    files: dict[str, int] = field(repr=False)  # camera key -> number of its video file
    from_s: dict[str, float] = field(repr=False)  # camera key -> time of the first frame in that file [s]
    to_s: dict[str, float] = field(repr=False)  # camera key -> time in that file where the episode's video ends [s]
    extra: dict[str, Any] = field(default_factory=dict)  # what the recorder added: kind, seed, attempts...


class EpisodeDataset:
    """Episodes of `root`; images are read by camera name (`front`) or by full key (`observation.images.front`)."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        path = self.root / "meta/info.json"
        if not path.exists():
            staged = len(list(self.root.glob(f"{schema.STAGING}/episode-*")))
            what = f"only {staged} staged episodes, resume collecting to join them" if staged else "no meta/info.json"
            raise FileNotFoundError(f"{self.root} is not a finished LeRobotDataset: it has {what}")
        self.info = json.loads(path.read_text(encoding="utf-8"))
        version = str(self.info.get("codebase_version"))
        if not version.startswith("v3."):
            raise ValueError(f"{self.root} has format {version}; v3.x is read, convert it with lerobot first")
        self.fps: int = self.info["fps"]
        self.features: schema.Features = self.info["features"]
        self.tasks = schema.read_tasks(self.root)
        self.episodes = self._read_episodes()
        self.starts = np.array([episode.start for episode in self.episodes])
        self._videos: OrderedDict[Path, VideoReader] = OrderedDict()
        self._columns: dict[str, Any] = {}

    def __len__(self) -> int:
        """Number of frames."""
        return sum(episode.length for episode in self.episodes)

    def _read_episodes(self) -> list[Episode]:
        paths = sorted(self.root.glob("meta/episodes/*/[!.]*.parquet"))
        if not paths:
            raise FileNotFoundError(f"{self.root} has no meta/episodes/*/*.parquet: copy the dataset again")
        rows = [row for path in paths for row in _read_rows(path)]
        rows.sort(key=lambda row: row["episode_index"])
        episodes, start = [], 0
        for row in rows:
            if row["dataset_from_index"] != start:
                raise ValueError(
                    f"{self.root}: episode {row['episode_index']} begins at {row['dataset_from_index']}, "
                    f"expected {start}: its meta/episodes is incomplete, copy the dataset again"
                )
            episodes.append(self._episode(row))
            start += row["length"]
        return episodes

    def _episode(self, row: dict[str, Any]) -> Episode:
        keys = schema.video_keys(self.features)
        size = self.info.get("chunks_size", schema.CHUNK_SIZE)
        files = {key: row[f"videos/{key}/chunk_index"] * size + row[f"videos/{key}/file_index"] for key in keys}
        from_s, to_s = ({key: row[f"videos/{key}/{end}_timestamp"] for key in keys} for end in ("from", "to"))
        known = {"episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index"}
        extra = {name: value for name, value in row.items() if name not in known and "/" not in name}
        return Episode(
            index=row["episode_index"],
            length=row["length"],
            tasks=tuple(row["tasks"]),
            start=row["dataset_from_index"],
            files=files,
            from_s=from_s,
            to_s=to_s,
            extra=extra,
        )

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with the episodes, the features or the sizes of the videos."""
        digest = hashlib.sha256((self.root / "meta/info.json").read_bytes())
        for path in sorted(self.root.glob("meta/episodes/*/[!.]*.parquet")):
            digest.update(path.read_bytes())
        for path in sorted(self.root.glob("videos/**/*.mp4")):
            digest.update(f"{path.relative_to(self.root)} {path.stat().st_size}".encode())
        return digest.hexdigest()[:16]

    @property
    def cameras(self) -> dict[str, str]:
        """Camera name -> feature key; the name is the last part of the key."""
        images = [key for key, feature in self.features.items() if feature["dtype"] in ("video", "image")]
        return {key.split(".")[-1]: key for key in images}

    def camera_key(self, camera: str) -> str:
        """Feature key of a camera given by name or key."""
        key = self.cameras.get(camera, camera)
        if key not in self.cameras.values():
            raise KeyError(f"camera {camera!r} is not in {self.root}; it has {sorted(self.cameras)}")
        return key

    def column(self, name: str) -> Any:
        """Values of a feature over all frames: an array [N] or [N, D] of numbers, a list of texts; "task" too."""
        if name not in self._columns:
            self._columns[name] = self._read_column(name)
        return self._columns[name]

    def _read_column(self, name: str) -> np.ndarray | list:
        if name == "task":
            texts = {number: text for text, number in self.tasks.items()}
            return [texts[number] for number in self.column("task_index")]
        if name not in self.features or self.features[name]["dtype"] == "video":
            columns = [key for key, feature in self.features.items() if feature["dtype"] != "video"]
            raise KeyError(f"column {name!r} is not in {self.root}; it has {[*columns, 'task']}")
        paths = sorted(self.root.glob("data/*/[!.]*.parquet"))
        table = pa.concat_tables([pq.read_table(path, columns=sorted({name, "index"})) for path in paths])
        table = table.sort_by("index") if len(paths) > 1 else table
        table = table.slice(0, len(self))  # a writer at work may be ahead of its table of episodes
        if len(table) != len(self):
            raise ValueError(f"{self.root} has {len(table)} rows of data for {len(self)} frames: it is incomplete")
        dtype = self.features[name]["dtype"]
        if dtype in ("string", "language", "image"):
            return table[name].to_pylist()
        return column_array(table[name])

    def episode_of(self, index: int) -> Episode:
        """The episode that holds frame `index` of the dataset."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is not in 0..{len(self) - 1}")
        return self.episodes[int(np.searchsorted(self.starts, index, side="right")) - 1]

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the frames `indices` of the dataset, in that order, to uint8[N, H, W, 3] RGB."""
        key = self.camera_key(camera)
        indices = np.asarray(indices, dtype=np.int64)
        if self.features[key]["dtype"] == "image":
            return np.stack([_decode_image(self.column(key)[index]) for index in indices])
        places = [self._place(key, int(index)) for index in indices]
        images: dict[tuple[int, float], np.ndarray] = {}
        for file in sorted({place[0] for place in places}):
            times_s = sorted({time_s for number, time_s in places if number == file})
            decoded = self._video(key, file).frames_at(np.array(times_s), tolerance_s=0.1 / self.fps)
            images |= {(file, time_s): image for time_s, image in zip(times_s, decoded, strict=True)}
        return np.stack([images[place] for place in places])

    def _place(self, key: str, index: int) -> tuple[int, float]:
        """Number of the video file and time in it [s] of frame `index`."""
        episode = self.episode_of(index)
        return episode.files[key], episode.from_s[key] + (index - episode.start) / self.fps

    def video_path(self, key: str, file: int) -> Path:
        """Path of video file number `file` of a camera."""
        size = self.info.get("chunks_size", schema.CHUNK_SIZE)
        names = {"video_key": key, "chunk_index": file // size, "file_index": file % size}
        return self.root / self.info["video_path"].format(**names)

    def _video(self, key: str, file: int) -> VideoReader:
        path = self.video_path(key, file)
        if path not in self._videos:
            self._videos[path] = VideoReader(path)
        self._videos.move_to_end(path)
        while len(self._videos) > OPEN_VIDEOS:
            self._videos.popitem(last=False)[1].close()
        return self._videos[path]

    def window(self, index: int, horizon: int, images: bool = True) -> dict[str, Any]:
        """Return every feature of frame `index`, its task, and the next `horizon` actions [T, A].

        Past the end of the episode the last action is repeated and `action_is_pad` bool[T] is True.
        """
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}, at least 1 action is needed")
        episode = self.episode_of(index)
        wanted = np.arange(index, index + horizon)
        last = episode.start + episode.length - 1
        frame = {
            key: self.column(key)[index]
            for key, value in self.features.items()
            if value["dtype"] not in ("video", "image")
        }
        frame |= {"task": self.column("task")[index], "action": self.column("action")[np.minimum(wanted, last)]}
        frame["action_is_pad"] = wanted > last
        if images:
            frame |= {key: self.frames(key, [index])[0] for key in self.cameras.values()}
        return frame

    @cached_property
    def stats(self) -> dict[str, Stats]:
        """Exact statistics: our own datasets store them; of a foreign one numbers are computed, images are not."""
        if FORMAT.items() <= self.info.get("vla", {}).items():
            return from_json(json.loads((self.root / "meta/stats.json").read_text()))
        return {key: array_stats(self.column(key)) for key in schema.numeric_keys(self.features)}

    def image_stats(self, camera: str) -> Stats:
        """Exact statistics of all pixels of a camera, by decoding everything."""
        key = self.camera_key(camera)
        if key in self.stats:
            return self.stats[key]
        counts = np.zeros((3, 256), np.int64)
        for start in range(0, len(self), 64):
            for image in self.frames(key, np.arange(start, min(start + 64, len(self)))):
                counts += image_histogram(image)
        return histogram_stats(counts, len(self))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table of episodes, without the statistics."""
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    return pq.read_table(path, columns=names).to_pylist()


def _decode_image(value: dict[str, Any]) -> np.ndarray:
    """Decode an embedded PNG or JPEG to uint8[H, W, 3] RGB."""
    image = cv2.imdecode(np.frombuffer(value["bytes"], np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"the embedded image {value.get('path')} cannot be decoded: it is neither PNG nor JPEG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
