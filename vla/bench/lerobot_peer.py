"""lerobot as a peer in a bench: its dataset and its SmolVLA, in this very process.

lerobot 0.6 asks for transformers below 5.6 and we for 5.17 or newer, so its SmolVLA runs with ours. Two things are
stood in for: the processor from the hub, of which it reads two ids of tokens that it does not use, and the cropping of
a cache to a length, which transformers took away and which it does after each Euler step.
"""

import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache

from vla.bench.speed_shape import Inputs, Shape

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
WORDS, WORDS_MASK = "observation.language.tokens", "observation.language.attention_mask"


def needed(module: str) -> Any:
    """Import a module of lerobot; ValueError says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module} cannot be imported ({error}): this bench compares with lerobot. Install lerobot==0.6.1 with "
            "--no-deps (it asks for an older transformers), and 'av<16' datasets pandas torchvision torchcodec draccus "
            "deepdiff jsonlines einops imageio termcolor"
        ) from error


def open_dataset(root: str, cameras: Sequence[str], horizon: int, fps: int, backend: str) -> Any:
    """Open a LeRobotDataset whose items are frames uint8 and windows of `horizon` actions."""
    times = {f"{IMAGES}{camera}": [0.0] for camera in cameras} | {STATE: [0.0]}
    times[ACTION] = [step / fps for step in range(horizon)]
    kind = needed("lerobot.datasets.lerobot_dataset").LeRobotDataset
    return kind("local/dataset", root=root, delta_timestamps=times, video_backend=backend, return_uint8=True)


def build_smolvla(shape: Shape, device: str) -> Any:
    """Build lerobot's SmolVLAPolicy with random weights, in float32."""
    configs, features = needed("lerobot.configs"), needed("lerobot.policies.smolvla.configuration_smolvla")
    joined, policies = (needed(f"lerobot.policies.smolvla.{n}") for n in ("smolvlm_with_expert", "modeling_smolvla"))
    ids = SimpleNamespace(fake_image_token_id=0, global_image_token_id=0)
    joined.AutoProcessor = SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=ids))
    joined.DynamicCache = Croppable
    feature, kinds = configs.PolicyFeature, configs.FeatureType
    seen = {
        f"{IMAGES}{camera}": feature(type=kinds.VISUAL, shape=(3, shape.image, shape.image)) for camera in shape.cameras
    }
    seen[STATE] = feature(type=kinds.STATE, shape=(shape.joints,))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        shape.vlm(layers=shape.vlm_layers).save_pretrained(folder)
        config = features.SmolVLAConfig(
            input_features=seen,
            output_features={ACTION: feature(type=kinds.ACTION, shape=(shape.joints,))},
            resize_imgs_with_padding=(shape.image, shape.image),
            max_state_dim=shape.padded,
            max_action_dim=shape.padded,
            chunk_size=shape.action_horizon,
            n_action_steps=shape.action_horizon,
            num_steps=shape.flow_steps,
            num_vlm_layers=shape.layers,
            expert_width_multiplier=shape.expert_width,
            vlm_model_name=folder,
            device=device,
        )
        policy = policies.SmolVLAPolicy(config).to(device)
    return policy


class Croppable(DynamicCache):
    """A cache that can be cut to a number of tokens, as transformers before 5.6 could."""

    def crop(self, length: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Forget all tokens after the first `length`."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def batch_of(shape: Shape, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Put inputs (speed_shape.py) as lerobot's policy takes them: pixels float 0..1, state and actions unpadded."""
    pixels = (image.permute(0, 3, 1, 2) / 255 for image in inputs.images.values())
    images = dict(zip((f"{IMAGES}{camera}" for camera in shape.cameras), pixels, strict=True))
    return images | {STATE: inputs.state, WORDS: inputs.ids, WORDS_MASK: inputs.mask, ACTION: inputs.actions}
