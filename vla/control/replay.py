"""A recorded episode driven again: what was commanded then is the one chunk that a loop carries out now.

The loop, its executor and its guard are those of any policy, and so is time: it is counted from where the chunk began.
What interrupts a run, such as a hold, interrupts the replay; it goes on with the next recorded action.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.control.plan import ROUNDING_S, Plan, leap
from vla.control.robot import Robot
from vla.control.strategy import Sequential
from vla.control.words import WordsRefusedError
from vla.data.dataset import EpisodeDataset
from vla.types import ActionChunk, ContractError, Embodiment, Observation

START_S = 10.0  # that the robot may take for its first measurement
OUTSIDE = 1e-3  # [rad], gripper [1]; what rounding may have made of a target at the end of its range
HELD_S = 60.0  # longer than the recording a replay may take, where something holds the arm
STATE = "observation.state"


@dataclass(frozen=True)
class Recording:
    """One episode of a dataset, N frames of A joints."""

    actions: np.ndarray  # float64[N, A], what the arm was given
    states: np.ndarray  # float64[N, A], where its joints were when it was given
    joints: tuple[str, ...]  # A names
    fps: float
    action_space: str | None  # None where the dataset does not say
    task: str
    scene: Mapping[str, Any] | None  # of `vla collect`: env_id, kwargs, seed and options that lay it out
    seed: int | None  # of the scene that `vla deploy` or `vla record` drove in

    @classmethod
    def read(cls, folder: Path | str, episode: int) -> "Recording":
        """Read an episode; raises FileNotFoundError or ValueError where it is not there or holds no joints."""
        root = Path(folder)
        within = root / "dataset"
        if not (root / "meta/info.json").exists() and (within / "meta/info.json").exists():
            raise FileNotFoundError(f"replay={folder}: {root} is no dataset itself, it holds one: replay={within}")
        if not root.is_dir():
            raise FileNotFoundError(
                f"replay={folder}: there is no such folder; give a LeRobotDataset v3.0, such as out/dataset of "
                "vla collect, vla record or vla deploy"
            )
        dataset = EpisodeDataset(root)
        found = next((one for one in dataset.episodes if one.index == episode), None)
        if found is None:
            raise ValueError(f"episode={episode}: {root} has episodes 0 to {len(dataset.episodes) - 1}")
        action = (
            "executed" if "executed" in dataset.features else "action"
        )  # where an expert only says what it would do
        if missing := {action, STATE} - dataset.features.keys():
            raise ValueError(f"replay={folder}: there is no column {', '.join(sorted(missing))}, so nothing to replay")
        rows = slice(found.start, found.start + found.length)
        ours = dataset.info.get("vla", {})
        return cls(
            actions=_rows(dataset, action, rows),
            states=_rows(dataset, STATE, rows),
            joints=_names(dataset.features[action]),
            fps=dataset.fps,
            action_space=ours.get("embodiment", {}).get("action_space"),
            task=str(dataset.column("task")[found.start]),
            scene=_scene(ours.get("collect"), found.extra),
            seed=found.extra.get("seed"),
        )

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return len(self.actions) / self.fps

    def refuse_other(self, body: Embodiment) -> None:
        """Raise ContractError if these are not targets that this body can go to, naming each difference."""
        told = {
            "joints": (self.joints, body.joints),
            "control_hz": (float(self.fps), body.control_hz),
            "action_space": (self.action_space or body.action_space, body.action_space),
        }
        different = [f"{what}: {then!r} recorded, {now!r} here" for what, (then, now) in told.items() if then != now]
        if not different:
            different = list(filter(None, [self._outside(body) or self._leaps(body)]))
        if different:
            listed = "\n  ".join(different)
            raise ContractError(
                f"this episode was not recorded with this body, nothing is replayed:\n  {listed}\n"
                "Choose an episode of this robot; targets are joint positions in rad, gripper 0 to 1."
            )

    def refuse_start(self, joints: np.ndarray, tolerance: float) -> None:
        """Raise ContractError if an arm at `joints` float[A] is not where the recording began, to the tolerance."""
        ways = np.abs(self.states[0] - joints)
        if not (ways <= tolerance).all():
            far = ", ".join(
                f"{name} by {way:.2f}" for name, way in zip(self.joints, ways, strict=True) if way > tolerance
            )
            raise ContractError(
                f"the arm is not where the recording began: off are {far}; at most guard.engage_tol={tolerance:g}. "
                "Bring it there, or guard.slow_approach=true goes there slowly"
            )

    def _outside(self, body: Embodiment) -> str:
        """Say which action is not finite or leaves the range."""
        low, high = np.array(body.position_min) - OUTSIDE, np.array(body.position_max) + OUTSIDE
        wrong = np.argwhere(~((self.actions >= low) & (self.actions <= high)))
        if not len(wrong):
            return ""
        step, joint = wrong[0]
        span = f"{body.position_min[joint]:g} .. {body.position_max[joint]:g}"
        return f"action {step} of {body.joints[joint]}: {self.actions[step, joint]:g} recorded, {span} is possible here"

    def _leaps(self, body: Embodiment) -> str:
        chunk = ActionChunk(self.actions, 1 / self.fps, 0.0)
        return leap(chunk, self.states[0], body, engaging=True)


@dataclass
class Stretch:
    """A part of a recording that was driven without a break."""

    step: int  # the first action
    begin_s: float  # when it was begun, one period before it is reached
    end_s: float  # the time of the latest target


class Playback(Sequential):
    """Executes all of each chunk; `step` is the action that comes after an interruption."""

    def __init__(self) -> None:
        self.step, self.stretches = 0, list[Stretch]()
        super().__init__()

    def add(self, plan: Plan, now_s: float) -> None:
        """Begin a stretch."""
        self._plan = plan
        self.stretches.append(Stretch(self.step, plan.begin_s, plan.begin_s))

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the target, and take note of how far that is."""
        target = super().at(t_s)
        if self._plan is not None and target is not None:
            stretch = self.stretches[-1]
            stretch.end_s = max(stretch.end_s, min(t_s, self._plan.end_s))
        return target

    def clear(self) -> None:
        """Be interrupted."""
        if self.stretches and (plan := self._plan) is not None:
            stretch = self.stretches[-1]
            self.step += int((stretch.end_s - stretch.begin_s) / plan.dt_s + ROUNDING_S)
        super().clear()

    def over(self, t_s: float) -> bool:
        """Say whether the last action has been reached at a time."""
        return self._plan is not None and t_s >= self.end_s - ROUNDING_S


class Replay:
    """Policy and steering of a loop that drives a recording; `finish` is called when it has ended, set it before."""

    talks = False  # it answers no questions

    def __init__(self, recording: Recording, body: Embodiment):
        """Take the body that the recording moves; see `Recording.refuse_other`."""
        self.embodiment, self.recording, self.playback = body, recording, Playback()
        self.finish: Callable[[], object] = lambda: None
        self._over = False
        self._seen: list[tuple[float, np.ndarray]] = []  # time and measured joints

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer with all recorded actions that are left, whatever is seen; the last one stays."""
        actions = self.recording.actions
        left = actions[min(self.playback.step, len(actions) - 1) :].astype(np.float32)
        return [ActionChunk(left, 1 / self.recording.fps, observation.time_s) for observation in observations]

    def unknown_words(self, text: str) -> list[str]:
        """Refuse other words."""
        raise WordsRefusedError("a replay does what was recorded, whatever the words")

    def look(self, observation: Observation) -> str:
        """Take note of where the arm is; return the words of the recording."""
        self._seen.append((observation.time_s, np.asarray(observation.state, np.float64)))
        if not self._over and self.playback.over(observation.time_s):
            self._over = True
            self.finish()
        return self.recording.task

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Nothing depends on it."""

    @property
    def why_idle(self) -> str:
        """There always is a text."""
        return ""

    def close(self) -> None:
        """There is nothing to end."""

    def followed(self) -> dict[str, dict[str, float]] | None:
        """Return by joint how far the arm was from where it had been, `max` and `mean` [rad], gripper [1].

        Recorded joints are taken as linear between frames. None where nothing was driven.
        """
        states, fps = self.recording.states, self.recording.fps
        ways = []
        for stretch in self.playback.stretches:
            for time_s, joints in self._seen:
                frame = stretch.step + (time_s - stretch.begin_s) * fps
                if stretch.begin_s <= time_s <= stretch.end_s and frame <= len(states) - 1:
                    here = int(frame)
                    after = states[min(here + 1, len(states) - 1)]
                    ways.append(np.abs(states[here] + (frame - here) * (after - states[here]) - joints))
        if not ways:
            return None
        largest, mean = np.max(ways, axis=0), np.mean(ways, axis=0)
        rows = zip(self.recording.joints, largest, mean, strict=True)
        return {name: {"max": float(most), "mean": float(middle)} for name, most, middle in rows}


def present_joints(robot: Robot) -> np.ndarray:
    """Wait for the robot's first measurement float32[A]; raises OSError where none comes."""
    for _ in range(round(START_S / 0.02)):
        if (measurement := robot.read_joints()) is not None:
            return measurement.joints
        time.sleep(0.02)
    raise OSError(f"no joints came from the robot for {START_S:.0f} s; check power, cables and ports")


def _rows(dataset: EpisodeDataset, column: str, rows: slice) -> np.ndarray:
    values = np.asarray(dataset.column(column)[rows], np.float64)
    return values.reshape(len(values), -1)


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the joints of a column without `.pos`; numbers where it has none. Some datasets keep them in a dict."""
    names = feature.get("names") or range(int(feature["shape"][0]))
    listed = [name for part in names.values() for name in part] if isinstance(names, Mapping) else names
    return tuple(str(name).removesuffix(".pos") for name in listed)


def _scene(collected: Mapping[str, Any] | None, extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what lays the scene of a demonstration out again, None where the dataset does not tell."""
    if collected is None or not {"seed", "kind"} <= extra.keys():
        return None
    ids, kind = collected["ids"], extra["kind"]
    options = {} if kind in ids else {"kind": kind}
    return {
        "env_id": ids.get(kind, ids["default"]),
        "kwargs": collected["env"],
        "seed": extra["seed"],
        "options": options,
    }
