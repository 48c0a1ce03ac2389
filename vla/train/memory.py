"""Less memory for a step: its batch in pieces one after another, and activations that are computed twice."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedModel
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

    Chen et al. 2016, arXiv:1604.06174, as `transformers` does it, which keeps no keys and values; where a head looks at
    these, they are kept as well, and the layers of the head are computed again too. Raises ValueError where no layer
    can do so.
    """
    towers: list[Any] = [module for module in network.vision.modules() if isinstance(module, PreTrainedModel)]
    if network.head.looks_back:
        for layer in transformer_layers(network.language):
            layer.forward = partial(_twice_with_cache, layer)
        for layer in transformer_layers(network.head):
            layer.forward = partial(_twice, layer)
    else:
        towers.append(network.language)
    models = [model for model in towers if model.supports_gradient_checkpointing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its new name, which transformers 5.17 has not
        for model in models:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if not any(
        getattr(layer, "gradient_checkpointing", False) or "forward" in vars(layer)
        for layer in transformer_layers(network)
    ):
        raise ValueError("checkpointing=true: neither the language model nor the vision encoder can do so")


def _twice(layer: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Run a layer now and once more on the way back; a cache is read alone."""
    forward = partial(type(layer).forward, layer)  # no bound method: a copy of the network runs its own layers
    if not (layer.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def _twice_with_cache(layer: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Likewise, for a layer that writes the first keys and values of a cache.

    A second run would write them again; so each run has a cache of its own, and what it holds is an output of the layer
    like its hidden states.
    """
    cache = next((value for value in (*arguments, *named.values()) if isinstance(value, Cache)), None)
    if cache is None or not (layer.training and torch.is_grad_enabled()):
        return _twice(layer, *arguments, **named)
    forward = partial(type(layer).forward, layer)

    def run(*arguments: Any, **named: Any) -> tuple[Any, ...]:
        own = DynamicCache()
        shown = [own if value is cache else value for value in arguments]
        hidden = forward(*shown, **{name: own if value is cache else value for name, value in named.items()})
        number = len(own.layers) - 1
        return hidden, number, own.layers[number].keys, own.layers[number].values

    hidden, number, keys, values = checkpoint(run, *arguments, use_reentrant=False, **named)
    assert not cache.get_seq_length(number), "keys and values that are there already would not be looked at"
    cache.update(keys, values, number)
    return hidden


def transformer_layers(network: nn.Module) -> list[nn.Module]:
    """All layers that `transformers` builds its models of, whichever these are."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
