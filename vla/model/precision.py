"""Weights in fewer bits: what a checkpoint may be exported to, and how it is read again.

| precision    | linear layers are stored in | and multiply in                       | all other weights |
|--------------|-----------------------------|---------------------------------------|-------------------|
| bfloat16     | bfloat16                    | float32                               | bfloat16          |
| int8_weights | int8, one scale a channel   | float32                               | bfloat16          |
| int8         | int8, one scale a channel   | int8, inputs by the range of a sample | bfloat16          |

A channel is a row of weights, which makes one output; its largest weight becomes 127. Source of both kinds of int8:
Jacob et al. 2018, arXiv:1712.05877, section 2, with symmetric weights.

O outputs, I inputs.
"""

import warnings

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from vla.model.network import Network

PRECISIONS = ("bfloat16", "int8_weights", "int8")
LEVELS, SCALE = "levels", "scale"  # what a weight becomes


class Int8Linear(nn.Module):
    """A linear layer that multiplies in int8; inputs are rounded to 7 bits, which no processor adds up wrongly.

    Each entry of a batch is rounded by its own range, so that an answer does not depend on what is asked beside it.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None
        self.register_load_state_dict_post_hook(_pack)
        _pack(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """float[B, ..., I] -> float[B, ..., O]."""
        entries = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        found = [torch.ops.quantized.linear_dynamic(entry, self.packed, True) for entry in entries]
        return torch.stack(found).view(*inputs.shape[:-1], -1)


def _pack(layer: Int8Linear, *_: object) -> None:
    """Lay the weights out as the processor's multiplication wants them."""
    with warnings.catch_warnings():  # torch will replace these tensors some day; files hold none of them
        warnings.simplefilter("ignore", UserWarning)
        zeros = torch.zeros(len(layer.scale), dtype=torch.long)
        make = torch._make_per_channel_quantized_tensor  # pyright: ignore[reportPrivateImportUsage]
        weight = make(layer.levels.detach(), layer.scale.double(), zeros, 0)
        layer.packed = torch.ops.quantized.linear_prepack(weight, layer.bias)


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round float[O, I] to levels int8[O, I] and scales float32[O]; levels times scales is at most half a step off."""
    scale = weight.float().abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def refuse_unknown(precision: str) -> None:
    """Raise ValueError for a precision that is none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known, possible: {', '.join(PRECISIONS)}")


def stored(network: Network, precision: str) -> dict[str, Tensor]:
    """Weights of a network as a checkpoint of that precision holds them; an unknown one is refused (ValueError)."""
    refuse_unknown(precision)
    once = dict(network.named_parameters()) | dict(network.named_buffers())  # what is tied has one name here
    weights = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
        if name in once
    }
    for name, layer in linear_layers(network).items() if precision != "bfloat16" else ():
        del weights[f"{name}.weight"]
        rows = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        weights[f"{name}.{LEVELS}"], weights[f"{name}.{SCALE}"] = to_int8(rows.detach())
    return weights


def restored(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Invert `stored` for int8_weights, up to rounding: weights for the network as it was built."""
    restored = dict(weights)
    for name, layer in linear_layers(network).items():
        if f"{name}.{LEVELS}" in weights:
            rows = restored.pop(f"{name}.{LEVELS}").float() * restored.pop(f"{name}.{SCALE}")[:, None]
            restored[f"{name}.weight"] = rows.T if isinstance(layer, Conv1D) else rows
    return restored


def multiply_in_int8(network: Network) -> None:
    """Put an `Int8Linear` without weights in the place of every linear layer."""
    for name, layer in linear_layers(network).items():
        inputs, outputs = layer.weight.shape if isinstance(layer, Conv1D) else reversed(layer.weight.shape)
        network.set_submodule(name, Int8Linear(inputs, outputs, layer.bias is not None))


def linear_layers(network: Network) -> dict[str, nn.Linear | Conv1D]:
    """Linear layers by name, but for the table of words and for what reads its weights in its own way."""
    table = network.language.get_output_embeddings()
    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) in (nn.Linear, Conv1D) and layer is not table
    }  # pyright: ignore[reportReturnType]
