"""A tiny environment with the labels of the real one, and its expert: a point that must reach 1 and stay there."""

import gymnasium
import numpy as np

HOLD = 3


class FakeWorld(gymnasium.Env):
    """State [position, 0]; the action is the next position; success is 3 steps at 1."""

    def __init__(self, image_size=(32, 32), boom_seed=None):
        self.size, self.boom_seed = tuple(image_size), boom_seed
        pixels = gymnasium.spaces.Box(0, 255, (*self.size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Dict({"front": pixels}),
                "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.held = float(self.np_random.uniform(0, 0.5)), 0
        self.colour = self.np_random.integers(0, 255, 3)
        self.text = f"{(options or {}).get('kind', 'long')} it"
        return self._observe(), self._info()

    def step(self, action):
        self.position = float(action[0])
        self.held = self.held + 1 if self.position >= 1 else 0
        return self._observe(), 0.0, False, False, self._info()

    def _observe(self):
        image = np.empty((*self.size, 3), np.uint8)
        image[:] = self.colour * min(abs(self.position), 1.0)
        return {"pixels": {"front": image}, "agent_pos": np.array([self.position, 0], np.float32)}

    def _info(self):
        done = self.held >= HOLD
        subtask = {"index": 0, "count": 1, "text": self.text, "progress": min(self.position, 1.0), "done": done}
        return {
            "instruction": f"please {self.text}",
            "subtask": subtask,
            "is_success": done,
            "finished": [self.text] if done else [],
        }

    def expert_observation(self):
        return self.position

    def questions(self, rng, n):
        return [{"question": f"q{rng.integers(100)}", "answer": "yes", "type": "yesno"}] * n

    def embodiment(self):
        limits = {f"{name}_max": [1.0, 1.0] for name in ("velocity", "acceleration", "jerk")}
        cameras = {"front": {"height": self.size[0], "width": self.size[1]}}
        limits |= {"position_min": [0.0, 0.0], "position_max": [1.0, 1.0]}
        return {"name": "fake", "joints": ["slide", "gripper"], "control_hz": 10.0, "cameras": cameras} | limits


class FakeExpert:
    """Moves by 0.2; one in three seeds fails, some executed actions are perturbed, some seeds crash."""

    def __init__(self, noise=0.0, seed=0, crash=False):
        self.random, self.noise, self.fails, self.crash = np.random.default_rng(seed), noise, seed % 3 == 0, crash

    def act(self, observation):
        if self.crash:
            raise ZeroDivisionError("the expert has a fault")
        return np.array([0.1 if self.fails else min(observation + 0.2, 1.0), 0], np.float32)

    def perturb(self, action):
        if self.random.random() < 0.2 * self.noise:
            return action - np.float32(0.1), True
        return action, False


gymnasium.register("Point-v0", entry_point="point_world:FakeWorld", max_episode_steps=60)
