"""Episodes in which something goes wrong on purpose, with the moment and the way, beside some that go right.

The dataset's table of episodes has the truth: `mode` (how it failed, "none" where it succeeded), `failed_s` (when, -1
for never) and `disturbed` (whether it succeeded in spite of mistakes that were put right).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from tqdm import tqdm

from vla.data.demonstration import CAMERA, Expert, dataset_features
from vla.data.recorder import EpisodeRecorder
from vla.data.writer import DatasetWriter

NONE, RECOVERED = "none", "recovered"  # modes of episodes that succeed; the second after mistakes
TAIL_S = (3.0, 8.0)  # an episode goes on for so long after the failure
ENDS = 10  # frames after success


class FailingExpert(Expert, Protocol):
    """An expert that fails once, in a way of its own."""

    @property
    def failed(self) -> bool:
        """Whether it has happened."""
        ...

    def undo(self) -> None:
        """Put the world's physics back as it was."""
        ...


@dataclass(frozen=True)
class Mishaps:
    """Records episodes of each mode in turn; what cannot fail in its way is drawn again with another seed."""

    id: str  # of the gymnasium environment; reset takes the kind of task as an option
    env: Mapping[str, Any]  # its arguments
    modes: Mapping[str, Sequence[str]]  # mode -> kinds of task; NONE and RECOVERED succeed, the others fail
    make_expert: Callable[..., FailingExpert]  # called with mode=, noise= and seed=
    seed: int
    codec: str = "h264_444"
    max_attempts: int = 20

    def collect(self, root: Path, episodes: int) -> None:
        """Write a dataset of so many episodes."""
        environment = gymnasium.make(self.id, disable_env_checker=True, **self.env)
        world: Any = environment.unwrapped
        fps, every = int(world.embodiment()["control_hz"]), dataset_features(environment)
        features = {key: every[key] for key in every if key.startswith("observation.") or key == "action"}
        with (
            closing(environment),
            DatasetWriter(root, fps=fps, features=features, codec=self.codec) as writer,
        ):
            for episode in tqdm(range(len(writer.saved()), episodes), unit="episode", desc="mishaps", leave=False):
                self._record(environment, writer, episode)

    def _record(self, environment: gymnasium.Env, writer: DatasetWriter, episode: int) -> None:
        """Repeat an episode until it goes as its mode says."""
        mode = list(self.modes)[episode % len(self.modes)]
        for attempt in count():
            if attempt == self.max_attempts:
                raise RuntimeError(f"episode {episode} did not go as {mode!r} says, {attempt} times: try another seed")
            rng = np.random.default_rng([self.seed, episode, attempt])
            with writer.record() as recorder:
                failed_s = self._play(environment, recorder, mode, rng)
                if failed_s is not None:
                    recorder.save(extra={"mode": mode, "failed_s": failed_s, "disturbed": int(mode == RECOVERED)})
                    return

    def _play(
        self, environment: gymnasium.Env, recorder: EpisodeRecorder, mode: str, rng: np.random.Generator
    ) -> float | None:
        """Record one attempt; return when it failed [s], -1 for never, None where it did not go as it should."""
        world: Any = environment.unwrapped
        fails, seed = mode not in (NONE, RECOVERED), int(rng.integers(2**31))
        noise = 1.0 if mode == RECOVERED else 0.0
        expert = self.make_expert(mode=mode if fails else NONE, noise=noise, seed=seed)
        tail, failed, complete, disturbed = round(recorder.fps * rng.uniform(*TAIL_S)), None, 0, False
        observation, info = environment.reset(seed=seed, options={"kind": str(rng.choice(list(self.modes[mode])))})
        task, ended = info["instruction"], False
        try:
            while not ended:
                action = expert.act(world.expert_observation())
                executed, moved = expert.perturb(action)
                disturbed |= moved
                failed = recorder.length if failed is None and expert.failed else failed
                frame = {CAMERA + camera: image for camera, image in observation["pixels"].items()}
                recorder.add(frame | {"observation.state": observation["agent_pos"], "action": action}, task=task)
                observation, _, terminated, truncated, info = environment.step(executed)
                complete = complete + 1 if info["is_success"] else 0
                over = failed is not None and recorder.length >= failed + tail
                ended = over or complete >= ENDS or terminated or truncated
        finally:
            expert.undo()
        if fails:
            return None if failed is None or info["is_success"] else failed / recorder.fps
        return -1.0 if info["is_success"] and disturbed == (mode == RECOVERED) else None
