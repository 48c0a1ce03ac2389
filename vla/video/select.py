"""Few frames out of many for one question: by how much each has to do with it, or evenly."""

import numpy as np

POWER = 3.0  # BOLT's sharpening of relevance
AKS_GAP, AKS_DEPTH = 0.8, 5  # AKS keeps a stretch whose best frames exceed its mean by so much, and halves no deeper


def uniform(count: int, frames: int) -> list[int]:
    """Return `frames` numbers of 0 .. count - 1, evenly spread, each at most once."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(frames, count)).round()})


def bolt(relevance: np.ndarray, frames: int) -> list[int]:
    """Choose by inverse transform sampling of the sharpened relevance float[N] (Liu et al. 2025, BOLT, section 3).

    Returns at most `frames` numbers in order; several points that fall on one frame choose it once, and its neighbours
    fill up. Where nothing is more relevant than anything else, the choice is even.
    """
    span = float(np.ptp(relevance)) if len(relevance) else 0.0
    if span <= 0:
        return uniform(len(relevance), frames)
    weight = ((relevance - relevance.min()) / span) ** POWER
    cumulated = np.cumsum(weight) / weight.sum()
    points = np.linspace(0.5 / frames, 1 - 0.5 / frames, frames)
    return _distinct(np.searchsorted(cumulated, points), len(relevance))


def aks(relevance: np.ndarray, frames: int) -> list[int]:
    """Choose by adaptive keyframe sampling (Tang et al. 2025, AKS): halve until the best frames of a stretch stand out.

    Returns at most `frames` numbers in order. A stretch of depth d gives frames / 2^d of its best.
    """
    span = float(np.ptp(relevance)) if len(relevance) else 0.0
    scaled = (relevance - relevance.min()) / span if span > 0 else np.zeros(len(relevance))
    chosen: list[int] = []
    stretches = [(0, len(scaled), 0)]
    while stretches:
        start, stop, depth = stretches.pop()
        share = max(1, frames >> depth)
        best = start + np.argsort(-scaled[start:stop], kind="stable")[:share]
        stands_out = scaled[best].mean() - scaled[start:stop].mean() > AKS_GAP
        if stands_out or depth == AKS_DEPTH or share == 1 or stop - start < 2 * share:
            chosen += [int(k) for k in best]
        else:
            middle = (start + stop) // 2
            stretches += [(start, middle, depth + 1), (middle, stop, depth + 1)]
    return sorted(chosen)


def _distinct(wanted: np.ndarray, count: int) -> list[int]:
    """Return the wanted numbers, each that was taken already replaced by the nearest free one."""
    taken: set[int] = set()
    for number in map(int, wanted):
        free = [k for away in range(count) for k in (number - away, number + away) if 0 <= k < count and k not in taken]
        if free:
            taken.add(free[0])
    return sorted(taken)
