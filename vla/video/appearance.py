"""Moments at which a picture looks different from before, found without knowing what it shows."""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter1d

from vla.video.events import PIXELS, Event
from vla.video.motion import peaks
from vla.video.track import Track

NOVELTY_S = 0.5  # half the width of the novelty kernel
NOVELTY_SHARE = 0.3  # of the 95th percentile: lower peaks are not told
SUBGOAL_S = 1.0  # subgoals lie at least this far apart, and from both ends
SUBGOAL_SMOOTH_S = 0.25  # standard deviation of the smoothing of distances to a goal
SUBGOAL_REACH_S = 60.0  # a goal is compared with this much before it


def from_looks(camera: str, track: Track) -> list[Event]:
    """Return where the looks of a camera's picture change, in the order of time."""
    time_s, looks = track.time_s[track.sample], track.looks
    found = [*_novelties(camera, looks, time_s), *_subgoals(camera, looks, time_s)]
    return sorted(found, key=lambda event: (event.time_s, event.kind))


def _novelties(camera: str, looks: np.ndarray, time_s: np.ndarray) -> Iterator[Event]:
    values = novelty(looks, time_s)
    usual = float(np.percentile(values, 95)) if len(values) else 0.0
    if usual <= 0:
        return
    for moment in peaks(values, time_s, NOVELTY_SHARE * usual, NOVELTY_S):
        words = f"{camera} looks different after than before"
        yield Event(float(time_s[moment]), "novelty", PIXELS, min(1.0, float(values[moment]) / usual), words)


def _subgoals(camera: str, looks: np.ndarray, time_s: np.ndarray) -> Iterator[Event]:
    for moment in subgoals(looks, time_s):
        words = f"{camera} stops getting closer to how it looks later"
        yield Event(float(time_s[moment]), "subgoal", PIXELS, 1.0, words)


def novelty(looks: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """Return how much the looks float[M, D] of the moments after each one differ from those before, float64[M].

    Foote 2000, Automatic Audio Segmentation Using a Measure of Audio Novelty: a tapered checkerboard kernel slides
    along the diagonal of the self-similarity matrix, of which only the band under the kernel is computed.
    """
    count = len(looks)
    if count < 4:
        return np.zeros(count)
    half = max(2, round(NOVELTY_S / max(float(np.median(np.diff(time_s))), 1e-3)))
    place = (np.arange(-half, half) + 0.5) / half
    taper = np.sign(place) * np.exp(-2 * place**2)
    kernel = np.outer(taper, taper) / np.abs(np.outer(taper, taper)).sum()
    padded = np.concatenate([np.repeat(looks[:1], half, axis=0), looks, np.repeat(looks[-1:], half, axis=0)])
    padded = padded.astype(np.float32)
    values = np.zeros(count)
    for apart in range(2 * half):
        weights = np.diagonal(kernel, apart) * (1 if apart == 0 else 2)
        similar = np.einsum("md,md->m", padded[: len(padded) - apart], padded[apart:], dtype=np.float64)
        for first, weight in enumerate(weights):
            values += weight * similar[first : first + count]
    return np.maximum(values, 0.0)


def subgoals(looks: np.ndarray, time_s: np.ndarray) -> list[int]:
    """Return the moments at which a picture with looks float[M, D] begins to move on towards a later one.

    UVD, Zhang et al. 2024, algorithm 1: going backwards from the last moment as the goal, the latest local maximum of
    the smoothed distance to the goal is where the way to that goal began; it becomes the goal before.
    """
    found: list[int] = []
    if len(looks) < 4:
        return found
    width = SUBGOAL_SMOOTH_S / max(float(np.median(np.diff(time_s))), 1e-3)
    goal = len(looks) - 1
    while time_s[goal] - time_s[0] > 2 * SUBGOAL_S:
        first = int(np.searchsorted(time_s, time_s[goal] - SUBGOAL_REACH_S))
        distance = np.linalg.norm(looks[first : goal + 1].astype(np.float32) - looks[goal].astype(np.float32), axis=1)
        smooth = gaussian_filter1d(distance.astype(np.float64), max(width, 0.5), mode="nearest")
        top = 1 + np.flatnonzero((smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:])) + first
        far = top[(time_s[goal] - time_s[top] >= SUBGOAL_S) & (time_s[top] - time_s[0] >= SUBGOAL_S)]
        if not len(far):
            if not first:
                break
            goal = first  # nothing in reach: go on before it
            continue
        goal = int(far[-1])
        found.append(goal)
    return found[::-1]
