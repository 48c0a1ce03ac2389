"""Single-precision layers by oneDNN on a processor, where torch asks another library.

torch hands float32 products to the library that it was built with, mostly Intel's MKL, which on processors of others
does not use their widest instructions: on an AMD EPYC with AVX-512 oneDNN, which comes with torch, takes less than half
of the time for the same float32. The operator is the one that torch's own compiler chooses; it has no gradients of its
own, so they are said here, as the products that they are.

K features in, N features out.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def by_onednn(network: nn.Module) -> None:
    """Let linear layers, those of vision encoders with the GELU behind them, go by oneDNN in float32 on a processor.

    Names, weights and gradients stay what they are; numbers change by the order of summation. Elsewhere (another
    device, half precision, autocast, a compiler at work) the layers do as before.
    """
    if not AVAILABLE:
        return
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
        elif isinstance(getattr(module, "activation_fn", None), GELUTanh) and type(module.fc1) is nn.Linear:
            module.fc1.__class__, module.activation_fn = OneDnnGelu, nn.Identity()


class OneDnnLinear(nn.Linear):
    """A linear layer that multiplies by oneDNN where it can; built by `by_onednn`."""

    def forward(self, input: Tensor) -> Tensor:
        """Features float[..., K] -> float[..., N]."""
        if not _fits(input) or self.weight.dtype != torch.float32:
            return super().forward(input)
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            return _Product.apply(input, weight, bias)  # pyright: ignore[reportReturnType]
        return product(input, weight, bias)


class OneDnnGelu(OneDnnLinear):
    """The same and the tanh form of GELU behind it, in one pass over the numbers where nothing is learned."""

    def forward(self, input: Tensor) -> Tensor:
        """Features float[..., K] -> float[..., N]."""
        learned = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if learned or not _fits(input) or self.weight.dtype != torch.float32:
            return functional.gelu(super().forward(input), approximate="tanh")
        return product(input, self.weight, self.bias, "gelu")


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """Return float32[..., N], input float32[..., K] times the transpose of weight float32[N, K]; no gradients.

    then: what is done to each number at last, "none" or the tanh form of "gelu".
    """
    if not weight.t().is_contiguous():
        weight = weight.contiguous()
    # Of anything but dense rows oneDNN multiplies by its reference code, a thousand times slower.
    return torch.ops.mkldnn._linear_pointwise(input.contiguous(), weight, bias, then, [], "tanh")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(input if weight.requires_grad else None, weight)
        context.biased = bias is not None and bias.requires_grad
        return product(input, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = context.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        to_input = product(gradient, weight.t()) if context.needs_input_grad[0] else None
        to_weight = None
        if context.needs_input_grad[1]:
            to_weight = product(flat.t(), input.reshape(-1, input.shape[-1]).contiguous().t())
        return to_input, to_weight, flat.sum(0) if context.biased else None


def _fits(input: Tensor) -> bool:
    plain = input.device.type == "cpu" and input.dtype == torch.float32 and input.numel() > 0
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
