"""`vla record`: episodes of teleoperation, or of a policy that is corrected by hand, as one LeRobotDataset v3.0.

Each episode is a run of the loop that deploys, with its guard; the operator's page says when it begins and how it went.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.control.clock import Clock, RealClock
from vla.control.cockpit import Cockpit
from vla.control.deploy import check_contract, claimed, make_policy, open_page, signals
from vla.control.executor import Executor
from vla.control.guard import Guard
from vla.control.hierarchy import Pacing
from vla.control.inference import Controller, Inference, Threaded
from vla.control.logbook import Logbook, features
from vla.control.loop import Loop
from vla.control.operator import Operated
from vla.control.quiet import quiet_interpreter
from vla.control.robot import Robot
from vla.control.steering import Steering, Verbatim
from vla.control.stepping import Stepping, who_reads
from vla.control.strategy import Sequential, Strategy
from vla.control.takes import Gate, Takes, labels
from vla.control.words import admit_words, tidy
from vla.data.dataset import EpisodeDataset
from vla.data.demonstration import EXPERT_SEEDS
from vla.data.writer import DatasetWriter, saved_episodes
from vla.model.checkpoint import digest
from vla.model.history import follow
from vla.result import write_result
from vla.types import ActionChunk, Embodiment, Observation

LABELS = {"progress": ("float32", 0.0), "done": ("bool", False), "vqa": ("string", "[]")}  # dtype, and blank


class RecordingError(OSError):
    """What was driven cannot be recorded; episodes that were saved before are safe."""


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="record")
def main(config: DictConfig) -> None:
    """Record until the dataset has `episodes` episodes, then write the result."""
    out = Path(HydraConfig.get().runtime.output_dir).resolve()
    settings: Any = OmegaConf.to_container(config, resolve=True)
    torch.set_num_threads(settings["threads"])
    driven = settings["policy"] or settings["checkpoint"]
    hardware, instruction = settings["robot"]["hardware"], tidy(settings["instruction"] or "")
    if hardware and not driven:
        raise ValueError("a real arm is not moved by keyboard: give checkpoint= or policy=, or robot=sim")
    policy = make_policy(config) if driven else None
    steering: Callable[[], Steering] = Verbatim
    if policy is not None:
        steering = partial(
            instantiate(config.planner, _partial_=True),
            policy=policy,
            grammar=instantiate(config.skills),
            instruction=instruction,
            pacing=Pacing(**settings["pacing"]),
            control_hz=policy.embodiment.control_hz,
        )
    with closing(steering()) as steers:
        admit_words(instruction, who_reads(steers, policy))
    name = settings["policy"] or (f"{driven}, weights {digest(driven)}" if driven else None)
    strategy = partial(instantiate, config.strategy)
    driver = None if policy is None else Driver(policy, str(name), steering, strategy)
    collides = instantiate(config.robot.collides)
    with claimed(settings["robot"]):
        result = record(
            partial(_connect, config),
            instruction=instruction,
            episodes=settings["episodes"],
            out=out,
            hz=settings["robot"]["hz"],
            seconds=inf if settings["episode_time_s"] is None else settings["episode_time_s"],
            guard={"collides": collides, "hardware": hardware, **settings["guard"]},
            page=partial(open_page, settings["web_host"], settings["web_port"]),
            seed=settings["seed"],
            policy=driver,
            unlike_cameras=settings["unlike_cameras"],
        )
    path = write_result(out, **result, policy=name, seed=settings["seed"])
    print(
        f"{result['episodes']} episodes, {result['successes']} of them successes, {result['frames']} frames in "
        f"{result['dataset']}; {result['discarded']} were discarded\n{path}"
    )
    if result["ended"].startswith("signal"):
        raise KeyboardInterrupt


def _connect(config: DictConfig, seed: int) -> Robot:
    """Connect the robot of a config; a simulated one in the scene of a seed."""
    return instantiate(config.robot.connect, **({} if config.robot.hardware else {"seed": seed}))


@dataclass(frozen=True)
class Driver:
    """A policy that drives while nobody else does."""

    policy: Controller
    name: str  # with its weights: a dataset holds what one policy led to
    steering: Callable[[], Steering] = Verbatim
    strategy: Callable[[], Strategy] = Sequential


def record(
    connect: Callable[[int], Robot],
    *,
    instruction: str,
    episodes: int,
    out: Path,
    hz: float,
    seconds: float,
    guard: dict[str, Any],
    page: Callable[[Operated, Embodiment], AbstractContextManager],
    seed: int = 0,
    policy: Driver | None = None,
    unlike_cameras: bool = False,
    clock: Clock | None = None,
    think: Callable[[Controller, Clock], Inference] = Threaded,
    patient: bool = False,
) -> dict[str, Any]:
    """Record until `out`/dataset has `episodes` episodes or a signal comes; return what result.json documents.

    connect: returns the robot, in simulation in the scene of a seed; a simulated one is connected anew for each
    episode, a real one stays, and whoever operates it lays the scene out before starting. seconds: of an episode, at
    most. guard: more arguments of the Guard. page: what lets the operator in. think: makes what asks the policy.
    patient: see Logbook. Raises RecordingError where the disk fails.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; at least 1 is needed")
    clock, simulated = clock or RealClock(), not guard.get("hardware", True)
    root = out / "dataset"
    number = _missing(saved_episodes(root))
    robot: Robot | None = connect(scene_seed(seed, number))
    ended = "complete"
    try:
        body = Embodiment.from_dict(robot.embodiment())
        if policy is not None:
            check_contract(policy.policy, body, policy.strategy())
        with open_dataset(root, body, policy.name if policy else None) as dataset:
            takes = Takes(episodes, len(dataset.saved()), seconds, clock, by_hand=policy is None)
            booth = Booth(
                body, dataset, takes, instruction, out, hz, guard, clock, think, unlike_cameras, policy, patient
            )
            with quiet_interpreter(), page(takes, body):
                while len(dataset.saved()) < episodes and ended == "complete":
                    number = _missing(dataset.saved())
                    robot = robot or connect(scene_seed(seed, number))
                    ended = booth.take(robot, scene_seed(seed, number) if simulated else None)
                    dataset.join_staged()
                    if simulated:
                        robot.close()
                        robot = None
    finally:
        if robot is not None:
            robot.close()
    return {**_summary(root), "discarded": takes.discarded, "dropped_frames": takes.dropped, "ended": ended}


def scene_seed(seed: int, episode: int) -> int:
    """Return the seed of the scene of an episode: one that no evaluation has."""
    return EXPERT_SEEDS + seed + episode


def open_dataset(root: Path, body: Embodiment, policy: str | None) -> DatasetWriter:
    """Open the dataset of a session: the columns of a run, and those that training reads beside them."""
    more = {key: {"dtype": dtype, "shape": [1], "names": None} for key, (dtype, _) in LABELS.items()}
    metadata = {"embodiment": body.to_dict(), "record": {"policy": policy}}
    return DatasetWriter(root, round(body.control_hz), features(body) | more, robot_type=body.name, metadata=metadata)


@dataclass(frozen=True)
class Booth:
    """What all episodes of a session share."""

    body: Embodiment
    dataset: DatasetWriter
    takes: Takes
    instruction: str
    out: Path
    hz: float
    guard: Mapping[str, Any]
    clock: Clock
    think: Callable[[Controller, Clock], Inference]
    unlike_cameras: bool
    driver: Driver | None
    patient: bool  # whether the loop waits for the encoder

    def take(self, robot: Robot, seed: int | None) -> str:
        """Record one episode, or discard it; return "complete", or the signal that ended the session."""
        policy = follow(self.driver.policy) if self.driver else Nobody(self.body)
        inner = self.driver.steering() if self.driver else None
        guard = Guard(self.body, self.hz, **self.guard)
        logbook = Logbook(
            self.out,
            self.body,
            self.instruction,
            self.hz,
            patient=self.patient,
            dataset=self.dataset,
            blanks={key: blank for key, (_, blank) in LABELS.items()},
        )
        if isinstance(inner, Stepping):
            inner.tell = lambda note: logbook.event(self.clock.now(), note.event, text=note.text)
        inference, gate = self.think(policy, self.clock), Gate(self.takes, inner)
        loop = Loop(
            robot=robot,
            guard=guard,
            executor=Executor(self.driver.strategy() if self.driver else Sequential(), self.body),
            inference=inference,
            steering=gate,
            clock=self.clock,
            logbook=logbook,
            instruction=self.instruction,
            glimpses={} if self.unlike_cameras else getattr(policy, "glimpses", {}),
        )
        self.takes.begin(Cockpit(loop, guard, inner or gate, None, not self.guard.get("hardware", True)), loop, logbook)
        before, ended = len(self.dataset.saved()), ""
        try:
            with signals(loop):
                ended = loop.run(inf).ended
        finally:
            inference.close()
            gate.close()
            success = self.takes.verdict == "success"
            extra = {"success": success} | ({} if seed is None else {"seed": seed})
            keep = self.takes.verdict in ("success", "failure")
            logbook.close(extra, keep=keep, columns=lambda frames: labels(frames, success))
            saved = len(self.dataset.saved())
            self.takes.end(saved, logbook.dropped_frames if keep else 0, kept=saved > before)
        if logbook.fault:
            raise RecordingError(
                f"recording has ended: {logbook.fault.partition(';')[0]}. What was saved is safe ({saved} episodes in "
                f"{self.dataset.root}): make room, then run the same command to go on"
            )
        return ended if ended.startswith("signal") or ended == "left" else "complete"


class Nobody:
    """The policy where there is none; a gate (takes.py) sees to it that it is not asked."""

    def __init__(self, body: Embodiment):
        """Take the body that the operator moves."""
        self.embodiment = body

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Refuse to drive."""
        raise RuntimeError("there is no policy: the operator drives")


def _missing(saved: set[int]) -> int:
    """Return the number of the next episode."""
    return next(index for index in count() if index not in saved)


def _summary(root: Path) -> dict[str, Any]:
    """Count what the dataset has, which is nothing yet where no episode was kept."""
    if not (root / "meta/info.json").exists():
        return {"episodes": 0, "frames": 0, "successes": 0, "by_hand": 0.0, "dataset": root}
    dataset = EpisodeDataset(root)
    return {
        "episodes": len(dataset.episodes),
        "frames": len(dataset),
        "successes": sum(bool(episode.extra["success"]) for episode in dataset.episodes),
        "by_hand": float(dataset.column("intervention").mean()),
        "dataset": root,
    }
