"""Less memory for a step: its batch in pieces one after another, and activations that are computed twice."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vla.model.network import Network
from vla.train.batch import Batch

Loss = Callable[[Network, Batch, int, int], dict[str, Tensor]]


def backward(
    network: Network,
    loss: Loss,
    share: Batch,
    step: int,
    number: int,
    pieces: int,
    weight: float,
    unfinished: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, float]:
    """Run share `number` of a batch in so many pieces; add the gradient of their mean loss `total` times weight.

    unfinished: what all pieces but the last run in. Each piece starts from the same batch statistics, which end as the
    mean of what the pieces leave. Returns the mean losses; raises ValueError where a piece would be empty.
    """
    if len(share.state) < pieces:
        raise ValueError(
            f"{len(share.state)} samples cannot be split into {pieces} pieces: lower accumulate= or raise batch_size="
        )
    start = [buffer.clone() for buffer in statistics(network)] if pieces > 1 else []
    left: list[list[Tensor]] = []
    results = []
    for piece, part in enumerate(share.split(pieces)):
        for buffer, before in zip(statistics(network), start, strict=False):
            buffer.copy_(before)
        with unfinished() if piece + 1 < pieces else nullcontext():
            losses = loss(network, part, step, number * pieces + piece)
            (losses["total"] * weight / pieces).backward()
        results.append({name: float(value.detach()) for name, value in losses.items()})
        left.append([buffer.clone() for buffer in statistics(network)] if pieces > 1 else [])
    for buffer, *each in zip(statistics(network), *left, strict=False):
        buffer.copy_(torch.stack(each).mean(0))
    return {name: sum(result[name] for result in results) / pieces for name in results[0]}


def statistics(network: nn.Module) -> list[Tensor]:
    """What normalisation over batches remembers."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def recompute_activations(network: Network) -> None:
    """Keep of every transformer layer its input alone, and compute the rest again on the way back.

    Chen et al. 2016, arXiv:1604.06174, as `transformers` does it. Raises ValueError where a head reads the keys and
    values of the layers, which are then not kept, or where no layer can do so.
    """
    if network.head.looks_back:
        raise ValueError(
            f"checkpointing=true: the head {type(network.head).__name__.lower()} reads keys and values of every layer, "
            "which have to be kept for it; choose another head or checkpointing=false"
        )
    towers = [module for module in network.vision.modules() if isinstance(module, PreTrainedModel)]
    models = [model for model in (network.language, *towers) if model.supports_gradient_checkpointing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its new name, which transformers 5.17 has not
        for model in models:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if not any(getattr(layer, "gradient_checkpointing", False) for layer in transformer_layers(network)):
        raise ValueError("checkpointing=true: neither the language model nor the vision encoder can do so")


def transformer_layers(network: nn.Module) -> list[nn.Module]:
    """All layers that `transformers` builds its models of, whichever these are."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
