"""AdamW with decay on matrices only, warm-up and cosine, and an exponential average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def build_optimizer(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    share: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """Decay matrices and convolutions; leave biases, norms and embeddings of positions alone.

    share: of the learning rate, for a parameter by its name; every group keeps its own as `share`.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    groups = []
    for part in sorted({share(name) for name, _ in named}, reverse=True):
        mine = [parameter for name, parameter in named if share(name) == part]
        for decay, chosen in ((weight_decay, [p for p in mine if p.ndim >= 2]), (0.0, [p for p in mine if p.ndim < 2])):
            groups.append({"params": chosen, "weight_decay": decay, "share": part})
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate_at(step: int, steps: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Rise linearly over `warmup` steps, then fall as a half cosine to `floor` times the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


class Average:
    """Exponential moving average of every weight; buffers such as batch statistics are copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in named(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the weights; early on faster, so that the random start is forgotten."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        parameters = dict(network.named_parameters())
        torch._foreach_lerp_([self.weights[name] for name in parameters], list(parameters.values()), rate)  # pyright: ignore
        for name, buffer in network.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(buffer)


def named(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers that are saved, each once, also where two layers share one."""
    saved = network.state_dict().keys()
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in saved}
