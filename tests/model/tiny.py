"""A tiny policy with random weights, built as a real one is."""

from copy import deepcopy

import numpy as np
import torch
import torch.multiprocessing

from vla.model.actions import ActionCodec
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.model.processor import Processor
from vla.model.vocabulary import ACTION_TOKENS, build_tokenizer
from vla.types import Camera, Embodiment, Observation

PROMPTS = ["pick up the red cube", "put the blue cube in the green bowl", "is there a red cube"]
CAMERAS = {"front": (32, 48), "wrist": (32, 32)}
JOINTS = ("a", "b", "gripper")


def embodiment(**changes):
    values = dict(
        name="tiny arm",
        joints=JOINTS,
        position_min=(-2.0, -2.0, 0.0),
        position_max=(2.0, 2.0, 1.0),
        velocity_max=(3.0, 3.0, 3.0),
        acceleration_max=(9.0, 9.0, 9.0),
        jerk_max=(90.0, 90.0, 90.0),
        control_hz=10.0,
        cameras={"front": Camera(64, 64), "wrist": Camera(64, 64)},
    )
    return Embodiment(**{**values, **changes})


def tiny_config(tokenizer, horizon=4):
    return dict(
        vision=dict(
            model_type="resnet", embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 1], layer_type="basic"
        ),
        language=dict(
            model_type="gpt2",
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_inner=64,
            n_positions=96,
            bos_token_id=2,
            eos_token_id=2,
        ),
        cameras={name: list(size) for name, size in CAMERAS.items()},
        vocab_size=len(tokenizer),
        first_action_id=tokenizer.convert_tokens_to_ids(ACTION_TOKENS[0]),
        action_horizon=horizon,
        action_dim=len(JOINTS),
        max_text_tokens=32,
    )


def handed_over(thing):
    """Return what another process gets when it is handed a thing; a copy, where the other shares its memory."""
    queue = torch.multiprocessing.get_context("spawn").Queue()
    queue.put(thing)
    return deepcopy(queue.get(timeout=60))


def tiny_processor(horizon=4, texts=PROMPTS):
    rng = np.random.default_rng(0)
    state = rng.uniform([-2, -2, 0], [2, 2, 1], (50, 3)).astype(np.float32)
    windows = (state[:, None] + rng.normal(0, 0.2, (50, horizon, 3))).astype(np.float32)
    windows[..., 2] = windows[..., 2].clip(0, 1)
    return Processor(embodiment(), CAMERAS, ActionCodec.fit(state, windows), build_tokenizer(texts), 32)


def tiny_policy(seed=0):
    torch.manual_seed(seed)
    processor = tiny_processor()
    network = Network(**tiny_config(processor.tokenizer))
    for parameter in network.parameters():  # large enough that every path through the network shows
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    return VLAPolicy(network, processor)


def observation(seed=0, instruction=PROMPTS[0], **images):
    rng = np.random.default_rng(seed)
    frames = {name: rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for name in CAMERAS}
    state = rng.uniform([-1, -1, 0], [1, 1, 1]).astype(np.float32)
    return Observation({**frames, **images}, state, instruction, time_s=12.5)
