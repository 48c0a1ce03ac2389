"""Tiles of a large frame, each as large as the encoder takes, beside the whole frame made small.

Source: any-resolution tiling of LLaVA-NeXT, Liu et al. 2024 (llava-vl.github.io/blog/2024-01-30-llava-next): of a few
grids of tiles the one that keeps most of the frame's pixels, here among those that a budget of tokens allows. At
336 pixels a tile and 576 tokens a tile the frame and 2 x 2 tiles make 2880 tokens. New-line tokens are left out: each
token has a position embedding instead. So are the tiles of frames that fit into one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers.image_processing_utils import select_best_resolution

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows and columns of tiles that LLaVA-NeXT tries


@dataclass(frozen=True)
class Tiling:
    """How the frames of one camera are cut."""

    tile: int  # side of a tile [px]
    rows: int  # of tiles
    columns: int

    @property
    def count(self) -> int:
        """Images that the encoder sees of one frame: the tiles, and before them the whole frame."""
        return 1 + self.rows * self.columns

    def places(self) -> list[tuple[int, int]]:
        """Row and column of each tile, in the order of `cut`."""
        return [(row, column) for row in range(self.rows) for column in range(self.columns)]

    def cut(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float[B, 3, H, W] -> float[B, count, 3, tile, tile], the whole frame first, then by rows.

        The whole frame is squeezed into a square; the tiles keep its proportions, with black around it.
        """
        small = functional.interpolate(pixels, (self.tile, self.tile), mode="bilinear", antialias=True)
        if not self.rows:
            return small[:, None]
        height, width = self.rows * self.tile, self.columns * self.tile
        scale = min(height / pixels.shape[2], width / pixels.shape[3])
        inner = min(height, round(pixels.shape[2] * scale)), min(width, round(pixels.shape[3] * scale))
        large = functional.interpolate(pixels, inner, mode="bilinear", antialias=True)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        padding = (left, width - inner[1] - left, top, height - inner[0] - top)
        canvas = functional.pad(large, padding, value=-1.0)
        tiles = canvas.unflatten(2, (self.rows, self.tile)).unflatten(4, (self.columns, self.tile))
        return torch.cat([small[:, None], tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)], dim=1)


def choose_tiling(
    frame: tuple[int, int],
    tile: int,
    tile_tokens: int,
    max_tokens: int,
    grids: Sequence[Sequence[int]] = GRIDS,
) -> Tiling:
    """Choose the grid of tiles that keeps most of a frame (height, width) [px] within `max_tokens`.

    A frame that fits into one tile gets none beside it, which could show no more. tile: side [px]; tile_tokens: what
    the connector makes of one. Raises ValueError where no grid fits the budget.
    """
    if max(frame) <= tile and tile_tokens <= max_tokens:
        return Tiling(tile, 0, 0)
    affordable = [(grid[0], grid[1]) for grid in grids if (1 + grid[0] * grid[1]) * tile_tokens <= max_tokens]
    if not affordable:
        needed = (1 + min(grid[0] * grid[1] for grid in grids)) * tile_tokens
        raise ValueError(
            f"max_tokens={max_tokens} holds no tiles: a tile has {tile_tokens} tokens, the fewest tiles with the whole "
            f"frame need {needed}. Raise the budget, take a connector with fewer tokens, or leave tiling out"
        )
    rows, columns = affordable[0]
    best = select_best_resolution(frame, [(rows * tile, columns * tile) for rows, columns in affordable])
    if best is not None:
        rows, columns = best[0] // tile, best[1] // tile
    return Tiling(tile, rows, columns)
