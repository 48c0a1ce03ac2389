"""Exact statistics of episodes: vectors from all their values, images from mergeable histograms of all their pixels.

The keys and shapes are those of LeRobotDataset v3.0: min, max, mean, std (population), count, q01, q10, q50, q90, q99.
"""

import cv2
import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
BINS = 256

Stats = dict[str, np.ndarray]


def array_stats(values: np.ndarray) -> Stats:
    """Describe float or bool [N, D] (or [N]); every entry is float64[D], `count` is int64[1]."""
    if not len(values):
        raise ValueError("statistics of 0 frames do not exist: give at least one frame")
    values = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return stats | dict(zip(QUANTILES, quantiles, strict=True)) | {"count": np.array([len(values)])}


def image_histogram(image: np.ndarray) -> np.ndarray:
    """Count the values of uint8[H, W, 3] into int64[3, 256]; histograms of several images are added."""
    counts = [cv2.calcHist([image], [channel], None, [BINS], [0, BINS]) for channel in range(3)]
    return np.stack(counts).reshape(3, BINS).astype(np.int64)


def histogram_stats(histogram: np.ndarray, frames: int) -> Stats:
    """Describe the pixels, scaled to 0..1, of int64[3, 256] counts: every entry is float64[3, 1, 1]."""
    total = histogram.sum(1)
    if frames <= 0 or not total.all():
        raise ValueError(f"a histogram of {frames} frames and {total.tolist()} pixels has no statistics")
    levels = np.arange(BINS) / (BINS - 1)
    mean = histogram @ levels / total
    variance = (histogram * (levels - mean[:, None]) ** 2).sum(1) / total
    cumulative = histogram.cumsum(1)
    stats = {
        "min": _order_statistic(cumulative, np.zeros(3, np.int64)),
        "max": _order_statistic(cumulative, total - 1),
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, quantile in QUANTILES.items():
        rank = (total - 1) * quantile
        low = np.floor(rank).astype(np.int64)
        below = _order_statistic(cumulative, low)
        above = _order_statistic(cumulative, np.minimum(low + 1, total - 1))
        stats[name] = below + (above - below) * (rank - low)
    return {name: value.reshape(3, 1, 1) for name, value in stats.items()} | {"count": np.array([frames])}


def to_json(stats: dict[str, Stats]) -> dict[str, dict[str, list]]:
    """Turn arrays into the nested lists of meta/stats.json."""
    return {key: {name: value.tolist() for name, value in entry.items()} for key, entry in stats.items()}


def from_json(stats: dict[str, dict[str, list]]) -> dict[str, Stats]:
    """Invert `to_json`."""
    return {key: {name: np.asarray(value) for name, value in entry.items()} for key, entry in stats.items()}


def _order_statistic(cumulative: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the value, 0..1, of the pixel at `rank` int64[3] (0 the darkest) in each channel."""
    return (cumulative <= rank[:, None]).sum(1) / (BINS - 1)
