"""What people point at becomes a list of items: videos, images, episodes of datasets, recorded runs."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from vla.data import schema
from vla.data.dataset import Episode, EpisodeDataset
from vla.data.writer import column_array
from vla.video.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Clip, ImageClip, TableClip, VideoClip
from vla.video.state import State, StateReader

SUCCESS = "next.success"  # LeRobot's feature; its last row says how an episode ended
IMAGES_FPS = 1.0  # images have no times: one a second, if nothing else is said
_DEPTH = ("is_depth_map", "video.is_depth_map")
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Item:
    """One thing to analyse: what its cameras saw and, where it was recorded, how the robot moved."""

    name: str  # unlike those of the other items
    path: Path  # of the file, or the folder of the dataset
    clips: dict[str, Clip]  # camera -> its pictures
    episode: int | None = None  # number in the dataset
    task: str = ""  # the instruction
    rows: int | None = None  # of the tables, which is how many frames each camera should have
    fps: float | None = None  # that the dataset states
    state: State | None = field(default=None, repr=False)
    succeeded: bool | None = None  # what the recording itself says, by SUCCESS or the table of episodes


def find(path: Path | str, images_fps: float = IMAGES_FPS) -> list[Item]:
    """Return the items at `path`, in the order of their names; ValueError or FileNotFoundError says what is possible.

    A file is one video or one image. A folder is a LeRobot v3 dataset if it holds meta/info.json; else every dataset
    and every video below it counts, and where there are neither, its images are one item, `images_fps` of them a
    second. A run that was cut off while recording gives its complete episodes.
    """
    path = Path(path)
    if path.is_file():
        return [_file(path, images_fps)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: give a video, an image, a folder of them or a dataset")
    if _is_dataset(path):
        return _episodes(path, prefix="")
    datasets = [folder for folder in _folders(path) if _is_dataset(folder)]
    items = [item for folder in datasets for item in _episodes(folder, prefix=f"{shown(folder.relative_to(path))} ")]
    files = [file for file in _files(path) if not any(folder in file.parents for folder in datasets)]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    items += [Item(shown(file.relative_to(path)), file, {"video": VideoClip(file)}) for file in videos]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not items and images:
        return [Item(shown(path.name), path, {"images": ImageClip(tuple(images), images_fps)})]
    if not items:
        names = [shown(file.name) for file in files[:_SHOWN]] + ["..."] * (len(files) > _SHOWN)
        raise ValueError(
            f"{path} holds nothing to analyse ({', '.join(names) or 'it is empty'}); possible are videos "
            f"({', '.join(VIDEO_SUFFIXES)}), images ({', '.join(IMAGE_SUFFIXES)}) and LeRobot v3 datasets"
        )
    return items


def _file(path: Path, images_fps: float) -> Item:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Item(shown(path.name), path, {"video": VideoClip(path)})
    if suffix in IMAGE_SUFFIXES:
        return Item(shown(path.name), path, {"images": ImageClip((path,), images_fps)})
    raise ValueError(
        f"{path} is of a kind that is not read; possible are {', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)}, "
        "a folder of these, or the folder of a LeRobot v3 dataset"
    )


def _is_dataset(folder: Path) -> bool:
    return (folder / "meta/info.json").is_file() or bool(_staged(folder))


def _staged(folder: Path) -> list[Path]:
    """Folders of complete episodes that wait to be joined into a dataset which was never finished."""
    return sorted(folder.glob(f"{schema.STAGING}/episode-*/episode.json"))


def _folders(root: Path) -> Iterator[Path]:
    """Yield visible folders below `root` in order, not descending into datasets or links."""
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith("."):
            yield folder
            if not _is_dataset(folder):
                yield from _folders(folder)


def _files(root: Path) -> list[Path]:
    """Visible files below `root`, frame9 before frame10."""
    visible = [file for file in root.rglob("*") if file.is_file()]
    visible = [file for file in visible if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    return sorted(visible, key=lambda file: _natural(str(file.relative_to(root))))


def shown(path: Path | str) -> str:
    """Return a path as text that can be written anywhere; bytes of it that are no UTF-8 stand as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _episodes(root: Path, prefix: str) -> list[Item]:
    if not (root / "meta/info.json").is_file():
        return [_staged_episode(path.parent, prefix) for path in _staged(root)]
    dataset = EpisodeDataset(root)
    reader = StateReader(dataset.features, dataset.column, dataset.fps)
    ends = dataset.column(SUCCESS) if SUCCESS in dataset.features else None
    cameras = {name: key for name, key in dataset.cameras.items() if not _is_depth(dataset, key)}
    if not cameras:
        raise ValueError(f"{root} has no camera among its features {sorted(dataset.features)}: nothing can be seen")
    return [
        Item(
            name=f"{prefix}episode {episode.index}",
            path=root,
            clips={name: _clip(dataset, episode, key) for name, key in cameras.items()},
            episode=episode.index,
            task=" | ".join(episode.tasks),
            rows=episode.length,
            fps=float(dataset.fps),
            state=reader.read(episode.start, episode.length),
            succeeded=_succeeded(episode.extra, None if ends is None else ends[: episode.start + episode.length]),
        )
        for episode in dataset.episodes
    ]


def _succeeded(extra: Mapping[str, Any], ends: np.ndarray | None) -> bool | None:
    """Say how an episode ended by what its recorder added, else by the last of its rows of SUCCESS, if it has any."""
    told = extra.get("success")
    if told is None and ends is not None:
        told = np.ravel(ends[-1])[0]
    return None if told is None else bool(told)


def _is_depth(dataset: EpisodeDataset, key: str) -> bool:
    entry = dataset.features[key]
    return any((entry.get("info") or {}).get(flag) or entry.get(flag) for flag in _DEPTH)


def _clip(dataset: EpisodeDataset, episode: Episode, key: str) -> Clip:
    if dataset.features[key]["dtype"] == "image":
        return TableClip(dataset.root, key, episode.start, episode.start + episode.length, float(dataset.fps))
    half_s, zero_s = 0.5 / dataset.fps, episode.from_s[key]
    path = dataset.video_path(key, episode.files[key])
    return VideoClip(path, start_s=zero_s - half_s, stop_s=episode.to_s[key] - half_s, zero_s=zero_s)


def _staged_episode(folder: Path, prefix: str) -> Item:
    """Take an episode that was recorded and not joined: a table and a video a camera lie in its folder."""
    identity = json.loads((folder.parent / "identity.json").read_text(encoding="utf-8"))
    features = {name.removeprefix("feature "): entry for name, entry in identity.items() if name.startswith("feature ")}
    table = pq.read_table(folder / "frames.parquet")
    reader = StateReader(features, lambda key: column_array(table[key]), float(identity["fps"]))
    number = int(folder.name.rpartition("-")[2])
    extra = json.loads((folder / "episode.json").read_text(encoding="utf-8")).get("extra", {})
    return Item(
        name=f"{prefix}episode {number}",
        path=folder,
        clips={key.split(".")[-1]: VideoClip(folder / f"{key}.mp4") for key in schema.video_keys(features)},
        episode=number,
        task=table["task"][0].as_py(),
        rows=len(table),
        fps=float(identity["fps"]),
        state=reader.read(0, len(table)),
        succeeded=_succeeded(extra, column_array(table[SUCCESS]) if SUCCESS in features else None),
    )
