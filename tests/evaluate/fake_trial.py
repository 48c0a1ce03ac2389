"""The world without physics as a robot in the time of a clock, and a policy that continues given steps."""

from typing import NamedTuple

import numpy as np

from tests.evaluate.fake_world import WordPolicy

STEP_S = 0.1


class Seen(NamedTuple):
    image: np.ndarray
    time_s: float


class Felt(NamedTuple):
    joints: np.ndarray
    time_s: float


class FakeTrial:
    """Obeys at once; judges once a control step. `last` is the latest one, with the commands it got and when."""

    last: "FakeTrial"

    def __init__(self, env, now, hz, seed, options):
        self.env, self.now, self.sent = env.unwrapped, now, []
        self.seen, info = self.env.reset(seed=seed, options=options)
        self.infos = [info]
        self.cameras = {name: FakeCamera(self, name) for name in self.seen["pixels"]}
        FakeTrial.last = self

    def embodiment(self):
        return self.env.embodiment()

    def read_joints(self):
        self.catch_up()
        return Felt(self.env.state, self.now())

    def send_action(self, action):
        self.catch_up()
        self.sent.append((self.now(), action))
        self.env.state = np.asarray(action, np.float32)

    def observe(self):
        return self.env._observation()

    def truth(self):
        return {"is_success": self.infos[-1]["is_success"]}

    def close(self):
        pass

    def catch_up(self):
        while self.now() >= len(self.infos) * STEP_S - 1e-9:
            self.infos.append(self.env.step(self.env.state)[-1])


class FakeCamera:
    """Shows the world with noise, as a camera does; the same time has the same noise."""

    def __init__(self, trial, name):
        self.trial, self.name = trial, name

    def latest(self):
        self.trial.catch_up()
        clean, now_s = self.trial.observe()["pixels"][self.name], self.trial.now()
        noise = np.random.default_rng(round(1e6 * now_s)).integers(0, 20, clean.shape, np.uint8)
        return Seen(clean - noise, now_s)


class GivenPolicy(WordPolicy):
    """Walks on from the given steps; from frames at `turn_s` on it walks the other way."""

    def __init__(self, turn_s=float("inf")):
        super().__init__()
        self.turn_s = turn_s

    def act(self, observations, given=None, given_steps=0):
        (observation,) = observations
        (chunk,) = super().act(observations)
        if given_steps:
            ahead = np.linspace(0, 1.5, 16 - given_steps)
            goal, start = chunk.actions[-1, 0], given[0, given_steps - 1, 0]
            chunk.actions[given_steps:, 0] = start + np.clip(goal - start, -ahead, ahead)
            chunk.actions[:given_steps] = given[0, :given_steps]
        if observation.time_s >= self.turn_s:
            chunk.actions[given_steps:, 0] *= -1
        return [chunk]


def load_given_policy(checkpoint, device):
    """Stand in for `vla.model.checkpoint.load`, in processes too."""
    return GivenPolicy()
