"""Controls: runs in which the policy is denied or told something else, so that a success rate means something.

A policy that ignores the words succeeds as often with none; one that ignores the cameras, as often with blank ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Control:
    """What to change between the environment and the policy."""

    name: str
    instruct: Callable[[dict[str, Any]], str]  # reset info -> the words that the policy gets
    show: Callable[[dict[str, Any]], dict[str, Any]]  # observation -> the observation that the policy gets


def _own_words(info: dict[str, Any]) -> str:
    return info["instruction"]


def _no_words(info: dict[str, Any]) -> str:
    return ""


def _other_words(info: dict[str, Any]) -> str:
    return info["swapped"]["instruction"]


def _everything(observation: dict[str, Any]) -> dict[str, Any]:
    return observation


def _no_pixels(observation: dict[str, Any]) -> dict[str, Any]:
    """Replace every image by an equally large black one."""
    black = {camera: np.zeros_like(image) for camera, image in observation["pixels"].items()}
    return {**observation, "pixels": black}


PLAIN = Control("plain", _own_words, _everything)
BLANK_INSTRUCTION = Control("blank_instruction", _no_words, _everything)
SWAPPED = Control("swapped", _other_words, _everything)
BLANK_CAMERA = Control("blank_camera", _own_words, _no_pixels)
