"""A dual encoder on the policy's own towers: frames and sentences as vectors that are near where they belong together.

Losses: "siglip", every pair for itself (Zhai et al. 2023, arXiv:2303.15343, section 3.2), or "clip", each among all of
the batch (Radford et al. 2021, arXiv:2103.00020, figure 3).

B batch, P visual tokens, L words, D width, E size of the vectors.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LOSSES = ("siglip", "clip")


class DualEncoder(nn.Module):
    """Two projections to one space; images are pooled by a learned query."""

    def __init__(self, width: int, size: int = 64, heads: int = 2, loss: str = "siglip") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} of the dual encoder is not known, possible: {', '.join(LOSSES)}")
        self.kind = loss
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.image = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.text = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.bias = nn.Parameter(torch.tensor([-10.0 if loss == "siglip" else 0.0]))

    def images(self, visual: Tensor) -> Tensor:
        """Visual tokens float[B, P, D] -> vectors of length 1, float[B, E]."""
        found, _ = self.look(self.query.expand(len(visual), -1, -1), visual, visual, need_weights=False)
        return functional.normalize(self.image(found[:, 0]), dim=-1)

    def texts(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states float[B, L, D] of sentences with mask bool[B, L], padded on the right -> float[B, E]."""
        last = (mask.sum(1) - 1).clamp_min(0)
        return functional.normalize(self.text(hidden[torch.arange(len(hidden)), last]), dim=-1)

    def loss(self, images: Tensor, texts: Tensor, true: Tensor | None = None) -> Tensor:
        """Loss of float[B, E] each.

        true: bool[B, B], which texts (columns) are true of which images (rows); row by row, and no others, by default.
        Among several true ones "clip" shares its weight.
        """
        scores = images @ texts.T * self.scale.exp() + self.bias
        own = torch.eye(len(scores), device=scores.device, dtype=torch.bool)
        true = own if true is None else true | own
        if self.kind == "siglip":
            return -functional.logsigmoid(torch.where(true, scores, -scores)).sum() / max(1, len(scores))
        shares = true / true.sum(1, keepdim=True), true.T / true.sum(0)[:, None]
        return (functional.cross_entropy(scores, shares[0]) + functional.cross_entropy(scores.T, shares[1])) / 2
