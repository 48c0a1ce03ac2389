"""Single-precision layers by oneDNN on a processor, where torch asks another library.

torch hands float32 products to the library that it was built with, mostly Intel's MKL, which on processors of others
does not use their widest instructions: on an AMD EPYC with AVX-512 oneDNN, which comes with torch, takes less than half
of the time for the same float32. The operator is the one that torch's own compiler chooses; it has no gradients of its
own, so they are said here, as the products that they are.

B batch, H heads, L tokens, E width of a head, K features in, N features out.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import GELUTanh
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


QUERIES = 256  # whose weights are computed at once: few enough for a core's cache


def by_onednn(network: nn.Module) -> None:
    """Let linear layers, and the attention of vision encoders, multiply by oneDNN in float32 on a processor.

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
        elif _sees_only(module) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation("onednn")


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


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attend as `transformers` has it, float[B, H, L, E] each -> float[B, L, H, E]; torch does what is not plain.

    Plain is that all see all and nothing is learned: softmax(q k^T scaling) v, some queries at a time.
    """
    learned = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    seen_by_all = attention_mask is None and not getattr(module, "is_causal", True) and not settings.get("is_causal")
    alike = query.shape[1] == key.shape[1] and settings.get("scaling") is not None and not settings.get("dropout")
    if learned or not (seen_by_all and alike and _fits(query)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    batch, heads, length, width = query.shape
    found = query.new_empty(batch, length, heads, width)
    for row in range(batch):
        for head in range(heads):
            asked, keys = query[row, head] * settings["scaling"], key[row, head].contiguous()
            values = value[row, head].t().contiguous()
            for start in range(0, length, QUERIES):
                weights = product(asked[start : start + QUERIES], keys).softmax(-1)
                found[row, start : start + QUERIES, head] = product(weights, values)
    return found, None


AttentionInterface.register("onednn", attention)
AttentionMaskInterface.register("onednn", sdpa_mask)


def _sees_only(module: nn.Module) -> TypeGuard[PreTrainedModel]:
    return isinstance(module, PreTrainedModel) and module.input_modalities in ("image", ("image",))


def _fits(input: Tensor) -> bool:
    plain = input.device.type == "cpu" and input.dtype == torch.float32 and input.numel() > 0
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
