"""pi0 and SmolVLA with the weights of others in our network, beside what they say of the same frame."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

from vla.model import lerobot_weights
from vla.model.lerobot_policy import IMAGES, STATE, LeRobotPolicy
from vla.model.vision import VisionTower
from vla.types import Observation

Pairs = Iterator[tuple[str, Tensor, Tensor]]
WORDS, IMAGE_ID, IMAGE_TOKENS, HORIZON = 64, 63, 4, 5
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=16)
VISION |= dict(image_size=28, patch_size=14, vision_use_head=False)
HEADS = dict(num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1, head_dim=8)


def pi0_of_transformers() -> Pairs:
    """A small one with random weights; two cameras, instructions of different lengths."""
    theirs = tiny_pi0()
    ours = lerobot_weights.pi0(theirs.state_dict(), HORIZON)
    pixels, state = torch.rand(2, 2, 3, 28, 28) * 2 - 1, torch.randn(2, 8)
    ids, mask = torch.randint(2, WORDS - 1, (2, 6)), torch.arange(6) < torch.tensor([[4], [6]])
    noise, targets, time = torch.randn(2, HORIZON, 7), torch.randn(2, HORIZON, 7), torch.tensor([0.3, 0.9])
    both = torch.ones(2, dtype=torch.bool)
    frames = ids.new_full((2, 2 * IMAGE_TOKENS), IMAGE_ID)
    seen: dict[str, Any] = dict(
        pixel_values=pixels,
        pixel_attention_mask=both.expand(2, -1),
        input_ids=torch.cat([frames, ids], dim=1),
        attention_mask=torch.cat([torch.ones_like(frames), mask.long()], dim=1),
        state=state,
    )
    context = ours.context(list(pixels.unbind(1)), [both, both], ids, mask, state)
    times = time[:, None].expand(-1, HORIZON)
    tower = our_tower(theirs)
    image = theirs.model.vlm.get_image_features(pixels[:, 0]).pooler_output
    yield "image tokens of our vision tower, linear connector", tower.connector(tower.encode(pixels[:, 0]), None), image
    yield "velocity", ours.field.velocity(noise, times, context), theirs(noise=noise, timestep=time, **seen).logits
    error = ours.field.error(targets, noise, times, context)
    loss = theirs(noise=noise, timestep=time, actions=targets, **seen).loss
    yield "loss, the same noise and time", error.mean((1, 2)), loss.mean((1, 2))
    chunk = theirs.sample_actions(noise=noise.clone(), num_steps=10, **seen)
    yield "chunk after 10 Euler steps", ours.act(context, 10, noise), chunk


def tiny_pi0() -> PI0ForConditionalGeneration:
    """Heads as in the real one, everything else small; every weight is random."""
    text = dict(model_type="gemma", vocab_size=WORDS, hidden_size=32, intermediate_size=48, **HEADS)
    vision = dict(model_type="siglip_vision_model", **VISION)
    config = PI0Config(
        vlm_config=dict(
            model_type="paligemma",
            image_token_index=IMAGE_ID,
            projection_dim=32,
            text_config=text,
            vision_config=vision,
        ),
        dit_config=dict(model_type="gemma", hidden_size=16, intermediate_size=24, **HEADS),
        chunk_size=HORIZON,
        max_state_dim=8,
        max_action_dim=7,
        loss_reduction="none",
    )
    model = PI0ForConditionalGeneration(config).eval()
    for weight in model.parameters():
        size = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
        weight.data = weight.data * (weight.ndim == 1) + size * torch.randn_like(weight)
    return model


def our_tower(theirs: PI0ForConditionalGeneration) -> VisionTower:
    """Encoder and connector of ours with their weights."""
    tower = VisionTower(
        dict(model_type="siglip_vision_model", **VISION), {"front": (28, 28)}, 32, connector=dict(name="linear")
    )
    tower.encoder.load_state_dict(theirs.model.vlm.vision_tower.state_dict())
    tower.connector.load_state_dict(theirs.model.vlm.multi_modal_projector.linear.state_dict())
    return tower.eval()


def pi0_of_lerobot(folder: Path) -> Pairs:
    """The folder of a small one, from observation to actions."""
    yield from of_lerobot(folder, LeRobotPolicy.load(folder, tokenizer=folder / "tokenizer"))


def smolvla_of_lerobot(folder: Path) -> Pairs:
    """The folder of a small one, from observation to actions."""
    yield from of_lerobot(folder, LeRobotPolicy.load(folder, vlm=folder / "vlm", tokenizer=folder / "vlm"))


def of_lerobot(folder: Path, policy: LeRobotPolicy) -> Pairs:
    """Each step on the way, all from our own result of the step before."""
    with safe_open(folder / "said.safetensors", "pt") as file:
        said = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        tasks = json.loads(file.metadata()["tasks"])
    frames = {name: said[f"{IMAGES}{name}"].permute(0, 2, 3, 1).numpy() for name in policy.folder.cameras}
    observations = [
        Observation({name: image[row] for name, image in frames.items()}, np.asarray(state), task, time_s=0.0)
        for row, (state, task) in enumerate(zip(said[STATE].numpy(), tasks, strict=True))
    ]
    images, state = policy.images(observations), policy.state(observations)
    ids, mask = policy.words(tasks)
    length = ids.shape[1]
    yield "resized frames", torch.stack(images), torch.stack([said[f"image{n}"] for n in range(len(images))])
    yield "ids of the instruction", ids * mask, (said["ids"] * said["mask"])[:, :length]
    yield "normalised state", state, said["state"]
    there = [torch.ones(len(state), dtype=torch.bool)] * len(images)
    context = policy.network.context(images, there, ids, mask, state)
    times, field = said["time"][:, None].expand(-1, policy.network.action_horizon), policy.network.field
    yield "velocity of noise", field.velocity(said["noise"], torch.ones_like(times), context), said["velocity"]
    error = field.error(said["targets"], said["noise"], times, context)
    yield "loss, the same noise and time", error.mean((1, 2)), said["loss"]
    chunk = policy.network.act(context, policy.steps, said["noise"])[..., : policy.folder.action_dim]
    yield f"chunk after {policy.steps} Euler steps", chunk, said["chunk"]
    yield "observation to actions", torch.from_numpy(policy.actions(observations, said["noise"])), said["actions"]
