"""Weights of pi0 and SmolVLA, as lerobot and `transformers` store them, in our networks; their sizes say how to build.

A name that is not known, or a weight that is missing, is an error.
"""

from collections.abc import Mapping
from copy import deepcopy
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PaliGemmaConfig, PretrainedConfig

from vla.model.flow import VelocityField
from vla.model.flow_vla import FlowVLA, Pi0, SmolVLA
from vla.model.onednn import by_onednn

PI0_HEADS, SIGLIP_HEADS = 8, 16  # of every Gemma and SigLIP that pi0 comes with; sizes of weights do not tell them
SMOLVLA_THETA = 10_000.0  # of lerobot's rotary positions, whatever the vision-language model was trained with
Names = Mapping[str, str | None]  # beginning of a name there -> here, None where nothing reads it

FIELD: Names = {
    "state_proj.": "field.state.",
    "action_in_proj.": "field.inward.",
    "action_time_mlp_in.": "field.mix.0.",
    "action_time_mlp_out.": "field.mix.2.",
    "action_out_proj.": "field.outward.",
}
LEROBOT_PI0: Names = {
    "paligemma_with_expert.paligemma.model.vision_tower.vision_model.": "vlm.vision_tower.",  # before transformers 5
    "paligemma_with_expert.paligemma.model.": "vlm.",
    "paligemma_with_expert.paligemma.lm_head.": None,
    "paligemma_with_expert.gemma_expert.model.": "field.expert.",
    "paligemma_with_expert.gemma_expert.lm_head.": None,
    **FIELD,
}
TRANSFORMERS_PI0: Names = {
    "model.vlm.": "vlm.",
    "model.dit.embed_tokens.": None,
    "model.dit.": "field.expert.",
    **{f"embed_action_time.{name}": ours for name, ours in FIELD.items() if not name.startswith("action_out")},
    "action_out_proj.": "field.outward.",
}


def pi0(weights: Mapping[str, Tensor], action_horizon: int) -> Pi0:
    """Build pi0 from lerobot's or transformers' names and fill it."""
    theirs = any(name.startswith("model.vlm.") for name in weights)
    ours = renamed(weights, TRANSFORMERS_PI0) if theirs else _lerobot_pi0(weights)
    language, expert = _gemma(ours, "vlm.language_model."), _gemma(ours, "field.expert.")
    language["vocab_size"] = len(ours["vlm.language_model.embed_tokens.weight"])
    vision = _siglip(ours, "vlm.vision_tower.")
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **language},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        projection_dim=language["hidden_size"],
    )
    state, actions = ours["field.state.weight"], ours["field.inward.weight"]
    differs = {name: expert[name] for name in ("hidden_size", "intermediate_size")}
    text: Any = config.text_config
    precision = torch.float32 if theirs else torch.float64
    field = VelocityField(text, actions.shape[1], differs, state_dim=state.shape[1], time_precision=precision)
    network = Pi0(AutoModel.from_config(config), field, action_horizon)
    fill(network, ours)
    return network


def smolvla(weights: Mapping[str, Tensor], vlm: PretrainedConfig, joint_every: int, action_horizon: int) -> SmolVLA:
    """Build SmolVLA from lerobot's names and fill it.

    vlm: configuration of the whole vision-language model, of whose layers the first are there; joint_every: see
    `VelocityField`.
    """
    layers = _layers(weights, "model.vlm_with_expert.lm_expert.layers.")
    head = weights.get("model.vlm_with_expert.vlm.lm_head.weight")
    ours = renamed(weights, _smolvla_names(layers, joint_every))
    ours = _with_words(ours, "vlm.text_model.embed_tokens.weight", head)
    vlm = deepcopy(vlm)
    text: Any = vlm.get_text_config()
    text.num_hidden_layers = layers
    text.rope_parameters = {"rope_type": "default", "rope_theta": SMOLVLA_THETA}
    norm = ours["field.expert.norm.weight" if joint_every == 1 else "field.expert.model.norm.weight"]
    first = "field.expert.layers.0." if joint_every == 1 else "field.expert.model.layers.0."
    differs = {"hidden_size": len(norm), "intermediate_size": len(ours[f"{first}mlp.gate_proj.weight"])}
    actions = ours["field.inward.weight"].shape[1]
    field = VelocityField(text, actions, differs, causal=True, joint_every=joint_every)
    network = SmolVLA(AutoModel.from_config(vlm), field, action_horizon, ours["state.weight"].shape[1])
    fill(network, ours)
    return network


def fill(network: FlowVLA, weights: Mapping[str, Tensor]) -> None:
    """Fill a network strictly and make it ready to act."""
    try:
        result = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # of sizes, which it lists
        raise ValueError(f"weights do not fit, give the configuration that they were trained with: {error}") from error
    if result.missing_keys or result.unexpected_keys:
        raise ValueError(
            f"weights do not fit: missing {result.missing_keys[:5]}, unexpected {result.unexpected_keys[:5]}"
        )
    network.eval().requires_grad_(False)
    by_onednn(network)


def renamed(weights: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Give weights our names, the first beginning that fits; ValueError for a name that none fits."""
    ours = {}
    for name, weight in weights.items():
        start = next((start for start in names if name.startswith(start)), None)
        if start is None:
            raise ValueError(f"weight {name!r} belongs to nothing that is known here: {', '.join(names)}")
        if (new := names[start]) is not None:
            ours[new + name.removeprefix(start)] = weight
    return ours


def _lerobot_pi0(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = {name.removeprefix("model."): weight for name, weight in weights.items()}
    ours = renamed(bare, LEROBOT_PI0)
    head = bare.get("paligemma_with_expert.paligemma.lm_head.weight")
    return _with_words(ours, "vlm.language_model.embed_tokens.weight", head)


def _with_words(weights: dict[str, Tensor], name: str, head: Tensor | None) -> dict[str, Tensor]:
    """Take the embedding of words from the head that shares it: what is shared is stored once, under either name."""
    return weights if name in weights or head is None else weights | {name: head}


def _smolvla_names(layers: int, joint_every: int) -> Names:
    inner = "field.expert." if joint_every == 1 else "field.expert.model."
    expert, names = "model.vlm_with_expert.lm_expert.", {}
    for number in (number for number in range(layers) if number % joint_every):
        attention = f"{expert}layers.{number}.self_attn."
        names[f"{attention}k_proj."] = f"field.expert.keys.{number}."
        names[f"{attention}v_proj."] = f"field.expert.values.{number}."
    return {
        **names,
        expert: inner,
        "model.vlm_with_expert.vlm.model.": "vlm.",
        "model.vlm_with_expert.vlm.lm_head.": None,
        **{f"model.{name}": ours for name, ours in FIELD.items()},
        "model.state_proj.": "state.",
    }


def _gemma(weights: Mapping[str, Tensor], start: str) -> dict[str, int]:
    """Sizes of a Gemma."""
    first = f"{start}layers.0."
    query, keys = (weights[f"{first}self_attn.{name}_proj.weight"] for name in "qk")
    head = len(query) // PI0_HEADS
    return {
        "hidden_size": query.shape[1],
        "intermediate_size": len(weights[f"{first}mlp.gate_proj.weight"]),
        "num_hidden_layers": _layers(weights, f"{start}layers."),
        "num_attention_heads": PI0_HEADS,
        "num_key_value_heads": len(keys) // head,
        "head_dim": head,
    }


def _siglip(weights: Mapping[str, Tensor], start: str) -> dict[str, int]:
    """Sizes of a SigLIP."""
    patches = weights[f"{start}embeddings.patch_embedding.weight"]
    side = isqrt(len(weights[f"{start}embeddings.position_embedding.weight"]))
    return {
        "hidden_size": len(patches),
        "intermediate_size": len(weights[f"{start}encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": _layers(weights, f"{start}encoder.layers."),
        "num_attention_heads": SIGLIP_HEADS,
        "patch_size": patches.shape[-1],
        "image_size": side * patches.shape[-1],
    }


def _layers(weights: Mapping[str, Tensor], start: str) -> int:
    numbers = [int(name.removeprefix(start).partition(".")[0]) for name in weights if name.startswith(start)]
    if not numbers:
        raise ValueError(f"weights do not fit: none begins with {start!r}")
    return 1 + max(numbers)
