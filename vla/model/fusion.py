"""Fusion: where the language model meets the visual tokens.

| name            | visual tokens                                            | source                     |
|-----------------|----------------------------------------------------------|----------------------------|
| prefix          | stand before the words                                   | LLaVA, the default         |
| early_fusion    | the same, but of raw patches: there is no vision encoder | Fuyu-8B                    |
| cross_attention | are looked at from between the layers, which are frozen  | Flamingo, arXiv:2204.14198 |

Whatever the fusion, visual tokens never depend on words.

B batch, N tokens of the sequence, P visual tokens, D width.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class GatedCrossAttention(nn.Module):
    """A look at the visual tokens whose weight starts at zero, so that the language model starts as it was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.visual_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, visual: Tensor) -> Tensor:
        """Hidden float[B, N, D] and visual tokens float[B, P, D] -> hidden float[B, N, D].

        With visual tokens float[B * S, P, D] of S frames each, every frame is seen by its own N / S tokens alone.
        """
        sight = self.visual_norm(visual)
        looking = self.norm(hidden).reshape(len(visual), -1, hidden.shape[-1])
        found, _ = self.attention(looking, sight, sight, need_weights=False)
        hidden = hidden + self.attention_gate.tanh() * found.reshape(hidden.shape)
        return hidden + self.mlp_gate.tanh() * self.mlp(hidden)


class CrossAttention(nn.Module):
    """Gated looks before each `every`-th layer of a language model, which then takes `visual` as well."""

    def __init__(self, language: Any, every: int = 1, heads: int | None = None, freeze: bool = True) -> None:
        """Attach to any causal language model of `transformers`.

        heads: of each look, as many as the language model's by default; freeze: whether its layers stay as they are.
        Embeddings are trained in any case, since action bins and locations are new to a pretrained model.
        """
        super().__init__()
        config, layers = language.config, _layers(language)
        if freeze:
            language.base_model.requires_grad_(False)
            for embedding in (language.get_input_embeddings(), language.get_output_embeddings()):
                embedding.requires_grad_(True)
        self.looks = nn.ModuleDict(
            {
                str(number): GatedCrossAttention(config.hidden_size, heads or config.num_attention_heads)
                for number in range(0, len(layers), every)
            }
        )
        for number, layer in enumerate(layers):
            look = None if number % every else self.looks[str(number)]
            layer.register_forward_pre_hook(partial(_look_first, look), with_kwargs=True)


def _look_first(
    look: nn.Module | None, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change the hidden states that a layer is about to take; a call without `visual` fails instead of being blind."""
    rest = {name: value for name, value in named.items() if name != "visual"}
    visual = named["visual"]
    return (arguments if look is None else (look(arguments[0], visual), *arguments[1:])), rest


def _layers(language: Any) -> nn.ModuleList:
    stacks = [module for module in language.base_model.children() if isinstance(module, nn.ModuleList)]
    if len(stacks) != 1:
        raise ValueError(f"cross_attention needs a language model with one stack of layers, found {len(stacks)}")
    return stacks[0]
