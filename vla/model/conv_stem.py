"""A vision encoder of a few strided convolutions, for cameras in which things are small.

The stems of residual networks for photographs divide the image by four before they look at it. On a frame of 128
pixels an object of 25 mm is eight pixels wide and would be gone. Here every convolution halves the image once; only the
first may take a larger step, which saves the half of all work that is done on full frames.
"""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ConvStemConfig(PretrainedConfig):
    """Channels after each strided convolution, how many others follow each, and the step of the very first [px].

    Kernels are half as wide again as the step: 3 pixels for 2, 6 for 4.
    """

    model_type = "conv_stem"

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (24, 48, 96, 128),
        depths: tuple[int, ...] = (0, 1, 1, 1),
        first_stride: int = 2,
        **rest,
    ):
        super().__init__(**rest)
        if len(hidden_sizes) != len(depths):
            raise ValueError(f"hidden_sizes and depths need one entry a stage, got {hidden_sizes} and {depths}")
        self.hidden_sizes = list(hidden_sizes)
        self.depths = list(depths)
        self.first_stride = first_stride


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        """float[B, C, H, W] -> the same shape."""
        return torch.relu(features + self.second(torch.relu(self.first(features))))


class ConvStemModel(PreTrainedModel):
    """Strided convolutions, each followed by residual ones: float[B, 3, H, W] -> float[B, C, H / s, W / s]."""

    config_class = ConvStemConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvStemConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        before, stride = 3, config.first_stride
        for channels, depth in zip(config.hidden_sizes, config.depths, strict=True):
            layers += [
                nn.Conv2d(before, channels, 3 * stride // 2, stride=stride, padding=(stride + 2) // 4, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            layers += [ResidualConv(channels) for _ in range(depth)]
            before, stride = channels, 2
        self.layers = nn.Sequential(*layers)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Return the feature map as `last_hidden_state`."""
        return BaseModelOutput(last_hidden_state=self.layers(pixel_values))  # pyright: ignore[reportArgumentType]


AutoConfig.register("conv_stem", ConvStemConfig)
AutoModel.register(ConvStemConfig, ConvStemModel)
