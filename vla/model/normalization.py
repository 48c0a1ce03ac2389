"""Normalisation as other stacks do it: LeRobot's modes and OpenVLA's bounds, inverse pairs with the numbers of theirs.

Ours is `ActionCodec`: relative to the measured state, a range for each step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = 1e-8
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
MODES = ("IDENTITY", "MEAN_STD", *RANGES)


class Normalization:
    """One of the modes of LeRobot's `NormalizerProcessorStep`; IDENTITY changes nothing."""

    def __init__(self, mode: str, stats: Mapping[str, Tensor] | None = None) -> None:
        """stats: float[A] each, those that the mode needs. ValueError for a mode or a statistic that is not there."""
        if mode not in MODES:
            raise ValueError(f"normalisation mode {mode!r} is not known, possible: {', '.join(MODES)}")
        needed = () if mode == "IDENTITY" else RANGES.get(mode, ("mean", "std"))
        missing = [name for name in needed if name not in (stats or {})]
        if missing:
            raise ValueError(f"{mode} needs the statistics {missing}, given are {sorted(stats or {})}")
        self.mode = mode
        own = [torch.as_tensor((stats or {})[name]).float() for name in needed]
        self._first, self._second = own or (torch.zeros(()), torch.ones(()))

    def encode(self, values: Tensor) -> Tensor:
        """Values float[..., A] in the units of the dataset -> normalised."""
        first, second = self._first.to(values), self._second.to(values)
        if self.mode == "IDENTITY":
            return values
        if self.mode == "MEAN_STD":
            return (values - first) / (second + EPSILON)
        return 2 * (values - first) / _width(first, second) - 1

    def decode(self, values: Tensor) -> Tensor:
        """Invert `encode`; a value that never varied comes back as it was in the data, whatever is said of it."""
        first, second = self._first.to(values), self._second.to(values)
        if self.mode == "IDENTITY":
            return values
        if self.mode == "MEAN_STD":
            return values * second + first
        return (values + 1) / 2 * _width(first, second) + first


class Bounds:
    """OpenVLA's: the range between two quantiles becomes -1..1, what is masked out stays, what is not used becomes 0.

    Source: `predict_action` of its model and `normalize_action_and_proprio` of its data, github.com/openvla/openvla.
    """

    def __init__(self, low: Tensor, high: Tensor, mask: Tensor | None = None, unused: Tensor | None = None) -> None:
        """low, high: float[A]; mask: bool[A], which values are normalised, all where it is left out.

        unused: bool[A], which never varied in the data, none where it is left out.
        """
        if low.shape != high.shape or low.ndim != 1:
            raise ValueError(f"bounds must be two lists of one length, got {tuple(low.shape)} and {tuple(high.shape)}")
        self.low, self.high = low, high
        self.mask = torch.ones_like(low, dtype=torch.bool) if mask is None else mask
        self.unused = torch.zeros_like(low, dtype=torch.bool) if unused is None else unused
        if wrong := [tuple(each.shape) for each in (self.mask, self.unused) if each.shape != low.shape]:
            raise ValueError(f"bounds of {len(low)} values need as many of mask and unused, got {wrong[0]}")

    def encode(self, actions: Tensor) -> Tensor:
        """Actions float[..., A] -> -1..1 where they are normalised; beyond the bounds they are cut."""
        share = 2 * (actions - self.low) / (self.high - self.low + EPSILON) - 1
        return torch.where(self.mask, share.clamp(-1, 1), actions).masked_fill(self.unused, 0)

    def decode(self, values: Tensor) -> Tensor:
        """Values float[..., A] -> actions."""
        return torch.where(self.mask, 0.5 * (values + 1) * (self.high - self.low) + self.low, values)


def _width(low: Tensor, high: Tensor) -> Tensor:
    width = high - low
    return torch.where(width == 0, EPSILON, width)
