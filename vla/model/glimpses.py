"""What a camera showed in training, very small: enough to notice a picture that is mirrored, turned or blue for red.

A frame is compared with the mean of training as it is and as it would be if somebody had undone one of these mistakes.
If that fits clearly better, the mistake was made. A policy that sees a mirrored table reaches to the wrong side.
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
        if camera in images and (what := _mistake(resize(images[camera], glimpse.shape[:2]), glimpse)):
            found[camera] = what
    return found


def unlike(images: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> str:
    """Say the same in words; empty where nothing is wrong."""
    return ", ".join(f"camera {name} looks {what}" for name, what in mistakes(images, known).items())


def _tells(small: np.ndarray, mean: np.ndarray) -> bool:
    """Whether none of the pictures uint8[N, ROWS, W, 3] is mistaken for a mistake, and mistakes are noticed."""
    if not len(small) or any(_mistake(image, mean) for image in small):
        return False
    noticed = [_mistake(undo(image), mean) == what for image in small for what, undo in UNDO.items()]
    return float(np.mean(noticed)) >= TOLD


def _mistake(image: np.ndarray, glimpse: np.ndarray) -> str:
    fits = {what: _correlation(undo(image), glimpse) for what, undo in UNDO.items()}
    what = max(fits, key=lambda name: fits[name])
    return what if fits[what] > _correlation(image, glimpse) + CLEARLY else ""


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (image.astype(np.float64).ravel() - image.mean() for image in (one, other))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
