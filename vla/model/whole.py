"""Whole image-text-to-text models: their vision encoder, connector and language model under our tokens and heads.

| model_type                     | frames                            | what is left out here                           |
|--------------------------------|-----------------------------------|-------------------------------------------------|
| smolvlm, idefics3              | square, whole blocks of patches   | own splitting of large frames: see `tiling`     |
| paligemma                      | `image_size` of its vision config | words seeing later words of the prompt          |
| llava, llava_next              | the same                          | new-line tokens; own splitting: see `tiling`    |
| qwen2_vl, qwen2_5_vl, qwen3_vl | whole blocks of patches           | deepstack, features between layers, of qwen3_vl |

Of all, the markers that stand around an image in their prompts. Kept are encoder, connector, the scale of embeddings
(Gemma), whether visual tokens see later ones (PaliGemma alone) and, of the Qwens, positions in time, rows and columns
(M-RoPE, Wang et al. 2024, arXiv:2409.12191, 2.1).

B images, L tokens of one image, D width, N tokens of the sequence.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_outputs import BaseModelOutput

from vla.model.connectors import Connector, Grid
from vla.model.encoders import normalise, refuse_half
from vla.model.pretrained import load_pretrained, make_room
from vla.model.vision import VisionTower
from vla.model.wheels import located


class Eyes(nn.Module, ABC):
    """Vision encoder and connector of a whole model."""

    colours: dict[str, Any]  # mean and std that it was trained with

    @abstractmethod
    def grid(self, height: int, width: int) -> Grid:
        """Rows and columns of tokens of a frame [px]; one that the model does not take is refused (ValueError)."""

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float[B, 3, H, W] -> tokens float[B, L, D]."""

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """float[B, 3, H, W] -> map float[B, D, rows, columns] as `last_hidden_state`."""
        grid = self.grid(*pixel_values.shape[2:])
        tokens = self.tokens(pixel_values).transpose(1, 2).unflatten(2, grid)
        return BaseModelOutput(last_hidden_state=tokens)  # pyright: ignore[reportArgumentType]


class Shuffling(Eyes):
    """Of SmolVLM and Idefics3: blocks of neighbouring patches become one token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision, self.connector = model.vision_model, model.connector

    def grid(self, height: int, width: int) -> Grid:
        """Squares only: the connector takes the root of the number of patches for the side."""
        block = self.vision.config.patch_size * self.connector.scale_factor
        return _blocks(height, width, block, square=True)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Encode, shuffle, project."""
        return self.connector(self.vision(pixel_values=pixels).last_hidden_state)


class Projecting(Eyes):
    """Of PaliGemma: one token a patch, of frames of one size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision, self.connector = model.vision_tower, model.multi_modal_projector

    def grid(self, height: int, width: int) -> Grid:
        """Only the size that its positions were learned for."""
        side = self.vision.config.image_size
        if (height, width) != (side, side):
            raise ValueError(
                f"this model takes frames of {side} x {side} pixels, got {height} x {width}: change model.cameras, or "
                f"let model.tiling={{tile: {side}, max_tokens: ...}} cut larger ones"
            )
        return (side // self.vision.config.patch_size,) * 2

    def tokens(self, pixels: Tensor) -> Tensor:
        """Encode, project."""
        return self.connector(self.vision(pixel_values=pixels).last_hidden_state)


class Selecting(Projecting):
    """Of LLaVA and LLaVA-NeXT: hidden states of an inner layer, mostly without the class token."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        layers = model.config.vision_feature_layer
        self.layers = [layers] if isinstance(layers, int) else list(layers)
        self.first = 1 if model.config.vision_feature_select_strategy == "default" else 0

    def tokens(self, pixels: Tensor) -> Tensor:
        """Encode, select, project."""
        states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        return self.connector(torch.cat([states[layer] for layer in self.layers], dim=-1)[:, self.first :])


class Merging(Eyes):
    """Of the Qwens: frames of any size come as a list of patches, and blocks of neighbours become one token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision = model.visual

    def grid(self, height: int, width: int) -> Grid:
        """Any size that can be cut into blocks."""
        return _blocks(height, width, self.vision.config.patch_size * self.vision.config.spatial_merge_size)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Cut into patches in the order of the blocks, each twice over time as for a still; encode, merge."""
        config, (rows, columns) = self.vision.config, self.grid(*pixels.shape[2:])
        side, merge = config.patch_size, config.spatial_merge_size
        blocks = pixels.unflatten(3, (columns, merge, side)).unflatten(2, (rows, merge, side))
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # B, block, place in it, channel, time, pixel
        patches = patches.expand(*patches.shape[:6], config.temporal_patch_size, side, side)
        sizes = torch.tensor([[1, rows * merge, columns * merge]] * len(pixels), device=pixels.device)
        merged = self.vision(patches.flatten(5).flatten(0, 4), grid_thw=sizes).pooler_output
        return merged.unflatten(0, (len(pixels), rows * columns))


class AsItIs(Connector):
    """No connector of ours behind the whole model's own, and no places: its encoder knows them."""

    placed = True

    def forward(self, features: Tensor, grid: Grid | None) -> Tensor:
        """Return the tokens."""
        return features


class WholeLanguage(nn.Module):
    """The language model of a whole model, as `Network` uses any causal language model."""

    def __init__(self, model: Any, text: Any) -> None:
        super().__init__()
        self.images_in_order = model.config.model_type != "paligemma"  # whose visual tokens all see each other
        self.model, self.lm_head = text, model.get_output_embeddings()
        self.config, self.whole = text.config, model.config

    @property
    def base_model(self) -> Any:
        """Without the output layer."""
        return self.model

    def get_input_embeddings(self) -> Any:
        """Return the embedding of all tokens."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, embedding: nn.Module) -> None:
        """Replace it."""
        self.model.set_input_embeddings(embedding)

    def get_output_embeddings(self) -> Any:
        """Return the layer from hidden states to logits."""
        return self.lm_head

    def set_output_embeddings(self, layer: nn.Module) -> None:
        """Replace it."""
        self.lm_head = layer

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether activations may be computed twice."""
        return self.model.supports_gradient_checkpointing

    def gradient_checkpointing_enable(self, settings: dict[str, Any]) -> None:
        """Compute them twice, see `transformers`."""
        self.model.gradient_checkpointing_enable(settings)

    def place(self, tower: VisionTower) -> None:
        """Give visual tokens positions in rows and columns, where the model has such."""
        if "mrope_section" in (getattr(self.config, "rope_parameters", None) or {}):
            places, end = spatial_positions(tower)
            self.model.register_forward_pre_hook(partial(_spatially, places, end), with_kwargs=True)


FAMILIES: dict[str, tuple[type[Any], str]] = {  # eyes, and the name of the language model in it
    "smolvlm": (Shuffling, "text_model"),
    "idefics3": (Shuffling, "text_model"),
    "paligemma": (Projecting, "language_model"),
    "llava": (Selecting, "language_model"),
    "llava_next": (Selecting, "language_model"),
    "qwen2_vl": (Merging, "language_model"),
    "qwen2_5_vl": (Merging, "language_model"),
    "qwen3_vl": (Merging, "language_model"),
}


def build_whole(
    vocab_size: int,
    model_type: str | None = None,
    pretrained: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    **config: Any,
) -> tuple[WholeLanguage, nn.Module]:
    """Make the language model, with room for `vocab_size` tokens, and the eyes of a whole model of `transformers`.

    pretrained: name or folder; else model_type with text_config, vision_config and the like: from scratch; mean, std:
    of the colours in 0..1, both or neither, by default as the pretrained model's own processor says, else 0.5.
    """
    refuse_half(mean, std)
    if pretrained is not None:
        shape = AutoConfig.from_pretrained(located(pretrained))
    elif model_type is not None:
        config["text_config"] = {**config.get("text_config", {}), "vocab_size": vocab_size}
        shape = AutoConfig.for_model(model_type, **config)
    else:
        raise ValueError("a whole model needs model_type (from scratch, e.g. smolvlm) or pretrained (name or folder)")
    if shape.model_type not in FAMILIES:
        raise ValueError(f"whole models of type {shape.model_type} are not known, possible: {', '.join(FAMILIES)}")
    if pretrained is not None:
        model = load_pretrained(AutoModelForImageTextToText, pretrained, **config)
        make_room(model, vocab_size)
        mean, std = (mean, std) if mean is not None else _colours(located(pretrained))
    else:
        model = AutoModelForImageTextToText.from_config(shape)
    kind, text = FAMILIES[shape.model_type]
    eyes = kind(model.model)
    eyes.colours = {} if mean is None or std is None else {"mean": mean, "std": std}
    if eyes.colours:
        normalise(eyes, **eyes.colours)
    return WholeLanguage(model, getattr(model.model, text)), eyes


def spatial_positions(tower: VisionTower) -> tuple[Tensor, int]:
    """Time, row and column int[3, P] of the visual tokens, image after image, and the position of what follows."""
    start, places = 0, []
    for name, grid in tower.feature_grids.items():
        assert grid is not None
        tiling = tower.tilings.get(name)
        for _ in range(tower.frames * (tiling.count if tiling else 1)):
            at = torch.cartesian_prod(torch.arange(1), torch.arange(grid[0]), torch.arange(grid[1]))
            places.append(start + at.T)
            start += max(grid)
    return torch.cat(places, dim=1), start


def _spatially(
    places: Tensor, end: int, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn positions int[B, N], of which the first belong to visual tokens, into int[3, B, N]."""
    positions, count = named["position_ids"], places.shape[1]
    seen = places.to(positions.device)[:, positions.clamp_max(count - 1)]
    return arguments, named | {"position_ids": torch.where(positions < count, seen, positions - count + end)}


def _colours(pretrained: str) -> tuple[list[float], list[float]]:
    settings, _ = ImageProcessingMixin.get_image_processor_dict(pretrained)
    return settings["image_mean"], settings["image_std"]


def _blocks(height: int, width: int, block: int, square: bool = False) -> Grid:
    if height % block or width % block or (square and height != width):
        raise ValueError(
            f"this model takes {'square ' * square}frames whose sides are multiples of {block} pixels, got {height} x "
            f"{width}: change model.cameras"
        )
    return height // block, width // block
