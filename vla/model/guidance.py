"""Real-time chunking at inference: a chunk that is made from noise is led toward what an older chunk foresaw.

Black, Galliker and Levine 2025, "Real-time execution of action chunking flow policies", arXiv:2506.07339, section 4 and
the authors' code. It needs no training for it, unlike given steps (`Flow`), and costs more. The paper takes the
Jacobian of the network for the way back from chunk to noise; lerobot takes the identity, which costs next to nothing.

B batch, T action horizon, A action dimension. Noise is at time 1, the chunk at time 0; the paper counts the other way.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

VARIANTS = ("identity", "jacobian")
LIMIT = 5.0  # of the strength, where the noise is strongest


def prefix_weights(decided: Tensor, foreseen: int, horizon: int) -> Tensor:
    """How much each step is bound to the older chunk: 1 while decided, then less and less, 0 after what it foresaw.

    decided: int[B], leading steps that will have been executed; foreseen: steps that the older chunk still has.
    Returns float[B, T].
    """
    steps = torch.arange(horizon, device=decided.device)
    decided = decided.clamp(max=foreseen)[:, None]
    fade = ((decided - 1 - steps) / (foreseen - decided + 1) + 1).clamp(0, 1)
    return torch.where(steps < foreseen, fade * torch.expm1(fade) / (math.e - 1), 0.0)


def strength(time: float, limit: float = LIMIT) -> float:
    """Return how strongly to lead at a time 0..1, equation 2 of the paper."""
    if time >= 1:
        return limit
    if time <= 0:
        return 0.0
    done = 1 - time
    return min(time / done * (done**2 + time**2) / time**2, limit)


def led(
    velocity: Callable[[Tensor], Tensor], noisy: Tensor, time: float, toward: Tensor, weights: Tensor, variant: str
) -> Tensor:
    """Return the velocity float[B, T, A] at a noisy chunk, corrected so that the chunk comes nearer to `toward`.

    velocity: of a noisy chunk float[B, T, A] at this time; toward: float[B, T, A], by weights float[B, T]; variant: one
    of VARIANTS.
    """
    with torch.set_grad_enabled(variant == "jacobian"):
        start = noisy.detach().requires_grad_(variant == "jacobian")
        way = velocity(start)
        chunk = start - time * way
        error = ((toward - chunk) * weights[..., None]).detach()
        back = torch.autograd.grad(chunk, start, error)[0] if variant == "jacobian" else error
    return way.detach() - strength(time) * back


def check_variant(variant: str | None) -> str | None:
    """Return the variant, None for none; raises ValueError where it is not known."""
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"guidance {variant!r} is not known; possible: null, {', '.join(VARIANTS)}")
    return variant
