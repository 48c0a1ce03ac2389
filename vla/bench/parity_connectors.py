"""Connectors and tilings with the weights of `transformers`' own, beside these."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2Model,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InternVLConfig,
    InternVLModel,
    LlavaNextConfig,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from vla.model.connectors import Perceiver, PixelShuffle, QFormer
from vla.model.tiling import choose_tiling

Pairs = Iterator[tuple[str, Tensor, Tensor]]
CHANNELS, WIDTH = 16, 24
SMALL = dict(hidden_size=CHANNELS, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
FORMER: dict[str, Any] = dict(hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
FORMER |= dict(encoder_hidden_size=CHANNELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
TEXT = dict(hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)


def internvl() -> Pairs:
    """`pixel_shuffle`: blocks of features in one, normalised, through two layers."""
    config = InternVLConfig(
        vision_config=dict(image_size=[32, 32], patch_size=[8, 8], **SMALL),
        text_config=dict(model_type="qwen2", num_key_value_heads=2, **TEXT),
    )
    theirs: Any = made_random(InternVLModel(config))
    ours, layers = PixelShuffle(CHANNELS, WIDTH), theirs.multi_modal_projector
    for mine, other in ((0, layers.layer_norm), (1, layers.linear_1), (3, layers.linear_2)):
        ours.project[mine].load_state_dict(other.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    features = theirs.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    yield "pixel_shuffle, tokens", ours(features, (4, 4)), theirs.get_image_features(pixels).pooler_output


def blip2() -> Pairs:
    """`qformer`: from the features before their last normalisation to the language model's width."""
    config = Blip2Config(
        vision_config=dict(image_size=16, patch_size=8, **SMALL),
        qformer_config=FORMER,
        text_config=dict(model_type="llama", num_key_value_heads=2, **TEXT),
        num_query_tokens=5,
    )
    theirs: Any = made_random(Blip2Model(config))
    ours = QFormer(CHANNELS, WIDTH, tokens=5, layers=2, heads=4, hidden=16).eval()
    ours.queries.data = theirs.query_tokens.data
    ours.features.load_state_dict(theirs.vision_model.post_layernorm.state_dict())
    ours.features.eps = theirs.vision_model.post_layernorm.eps
    ours.former.load_state_dict(theirs.qformer.state_dict())
    ours.project.load_state_dict(theirs.language_projection.state_dict())
    features, queries = torch.randn(2, 9, CHANNELS), theirs.query_tokens.expand(2, -1, -1)
    normalised = theirs.vision_model.post_layernorm(features)
    found = theirs.qformer(query_embeds=queries, encoder_hidden_states=normalised).last_hidden_state
    yield "qformer, tokens", ours(features, None), theirs.language_projection(found)


def instructblip() -> Pairs:
    """`qformer`, instructed: their words and positions as ours, instructions of different lengths."""
    theirs: Any = made_random(InstructBlipQFormerModel(InstructBlipQFormerConfig(vocab_size=40, **FORMER)))
    width, words = theirs.config.hidden_size, theirs.embeddings
    ours = QFormer(CHANNELS, width, tokens=5, layers=2, heads=4, instructed=True, max_words=12).eval()
    ours.words.weight.data, ours.words.bias.data = torch.eye(width), torch.zeros(width)
    ours.order.data = words.position_embeddings.weight.data[:12]
    ours.former.encoder.load_state_dict(theirs.encoder.state_dict())
    ours.former.layernorm.load_state_dict(words.layernorm.state_dict())
    ours.queries.data = torch.randn_like(ours.queries)
    ids, mask = torch.randint(1, 40, (3, 7)), torch.arange(7) < torch.tensor([[7], [4], [1]])
    features = torch.randn(3, 9, CHANNELS)
    found = theirs(
        input_ids=ids,
        attention_mask=torch.cat([mask.new_ones(3, 5), mask], dim=1).long(),
        query_embeds=ours.queries.expand(3, -1, -1),
        encoder_hidden_states=ours.features(features),
    ).last_hidden_state[:, :5]
    yield (
        "qformer with words as queries, tokens",
        ours(features, None, (words.word_embeddings(ids), mask)),
        ours.project(found),
    )


def perceiver() -> Pairs:
    """`perceiver`: what stands behind our projection to the language model's width."""
    config = Idefics2PerceiverConfig(
        hidden_size=WIDTH,
        resampler_n_latents=6,
        resampler_depth=2,
        resampler_n_heads=4,
        resampler_head_dim=WIDTH // 4,
        num_key_value_heads=4,
    )
    theirs = made_random(Idefics2PerceiverResampler(config))
    ours = Perceiver(CHANNELS, WIDTH, tokens=6, layers=2, heads=4).eval()
    ours.resampler.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 9, CHANNELS)
    found = theirs(context=ours.project(features), attention_mask=torch.ones(2, 9, dtype=torch.long))
    yield "perceiver, tokens of the resampler", ours(features, None), found


def llava_next() -> Pairs:
    """Tiles of frames of all proportions, larger than one, from a budget that holds all of its grids."""
    pinpoints, tile = LlavaNextConfig().image_grid_pinpoints, 336
    frames = [size for size in torch.randint(64, 2000, (600, 2)).tolist() if max(size) > tile][:500]
    ours = [choose_tiling((height, width), tile, tile_tokens=576, max_tokens=10_000) for height, width in frames]
    theirs = [get_anyres_image_grid_shape(frame, pinpoints, tile) for frame in frames]
    mine = torch.tensor([(tiling.rows, tiling.columns) for tiling in ours])
    yield "rows and columns of tiles for 500 sizes of frames", mine, torch.tensor(theirs)


def made_random(model: nn.Module) -> nn.Module:
    """Give every weight a part to play."""
    for weight in model.parameters():
        size = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
        weight.data = weight.data * (weight.ndim == 1) + size * torch.randn_like(weight)
    return model.eval()
