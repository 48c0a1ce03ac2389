"""What an analysis depends on, as one hash: the same hash, the same timeline, so it need not be made again."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vla.video.decode import Clip, ImageClip, VideoClip
from vla.video.source import Item

ANALYSIS = 2  # raise it whenever the code makes another timeline of the same input


def fingerprint(item: Item, settings: Mapping[str, Any]) -> str:
    """Return 64 hexadecimal digits that change with the content of any file of the item, the settings or ANALYSIS.

    settings: plain JSON values. Where a file lies does not count.
    """
    clips = {camera: _clip(clip) for camera, clip in item.clips.items()}
    tables = [_content(path) for path in _tables(item)]
    whole = {"clips": clips, "tables": tables, "episode": item.episode, "task": item.task, "settings": settings}
    whole["analysis"] = ANALYSIS
    whole["succeeded"] = item.succeeded  # may stand in the table of episodes, which is not hashed
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _clip(clip: Clip) -> list[Any]:
    if isinstance(clip, VideoClip):
        return [_content(clip.path), clip.start_s, clip.stop_s, clip.zero_s]
    if isinstance(clip, ImageClip):
        return [*(_content(path) for path in clip.paths), clip.fps]
    return [clip.key, clip.start, clip.stop, clip.fps]  # the pictures lie in the tables


def _tables(item: Item) -> list[Path]:
    if item.rows is None:
        return []
    return sorted([*item.path.glob("data/*/[!.]*.parquet"), *item.path.glob("frames.parquet")])


def _content(path: Path) -> str:
    """Hash a file once, however many episodes lie in it; one that cannot be read has no content."""
    try:
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        return f"unreadable: {error.strerror}"


@cache
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """Hash the content; size and time of change are arguments so that a changed file is hashed again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
