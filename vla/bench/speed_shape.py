"""The shape in which speed is compared: SmolVLA's as published, or a small one.

B batch, L text tokens, T action horizon, A joints, W width of states and actions in the network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import SmolVLMConfig


@dataclass(frozen=True)
class Shape:
    """Sizes of SmolVLA around SmolVLM2-500M, arXiv:2506.01844 and lerobot's defaults; other values for a small one."""

    cameras: tuple[str, ...] = ("camera1", "camera2", "camera3")
    image: int = 512  # height and width [px]
    patch: int = 16
    shuffle: int = 4  # blocks of so many patches a side become one token
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_inner: int = 3072
    width: int = 960
    inner: int = 2560
    heads: int = 15
    key_heads: int = 5
    head_width: int = 64
    vlm_layers: int = 32
    layers: int = 16  # that are kept
    vocabulary: int = 49280
    expert_width: float = 0.75
    joint_every: int = 2
    action_horizon: int = 50  # T
    flow_steps: int = 10
    words: int = 12  # L, of one instruction: "put the red cube in the blue bowl\n" has about as many
    joints: int = 6  # A
    padded: int = 32  # W: SmolVLA fills states and actions up with zeros

    def vlm(self, layers: int) -> SmolVLMConfig:
        """Configuration of the vision-language model with so many layers of language."""
        return SmolVLMConfig(
            scale_factor=self.shuffle,
            image_token_id=self.vocabulary - 1,
            tie_word_embeddings=True,
            vision_config={"model_type": "smolvlm_vision", **self.vision()},
            text_config={**self.text(layers), "vocab_size": self.vocabulary},
        )

    def vision(self) -> dict[str, int]:
        """Sizes of the vision encoder."""
        return {
            "hidden_size": self.vision_width,
            "intermediate_size": self.vision_inner,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "image_size": self.image,
            "patch_size": self.patch,
        }

    def text(self, layers: int) -> dict[str, object]:
        """Sizes of the language model."""
        return {
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_width,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 2,
            "tie_word_embeddings": True,
        }


@dataclass(frozen=True)
class Inputs:
    """One batch, the same for everybody."""

    images: dict[str, Tensor]  # uint8[B, H, W, 3] of each camera
    ids: Tensor  # int[B, L]
    mask: Tensor  # bool[B, L]
    state: Tensor  # float[B, A]
    actions: Tensor  # float[B, T, A]
    noise: Tensor  # float[B, T, W]
    time: Tensor  # float[B]


def draw(shape: Shape, batch: int, device: str) -> Inputs:
    """Draw a batch from torch's generator."""
    size = (batch, shape.image, shape.image, 3)
    return Inputs(
        images={name: torch.randint(0, 256, size, dtype=torch.uint8).to(device) for name in shape.cameras},
        ids=torch.randint(3, shape.vocabulary - 1, (batch, shape.words)).to(device),
        mask=torch.ones(batch, shape.words, dtype=torch.bool, device=device),
        state=torch.randn(batch, shape.joints).to(device),
        actions=torch.randn(batch, shape.action_horizon, shape.joints).to(device),
        noise=torch.randn(batch, shape.action_horizon, shape.padded).to(device),
        time=torch.rand(batch).to(device),
    )
