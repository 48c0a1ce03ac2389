"""Connectors: features of a vision encoder become tokens of the language model's width.

| name          | tokens of one image                       | source                                             |
|---------------|-------------------------------------------|----------------------------------------------------|
| linear        | as many as features                       | LLaVA, Liu et al. 2023, arXiv:2304.08485           |
| mlp           | as many as features                       | LLaVA-1.5, Liu et al. 2023, arXiv:2310.03744       |
| pixel_shuffle | features / factor^2                       | InternVL 1.5, Chen et al. 2024, arXiv:2404.16821   |
| qformer       | `tokens`, 32 as in BLIP-2                 | Li et al. 2023, arXiv:2301.12597                   |
| the same, `instructed` | the same, words in mind          | InstructBLIP, Dai et al. 2023, arXiv:2305.06500    |
| perceiver     | `tokens`, 64 as in Flamingo               | Alayrac et al. 2022, arXiv:2204.14198, section 2.1 |

B images, L features and L' tokens of one image, C encoder width, D language width, W words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

Grid = tuple[int, int]  # rows and columns of tokens
Words = tuple[Tensor, Tensor]  # float[B, W, D], and which of them are there, bool[B, W]


class Connector(nn.Module):
    """Features float[B, L, C] of one image each -> tokens float[B, L', D]."""

    resamples = False  # whether tokens are what learned queries found, instead of places in the image
    placed = False  # whether the tokens know their places already
    instructed = False  # whether they depend on words, which it then takes as well

    def grid(self, features: Grid | None) -> Grid | None:
        """Rows and columns of the tokens, given those of the features; None where they form no grid."""
        return features


class Linear(Connector, nn.Linear):
    """One matrix."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)

    def forward(self, features: Tensor, grid: Grid | None) -> Tensor:
        """float[B, L, C] -> float[B, L, D]."""
        return nn.Linear.forward(self, features)


class Mlp(Connector, nn.Sequential):
    """Two layers behind a normalisation, the default."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, features: Tensor, grid: Grid | None) -> Tensor:
        """float[B, L, C] -> float[B, L, D]."""
        return nn.Sequential.forward(self, features)


class PixelShuffle(Connector):
    """Blocks of `factor` x `factor` neighbours become one feature with all their channels, then an MLP."""

    def __init__(self, channels: int, width: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.project = Mlp(channels * factor**2, width)

    def grid(self, features: Grid | None) -> Grid | None:
        """Both sides shrink by the factor; a grid that cannot be divided so is refused (ValueError)."""
        if features is None:
            raise ValueError(
                "pixel_shuffle needs features in rows and columns: give a convolutional encoder, or set "
                "vision.patches_only=true for a transformer with a class token"
            )
        if features[0] % self.factor or features[1] % self.factor:
            raise ValueError(f"{features[0]} x {features[1]} features cannot be shuffled in blocks of {self.factor}")
        return features[0] // self.factor, features[1] // self.factor

    def forward(self, features: Tensor, grid: Grid | None) -> Tensor:
        """float[B, rows * columns, C] -> float[B, rows * columns / factor^2, D]."""
        shuffled = self.grid(grid)
        assert grid is not None and shuffled is not None
        blocks = features.unflatten(1, (shuffled[0], self.factor, shuffled[1], self.factor))
        return self.project(blocks.transpose(2, 3).flatten(3).flatten(1, 2), shuffled)


class QFormer(Connector):
    """Learned queries that look at the features in every second layer and at each other in all of them.

    Instructed ones look at the words as well. The visual tokens of a frame are then others for each thing that is said
    about it, so that planner, controller and questions cannot share them.
    """

    resamples = True

    def __init__(
        self,
        channels: int,
        width: int,
        tokens: int = 32,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        instructed: bool = False,
        max_words: int = 128,
    ) -> None:
        """tokens: queries, 32 in BLIP-2; layers, heads, hidden: 12, 12 and 768 there; hidden defaults to D.

        instructed: whether words are looked at, `max_words` of them at most.
        """
        super().__init__()
        hidden = hidden or width
        self.instructed = instructed
        if instructed:
            self.words = nn.Linear(width, hidden)
            self.order = nn.Parameter(0.02 * torch.randn(max_words, hidden))
        config = Blip2QFormerConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            encoder_hidden_size=channels,
            use_qformer_text_input=instructed,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.queries = nn.Parameter(0.02 * torch.randn(1, tokens, hidden))
        self.features = nn.LayerNorm(channels)
        self.former = Blip2QFormerModel(config)
        self.project = nn.Linear(hidden, width)

    def grid(self, features: Grid | None) -> Grid | None:
        """No grid: a query may look anywhere."""
        return None

    def forward(self, features: Tensor, grid: Grid | None, words: Words | None = None) -> Tensor:
        """float[B, L, C], and words where there are any -> float[B, tokens, D]; too many words are a ValueError."""
        queries = self.queries.expand(len(features), -1, -1)
        count, mask = queries.shape[1], None
        if words is not None:
            queries = torch.cat([queries, self._in_order(*words)], dim=1)
            mask = torch.cat([words[1].new_ones(len(features), count), words[1]], dim=1).long()
        found = self.former(
            query_embeds=queries,
            query_length=count,
            attention_mask=mask,
            encoder_hidden_states=self.features(features),
        ).last_hidden_state
        return self.project(found[:, :count])

    def _in_order(self, words: Tensor, present: Tensor) -> Tensor:
        """Words float[B, W, D] as queries see them, float[B, W, hidden]; padding on either side does not count."""
        number = (present.cumsum(dim=1) - 1).clamp_min(0)
        if present.shape[1] > len(self.order) and number.max() >= len(self.order):
            raise ValueError(f"an instruction of {int(number.max()) + 1} words, this connector reads {len(self.order)}")
        return self.words(words) + self.order[number]


class Perceiver(Connector):
    """Learned latents that look at the features and at each other together, layer after layer."""

    resamples = True

    def __init__(self, channels: int, width: int, tokens: int = 64, layers: int = 2, heads: int = 4) -> None:
        """tokens: latents, 64 in Flamingo; layers: 6 there."""
        super().__init__()
        config = Idefics2PerceiverConfig(
            hidden_size=width,
            resampler_n_latents=tokens,
            resampler_depth=layers,
            resampler_n_heads=heads,
            resampler_head_dim=width // heads,
            num_key_value_heads=heads,
        )
        self.project = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.resampler = Idefics2PerceiverResampler(config)
        nn.init.normal_(self.resampler.latents)  # they come as ones, and equal latents would stay equal

    def grid(self, features: Grid | None) -> Grid | None:
        """No grid: a latent may look anywhere."""
        return None

    def forward(self, features: Tensor, grid: Grid | None) -> Tensor:
        """float[B, L, C] -> float[B, tokens, D]."""
        everything = torch.ones(features.shape[:2], dtype=torch.long, device=features.device)
        return self.resampler(self.project(features), everything)


CONNECTORS = {
    "linear": Linear,
    "mlp": Mlp,
    "pixel_shuffle": PixelShuffle,
    "qformer": QFormer,
    "perceiver": Perceiver,
}


def build_connector(channels: int, width: int, name: str = "mlp", **settings: Any) -> Connector:
    """Make the connector of that name from features of C channels to tokens of width D; see the table on top."""
    if name not in CONNECTORS:
        raise ValueError(f"connector {name!r} is not known, possible: {', '.join(CONNECTORS)}")
    return CONNECTORS[name](channels, width, **settings)
