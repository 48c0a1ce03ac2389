"""Camera frames to visual tokens of the language model's width: vision encoder, then connector.

B batch, L tokens of one camera, C encoder width, D language width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

import vla.model.conv_stem  # noqa: F401  registers the name conv_stem
from vla.model.grounding import waves


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
        self.grids: dict[str, tuple[int, int]] = {}  # rows and columns of tokens, of cameras whose tokens form a grid
        self.tokens: dict[str, int] = {}
        channels = 0
        for name, size in self.cameras.items():
            with torch.no_grad():
                features = self._features(torch.zeros(1, 3, *size))
            if features.ndim == 4:
                self.grids[name] = (features.shape[2], features.shape[3])
            self.tokens[name], channels = _flat(features).shape[1:]
        self.connector = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.position = nn.ParameterDict({name: nn.Parameter(self._places(name, width)) for name in self.tokens})

    @property
    def num_tokens(self) -> int:
        """Visual tokens of all cameras together."""
        return sum(self.tokens.values())

    def _features(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).last_hidden_state

    def _places(self, camera: str, width: int) -> Tensor:
        """Where the position embedding starts: waves along rows and columns of a grid, nothing much elsewhere."""
        noise = 0.02 * torch.randn(self.tokens[camera], width)
        if camera not in self.grids:
            return noise
        rows, columns = self.grids[camera]
        longest = max(rows, columns)
        along = 0.5 * waves((torch.arange(columns) + 0.5) / longest, width - width // 2, finest=4.0)
        down = 0.5 * waves((torch.arange(rows) + 0.5) / longest, width // 2, finest=4.0)
        grid = torch.cat([along.expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], dim=-1)
        return noise + grid.flatten(0, 1)

    def by_camera(self, visual: Tensor) -> dict[str, Tensor]:
        """Visual tokens float[B, sum of L, D] -> camera -> float[B, L, D]."""
        return dict(zip(self.tokens, visual.split(list(self.tokens.values()), dim=1), strict=True))

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float[B, 3, H, W] -> features float[B, L, C] of any encoder, grids are flattened."""
        return _flat(self._features(pixels))

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


def _flat(features: Tensor) -> Tensor:
    """Feature map float[B, C, H, W] -> float[B, H * W, C]; sequences stay."""
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
