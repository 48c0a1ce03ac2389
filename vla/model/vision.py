"""Camera frames to visual tokens of the language model's width: vision encoder, then connector.

B batch, L tokens of one camera, C encoder width, D language width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

import vla.model.conv_stem  # noqa: F401  registers the name conv_stem


def build_encoder(model_type: str | None = None, pretrained: str | None = None, **config: Any) -> nn.Module:
    """Make any vision encoder of `transformers`: by `pretrained` name or folder, else from scratch by `model_type`."""
    if pretrained is not None:
        return AutoModel.from_pretrained(pretrained, **config)
    if model_type is None:
        raise ValueError("a vision encoder needs model_type (from scratch, e.g. resnet) or pretrained (name or folder)")
    return AutoModel.from_config(AutoConfig.for_model(model_type, **config))


class VisionTower(nn.Module):
    """Encoder and connector shared by all cameras; each camera has its own position embedding."""

    def __init__(self, encoder: dict[str, Any], cameras: dict[str, tuple[int, int]], width: int) -> None:
        """Build.

        encoder: arguments of `build_encoder`; cameras: name -> (height, width) [px] in token order; width: D.
        """
        super().__init__()
        self.cameras = dict(cameras)
        self.encoder = build_encoder(**encoder).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        with torch.no_grad():
            lengths = {name: self.encode(torch.zeros(1, 3, *size)).shape[1:] for name, size in self.cameras.items()}
        channels = next(iter(lengths.values()))[1]
        self.tokens = {name: shape[0] for name, shape in lengths.items()}
        self.connector = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.position = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(length, width) * 0.02) for name, length in self.tokens.items()}
        )

    @property
    def num_tokens(self) -> int:
        """Visual tokens of all cameras together."""
        return sum(self.tokens.values())

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float[B, 3, H, W] -> features float[B, L, C] of any encoder, grids are flattened."""
        features = self.encoder(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).last_hidden_state
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """uint8 (or float 0..255) [B, H, W, 3] of each camera -> visual tokens float[B, sum of L, D]."""
        tokens = []
        for name, (height, width) in self.cameras.items():
            image = images[name]
            if tuple(image.shape[1:]) != (height, width, 3):
                raise ValueError(f"camera {name!r} gave {tuple(image.shape[1:])}, the model takes {(height, width, 3)}")
            pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1
            tokens.append(self.connector(self.encode(pixels)) + self.position[name])
        return torch.cat(tokens, dim=1)
