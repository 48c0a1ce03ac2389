"""The state of a training run on disk, for exact resume: safetensors and JSON, swapped in as a whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vla.data.schema import flush
from vla.train.optimizer import Average

NAME = "training_state"


def save_snapshot(
    folder: Path, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write weights, their average, optimizer moments and `progress` (plain JSON) under `folder`."""
    partial, final, old = (folder / f"{NAME}{suffix}" for suffix in (".partial", "", ".old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.weights.items()}
    for number, parameter in enumerate(parameters):
        tensors |= {f"optimizer.{number}.{name}": value for name, value in optimizer.state[parameter].items()}
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        partial / "state.safetensors",
    )
    (partial / "progress.json").write_text(json.dumps(progress))
    for path in (*partial.iterdir(), partial):
        flush(path)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    flush(folder)
    shutil.rmtree(old, ignore_errors=True)


def has_snapshot(folder: Path) -> bool:
    """Say whether a run under `folder` has come as far as its first saved state."""
    return (folder / NAME).exists() or (folder / f"{NAME}.old").exists()


def load_snapshot(
    folder: Path, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_snapshot` wrote and return its progress, or None if there is nothing yet."""
    final, old = folder / NAME, folder / f"{NAME}.old"
    if not final.exists() and old.exists():  # killed between two renames
        os.replace(old, final)
    if not final.exists():
        return None
    tensors = load_file(final / "state.safetensors")
    part = {kind: {} for kind in ("network", "average", "optimizer")}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        part[kind][rest] = tensor
    network.load_state_dict(part["network"])
    for name, tensor in average.weights.items():
        tensor.copy_(part["average"][name])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in part["optimizer"].items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        # The fused optimizer walks through memory, so moments need the strides of their parameter.
        optimizer.state[parameter][key] = tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
    return json.loads((final / "progress.json").read_text())
