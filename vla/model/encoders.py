"""Vision encoders: any one of `transformers` by name, or several side by side, and what they see in a frame.

| name                                            | features                                                     |
|-------------------------------------------------|--------------------------------------------------------------|
| conv_stem, resnet, convnext                     | a map in rows and columns                                    |
| siglip_vision_model, siglip2_vision_model       | a patch each                                                 |
| clip_vision_model, vit, dinov2, dinov3_vit, ... | a class token, registers where there are any, a patch each   |
| `parts`: two or more of these                   | their channels one after the other, as in OpenVLA            |

Frames need not be squares of the size that an encoder was trained at: learned positions are interpolated.

B images, L features of one image, C encoder width.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, Siglip2VisionModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

import vla.model.conv_stem  # registers the name conv_stem
import vla.model.patches  # noqa: F401  registers the name patches
from vla.model.pretrained import load_pretrained
from vla.model.wheels import located


def build_encoder(
    model_type: str | None = None,
    pretrained: str | None = None,
    parts: Sequence[Mapping[str, Any]] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **config: Any,
) -> nn.Module:
    """Make a vision encoder: by `pretrained` name or folder, from scratch by `model_type`, or fused of several `parts`.

    Of a model of two towers (CLIP, SigLIP) the vision tower is taken; parts: see `FusedEncoder`; mean, std: of the
    colours in 0..1 that it was trained with. Left out, they are what a pretrained one says of itself, else 0.5 each;
    `colours` of the encoder are the arguments that say the same.
    """
    refuse_half(mean, std)
    if parts is not None:
        if model_type or pretrained or mean or config:
            raise ValueError(f"a fused encoder has parts and nothing else, got {sorted(config) or 'a name as well'}")
        return FusedEncoder(parts)
    if pretrained is not None:
        found: Any = load_pretrained(AutoModel, pretrained, **config)
        encoder = getattr(found, "vision_model", found)
        mean, std = (mean, std) if mean is not None else own_colours(pretrained)
    elif model_type is not None:
        encoder = AutoModel.from_config(AutoConfig.for_model(model_type, **config))
    else:
        raise ValueError(
            "a vision encoder needs model_type (from scratch, e.g. resnet), pretrained (name or folder) or parts"
        )
    encoder = CutIntoPatches(encoder) if isinstance(encoder, Siglip2VisionModel) else encoder
    colours = {} if mean is None or std is None else {"mean": [*mean], "std": [*std]}
    encoder.colours = colours  # pyright: ignore[reportArgumentType]
    return normalise(encoder, **colours) if colours else encoder


def own_colours(pretrained: str) -> tuple[list[float], list[float]] | tuple[None, None]:
    """Mean and deviation of each colour that a pretrained model was trained with; None where a folder does not say."""
    place = located(pretrained)
    if Path(place).is_dir() and not any(
        (Path(place) / name).is_file() for name in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
    ):
        return None, None
    settings, _ = ImageProcessingMixin.get_image_processor_dict(place)
    said = settings.get("image_mean"), settings.get("image_std")
    return said if None not in said and settings.get("do_normalize", True) else (None, None)


def refuse_half(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise ValueError where one of the two is given without the other."""
    if (mean is None) != (std is None):
        raise ValueError(f"colours are normalised by mean and std together, got mean={mean}, std={std}")


def normalise(encoder: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Let an encoder take pixels in -1..1 though it was trained with another mean and deviation of each colour."""
    gain = torch.tensor([0.5 / each for each in std]).view(-1, 1, 1)
    shift = torch.tensor([(0.5 - middle) / each for middle, each in zip(mean, std, strict=True)]).view(-1, 1, 1)
    encoder.register_forward_pre_hook(partial(_renormalise, gain, shift), with_kwargs=True)
    return encoder


def _renormalise(
    gain: Tensor, shift: Tensor, encoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    pixels = named["pixel_values"]
    return arguments, named | {"pixel_values": pixels * gain.to(pixels) + shift.to(pixels)}


def features(encoder: nn.Module, pixels: Tensor, layer: int | None = None, patches_only: bool = False) -> Tensor:
    """Pixels float[B, 3, H, W], normalised -> a map float[B, C, rows, columns], or a sequence float[B, L, C].

    layer: which of the hidden states to take (-2 in LLaVA) instead of the last; patches_only: drops class and register
    tokens, so that the others form a map.
    """
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    size = {"interpolate_pos_encoding": True} if _interpolates(type(encoder)) else {}
    if layer is None:
        found = encoder(pixel_values=pixels, **size).last_hidden_state
    else:
        found = encoder(pixel_values=pixels, output_hidden_states=True, **size).hidden_states[layer]
    if not patches_only or found.ndim == 4:
        return found
    side: int = encoder.config.patch_size  # pyright: ignore[reportAssignmentType]
    rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
    return found[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))  # class and registers lead


@cache
def _interpolates(kind: type[nn.Module]) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(kind.forward).parameters


class CutIntoPatches(nn.Module):
    """SigLIP2 of the kind that keeps proportions takes patches instead of a frame; here a frame keeps all of them."""

    def __init__(self, model: Siglip2VisionModel) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, pixel_values: Tensor, **options: Any) -> Any:
        """float[B, 3, H, W] -> what the model says of patches float[B, L, side * side * 3], row by row."""
        side: int = self.config.patch_size  # pyright: ignore[reportAssignmentType]
        rows, columns = pixel_values.shape[2] // side, pixel_values.shape[3] // side
        cut = pixel_values[:, :, : rows * side, : columns * side]
        blocks = cut.unflatten(2, (rows, side)).unflatten(4, (columns, side))
        patches = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[rows, columns]], device=cut.device).expand(len(cut), -1)
        everything = torch.ones(patches.shape[:2], dtype=torch.long, device=cut.device)
        return self.model(patches, pixel_attention_mask=everything, spatial_shapes=shapes, **options)


class FusedEncoder(nn.Module):
    """Several encoders look at the same frame; their features lie one after the other in channels.

    Source: DINOv2 and SigLIP in OpenVLA, Kim et al. 2024, arXiv:2406.09246, section 3.1, which takes the second to last
    layer of both, without class and register tokens: 1024 + 1152 channels of 256 patches.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Build.

        parts: each has the arguments of `build_encoder`, its own mean and std among them; `layer`, see `features`; and
        `size`, [height, width] in pixels, to which the frame is resized for it, if at all.
        """
        super().__init__()
        if len(parts) < 2:
            raise ValueError(f"a fused encoder has two parts or more, got {len(parts)}")
        settings = [dict(part) for part in parts]
        self.layers = [part.pop("layer", None) for part in settings]
        self.sizes = [part.pop("size", None) for part in settings]
        self.encoders = nn.ModuleList(build_encoder(**part) for part in settings)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """float[B, 3, H, W] in -1..1 -> a map float[B, sum of C, rows, columns] as `last_hidden_state`.

        Raises ValueError where the maps of the parts differ in rows or columns.
        """
        maps = [
            features(encoder, _resized(pixel_values, size), layer, patches_only=True)
            for encoder, size, layer in zip(self.encoders, self.sizes, self.layers, strict=True)
        ]
        grids = [f"{found.shape[2]} x {found.shape[3]}" for found in maps]
        if len(set(grids)) > 1:
            raise ValueError(
                f"the parts of a fused encoder see {' and '.join(grids)} patches: give each a size that is as many of "
                "its patches in both directions"
            )
        return BaseModelOutput(last_hidden_state=torch.cat(maps, dim=1))  # pyright: ignore[reportArgumentType]


def _resized(pixels: Tensor, size: Sequence[int] | None) -> Tensor:
    if size is None:
        return pixels
    return functional.interpolate(pixels, (size[0], size[1]), mode="bilinear", antialias=True)
