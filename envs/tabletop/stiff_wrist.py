"""A second body in the same world: an SO-101 whose wrist does not roll, so five numbers say what six say elsewhere.

It can do all that needs no turned jaws: everything but opening the drawer.
"""

from typing import Any

import gymnasium
import numpy as np

from envs.tabletop import arm, expert
from envs.tabletop.env import TabletopEnv
from envs.tabletop.goals import Goal
from envs.tabletop.world import World

ROLL = arm.JOINTS.index("wrist_roll")
JOINTS = tuple(joint for joint in arm.JOINTS if joint != "wrist_roll")


class StiffWristEnv(TabletopEnv):
    """`TabletopEnv` with float32[5] for joints and actions: those of `JOINTS`; the jaws always open sideways."""

    def __init__(self, **arguments: Any) -> None:
        """Arguments are those of `TabletopEnv`; raises ValueError where a task would need the wrist to roll."""
        if "open" in arguments.get("kinds", ()):
            raise ValueError("kinds: a wrist that does not roll cannot open the drawer, leave 'open' out")
        super().__init__(**arguments)
        assert isinstance(self.observation_space, gymnasium.spaces.Dict)
        self.observation_space["agent_pos"] = _without_roll(self.observation_space["agent_pos"])
        self.action_space = _without_roll(self.action_space)

    def step(self, action: np.ndarray):
        """Move to joint targets float32[5] over one control period; targets outside the joint limits are clipped."""
        action = np.asarray(action, np.float64)
        if action.shape != (len(JOINTS),):
            raise ValueError(f"an action is {len(JOINTS)} finite joint targets {JOINTS}, got {action!r}")
        return super().step(with_roll(action))

    def joints(self) -> np.ndarray:
        """Return the measured joints float32[5] [rad], gripper 0..1."""
        return np.delete(super().joints(), ROLL)

    def embodiment(self) -> dict[str, Any]:
        """Return the contract of this body; see `TabletopEnv.embodiment`."""
        body = super().embodiment()
        shorter = {key: [*value[:ROLL], *value[ROLL + 1 :]] for key, value in body.items() if isinstance(value, list)}
        return {**body, **shorter, "name": f"{body['name']}_stiff_wrist"}


class Expert(expert.Expert):
    """The scripted demonstrator for this body: what it would do otherwise, without the roll."""

    def act(self, observation: tuple[World, Goal]) -> np.ndarray:
        """Return the joint targets float32[5]; raises ValueError where the drawer is to be opened."""
        if observation[1].kind == "open":
            raise ValueError("a wrist that does not roll cannot open the drawer: leave it out, such as with mix.open=0")
        return np.delete(super().act(observation), ROLL)

    def perturb(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the action float32[5] to execute instead, and whether it differs."""
        executed = np.delete(super().perturb(with_roll(action))[0], ROLL).astype(np.float32)
        return executed, bool(np.abs(executed - action).max() > 1e-6)


def with_roll(action: np.ndarray) -> np.ndarray:
    """Put the roll at which the jaws open sideways back into joint targets float[5] -> float[6]."""
    return np.insert(action, ROLL, arm.ROLL_SIDEWAYS)


def _without_roll(space: gymnasium.Space) -> gymnasium.spaces.Box:
    assert isinstance(space, gymnasium.spaces.Box)
    return gymnasium.spaces.Box(np.delete(space.low, ROLL), np.delete(space.high, ROLL), dtype=np.float32)
