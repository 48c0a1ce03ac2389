"""The columns of a dataset that tell how a robot moved: joints, grippers, commands, efforts."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla.data.schema import Features

MEASURED, COMMANDED = "observation.state", "action"
_GRIPPER = re.compile(r"gripper|finger|jaw", re.IGNORECASE)
_EFFORT = re.compile(r"effort|torque|current|load", re.IGNORECASE)
_RATE = re.compile(r"(\.|_|^)vel(ocity)?$", re.IGNORECASE)
_STEADY = 0.05  # of the widest range of a joint: no range counts as less
_COMPARABLE = 0.25  # a command is of the same kind as what is measured if it is this close, in ranges of the joint


@dataclass(frozen=True)
class State:
    """What a robot measured over N rows, in the dataset's own units; `low` and `high` are the dataset's extremes."""

    time_s: np.ndarray  # float64[N] since the episode's first row
    joints: np.ndarray  # float64[N, J] without grippers
    joint_names: tuple[str, ...]
    joint_low: np.ndarray  # float64[J]
    joint_high: np.ndarray
    gripper: np.ndarray  # float64[N, G]
    gripper_names: tuple[str, ...]
    gripper_low: np.ndarray  # float64[G]
    gripper_high: np.ndarray
    command: np.ndarray | None = None  # float64[N, J] positions asked of the joints, where the dataset has such
    effort: np.ndarray | None = None  # float64[N, E] torques or currents
    effort_names: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all positions are numbers; a state that is not is no ground to judge by."""
        return bool(np.isfinite(self.joints).all() and np.isfinite(self.gripper).all())

    @property
    def span(self) -> float:
        """Length of the diagonal of the joints' ranges, the unit that speeds and distances are judged by."""
        return float(np.linalg.norm(self.joint_high - self.joint_low)) if self.joints.size else 0.0


class StateReader:
    """Reads the `State` of one episode after the other; names of a feature tell what its columns are.

    Without names all columns of observation.state are joints, and no gripper is known. `column` returns the values of
    a feature over all rows, `fps` times them where there is no timestamp.
    """

    def __init__(self, features: Features, column: Callable[[str], np.ndarray], fps: float) -> None:
        self._features, self._column, self._fps = features, column, fps
        self._names = names = column_names(features, MEASURED)
        places = [k for k, name in enumerate(names) if not _EFFORT.search(name) and not _RATE.search(name)]
        self._joints = [k for k in places if not _GRIPPER.search(names[k])]
        self._grippers = [k for k in places if _GRIPPER.search(names[k])]
        self._efforts = [(MEASURED, k, name) for k, name in enumerate(names) if _EFFORT.search(name)]
        for key in features:
            if key.startswith("observation.") and key != MEASURED and _EFFORT.search(key):
                self._efforts += [(key, k, name) for k, name in enumerate(column_names(features, key))]
        if names:
            measured = self._table(MEASURED)
            self._low, self._high = (end(measured, axis=0).astype(np.float64) for end in (np.nanmin, np.nanmax))
        self._commanded = self._command_is_comparable()

    def read(self, start: int, length: int) -> State | None:
        """Return the state of `length` rows from `start` on, None where nothing was measured."""
        if not self._names:
            return None
        rows = slice(start, start + length)
        measured = self._table(MEASURED)[rows].astype(np.float64)
        command = self._table(COMMANDED)[rows].astype(np.float64) if self._commanded else None
        efforts = [self._table(key)[rows, k].astype(np.float64) for key, k, _ in self._efforts]
        return State(
            time_s=self._times(rows, length),
            joints=measured[:, self._joints],
            joint_names=tuple(self._names[k] for k in self._joints),
            joint_low=self._low[self._joints],
            joint_high=self._high[self._joints],
            gripper=measured[:, self._grippers],
            gripper_names=tuple(self._names[k] for k in self._grippers),
            gripper_low=self._low[self._grippers],
            gripper_high=self._high[self._grippers],
            command=None if command is None else command[:, self._joints],
            effort=np.stack(efforts, axis=1) if efforts else None,
            effort_names=tuple(name for _, _, name in self._efforts),
        )

    def _times(self, rows: slice, length: int) -> np.ndarray:
        if "timestamp" in self._features:
            return np.asarray(self._column("timestamp")[rows], np.float64).reshape(-1)
        return np.arange(length) / self._fps

    def _command_is_comparable(self) -> bool:
        """Say whether actions are targets of the very joints that are measured, and not steps or another space."""
        commanded, measured = (self._features.get(key, {}) for key in (COMMANDED, MEASURED))
        if not self._joints or any(commanded.get(part) != measured.get(part) for part in ("names", "shape")):
            return False
        measured, commanded = (self._table(key)[:, self._joints] for key in (MEASURED, COMMANDED))
        ranges = np.maximum(self._high - self._low, 1e-9)[self._joints]
        ranges = np.maximum(ranges, _STEADY * ranges.max())  # a joint that hardly moved tells little about its range
        return bool((np.nanmedian(np.abs(commanded - measured), axis=0) < _COMPARABLE * ranges).all())

    def _table(self, key: str) -> np.ndarray:
        values = np.asarray(self._column(key))
        return values.reshape(len(values), -1)


def column_names(features: Features, key: str) -> list[str]:
    """Return a name for every column of a feature of numbers: its own, or the key with a number."""
    feature = features.get(key)
    if feature is None or feature["dtype"] in ("video", "image", "string", "language"):
        return []
    names, size = feature.get("names"), int(np.prod(feature["shape"]))
    if isinstance(names, dict):  # lerobot writes {"motors": [...]} too
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if isinstance(names, list) and len(names) == size:
        return [str(name) for name in names]
    return [key] if size == 1 else [f"{key}.{number}" for number in range(size)]
