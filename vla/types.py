"""What crosses the borders of the stack: shapes, units and frames of everything that one room hands to the next.

SI units, radians, seconds on the monotonic clock, RGB uint8 [H, W, 3]. Gripper 0 closed .. 1 open.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

READY = "return to the ready pose"  # an instruction that policies with a `ready` pose carry out without their network


class ContractError(ValueError):
    """A policy and the body that it is asked to move do not match; nothing has moved."""


@dataclass(frozen=True)
class Camera:
    """One camera as the policy expects it."""

    height: int  # [px]
    width: int  # [px]
    rotation_deg: int = 0  # image is turned by this much against the upright view: 0, 90, 180 or 270


@dataclass(frozen=True)
class Embodiment:
    """The body that a policy was trained for; a checkpoint refuses to move another one.

    All joint vectors follow the order of `joints`, the gripper last.
    """

    name: str
    joints: tuple[str, ...]  # A names, the gripper last
    position_min: tuple[float, ...]  # [rad]; gripper 0
    position_max: tuple[float, ...]  # [rad]; gripper 1
    velocity_max: tuple[float, ...]  # [rad/s]; gripper [1/s]
    acceleration_max: tuple[float, ...]  # [rad/s^2]
    jerk_max: tuple[float, ...]  # [rad/s^3]
    control_hz: float
    cameras: dict[str, Camera]  # by name; the order says nothing
    action_space: str = "absolute_joint"  # absolute joint targets [rad], gripper 0..1

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Embodiment":
        """Rebuild from `to_dict`, for example from JSON or from a config."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in dict(data).items()
        }
        fields["cameras"] = {name: Camera(**dict(camera)) for name, camera in dict(data["cameras"]).items()}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `from_dict` inverts it."""
        return json.loads(json.dumps(asdict(self)))

    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any field."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Embodiment") -> list[str]:
        """One line for each field in which `other` differs from this one, empty if they agree."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{key}: {mine[key]!r} here, {theirs[key]!r} there" for key in mine if mine[key] != theirs[key]]

    def refuse_other(self, body: "Embodiment") -> None:
        """Raise ContractError if a policy that was trained for this body cannot move the other, naming each difference.

        Camera sizes may differ, since the processor resizes; names, shape and rotation may not.
        """
        differences = self.differences(body)
        if self.cameras.keys() == body.cameras.keys():
            same = all(
                mine.rotation_deg == body.cameras[name].rotation_deg
                and mine.width * body.cameras[name].height == mine.height * body.cameras[name].width
                for name, mine in self.cameras.items()
            )
            differences = [line for line in differences if not (same and line.startswith("cameras"))]
        if differences:
            listed = "\n  ".join(differences)
            raise ContractError(
                f"this checkpoint was trained for another body, it does not move this one:\n  {listed}\n"
                "Use a checkpoint that was trained for it, or retrain."
            )


@dataclass(frozen=True)
class Observation:
    """What the policy may see: cameras, proprioception and words. Never the simulator's truth."""

    images: dict[str, np.ndarray]  # camera name -> uint8[H, W, 3] RGB
    state: np.ndarray  # float32[S], measured joint positions [rad], gripper 0..1
    instruction: str
    time_s: float  # exposure time, monotonic clock [s]
    earlier: tuple[Mapping[str, np.ndarray], ...] = ()  # images of before, newest first, for policies that read them

    @classmethod
    def from_gym(cls, observation: dict[str, Any], instruction: str, time_s: float) -> "Observation":
        """Take a LeRobot-style gymnasium observation: {"pixels": {camera: image}, "agent_pos": state}."""
        return cls(dict(observation["pixels"]), observation["agent_pos"], instruction, time_s)


@dataclass(frozen=True)
class ActionChunk:
    """A short plan of joint targets that answers one observation."""

    actions: np.ndarray  # float32[T, A], absolute joint targets [rad], gripper 0..1
    dt_s: float  # control period that the chunk was predicted for [s]
    time_s: float  # exposure time of the frame that it answers, monotonic clock [s]
    confidence: float | None = None  # 0..1, where the head has one
    progress: float | None = None  # 0..1, how far along the subtask is
    done: float | None = None  # probability 0..1 that the subtask is complete in the observed frame
    extra: dict[str, Any] = field(default_factory=dict)


class Policy(Protocol):
    """Anything that turns observations into action chunks. Stateless between calls."""

    @property
    def embodiment(self) -> Embodiment:
        """The body that the policy was trained on."""
        ...

    def act(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer a batch of observations, each with one chunk."""
        ...

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Answer one text prompt about each observation; the instruction of the observation is not read."""
        ...
