"""An arm that is where it was told to be, a policy that walks to a named height, and the loop around both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from drive import ARM, MIDDLE

from vla.control.clock import VirtualClock
from vla.control.executor import Executor
from vla.control.guard import Guard
from vla.control.inference import Timed
from vla.control.logbook import Logbook
from vla.control.loop import Loop
from vla.control.steering import Verbatim
from vla.control.strategy import RealTime
from vla.types import ActionChunk, Camera, Observation

HEIGHTS = {"up": 1.2, "middle": 0.0, "down": -1.2}
SEEING = replace(ARM, cameras={"front": Camera(32, 48)})
HZ = 50.0


class Record(NamedTuple):
    joints: np.ndarray
    time_s: float


class Frame(NamedTuple):
    image: np.ndarray
    time_s: float


class Arm:
    """Obeys at once; `trouble(name)` is called before "read", "send" and "see" and may raise, wait or answer "none"."""

    def __init__(self, clock: VirtualClock, trouble: Callable[[str], Any], body=SEEING):
        self.clock, self.trouble, self.body = clock, trouble, body
        self.joints = np.array(MIDDLE, np.float32)
        self.sent: list[tuple[float, np.ndarray]] = []
        self.cameras = {name: self for name in body.cameras}
        self.frame: Frame | None = None

    def embodiment(self):
        return self.body.to_dict()

    def read_joints(self):
        return None if self.trouble("read") else Record(self.joints, self.clock.now())

    def send_action(self, action):
        self.trouble("send")
        self.sent.append((self.clock.now(), action))
        self.joints = np.asarray(action, np.float32)

    def latest(self):
        now_s = self.clock.now()
        if not self.trouble("see") and (self.frame is None or now_s >= self.frame.time_s + 0.04 - 1e-9):
            brightness = int(127 + 100 * self.joints[0] / 1.5)
            image = np.full((32, 48, 3), brightness, np.uint8)
            image[16:] = 10  # there is always something to see
            self.frame = Frame(image, now_s)
        return self.frame

    def truth(self):
        return {"is_success": bool(self.joints[0] > 1.1)}

    def close(self):
        pass

    def heights(self) -> np.ndarray:
        return np.array([command[0] for _, command in self.sent])


class Walker:
    """Goes to the height that the instruction names, 0.1 rad a step; `trouble` may raise or return another chunk."""

    embodiment = SEEING

    def __init__(self, trouble: Callable[[Observation], ActionChunk | None] = lambda observation: None):
        self.trouble, self.seen = trouble, []

    def act(self, observations, given=None, given_steps=0):
        (observation,) = observations
        self.seen.append(observation)
        if (other := self.trouble(observation)) is not None:
            return [other]
        start = float(given[0, given_steps - 1, 0]) if given_steps else float(observation.state[0])
        goal = HEIGHTS[observation.instruction]
        ahead = 0.1 * np.arange(1, 17 - given_steps)
        actions = np.full((16, 2), 0.5, np.float32)
        actions[given_steps:, 0] = start + np.clip(goal - start, -ahead, ahead)
        if given_steps:
            actions[:given_steps] = given[0, :given_steps]
        return [ActionChunk(actions, 0.1, observation.time_s, progress=0.5, done=0.1)]


class Flight:
    """Loop, arm and everything between, in virtual time."""

    def __init__(self, folder: Path, latency_s=0.1, instruction="up", strategy=None, body=SEEING, **parts: Any):
        self.clock = VirtualClock(100.0)
        self.troubles: dict[str, Callable[[float], Any]] = {}
        self.arm = Arm(self.clock, self._trouble, body)
        self.policy = parts.get("policy") or Walker()
        self.guard = Guard(body, HZ, **parts.get("guard", {}))
        self.executor = Executor(strategy or RealTime(), body)
        self.inference = Timed(self.policy, self.clock, latency_s)
        self.logbook = Logbook(folder, body, instruction, HZ, patient=True)
        self.loop = Loop(
            robot=self.arm,
            guard=self.guard,
            executor=self.executor,
            inference=self.inference,
            steering=parts.get("steering") or Verbatim(),
            clock=self.clock,
            logbook=self.logbook,
            instruction=instruction,
            glimpses=parts.get("glimpses"),
        )

    def _trouble(self, name: str) -> Any:
        return self.troubles[name](self.clock.now() - 100.0) if name in self.troubles else None

    def run(self, seconds: float):
        try:
            return self.loop.run(seconds)
        finally:
            self.logbook.close({"success": self.arm.truth()["is_success"]})

    def states(self) -> list[tuple[float, str]]:
        """Return when the guard changed its state, since the beginning, and to which."""
        changes = [event for event in self.logbook.events if event["event"] == "state"]
        return [(round(event["time_s"] - 100.0, 3), event["state"]) for event in changes]

    def reasons(self) -> str:
        return "; ".join(str(event.get("reasons", "")) for event in self.logbook.events)
