"""Which pairs, words, counts and looks are trained on and which are held out; the facts are in splits.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SPLITS = ("train", "heldout_objects", "heldout_paraphrases", "heldout_counts", "heldout_looks")


@dataclass(frozen=True)
class Looks:
    """Ranges (low, high) of domain randomization, drawn uniformly."""

    camera_shift_m: tuple[float, float]  # length of a random shift of each camera
    camera_tilt_deg: tuple[float, float]  # angle of a random turn of each camera
    light_gain: tuple[float, float]  # factor on the light's brightness
    light_angle_deg: tuple[float, float]  # tilt of the light away from the vertical
    shade: tuple[float, float]  # factor on each object's colour
    table_gain: tuple[float, float]  # factor on the table's colour
    textures: tuple[str, ...]  # names, one is drawn


def _read() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("splits.yaml").read_text())


_FACTS = _read()
HELDOUT_PAIRS: tuple[str, ...] = tuple(_FACTS["pairs"])
HELDOUT_PARAPHRASES: dict[str, tuple[str, ...]] = {key: tuple(texts) for key, texts in _FACTS["paraphrases"].items()}


def check_split(split: str) -> str:
    """Return the split's name, or refuse it."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; possible: {', '.join(SPLITS)}")
    return split


def object_count(split: str) -> tuple[int, int]:
    """Return the smallest and largest number of loose objects in a scene of this split."""
    low, high = _FACTS["counts"]["heldout" if check_split(split) == "heldout_counts" else "train"]
    return low, high


def looks(split: str) -> Looks:
    """Return the ranges from which this split draws cameras, lights, shades and textures."""
    facts = _FACTS["looks"]["heldout" if check_split(split) == "heldout_looks" else "train"]
    return Looks(**{key: tuple(values) for key, values in facts.items()})
