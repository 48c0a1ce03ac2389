"""A few real demonstrations, and a recipe small enough to train in seconds."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from vla.data.dataset import EpisodeDataset
from vla.train.train import train

SMALL = [
    "model.cameras={front: [40, 64], wrist: [64, 64]}",  # no map of one pixel, which has no batch statistics
    "model.vision.hidden_sizes=[8, 16, 16]",
    "model.vision.depths=[0, 0, 1]",
    "model.language.n_embd=32",
    "model.language.n_layer=2",
    "model.language.n_head=2",
    "model.language.n_inner=64",
    "batch_size=8",
    "shards=1",
]

OTHER_EYES = {  # without the sizes of SMALL
    "recipe=fusion/early_fusion",
    *(f"recipe=encoders/{name}" for name in ("fused", "siglip", "clip", "dinov2", "vit", "convnext")),
}


def given(dataset: EpisodeDataset) -> list[str]:
    """Name a dataset to train from, and where its frames are."""
    return [f"dataset={dataset.root}", f"frames={frames_of(dataset)}"]


def frames_of(dataset: EpisodeDataset) -> Path:
    """Return the folder of decoded frames that all tests share."""
    return dataset.root.parent / "frames"


def run(dataset: EpisodeDataset, out: Path, *overrides: str) -> dict[str, Any]:
    """Train in this process, which has loaded already all that a process of its own would load for many seconds."""
    small = [word for word in SMALL if not (OTHER_EYES & {*overrides} and word.startswith("model.vision."))]
    with initialize_config_module("configs", version_base="1.3"):
        config = compose("train", overrides=[f"out={out}", *given(dataset), *small, *overrides])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return train(plain, out)


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """Four episodes of the tabletop, two of them long-horizon; one process of pytest collects them for all."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = base / "demonstrations"
    mix = "mix={pick: 1, place: 0, stack: 0, push: 0, open: 0, close: 0, press: 0, long: 1}"
    command = [sys.executable, "-m", "vla.data.collect", "episodes=4", "noise=0", mix, "workers=1", f"out={out}"]
    with (base / "demonstrations.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "result.json").exists():
            subprocess.run(command, check=True, capture_output=True)
    return EpisodeDataset(out / "dataset")
