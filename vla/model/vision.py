"""Camera frames to visual tokens of the language model's width: tiles, vision encoder, connector.

B batch, N images of one frame (1, or the frame and its tiles), L features of one image, C encoder width, D language
width.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vla.model.connectors import Connector, Grid, Words, build_connector
from vla.model.encoders import build_encoder, features
from vla.model.grounding import waves
from vla.model.memory import Memory
from vla.model.tiling import Tiling, choose_tiling


class VisionTower(nn.Module):
    """Encoder and connector shared by all cameras; each camera has its own position embedding."""

    def __init__(
        self,
        encoder: dict[str, Any] | nn.Module,
        cameras: dict[str, tuple[int, int]],
        width: int,
        connector: dict[str, Any] | Connector | None = None,
        tiling: dict[str, Any] | None = None,
        earlier: int = 0,
    ) -> None:
        """Build.

        encoder: arguments of `build_encoder`, also `layer` and `patches_only`, see `features`; or a module;
        cameras: name -> (height, width) [px] in token order; width: D; connector: arguments of `build_connector` or a
        module; tiling: `tile` [px] and `max_tokens` of a camera, see `choose_tiling`; earlier: frames of each camera
        that are seen beside the present one.
        """
        super().__init__()
        settings = {} if isinstance(encoder, nn.Module) else dict(encoder)
        self.layer: int | None = settings.pop("layer", None)
        self.patches_only: bool = settings.pop("patches_only", False)
        self.cameras = dict(cameras)
        self.memory: Memory | None = None  # of the last frames, where a policy keeps one
        if not isinstance(encoder, nn.Module):
            encode: Any = build_encoder(**settings)
            encoder = encode.to(memory_format=torch.channels_last)
        self.encoder: Any = encoder
        sights: dict[str, Tensor] = {}  # features of one image of each camera
        for name, size in self.cameras.items():
            with torch.no_grad():
                sights[name] = self._features(torch.zeros(1, 3, *((tiling["tile"],) * 2 if tiling else size)))
        channels = next(_flat(sight).shape[2] for sight in sights.values())
        made = isinstance(connector, nn.Module)
        self.connector = connector if made else build_connector(channels, width, **(connector or {}))
        self.feature_grids = {name: _grid(sight) for name, sight in sights.items()}
        self.grids: dict[str, Grid] = {}  # of cameras whose tokens (with tiling: those of the whole frame) form a grid
        self.frames = 1 + earlier
        self.tokens: dict[str, int] = {}  # of one frame of each camera
        self.tilings: dict[str, Tiling] = {}
        for name, sight in sights.items():
            with torch.no_grad():
                count = self.connector(torch.zeros_like(_flat(sight)), self.feature_grids[name]).shape[1]
            if (grid := self.connector.grid(self.feature_grids[name])) is not None:
                self.grids[name] = grid
            if tiling:
                self.tilings[name] = choose_tiling(self.cameras[name], tile_tokens=count, **tiling)
            self.tokens[name] = count * (self.tilings[name].count if tiling else 1)
        places = {name: self._places(name, _flat(sight).shape[1:], width) for name, sight in sights.items()}
        self.position = nn.ParameterDict({name: nn.Parameter(place) for name, place in places.items()})
        self.age = nn.Parameter(0.02 * torch.randn(earlier, width)) if earlier else None

    @property
    def num_tokens(self) -> int:
        """Visual tokens of all cameras and all their frames together."""
        return self.frames * sum(self.tokens.values())

    def _features(self, pixels: Tensor) -> Tensor:
        return features(self.encoder, pixels, self.layer, self.patches_only)

    def _places(self, camera: str, features: tuple[int, ...], width: int) -> Tensor:
        """Where the position embedding starts: waves along rows and columns of a grid, nothing much elsewhere.

        Tokens carry it. Learned queries have no place: there the features (L, C) that they look at carry it.
        """
        tiling = self.tilings.get(camera)
        images = [(0, 0, 1, 1)]  # row and column of each image, among so many rows and columns
        if tiling:
            images += [(row, column, tiling.rows, tiling.columns) for row, column in tiling.places()]
        count, grid = self.tokens[camera], self.grids.get(camera)
        if self.connector.resamples:
            (count, width), grid = (len(images) * features[0], features[1]), self.feature_grids[camera]
        if self.connector.placed:
            return torch.zeros(count, width)
        noise = 0.02 * torch.randn(count, width)
        return noise if grid is None else noise + torch.cat([_grid_waves(grid, width, *image) for image in images])

    def by_camera(self, visual: Tensor) -> dict[str, Tensor]:
        """Visual tokens float[B, sum of tokens, D] -> camera -> float[B, tokens, D], the present frame first."""
        counts = [self.frames * count for count in self.tokens.values()]
        return dict(zip(self.tokens, visual.split(counts, dim=1), strict=True))

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float[B, 3, H, W] -> features float[B, L, C] of any encoder, grids are flattened."""
        return _flat(self._features(pixels))

    @property
    def instructed(self) -> bool:
        """Whether visual tokens depend on words."""
        return self.connector.instructed

    def forward(self, images: dict[str, Tensor], words: Words | None = None) -> Tensor:
        """uint8 (or float 0..255) [B, H, W, 3] of each camera -> visual tokens float[B, sum of tokens, D].

        With N earlier frames [B, 1 + N, H, W, 3], the present one first, each later one older.
        words: what is said about the frames, for an instructed connector, which is not without (ValueError).
        """
        if self.instructed and words is None:
            raise ValueError("an instructed connector sees nothing without words: ask through Network.look")
        tokens = []
        for name, (height, width) in self.cameras.items():
            image, taken = images[name], (height, width, 3) if self.age is None else (self.frames, height, width, 3)
            if tuple(image.shape[1:]) != taken:
                raise ValueError(f"camera {name!r} gave {tuple(image.shape[1:])}, the model takes {taken}")
            tokens.append(self._dated(name, image, words))
        return torch.cat(tokens, dim=1)

    def _dated(self, camera: str, image: Tensor, words: Words | None) -> Tensor:
        """Frames of all ages as tokens float[B, frames * tokens, D]."""
        if self.age is None:
            return self._connected(camera, self._seen(camera, image), words)
        told = None if words is None else _repeated(words, self.frames)
        tokens = self._connected(camera, self._seen(camera, image.flatten(0, 1)), told).unflatten(0, (-1, self.frames))
        age = torch.cat([torch.zeros_like(self.age[:1]), self.age])
        return (tokens + age[:, None]).flatten(1, 2)

    def _seen(self, camera: str, image: Tensor) -> Tensor:
        """Frames [B, H, W, 3] -> features float[B, N, L, C], remembered ones where there is a memory to ask."""
        if self.memory is None or self.training or torch.is_grad_enabled():
            return self._look(camera, image)
        return self.memory.recall(camera, image, partial(self._look, camera))

    def _look(self, camera: str, image: Tensor) -> Tensor:
        tiling, pixels = self.tilings.get(camera), (image.permute(0, 3, 1, 2) / 127.5).sub_(1)
        features = self.encode(tiling.cut(pixels).flatten(0, 1) if tiling else pixels)
        return features.unflatten(0, (len(image), -1))

    def _connected(self, camera: str, features: Tensor, words: Words | None) -> Tensor:
        """Features float[B, N, L, C] -> tokens float[B, N * tokens of an image, D]."""
        position, grid, (batch, count) = self.position[camera], self.feature_grids[camera], features.shape[:2]
        if self.connector.resamples:
            features = (features.reshape(batch, *position.shape) + position).reshape(features.shape)
            told = {"words": _repeated(words, count)} if self.instructed and words is not None else {}
            return self.connector(features.flatten(0, 1), grid, **told).reshape(batch, self.tokens[camera], -1)
        return self.connector(features.flatten(0, 1), grid).reshape(batch, *position.shape) + position


def _repeated(words: Words, times: int) -> Words:
    """What is said about a frame, for each of the images that it becomes."""
    return words[0].repeat_interleave(times, dim=0), words[1].repeat_interleave(times, dim=0)


def _grid(features: Tensor) -> Grid | None:
    """Rows and columns of a feature map float[B, C, H, W]; sequences have none."""
    return (features.shape[2], features.shape[3]) if features.ndim == 4 else None


def _grid_waves(grid: Grid, width: int, row: int, column: int, of_rows: int, of_columns: int) -> Tensor:
    """Describe the places of one image's tokens in the whole frame float[rows * columns, width].

    row, column: which tile it is, of so many; the frame itself is 0, 0 of 1, 1.
    """
    rows, columns = grid
    longest = max(rows, columns)
    across = (column * columns + torch.arange(columns) + 0.5) / of_columns / longest
    down = (row * rows + torch.arange(rows) + 0.5) / of_rows / longest
    along = 0.5 * waves(across, width - width // 2, finest=4.0)
    below = 0.5 * waves(down, width // 2, finest=4.0)
    return torch.cat([along.expand(rows, -1, -1), below[:, None].expand(-1, columns, -1)], dim=-1).flatten(0, 1)


def _flat(features: Tensor) -> Tensor:
    """Feature map float[B, C, H, W] -> float[B, H * W, C]; sequences stay."""
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
