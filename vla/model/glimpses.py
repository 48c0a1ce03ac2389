"""What a camera showed in training, very small: enough to notice a picture that is mirrored, turned or blue for red.

A frame is compared with the mean of training as it is and as it would be if somebody had undone one of these mistakes.
If that fits clearly better, the mistake was made. A policy that sees a mirrored table reaches to the wrong side.
Likewise where another camera's picture fits clearly better than a camera's own: somebody has swapped them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from vla.data.video import resize

ROWS = 16  # of a glimpse
CLEARLY = 0.1  # correlation by which a picture must fit better with a mistake undone
SAMPLE = 600  # frames that a glimpse is made of, and as many that try it
TOLD = 0.95  # share of mistakes that must be noticed, or a camera is not worth comparing

Glimpses = dict[str, np.ndarray]  # camera -> uint8[ROWS, W, 3]
UNDO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda images: images[..., :, ::-1, :],
    "upside down and mirrored": lambda images: images[..., ::-1, :, :],
    "turned by 180 degrees": lambda images: images[..., ::-1, ::-1, :],
    "BGR instead of RGB": lambda images: images[..., ::-1],
}


def glimpses(gather: Callable[[str, np.ndarray], np.ndarray], cameras: list[str], frames: int) -> Glimpses:
    """Make the glimpses of the cameras whose pictures are alike enough to tell such mistakes.

    gather: camera and numbers int[N] below `frames` -> uint8[N, H, W, 3].
    """
    made = {}
    for camera in cameras:
        numbers = np.random.default_rng(0).permutation(frames)[: 2 * SAMPLE]
        images = gather(camera, np.sort(numbers))
        size = ROWS, round(ROWS * images.shape[2] / images.shape[1])
        small = np.stack([resize(image, size) for image in images])
        mean = small[::2].mean(axis=0).round().astype(np.uint8)
        if _tells(small[1::2], mean):
            made[camera] = mean
    return made


def mistakes(images: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Say of each camera whose picture uint8[H, W, 3] fits clearly better with a mistake undone, which mistake."""
    found = {}
    for camera, glimpse in known.items():
        small = {name: resize(image, glimpse.shape[:2])[None] for name, image in images.items()}
        if camera in small and (what := _swapped(camera, small, glimpse) or _mistakes(small[camera], glimpse)[0]):
            found[camera] = what
    return found


def _swapped(camera: str, small: Mapping[str, np.ndarray], glimpse: np.ndarray) -> str:
    """Say which other camera's picture uint8[1, ROWS, W, 3] fits clearly better than its own, empty for none."""
    fits = {name: float(_correlations(image, glimpse)[0]) for name, image in small.items()}
    best = max(fits, key=lambda name: fits[name])
    return f"unlike itself, and {best} looks like it" if fits[best] > fits[camera] + CLEARLY else ""


def unlike(images: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> str:
    """Say the same in words; empty where nothing is wrong."""
    return ", ".join(f"camera {name} looks {what}" for name, what in mistakes(images, known).items())


def _tells(small: np.ndarray, mean: np.ndarray) -> bool:
    """Whether none of the pictures uint8[N, ROWS, W, 3] is mistaken for a mistake, and mistakes are noticed."""
    if not len(small) or any(_mistakes(small, mean)):
        return False
    noticed = [said == what for what, undo in UNDO.items() for said in _mistakes(undo(small), mean)]
    return float(np.mean(noticed)) >= TOLD


def _mistakes(images: np.ndarray, glimpse: np.ndarray) -> list[str]:
    """Say of each picture uint8[N, ROWS, W, 3] which mistake undone fits clearly better, empty for none."""
    fits = np.stack([_correlations(undo(images), glimpse) for undo in UNDO.values()])
    clear = fits.max(axis=0) > _correlations(images, glimpse) + CLEARLY
    return [list(UNDO)[best] if told else "" for best, told in zip(fits.argmax(axis=0), clear, strict=True)]


def _correlations(images: np.ndarray, glimpse: np.ndarray) -> np.ndarray:
    each, known = (pictures.reshape(-1, glimpse.size).astype(np.float64) for pictures in (images, glimpse))
    each, known = (rows - rows.mean(axis=1, keepdims=True) for rows in (each, known))
    lengths = np.linalg.norm(each, axis=1) * np.linalg.norm(known)
    return each @ known[0] / np.maximum(lengths, 1e-9)
