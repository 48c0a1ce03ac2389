"""The parts of a network that a recipe may choose: connector, tiling, fusion, head, and others, or a whole model."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla.model.actions import ActionCodec
from vla.model.checkpoint import configuration
from vla.model.heads import fit_head
from vla.train.batches import Labels

CHOICES = ("connector", "tiling", "fusion", "head", "dual", "keep", "whole", "history", "shots")
FITTED_ON = 20_000  # chunks at most, evenly spread over the dataset


def designs(
    model: dict[str, Any], labels: Labels, codec: ActionCodec, *others: tuple[Labels, ActionCodec]
) -> dict[str, Any]:
    """Arguments of `Network` that `model` of a recipe chooses, with what the head takes from the data, and from others.

    What a recipe leaves out is left out: mlp, no tiling, prefix, parallel, none, all visual tokens, a model of parts,
    the present frame alone.
    """
    chosen = {name: model[name] for name in CHOICES if model.get(name)}
    if "head" in chosen:
        values = torch.cat([_chunks(*data) for data in ((labels, codec), *others)])
        chosen["head"] = fit_head(values, **chosen["head"])
    return chosen


def inherited(model: dict[str, Any], init: str) -> dict[str, Any]:
    """Return `model` of a recipe with the designs of a checkpoint, which a stage goes on with as they are.

    Raises ValueError where the recipe asks for another one.
    """
    network = configuration(init)
    own = {name: network[name] for name in CHOICES if network.get(name)}
    for name in CHOICES:
        asked, there = model.get(name), own.get(name)
        same = asked.items() <= there.items() if isinstance(asked, dict) and isinstance(there, dict) else asked == there
        if asked and not same:
            raise ValueError(f"model.{name}={asked}: init={init} has {there or 'the usual one'}; leave it out")
    return model | own


def _chunks(labels: Labels, codec: ActionCodec) -> Tensor:
    """Normalised chunks float[N, T, A] from all over a dataset."""
    count = len(labels.state)
    index = np.arange(count)[:: -(-count // FITTED_ON)]
    windows = torch.from_numpy(labels.window(index, codec.action_horizon))
    return codec.encode(windows, torch.from_numpy(labels.state[index]))
