"""pi0 and SmolVLA as whole networks: a vision-language model of `transformers`, and beside it our velocity field.

All that the vision-language model reads sees each other; nothing in it is said. Frames, then words, then SmolVLA's
state, are one prefix, whose keys and values the expert reads at every step of Euler's method.

B batch, L text tokens, P tokens of the prefix, T action horizon, A action dimension, S state dimension, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vla.model.attention import IMAGE, STATE, attention_mask
from vla.model.flow import VelocityField
from vla.model.head import Context


class FlowVLA(nn.Module, ABC):
    """Frames, words and state in, a normalised chunk out."""

    def __init__(self, vlm: nn.Module, field: VelocityField, action_horizon: int) -> None:
        """vlm: of `transformers`, without its head; field: built beside its language model."""
        super().__init__()
        self.vlm: Any = vlm
        self.field = field
        self.action_horizon, self.action_dim = action_horizon, field.outward.out_features

    @property
    @abstractmethod
    def language(self) -> Any:
        """The part of the model that reads."""

    @abstractmethod
    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels float[B, 3, H, W] in -1..1 -> tokens float[B, tokens, D]."""

    @abstractmethod
    def text_tokens(self, ids: Tensor) -> Tensor:
        """Words int[B, L] -> tokens float[B, L, D]."""

    @abstractmethod
    def state_tokens(self, state: Tensor) -> Tensor:
        """State float[B, S] -> what the language model reads of it, float[B, 0 or 1, D]."""

    def context(
        self, images: Sequence[Tensor], there: Sequence[Tensor], ids: Tensor, mask: Tensor, state: Tensor
    ) -> Context:
        """Read a frame once.

        images: of each camera float[B, 3, H, W] in -1..1; there: bool[B] each, whether the camera exists; ids, mask:
        words int[B, L] and which of them are real, bool[B, L]; state: normalised float[B, S].
        """
        seen = [self.image_tokens(image) for image in images]
        state_tokens = self.state_tokens(state)
        tokens = torch.cat([*seen, self.text_tokens(ids), state_tokens], dim=1)
        present = torch.cat(
            [
                *(exists[:, None].expand(-1, part.shape[1]) for exists, part in zip(there, seen, strict=True)),
                mask,
                mask.new_ones(state_tokens.shape[:2]),
            ],
            dim=1,
        )
        kinds = torch.full((tokens.shape[1],), IMAGE)
        before = tokens.shape[1] - state_tokens.shape[1]
        kinds[before:] = STATE
        sees, places = attention_mask(kinds, present), (present.cumsum(1) - 1).clamp_min(0)
        cache = DynamicCache(config=self.language.config)
        parts, stops = [tokens], [tokens.shape[1]]
        frozen = not any(weight.requires_grad for weight in self.vlm.parameters())
        if frozen and torch.is_grad_enabled() and state_tokens.requires_grad:
            # The state alone is learned, and nothing before sees it: what is before needs no gradients.
            parts, stops = [tokens[:, :before].detach(), state_tokens], [before, *stops]
        for part, stop in zip(parts, stops, strict=True):
            mine = slice(stop - part.shape[1], stop)
            self.language(
                inputs_embeds=part,
                attention_mask=sees[:, :, mine, :stop],
                position_ids=places[:, mine],
                past_key_values=cache,
                use_cache=True,
            )
        table = self.language.get_input_embeddings().weight
        return Context(table, self.language, present, present.sum(1, keepdim=True), cache, state=state)

    def learn_expert(self) -> None:
        """Let everything but the vision-language model learn, as lerobot does by default."""
        self.requires_grad_(True)
        self.vlm.requires_grad_(False)

    @torch.no_grad()
    def act(self, context: Context, steps: int = 10, noise: Tensor | None = None) -> Tensor:
        """Say the chunk float[B, T, A]; noise: where to begin, drawn from a fixed seed where it is left out."""
        if noise is None:
            shape = (1, self.action_horizon, self.action_dim)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(context.table)
            noise = noise.expand(len(context.present), -1, -1)
        nothing = torch.zeros_like(noise[..., :1], dtype=torch.bool)
        return self.field.integrate(noise, context, steps, noise, nothing)


class Pi0(FlowVLA):
    """Around a `PaliGemmaModel`, with a field that was built with `state_dim`: Black et al. 2024, arXiv:2410.24164."""

    @property
    def language(self) -> Any:
        """Gemma."""
        return self.vlm.language_model

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """As PaliGemma sees them."""
        return self.vlm.get_image_features(pixels).pooler_output

    def text_tokens(self, ids: Tensor) -> Tensor:
        """As Gemma embeds them, scaled by the root of D."""
        return self.language.get_input_embeddings()(ids)

    def state_tokens(self, state: Tensor) -> Tensor:
        """None."""
        return state.new_zeros(len(state), 0, self.language.config.hidden_size)


class SmolVLA(FlowVLA):
    """Around a `SmolVLMModel`; the language model reads the state. Shukor et al. 2025, arXiv:2506.01844.

    Frames and words are scaled by the root of D, which lerobot's `modeling_smolvla.py` does and the paper does not say.
    """

    def __init__(self, vlm: Any, field: VelocityField, action_horizon: int, state_dim: int) -> None:
        """state_dim: S."""
        super().__init__(vlm, field, action_horizon)
        self.state = nn.Linear(state_dim, self.language.config.hidden_size)

    @property
    def language(self) -> Any:
        """The first layers of SmolLM."""
        return self.vlm.text_model

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Whole frames through encoder and connector, without the tiles of SmolVLM."""
        features = self.vlm.vision_model(pixel_values=pixels, patch_attention_mask=None).last_hidden_state
        tokens = self.vlm.connector(features)
        return tokens * tokens.shape[-1] ** 0.5

    def text_tokens(self, ids: Tensor) -> Tensor:
        """Words, scaled."""
        tokens = self.language.get_input_embeddings()(ids)
        return tokens * tokens.shape[-1] ** 0.5

    def state_tokens(self, state: Tensor) -> Tensor:
        """One, not scaled."""
        return self.state(state)[:, None]
