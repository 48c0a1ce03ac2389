"""Frames on which two policies are compared: those that one of them comes by when it acts, or recorded ones."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from vla.data.dataset import EpisodeDataset
from vla.data.framecache import and_before
from vla.model.history import Recollection
from vla.model.policy import VLAPolicy
from vla.types import Embodiment, Observation

QUESTIONS = 6  # of any type that are drawn about a scene


@dataclass(frozen=True)
class Look:
    """What a policy sees at one moment, and questions about it whose answer is yes or no."""

    observation: Observation
    questions: tuple[str, ...] = ()


def acted(
    policy: VLAPolicy, id: str, arguments: Mapping[str, Any], *, seed: int, scenes: int, looks: int, steps: int
) -> list[Look]:
    """Let a policy act in `scenes` episodes, and keep the first `looks` frames of each, `steps` control steps apart.

    id, arguments: of a gymnasium environment; its body must be the policy's (ContractError). Episode n has seed + n.
    """
    cameras = {name: [camera.height, camera.width] for name, camera in policy.embodiment.cameras.items()}
    environment = gymnasium.make(
        id, disable_env_checker=True, **{**arguments, "cameras": list(cameras), "image_size": cameras}
    )
    with closing(environment):
        world: Any = environment.unwrapped
        policy.check(Embodiment.from_dict(world.embodiment()))
        numbers = tqdm(range(scenes), desc="look", unit="scene", leave=False)
        return [
            look for number in numbers for look in islice(_episode(policy, environment, seed + number, steps), looks)
        ]


def _episode(policy: VLAPolicy, environment: gymnasium.Env, seed: int, steps: int) -> Iterator[Look]:
    observation, info = environment.reset(seed=seed)
    world: Any = environment.unwrapped
    rng, over, step = np.random.default_rng(seed), False, 0
    recollection = Recollection(policy.history, control_hz=1.0) if policy.history else None
    while not over:
        items = world.questions(rng, QUESTIONS) if hasattr(world, "questions") else ()
        asked = tuple(item["question"] for item in items if item["type"] == "yesno")
        seen = Observation.from_gym(observation, info["instruction"], time.monotonic())
        look = Look(recollection.see(seen, step) if recollection else seen, asked)
        yield look
        for action in policy.act([look.observation])[0].actions[:steps]:
            observation, _, terminated, truncated, info = environment.step(action)
            step += 1
            if over := bool(terminated or truncated):
                break


def recorded(policy: VLAPolicy, root: Path | str, *, seed: int, count: int) -> list[Look]:
    """Draw `count` frames of a LeRobotDataset v3.0, with its instructions, and with its questions where it has any.

    With those before them, for a policy that reads earlier frames.

    A camera that is missing is refused (ValueError), and so is another body, where the dataset names one.
    """
    dataset = EpisodeDataset(root)
    if body := dataset.info.get("vla", {}).get("embodiment"):
        policy.check(Embodiment.from_dict(body))
    if missing := sorted(set(policy.embodiment.cameras) - set(dataset.cameras)):
        raise ValueError(f"{root} has no camera {missing}, it has {sorted(dataset.cameras)}; give another dataset=")
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    index = np.sort(chosen)
    history = policy.history
    numbers = and_before(index, dataset.starts, history.ages if history else np.zeros(1, int))
    pictures = {name: dataset.frames(name, numbers.ravel()) for name in policy.embodiment.cameras}
    frames = {name: taken.reshape(*numbers.shape, *taken.shape[1:]) for name, taken in pictures.items()}
    state, task = dataset.column("observation.state"), dataset.column("task")
    asked = dataset.column("vqa") if "vqa" in dataset.features else ["[]"] * len(dataset)
    return [
        Look(
            Observation(
                {name: images[row, 0] for name, images in frames.items()},
                np.asarray(state[number], np.float32),
                task[number],
                time.monotonic(),
                tuple(
                    {name: images[row, age] for name, images in frames.items()} for age in range(1, numbers.shape[1])
                ),
            ),
            tuple(item["question"] for item in json.loads(asked[number]) if item["type"] == "yesno"),
        )
        for row, number in enumerate(index)
    ]
