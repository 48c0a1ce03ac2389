"""A world without physics, and policies for it: joints obey at once, and a goal is a pose that has a colour's name."""

import os
from collections.abc import Sequence
from typing import ClassVar

import gymnasium
import numpy as np

from vla.control.grammar import Grammar
from vla.types import ActionChunk, Camera, Embodiment, Observation

PLACES = {"red": 0.5, "blue": -0.5, "green": 0.9}
GRAMMAR = Grammar({"go": {"say": "go {place}"}}, {"place": [list(PLACES)]}, things=["place"])
HOLD_STEPS = 3
SHOW_DONE_STEPS = 3
EMBODIMENT = Embodiment(
    name="fake",
    joints=("pan", "lift", "elbow", "wrist", "roll", "gripper"),
    position_min=(-1.0,) * 5 + (0.0,),
    position_max=(1.0,) * 6,
    velocity_max=(9.0,) * 6,
    acceleration_max=(9.0,) * 6,
    jerk_max=(9.0,) * 6,
    control_hz=10.0,
    cameras={"front": Camera(32, 32), "wrist": Camera(16, 16)},
)


class FakeWorld(gymnasium.Env):
    """Follow the environment's contract: joint 0 must rest at the place of each named colour, in order."""

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array", "human"], "render_fps": 10}

    def __init__(self, kinds=("reach",), subtasks=1, raise_seeds=(), die_seeds=(), render_mode=None, because="", **_):
        self.kinds, self.subtasks = kinds, subtasks
        self.raise_seeds, self.die_seeds, self.because = raise_seeds, die_seeds, because
        self.render_mode = render_mode
        box = gymnasium.spaces.Box
        pixels: dict[str, gymnasium.Space] = {
            "front": box(0, 255, (32, 32, 3), np.uint8),
            "wrist": box(0, 255, (16, 16, 3), np.uint8),
        }
        self.observation_space = gymnasium.spaces.Dict(
            {"pixels": gymnasium.spaces.Dict(pixels), "agent_pos": box(-1, 1, (6,), np.float32)}
        )
        self.action_space = box(-1, 1, (6,), np.float32)

    def embodiment(self):
        return EMBODIMENT.to_dict()

    def questions(self, rng, n):
        forms = [
            {"question": "point to the red place", "answer": "<box 100 100 300 300>", "type": "point"},
            {"question": "is there a red place", "answer": "yes", "type": "yesno"},
            {"question": "describe the scene", "answer": "a red place", "type": "caption"},
        ]
        return [forms[index % 3] for index in range(n)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed_now = seed
        if seed in self.die_seeds and self.render_mode == "human":
            os._exit(1)  # as GLFW does without a display
        if seed in self.raise_seeds:
            raise RuntimeError(self.because or f"the world breaks at seed {seed}")
        text = (options or {}).get("instruction")
        if text is not None and not any(word in PLACES for word in text.split()):
            raise ValueError(f"{text!r} names no place; there are {list(PLACES)}")
        order = list(PLACES)
        self.np_random.shuffle(order)
        named = [word for word in text.replace(",", "").split() if word in PLACES] if text else None
        self.goals = named or order[: self.subtasks]
        self.other = next(colour for colour in order if colour not in self.goals[:1])
        self.state = np.zeros(6, np.float32)
        self.index, self.held, self.shown, self.held_other = 0, 0, 0, 0
        return self._observation(), self._info()

    def step(self, action):
        if self.seed_now in self.die_seeds:
            os._exit(3)
        self.state = np.asarray(action, np.float32)
        near = lambda colour: abs(self.state[0] - PLACES[colour]) < 0.05  # noqa: E731
        if self.held >= HOLD_STEPS:
            self.shown += 1
            if self.shown > SHOW_DONE_STEPS and self.index + 1 < len(self.goals):
                self.index, self.held, self.shown = self.index + 1, 0, 0
        else:
            self.held = self.held + 1 if near(self.goals[self.index]) else 0
        self.held_other = max(self.held_other, self.held_other + 1 if near(self.other) else 0)
        return self._observation(), 0.0, False, False, self._info()

    def render(self):
        return np.full((64, 96, 3), 90, np.uint8)

    def _observation(self):
        front = np.full((32, 32, 3), 60, np.uint8)
        front[:, int((self.state[0] + 1) * 15)] = 250
        return {"pixels": {"front": front, "wrist": np.full((16, 16, 3), 90, np.uint8)}, "agent_pos": self.state.copy()}

    def _info(self):
        done = self.held >= HOLD_STEPS
        text = f"go {self.goals[self.index]}"
        distance = abs(self.state[0] - PLACES[self.goals[self.index]])
        return {
            "instruction": ", then ".join(f"go {colour}" for colour in self.goals),
            "is_success": done and self.index + 1 == len(self.goals),
            "subtask": {
                "index": self.index,
                "count": len(self.goals),
                "text": text,
                "progress": float(max(0.0, 1.0 - distance)),
                "done": done,
                "kind": "reach",
            },
            "swapped": {"instruction": f"go {self.other}", "is_success": self.held_other >= HOLD_STEPS},
            "contacts": [],
            "phase": "go",
        }


gymnasium.register("Fake-v0", entry_point="tests.evaluate.fake_world:FakeWorld", max_episode_steps=90)


class WordPolicy:
    """Walk joint 0 to the first colour named, 0.1 a step, unless it is blind; say done on arrival after a hold."""

    embodiment = EMBODIMENT

    def __init__(self, early=False, stubborn=False):
        self.early, self.stubborn = early, stubborn

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [self._act(observation) for observation in observations]

    def _act(self, observation: Observation) -> ActionChunk:
        here = float(observation.state[0])
        words = observation.instruction.replace(",", "").split()
        goal = next((PLACES[word] for word in words if word in PLACES), None)
        seen = all(image.any() for image in observation.images.values())
        if goal is None or not seen or self.stubborn:
            goal = here
        ramp = np.clip(goal, here - 0.1 * np.arange(1, 17), here + 0.1 * np.arange(1, 17))
        actions = np.zeros((16, 6), np.float32)
        actions[:, 0] = ramp
        done = 0.9 if abs(goal - here) < 0.05 or self.early else 0.1
        return ActionChunk(actions, 0.1, observation.time_s, progress=1 - abs(goal - here), done=done)

    def generate(self, observations, prompts, max_tokens=24):
        return ["<box 100 100 300 250>" if prompt.startswith("point") else "yes" for prompt in prompts]

    def next_subtask(self, observations, finished, failed=()):
        plans = []
        for observation, past in zip(observations, finished, strict=True):
            left = [clause for clause in observation.instruction.split(", then ") if clause not in past]
            plans.append(left[0] if left else "done")
        return plans

    def unknown_words(self, text):
        known = {"go", "then", *PLACES}
        return [word for word in text.replace(",", "").split() if word not in known]

    def check(self, embodiment):
        if embodiment.differences(self.embodiment):
            raise ValueError(f"another body: {embodiment.differences(self.embodiment)}")
