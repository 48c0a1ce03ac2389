"""A flag: one fault of a recording, how grave it is, where, its numbers, and what to do about a list of them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from vla.video.source import Item

ERROR, WARNING, NOTE = "error", "warning", "note"  # do not train on it; look at it; good to know
CODES = {  # code -> what it means
    "unreadable": "the clip cannot be read at all",
    "damaged": "parts of the file could not be decoded whole",
    "cut_off": "the file ends before the duration that it promises",
    "frozen": "the picture stands while something moves",
    "duplicated": "single frames repeat the one before while something moves",
    "jump": "the picture jumps as if frames were missing",
    "cut": "the picture changes altogether from one frame to the next",
    "black": "the picture is black",
    "white": "the picture is white",
    "blank": "the picture has one shade only",
    "blurred": "the picture is less sharp than this camera's usually is",
    "gap": "frames are missing between two time stamps",
    "backwards": "time stamps do not increase",
    "variable_rate": "the time between frames varies",
    "more_streams": "the file has further video streams, which are not read",
    "length": "the video has another number of frames than the table has rows",
    "row_gap": "rows are missing between two times of the table",
    "lag": "the camera and the state tell different times",
    "not_finite": "the state holds values that are not numbers",
    "state_frozen": "the state stands while the picture moves",
    "state_jump": "the state leaps away for a moment, or for good, as no arm can",
    "jerky": "the arm moves in jerks, against the other episodes",
    "static": "the arm stands most of the time",
    "idle_start": "nothing happens at the beginning",
    "idle_end": "nothing happens at the end",
    "outlier": "a figure is far from that of the other episodes",
    "orders": "text in the picture reads like orders to a model",
}
TRIMMED = ("idle_start", "idle_end")


@dataclass(frozen=True)
class Flag:
    """One fault; `camera` is empty where it concerns the state or the whole item."""

    code: str  # a key of CODES
    severity: str  # ERROR, WARNING or NOTE
    camera: str
    start_s: float
    stop_s: float
    words: str  # with the numbers
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.code in CODES and self.severity in (ERROR, WARNING, NOTE), self


def remedy(items: Sequence[Item], flags: Sequence[Sequence[Flag]]) -> list[str]:
    """Return ready-made lines that exclude items with errors and trim idle ends: shell commands and comments on them.

    Episodes are excluded with lerobot's own tool, which writes a new dataset; files are cut by ffmpeg.
    """
    lines: list[str] = []
    bad = [item for item, found in zip(items, flags, strict=True) if any(flag.severity == ERROR for flag in found)]
    for root in dict.fromkeys(item.path for item in bad if item.fps is not None):
        numbers = [item.episode for item in bad if item.path == root and item.fps is not None]
        name = shlex.quote(root.name)
        lines += [
            f"# episodes of {root} to drop: {numbers}",
            f"lerobot-edit-dataset --repo_id local/{name} --root {shlex.quote(str(root))} "
            f"--new_repo_id local/{name}-clean --new_root {shlex.quote(str(root) + '-clean')} "
            f'--operation.type delete_episodes --operation.episode_indices "{numbers}"',
        ]
    lines += [f"# leave out: {shlex.quote(str(item.path))}" for item in bad if item.fps is None]
    for item, found in zip(items, flags, strict=True):
        idle = {flag.code: flag for flag in found if flag.code in TRIMMED}
        if idle and item not in bad:
            lines.append(_trim(item, idle))
    return lines


def _trim(item: Item, idle: dict[str, Flag]) -> str:
    start_s = idle["idle_start"].stop_s if "idle_start" in idle else 0.0
    stop_s = idle["idle_end"].start_s if "idle_end" in idle else None
    if item.rows is not None:
        until = "" if stop_s is None else f" to {stop_s:.2f} s"
        return f"# trim {item.name} of {item.path}: keep from {start_s:.2f} s{until}"
    end = "" if stop_s is None else f" -to {stop_s:.2f}"
    target = item.path.with_name(f"{item.path.stem}-trimmed.mp4")
    return f"ffmpeg -ss {start_s:.2f}{end} -i {shlex.quote(str(item.path))} -c:v libx264 {shlex.quote(str(target))}"
