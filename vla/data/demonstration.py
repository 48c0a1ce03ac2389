"""One demonstration: an expert with privileged state acts in a gymnasium environment, frames go to a recorder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from vla.data.recorder import EpisodeRecorder
from vla.data.rollin import RollIn, checked
from vla.data.schema import Features
from vla.types import Embodiment, Policy

CAMERA = "observation.images."
EXPERT_SEEDS = 2**31  # seeds of demonstrations lie above this, those of evaluation below: no scene is in both


class Expert(Protocol):
    """A scripted demonstrator that reads what the environment's `expert_observation()` returns."""

    def act(self, observation: Any) -> np.ndarray:
        """Return the clean action float32[A]."""
        ...

    def perturb(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the action to execute and whether it differs on purpose from the clean one."""
        ...


@dataclass(frozen=True)
class Settings:
    """What demonstrations look like; the content of episode i depends on these and on the seed alone."""

    ids: Mapping[str, str]  # kind -> gymnasium id; "default" serves the other kinds by reset(options={"kind": kind})
    env: Mapping[str, Any]  # arguments of every environment
    mix: Mapping[str, float]  # kind -> weight
    seed: int
    noise: float  # probability that an episode is perturbed
    noise_level: float  # strength of the perturbations, the expert's `noise`
    vqa_stride: int  # frames from one with questions to the next, 0 for none
    vqa_count: int  # questions at such a frame
    tail_frames: int  # frames recorded after completion
    max_attempts: int  # of one episode
    keep_failures: bool = False  # whether an attempt that failed is saved as well, instead of being repeated
    policy: str | None = None  # name and weights of what drives in stretches (see rollin.py), None for the expert alone

    def __post_init__(self) -> None:
        weights = list(self.mix.values())
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"mix is {dict(self.mix)}; give each kind a weight >= 0 and one of them more than 0")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; it is a probability, 0..1")
        if "default" not in self.ids:
            raise ValueError(f"env.ids has {sorted(self.ids)}; 'default' is missing")

    def kind(self, episode: int) -> str:
        """Kind of episode number `episode`."""
        weights = np.array(list(self.mix.values()), float)
        return str(self._random(episode).choice(list(self.mix), p=weights / weights.sum()))

    def perturbed(self, episode: int, attempt: int) -> bool:
        """Whether this attempt is perturbed."""
        return bool(self._random(episode, attempt, 1).random() < self.noise)

    def episode_seed(self, episode: int, attempt: int) -> int:
        """Seed of the environment for this attempt."""
        return EXPERT_SEEDS + int(self._random(episode, attempt, 2).integers(EXPERT_SEEDS))

    def _random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *numbers])


@dataclass(frozen=True)
class Outcome:
    """What became of one episode."""

    episode: int
    kind: str
    frames: int
    attempts: int


@dataclass
class Demonstrator:
    """Record episodes, with environments that are built once and used again."""

    settings: Settings
    make_expert: Callable[..., Expert]  # called with noise= and seed=
    codec: str
    load_policy: Callable[[], Policy] | None = None  # of settings.policy, called once in every process that records
    _environments: dict[str, gymnasium.Env] = field(default_factory=dict, init=False)
    _policy: Policy | None = field(default=None, init=False)

    def environment(self, kind: str) -> tuple[gymnasium.Env, dict[str, str]]:
        """Return the environment for a kind and the options of its reset."""
        name = kind if kind in self.settings.ids else "default"
        if name not in self._environments:
            self._environments[name] = gymnasium.make(
                self.settings.ids[name], disable_env_checker=True, **self.settings.env
            )
        return self._environments[name], {"kind": kind} if name == "default" else {}

    def record(self, root: Path, episode: int) -> Outcome:
        """Save episode number `episode` into the dataset `root`: the first attempt that succeeds, or just the first."""
        kind = self.settings.kind(episode)
        environment, _ = self.environment(kind)
        world: Any = environment.unwrapped
        fps, features = int(world.embodiment()["control_hz"]), self.features(environment)
        for attempt in range(self.settings.max_attempts):
            with EpisodeRecorder(root, episode, fps, features, self.codec) as recorder:
                success = self._attempt(recorder, kind, attempt)
                if success or self.settings.keep_failures:
                    seed = self.settings.episode_seed(episode, attempt)
                    recorder.save(extra={"kind": kind, "seed": seed, "attempts": attempt + 1, "success": success})
                    return Outcome(episode, kind, recorder.length, attempt + 1)
        raise RuntimeError(
            f"the expert failed {self.settings.max_attempts} times in a row at episode {episode} ({kind}): "
            "look at it with another seed, or lower noise or noise_level"
        )

    def _attempt(self, recorder: EpisodeRecorder, kind: str, attempt: int) -> bool:
        """Play one episode into `recorder` and return whether it ended in success."""
        settings, episode = self.settings, recorder.episode_index
        environment, options = self.environment(kind)
        world: Any = environment.unwrapped
        seed = settings.episode_seed(episode, attempt)
        noise = settings.noise_level if settings.perturbed(episode, attempt) else 0.0
        expert, random = self.make_expert(noise=noise, seed=seed), np.random.default_rng(seed)
        observation, info = environment.reset(seed=seed, options=options)
        rollin = self._rollin(environment, seed)
        complete = 0
        while complete < settings.tail_frames:
            action = expert.act(world.expert_observation())
            driven = rollin.act(observation, info) if rollin else None
            executed, perturbed = expert.perturb(action) if driven is None else (driven, False)
            frame = {CAMERA + camera: image for camera, image in observation["pixels"].items()}
            frame |= {"observation.state": observation["agent_pos"], "action": action, "perturbed": perturbed}
            frame["executed"] = executed
            if rollin:
                frame["rollin"] = driven is not None
            asked = settings.vqa_stride and recorder.length % settings.vqa_stride == 0
            frame["vqa"] = json.dumps(world.questions(random, settings.vqa_count) if asked else [])
            frame |= subtask_labels(info)
            task = info["instruction"]
            complete = complete + 1 if info["is_success"] else 0
            observation, _, terminated, truncated, info = environment.step(executed)
            recorder.add(frame | {"next.success": bool(info["is_success"])}, task=task)
            if (terminated or truncated) and complete < settings.tail_frames:
                return False
        return bool(info["is_success"])

    def features(self, environment: gymnasium.Env) -> Features:
        """Features of the demonstrations; `rollin` says of a frame that the policy drove, where there is one."""
        driven: Features = {"rollin": {"dtype": "bool", "shape": [1], "names": None}} if self.load_policy else {}
        return dataset_features(environment) | driven

    def _rollin(self, environment: gymnasium.Env, seed: int) -> RollIn | None:
        if self.load_policy is None:
            return None
        world: Any = environment.unwrapped
        if self._policy is None:
            self._policy = checked(self.load_policy, Embodiment.from_dict(world.embodiment()))
        spec = environment.spec
        assert spec is not None and spec.max_episode_steps is not None
        return RollIn(self._policy, seed, spec.max_episode_steps)

    def close(self) -> None:
        """Close the environments."""
        for environment in self._environments.values():
            environment.close()
        self._environments.clear()


def subtask_labels(info: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of the frame that `info` came with."""
    subtask = info["subtask"]
    return {
        "subtask": subtask["text"],
        "progress": subtask["progress"],
        "done": subtask["done"],
        "finished": " | ".join(info["finished"]),
    }


def dataset_features(environment: gymnasium.Env) -> Features:
    """Features of demonstrations in this environment."""
    world: Any = environment.unwrapped
    body = Embodiment.from_dict(world.embodiment())
    features: Features = {}
    for name, camera in body.cameras.items():
        shape = [camera.height, camera.width, 3]
        features[CAMERA + name] = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
    joints = {"dtype": "float32", "shape": [len(body.joints)], "names": [f"{joint}.pos" for joint in body.joints]}
    features |= {"observation.state": joints, "action": dict(joints), "executed": dict(joints)}
    single = {"subtask": "string", "progress": "float32", "done": "bool", "finished": "string", "vqa": "string"}
    single |= {"perturbed": "bool", "next.success": "bool"}
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in single.items()}
