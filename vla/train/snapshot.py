"""The state of a training run on disk, for exact resume: safetensors and JSON, swapped in as a whole.

One process writes one file. Processes that share the weights between them (FSDP) write a file each; either is read by
any number of processes (torch.distributed.checkpoint, with files in the format of safetensors instead of pickle).
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from vla.data.schema import flush
from vla.train.optimizer import Average, named

NAME = "training_state"
ELSE = "choose another out="


def save_snapshot(
    folder: Path, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write weights, their average, optimizer moments and `progress` (plain JSON) under `folder`.

    Of several processes all must call it; the first alone writes what they all hold.
    """
    partial, final, old = (folder / f"{NAME}{suffix}" for suffix in (".partial", "", ".old"))
    tensors = _weights(network, average)
    for number, parameter in enumerate(_parameters(optimizer)):
        tensors |= {f"optimizer.{number}.{name}": value for name, value in optimizer.state[parameter].items()}
    if _first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        torch.distributed.barrier()
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, storage_writer=writer)
    elif _first():
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(copies, partial / "state.safetensors")
    if not _first():
        return
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
    """Restore what `save_snapshot` wrote, by however many processes, and return its progress; None if there is nothing.

    Raises ValueError where it is the state of another network.
    """
    final, old = folder / NAME, folder / f"{NAME}.old"
    if _first() and not final.exists() and old.exists():  # killed between two renames
        os.replace(old, final)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if not final.exists():
        return None
    reader = HuggingFaceStorageReader(str(final))
    tensors, parameters = _weights(network, average), _parameters(optimizer)
    for name in reader.read_metadata().state_dict_metadata:
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, key = rest.partition(".")
            if int(number) >= len(parameters):
                raise ValueError(f"{final} holds the state of another network, which has more that is trained; {ELSE}")
            parameter = parameters[int(number)]
            # The fused optimizer walks through memory, so moments need the strides of their parameter.
            value = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
            optimizer.state[parameter][key] = tensors[name] = value.detach()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")  # unavailable, as in most runs
            load(tensors, storage_reader=reader)
    except CheckpointException as error:
        raise ValueError(f"{final} holds the state of another network; {ELSE}: {error}") from error
    return json.loads((final / "progress.json").read_text())


def _weights(network: nn.Module, average: Average) -> dict[str, Tensor]:
    """All that a network remembers and its average, as names of the file and the tensors themselves."""
    weights = {f"network.{name}": tensor.detach() for name, tensor in named(network).items()}
    return weights | {f"average.{name}": tensor for name, tensor in average.weights.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _first() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
