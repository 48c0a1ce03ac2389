"""Gated cross-attention with the weights of `transformers`' own, beside it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

from vla.bench.parity_connectors import made_random
from vla.model.fusion import GatedCrossAttention

Pairs = Iterator[tuple[str, Tensor, Tensor]]
WIDTH, HEADS, WORDS, PATCHES, FRAMES = 24, 4, 6, 5, 3


def idefics() -> Pairs:
    """What both have of Flamingo: attention without positions, what may be looked at, tanh gates, residuals.

    Theirs normalises by the root mean square and not what it looks at, and has another MLP, with a gate inside; so ours
    stand in their places, and the visual tokens come normalised.
    """
    size = dict(hidden_size=WIDTH, num_attention_heads=HEADS, vision_config=dict(embed_dim=WIDTH))
    config: Any = AutoConfig.for_model("idefics", **size, alpha_initializer="ones", attn_implementation="eager")
    theirs: Any = made_random(IdeficsGatedCrossAttentionLayer(config, layer_idx=0))
    ours: Any = made_random(GatedCrossAttention(WIDTH, HEADS))
    looking = theirs.cross_attn
    ours.attention.in_proj_weight.data = torch.cat([p.weight for p in (looking.q_proj, looking.k_proj, looking.v_proj)])
    ours.attention.in_proj_bias.data.zero_()
    ours.attention.out_proj.weight.data = looking.o_proj.weight.data
    ours.attention.out_proj.bias.data.zero_()
    for gate, alpha in ((ours.attention_gate, theirs.alpha_cross_attn), (ours.mlp_gate, theirs.alpha_dense)):
        gate.data = alpha.data = torch.randn(1)
    theirs.input_layernorm, theirs.post_attention_layernorm, theirs.mlp = ours.norm, ours.mlp[0], ours.mlp[1:]

    for frames, name in ((1, "one frame"), (FRAMES, "frames that their own words alone see")):
        words, visual = torch.randn(2, frames * WORDS, WIDTH), torch.randn(2 * frames, PATCHES, WIDTH)
        own = torch.arange(frames).repeat_interleave(WORDS)[:, None] == torch.arange(frames).repeat_interleave(PATCHES)
        said = theirs(
            words,
            image_hidden_states=ours.visual_norm(visual).view(2, frames * PATCHES, WIDTH),
            image_attention_mask=torch.zeros(own.shape).masked_fill(~own, -torch.inf).expand(2, 1, -1, -1),
            cross_attention_gate=torch.ones(words.shape[:2]),
        )
        yield f"masked attention and tanh gates, with our norms and MLP: {name}", ours(words, visual), said
