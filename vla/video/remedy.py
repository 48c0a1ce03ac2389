"""What to do about flagged items: a script that leaves out what is broken and cuts idle ends off.

Names of files are whatever somebody called them, so a name stands in the script only as a quoted word of a command, or
as a JSON string in a comment: no name can end a comment, a word or a line.
"""

import json
import os
import shlex
from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path

from vla.video.flag import ERROR, Flag
from vla.video.source import Item

TRIMMED = ("idle_start", "idle_end")
ROUNDING = 1e-6  # of a row, which costs none


def remedy(items: Sequence[Item], flags: Sequence[Sequence[Flag]]) -> list[str]:
    """Return ready-made lines that exclude items with errors and trim idle ends: shell commands and comments on them.

    Episodes are excluded with lerobot's own tool, which writes a new dataset; files are cut by ffmpeg. What to keep of
    an episode is told: `vla analyze clean=FOLDER` does both. Every line is whole by itself, for bash, zsh or ksh.
    """
    lines: list[str] = []
    bad = [item for item, found in zip(items, flags, strict=True) if any(flag.severity == ERROR for flag in found)]
    for root in dict.fromkeys(item.path for item in bad if item.fps is not None):
        numbers = [item.episode for item in bad if item.path == root and item.fps is not None]
        name = _word(root.absolute().name)
        lines += [
            f"# episodes of {json.dumps(str(root))} to drop: {numbers}",
            f"lerobot-edit-dataset --repo_id local/{name} --root {_file(root)} "
            f"--new_repo_id local/{name}-clean --new_root {_file(root)}-clean "
            f'--operation.type delete_episodes --operation.episode_indices "{numbers}"',
        ]
    lines += [f"# leave out: {json.dumps(str(item.path))}" for item in bad if item.fps is None]
    idle = [
        (item, {flag.code: flag for flag in found if flag.code in TRIMMED})
        for item, found in zip(items, flags, strict=True)
        if item not in bad
    ]
    told = [_episode_trim(item, ends) for item, ends in idle if ends and item.rows is not None]
    if told:
        lines += [
            "# with clean=NEW_FOLDER the same command copies what is not broken, and these rows only:",
            *told,
        ]
    return lines + [_trim(item, ends) for item, ends in idle if ends and item.rows is None]


def kept(items: Sequence[Item], flags: Sequence[Sequence[Flag]]) -> dict[int, tuple[int, int]]:
    """Return what to keep of the episodes of one dataset: number -> first row, and the one behind the last.

    Episodes with errors are left out, and so are those that stand still from beginning to end.
    """
    rows = {}
    for item, found in zip(items, flags, strict=True):
        if item.episode is None or not item.rows or not item.fps or any(flag.severity == ERROR for flag in found):
            continue
        start_s, stop_s = _span({flag.code: flag for flag in found if flag.code in TRIMMED})
        start = ceil(start_s * item.fps - ROUNDING)
        stop = item.rows if stop_s is None else min(item.rows, floor(stop_s * item.fps + ROUNDING) + 1)
        if start < stop:
            rows[item.episode] = start, stop
    return rows


def _span(idle: dict[str, Flag]) -> tuple[float, float | None]:
    """Return from when [s] until when [s] something happens; None: until the end."""
    start_s = idle["idle_start"].stop_s if "idle_start" in idle else 0.0
    return start_s, idle["idle_end"].start_s if "idle_end" in idle else None


def _episode_trim(item: Item, idle: dict[str, Flag]) -> str:
    start_s, stop_s = _span(idle)
    until = "" if stop_s is None else f" to {stop_s:.2f} s"
    return f"# {json.dumps(item.name)} of {json.dumps(str(item.path))}: keep from {start_s:.2f} s{until}"


def _trim(item: Item, idle: dict[str, Flag]) -> str:
    start_s, stop_s = _span(idle)
    end = "" if stop_s is None else f" -to {stop_s:.2f}"
    target = item.path.with_name(f"{item.path.stem}-trimmed.mp4")
    return f"ffmpeg -ss {start_s:.2f}{end} -i {_file(item.path)} -c:v libx264 {_file(target)}"


def _file(path: Path) -> str:
    """Return a path as one word that is taken for neither an option nor an address."""
    return _word(str(path) if path.is_absolute() else f"./{path}")


def _word(text: str) -> str:
    """Quote a text as one word of one line."""
    if text.isprintable():
        return shlex.quote(text)
    plain = [char if char.isprintable() and char not in "'\\" else _octal(char) for char in text]
    return f"$'{''.join(plain)}'"


def _octal(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))
