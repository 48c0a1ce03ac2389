"""What a client may ask, and how the several spellings of openpi's and LeRobot's clients name the same things.

images       {"images": {CAMERA: image}}, or flat: "observation/CAMERA", "observation/CAMERA_image",
             "observation.images.CAMERA"; "observation/image" is the one camera that no other key names
state        "state", "observation/state", "observation.state", or DROID's "observation/joint_position" and
             "observation/gripper_position"
prompt       what the operator asks, or in mode "generate" the question
time_s       of exposure, on any clock; echoed
id           a whole number; echoed
mode         "act" (as without it), "generate", "unknown_words"
max_tokens   of a generated answer
given        float32[N, A] joint targets, at most a chunk, of which the first `given_steps` are already decided
             (real-time chunking)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from vla.types import ActionChunk, Camera, Embodiment, Observation

MODES = ("act", "generate", "unknown_words")
MAX_TOKENS = 256
STATES = STATE, ARM, GRIPPER = "state", "joint_position", "gripper_position"
PLAIN = ("images", STATE, "prompt", "time_s", "id", "mode", "max_tokens", "given", "given_steps")
PREFIXES = ("observation/images/", "observation.images.", "observation/", "observation.")

T = TypeVar("T")


class BadRequest(ValueError):
    """The message is not a request that this policy can answer; the text says why and what is possible."""


@dataclass(frozen=True)
class Request:
    """One question to the policy."""

    mode: str
    prompt: str
    id: int | None
    observation: Observation | None  # None in mode "unknown_words"
    max_tokens: int = 24
    given: np.ndarray | None = None  # float32[N, A] absolute joint targets, at most a chunk of them
    given_steps: int = 0


def read_request(message: Mapping[str, Any], body: Embodiment, action_horizon: int, now_s: float) -> Request:
    """Read a message for a policy of this body; `now_s` stands in where the client gave no `time_s`.

    Raises BadRequest for a key that is unknown or missing, a camera named twice, a wrong type, shape or size.
    """
    _check_keys(message)
    mode = _mode(message)
    prompt = message.get("prompt")
    if not isinstance(prompt, str):
        raise BadRequest(f"prompt must be text, got {_brief(prompt)}")
    number = request_id(message)
    if mode == "unknown_words":
        return Request(mode, prompt, number, None)
    observation = Observation(
        images=_images(message, body.cameras),
        state=_state(message, body.joints),
        instruction=prompt,
        time_s=_value(message, "time_s", float(now_s), math.isfinite, "a finite number of seconds"),
    )
    max_tokens = _value(message, "max_tokens", 24, lambda count: 1 <= count <= MAX_TOKENS, f"1 to {MAX_TOKENS}")
    given = _given(message, action_horizon, len(body.joints))
    most = 0 if given is None else len(given)
    steps = _value(message, "given_steps", 0, lambda count: 0 <= count <= most, f"0 to the {most} steps of `given`")
    return Request(mode, prompt, number, observation, max_tokens, given, steps)


def request_id(message: Mapping[str, Any]) -> int | None:
    """Return the id that the client gave, None if it gave none."""
    number = message.get("id")
    if number is not None and type(number) is not int:
        raise BadRequest(f"id must be a whole number, got {_brief(number)}")
    return number


def describe(chunk: ActionChunk) -> dict[str, Any]:
    """Return a chunk as a message: `actions` float32[T, A], `dt_s`, `time_s`, and what else the heads say."""
    optional = {"confidence": chunk.confidence, "progress": chunk.progress, "done": chunk.done}
    return {
        "actions": np.ascontiguousarray(chunk.actions, np.float32),
        "dt_s": float(chunk.dt_s),
        "time_s": float(chunk.time_s),
        **{key: float(value) for key, value in optional.items() if value is not None},
    }


def _check_keys(message: Mapping[str, Any]) -> None:
    unknown = [key for key in message if key not in PLAIN and _bare(key) is None]
    if unknown:
        raise BadRequest(f"unknown keys {_listed(unknown)}; possible: {', '.join(PLAIN)}, observation/...")


def _bare(key: str) -> str | None:
    """Return the name in a flat key such as "observation/wrist_image", None for a key that is not flat."""
    return next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), None)


def _images(message: Mapping[str, Any], cameras: Mapping[str, Camera]) -> dict[str, np.ndarray]:
    """Return the image of every camera, uint8[H, W, 3], each named once."""
    nested = message.get("images", {})
    if not isinstance(nested, dict):
        raise BadRequest(f"images must be a map of camera names to images, got {_brief(nested)}")
    given = [(f"images.{name}", name, image) for name, image in nested.items()]
    flat = {key: name for key in message if (name := _bare(key)) is not None and name not in STATES}
    given += [(key, _camera(name, cameras), message[key]) for key, name in flat.items()]
    found: dict[str | None, tuple[str, Any]] = {}  # camera, None where a key says only "image" -> (key, image)
    for key, camera, image in given:
        if camera is not None and camera not in cameras:
            raise BadRequest(f"{key[:80]!r} names no camera of this policy; possible: {_listed(cameras)}")
        if camera in found:
            raise BadRequest(f"{found[camera][0]!r} and {key!r} are images of the same camera; send one of them")
        found[camera] = key, image
    missing = [camera for camera in cameras if camera not in found]
    if None in found:
        if len(missing) != 1:
            raise BadRequest(f"{found[None][0]!r} could be any of {_listed(missing or cameras)}; name the camera")
        found[missing.pop()] = found.pop(None)
    if missing:
        raise BadRequest(f"no image of camera {_listed(missing)}; send images: {{name: uint8[H, W, 3]}}")
    return {camera: _image(*found[camera], shape) for camera, shape in cameras.items()}


def _camera(name: str, cameras: Mapping[str, Camera]) -> str | None:
    """Return the camera that a flat key's name means, None where it says only "image"."""
    shorter = name.removesuffix("_image")
    if name == "image" and name not in cameras:
        return None
    return shorter if name not in cameras and shorter in cameras else name


def _mode(message: Mapping[str, Any]) -> str:
    mode = message.get("mode", "act")
    if not isinstance(mode, str) or mode not in MODES:
        raise BadRequest(f"mode {str(mode)[:80]!r} is unknown; possible: {', '.join(MODES)}")
    return mode


def _image(key: str, image: object, camera: Camera) -> np.ndarray:
    """Return uint8[H, W, 3] of the camera's shape, in any size; ALOHA's clients send [3, H, W]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise BadRequest(f"{key!r} must be an image uint8[H, W, 3], got {_brief(image)}")
    if image.shape[0] == 3 and image.shape[2] != 3:
        image = image.transpose(1, 2, 0)
    height, width, channels = image.shape
    if channels != 3 or min(height, width) < 1 or height * camera.width != width * camera.height:
        wanted = f"{camera.height}x{camera.width} or as wide and high in another size"
        raise BadRequest(f"{key!r} must be uint8[H, W, 3], {wanted}, got {height}x{width}x{channels}")
    return image


def _state(message: Mapping[str, Any], joints: tuple[str, ...]) -> np.ndarray:
    """Return the measured joints float32[A], finite, given once, whole or as arm and gripper."""
    wholes = [key for key in message if STATE in (key, _bare(key))]
    arms, grippers = ([key for key in message if _bare(key) == part] for part in (ARM, GRIPPER))
    if len(wholes) + max(len(arms), len(grippers)) > 1:
        raise BadRequest(f"{_listed([*wholes, *arms, *grippers])} all give the state; send one of them")
    if len(arms) != len(grippers):
        raise BadRequest(f"{_listed([*arms, *grippers])} is half of a state; send {ARM} and {GRIPPER}, or state")
    keys = wholes or [*arms, *grippers]
    if not keys:
        raise BadRequest(f"no state; send state: {len(joints)} numbers, {_listed(joints)}")
    state = np.concatenate([_numbers(key, message[key]) for key in keys])
    if state.shape != (len(joints),) or not np.isfinite(state).all():
        raise BadRequest(f"{_listed(keys)} must be {len(joints)} finite numbers {_listed(joints)}, got {_brief(state)}")
    return state


def _numbers(key: str, value: object) -> np.ndarray:
    """Return float32[N] of an array or a list; numbers too large for it become infinite."""
    plain = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    if not plain and not (isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 1):
        raise BadRequest(f"{key[:80]!r} must be a list or a one-dimensional array of numbers, got {_brief(value)}")
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float64).astype(np.float32)


def _given(message: Mapping[str, Any], action_horizon: int, joints: int) -> np.ndarray | None:
    given = message.get("given")
    if given is None:
        return None
    if not isinstance(given, np.ndarray) or given.dtype.kind != "f" or given.ndim != 2:
        raise BadRequest(f"given must be float32[N, {joints}], got {_brief(given)}")
    if not 1 <= len(given) <= action_horizon or given.shape[1] != joints or not np.isfinite(given).all():
        raise BadRequest(f"given must be 1 to {action_horizon} steps of {joints} finite numbers, got {_brief(given)}")
    return given.astype(np.float32)


def _value(message: Mapping[str, Any], key: str, default: T, fits: Callable[[T], bool], words: str) -> T:
    """Return a number of the message, of the default's type, in range."""
    value = message.get(key, default)
    wanted = type(default)
    if isinstance(value, np.generic):
        value = value.item()
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or not fits(value):
        raise BadRequest(f"{key} must be {words}, got {_brief(value)}")
    return value


def _brief(value: object) -> str:
    """Say what a stranger sent without repeating all of it."""
    if isinstance(value, np.ndarray) and value.size > 20:
        return f"{value.dtype} of shape {list(value.shape)}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(value.tolist() if isinstance(value, np.ndarray) else value)[:200]


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)[:80]) for name in list(names)[:20])
