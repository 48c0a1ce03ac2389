"""Joint targets to action-token bins and back: relative to the measured state, exact range, 256 bins.

T action horizon, A action dimension. Step t of a chunk has a range of its own: the first step is a few degrees away
and gets bins of fractions of a degree, the last one may be anywhere.

A network that moves several bodies is as wide as the widest, W. Joints that a body has not are 0 among its values, and
stand before the gripper, which is last in all of them. Otherwise W is A.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla.model.vocabulary import ACTION_BINS


class ActionCodec:
    """Inverse pair between absolute joint targets [rad, gripper 0..1] and values in -1..1 that the head predicts."""

    def __init__(
        self,
        low: np.ndarray,
        high: np.ndarray,
        state_low: np.ndarray,
        state_high: np.ndarray,
        width: int | None = None,
    ) -> None:
        """Take the exact ranges.

        low, high: float[T, A] of (target minus measured state); the gripper (last column) is absolute.
        state_low, state_high: float[A]; width: W, A by default.
        """
        if low.shape != high.shape or low.ndim != 2 or not (high > low).all():
            raise ValueError(f"ranges must be [T, A] with high > low everywhere, got {low.shape} and {high.shape}")
        self.low, self.high = (torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (low, high))
        self.state_low, self.state_high = (
            torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (state_low, state_high)
        )
        self.joints = low.shape[1]
        self.action_dim = width or self.joints
        if self.action_dim < self.joints:
            raise ValueError(f"a network of width {width} cannot move {self.joints} joints: make it as wide as these")

    @classmethod
    def fit(cls, state: np.ndarray, windows: np.ndarray, margin: float = 0.02) -> "ActionCodec":
        """Fit the exact ranges with a margin on each side, so that no valid target is clipped.

        state: float[N, A] measured; windows: float[N, T, A] absolute targets of the T steps that follow.
        """
        relative = relative_actions(torch.as_tensor(windows), torch.as_tensor(state)).numpy()
        low, high = relative.min(axis=0), relative.max(axis=0)
        pad = margin * (high - low) + 1e-3
        state_low, state_high = state.min(axis=0), state.max(axis=0)
        return cls(low - pad, high + pad, state_low - 1e-3, state_high + 1e-3)

    @classmethod
    def around(cls, codecs: Sequence["ActionCodec"], width: int | None = None) -> "ActionCodec":
        """Take the ranges that hold those of all codecs, which are of one body."""
        low, high, state_low, state_high = (
            np.stack([getattr(codec, name).numpy() for codec in codecs])
            for name in ("low", "high", "state_low", "state_high")
        )
        return cls(low.min(0), high.max(0), state_low.min(0), state_high.max(0), width)

    @property
    def action_horizon(self) -> int:
        """T."""
        return self.low.shape[0]

    def encode(self, actions: Tensor, state: Tensor) -> Tensor:
        """Absolute targets float[B, T, A] and state float[B, A] -> float[B, T, W], -1..1 inside the fitted range."""
        low, high = self.low.to(actions.device), self.high.to(actions.device)
        return self._widened((relative_actions(actions, state) - low) / (high - low) * 2 - 1)

    def decode(self, values: Tensor, state: Tensor) -> Tensor:
        """Invert `encode`; what stands for joints that are not there is not read."""
        low, high = self.low.to(values.device), self.high.to(values.device)
        own = torch.cat([values[..., : self.joints - 1], values[..., -1:]], dim=-1)
        return absolute_actions((own + 1) / 2 * (high - low) + low, state)

    def encode_state(self, state: Tensor) -> Tensor:
        """State float[B, A] [rad, 0..1] -> float[B, W], -1..1 inside the fitted range."""
        low, high = self.state_low.to(state.device), self.state_high.to(state.device)
        return self._widened((state - low) / (high - low) * 2 - 1)

    def there(self) -> Tensor:
        """Which of the W values belong to joints of this body, bool[W]."""
        return self._widened(torch.ones(self.joints)) > 0

    def _widened(self, values: Tensor) -> Tensor:
        missing = values.new_zeros(*values.shape[:-1], self.action_dim - self.joints)
        return torch.cat([values[..., :-1], missing, values[..., -1:]], dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; `from_dict` inverts it."""
        ranges = {name: getattr(self, name).tolist() for name in ("low", "high", "state_low", "state_high")}
        return ranges | ({"width": self.action_dim} if self.action_dim != self.joints else {})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ActionCodec":
        """Rebuild from `to_dict`; a missing statistic is an error, never a default."""
        missing = [name for name in ("low", "high", "state_low", "state_high") if name not in data]
        if missing:
            raise KeyError(f"no action statistics {missing}; the file has {sorted(data)}")
        ranges = {name: np.asarray(data[name], np.float32) for name in ("low", "high", "state_low", "state_high")}
        return cls(**ranges, width=data.get("width"))


def relative_actions(actions: Tensor, state: Tensor) -> Tensor:
    """Subtract the measured joints from the targets; the gripper (last column) stays absolute. float[B, T, A]."""
    return torch.cat([actions[..., :-1] - state[:, None, :-1], actions[..., -1:]], dim=-1)


def absolute_actions(relative: Tensor, state: Tensor) -> Tensor:
    """Invert `relative_actions`."""
    return torch.cat([relative[..., :-1] + state[:, None, :-1], relative[..., -1:]], dim=-1)


def bin_centers(bins: int = ACTION_BINS, device: torch.device | str = "cpu") -> Tensor:
    """Centres of `bins` equal bins over -1..1, float[bins]."""
    return (torch.arange(bins, device=device, dtype=torch.float32) + 0.5) / bins * 2 - 1


def edge_bins(values: Tensor, bins: int = ACTION_BINS) -> Tensor:
    """Number the 255 bins between 256 edges over -1..1 from 1: float[...] -> int[...], 256 for 1 itself.

    Source: OpenVLA, arXiv:2406.09246, `prismatic/vla/action_tokenizer.py`, to the bit: edges in double precision.
    """
    return torch.bucketize(values.double().clamp(-1, 1).contiguous(), _edges(bins, values.device), right=True)


def edge_centers(numbers: Tensor, bins: int = ACTION_BINS) -> Tensor:
    """Invert `edge_bins` up to half a bin: int[...] -> float[...]; 256, which only 1 itself has, is the last bin."""
    edges = _edges(bins, numbers.device)
    return ((edges[:-1] + edges[1:]) / 2)[(numbers - 1).clamp(0, bins - 2)].float()


def _edges(bins: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.linspace(-1, 1, bins)).to(device)


def soft_targets(values: Tensor, sigma_bins: float, bins: int = ACTION_BINS) -> Tensor:
    """Spread each value over neighbouring bins as a Gaussian: float[...] in -1..1 -> probabilities float[..., bins].

    Source: HL-Gauss, Imani and White 2018, in the density form.
    """
    distance = (values.clamp(-1, 1).unsqueeze(-1) - bin_centers(bins, values.device)) * (bins / 2)
    return torch.softmax(-0.5 * (distance / sigma_bins) ** 2, dim=-1)


def expectation_around_mode(logits: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Decode bin logits float[..., bins] to the mean value near the most likely bin.

    Returns values float[...] in -1..1 and the probability mass float[...] of that neighbourhood, the confidence.
    Bins further than `radius` from the mode are left out, so two separate modes are never averaged.
    """
    bins = logits.shape[-1]
    probabilities = torch.softmax(logits.float(), dim=-1)
    mode = probabilities.argmax(dim=-1, keepdim=True)
    near = (torch.arange(bins, device=logits.device) - mode).abs() <= radius
    mass = (probabilities * near).sum(-1)
    return (probabilities * near * bin_centers(bins, logits.device)).sum(-1) / mass, mass
