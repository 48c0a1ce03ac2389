"""Write parts of a dataset as a new one: chosen episodes, each from one row to another."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla.data import language, schema
from vla.data.annotate import check_target
from vla.data.dataset import Episode, EpisodeDataset
from vla.data.writer import FORMAT, DatasetWriter

FRAMES_AT_ONCE = 64  # decoded, so that memory stays flat


def check_excerpt(root: Path, target: Path) -> None:
    """Raise ValueError where `excerpt` would refuse whatever is kept; nothing is changed."""
    dataset = EpisodeDataset(root)
    check_target(root, target)
    schema.check_features(_features(dataset))
    if (there := sorted(language.FEATURES.keys() & dataset.features.keys())) and not _makes_language(dataset):
        raise ValueError(
            f"{root} has {', '.join(there)} of another program, which cannot be written anew: leave clean out"
        )
    if dataset.fps != int(dataset.fps):
        raise ValueError(f"{root} has {dataset.fps} frames a second; the writer takes whole numbers")


def excerpt(root: Path, keep: Mapping[int, tuple[int, int]], target: Path) -> Path:
    """Write episodes of the dataset `root`, numbered anew, to the new folder `target`, and return its path.

    keep: episode number -> its first row that is kept, and the one behind the last. Pictures are encoded once more,
    statistics and times are made anew. The folder appears whole or not at all. ValueError where the target exists, and
    where episodes or rows are asked for that are not there.
    """
    check_excerpt(root, target)
    dataset = EpisodeDataset(root)
    episodes = {episode.index: episode for episode in dataset.episodes}
    if not keep or (unknown := sorted(set(keep) - set(episodes))):
        raise ValueError(f"{root} has the episodes 0 to {len(episodes) - 1}; asked for {unknown if keep else 'none'}")
    for index, (start, stop) in keep.items():
        if not 0 <= start < stop <= episodes[index].length:
            raise ValueError(f"episode {index} has {episodes[index].length} rows; asked for {start} to {stop}")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with _writer(dataset, partial) as writer:
        for index in tqdm(sorted(keep), desc=f"write {target.name}", unit="episode", delay=1):
            _copy(dataset, episodes[index], keep[index], writer)
            writer.join_staged()
    os.replace(partial, target)
    schema.flush(target.parent.absolute())
    return target


def _writer(dataset: EpisodeDataset, folder: Path) -> DatasetWriter:
    known = dataset.info.get("vla", {})
    return DatasetWriter(
        folder,
        fps=int(dataset.fps),
        features=_features(dataset),
        robot_type=dataset.info.get("robot_type"),
        metadata={key: value for key, value in known.items() if key not in FORMAT},
        language=_makes_language(dataset),
    )


def _makes_language(dataset: EpisodeDataset) -> bool:
    """Whether its language columns were made by our writer, of its subtasks and questions, and so can be again."""
    ours = FORMAT.items() <= dataset.info.get("vla", {}).items()
    return ours and {*language.FEATURES, "subtask", "vqa"} <= dataset.features.keys()


def _features(dataset: EpisodeDataset) -> schema.Features:
    """Return the features as the recorder takes them: what it makes itself left out, single images as video."""
    made: Any = {*schema.INDEX_FEATURES, *language.FEATURES}
    plain = {}
    for key, entry in dataset.features.items():
        if key not in made:
            dtype = "video" if entry["dtype"] == "image" else entry["dtype"]
            plain[key] = {"dtype": dtype, "shape": list(entry["shape"]), "names": entry.get("names")}
    return plain


def _copy(dataset: EpisodeDataset, episode: Episode, rows: tuple[int, int], writer: DatasetWriter) -> None:
    cameras = list(dataset.cameras.values())
    first, last = (episode.start + row for row in rows)
    with writer.record() as recorder:
        for start in range(first, last, FRAMES_AT_ONCE):
            numbers = np.arange(start, min(start + FRAMES_AT_ONCE, last))
            images = {key: dataset.frames(key, numbers) for key in cameras}
            for place, number in enumerate(numbers):
                row = {key: dataset.column(key)[number] for key in writer.features if key not in images}
                recorder.add(row | {key: taken[place] for key, taken in images.items()}, dataset.column("task")[number])
        recorder.save(extra=episode.extra or None)
