"""Pictures that are mirrored, turned or blue for red are told from those of training, and those of training never."""

import numpy as np
import pytest

from vla.model.glimpses import UNDO, glimpses, mistakes


def table(rng, size=(64, 96)):
    """Return a picture uint8[H, W, 3]: brown table, dark wall above, an arm at the left, things anywhere, any light."""
    height, width = size
    image = np.full((height, width, 3), (150, 110, 70), np.float32)
    image[: height // 4] = (40, 50, 60)
    image[height // 3 :, : width // 5] = (230, 200, 40)
    for _ in range(4):
        row, column = rng.integers(height // 3, height - 8), rng.integers(width // 4, width - 8)
        image[row : row + 8, column : column + 8] = rng.integers(0, 256, 3)
    return np.clip(image * rng.uniform(0.6, 1.3) + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def many(picture):
    return lambda camera, numbers: np.stack([picture(np.random.default_rng(int(number))) for number in numbers])


@pytest.fixture(scope="module")
def known():
    return glimpses(many(table), ["front"], 300)


@pytest.mark.parametrize("what", UNDO)
def test_each_mistake_is_noticed_and_named(known, what):
    for seed in range(1000, 1050):
        image = np.ascontiguousarray(UNDO[what](table(np.random.default_rng(seed))))
        assert mistakes({"front": image}, known) == {"front": what}


def test_pictures_like_those_of_training_pass(known):
    for seed in range(1000, 1200):
        assert not mistakes({"front": table(np.random.default_rng(seed))}, known)


def test_a_camera_whose_pictures_tell_nothing_is_not_compared():
    def noise(rng):
        return rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)

    assert glimpses(many(noise), ["wrist"], 300) == {}


def test_a_camera_without_a_glimpse_is_left_alone(known):
    assert mistakes({"wrist": np.zeros((64, 96, 3), np.uint8)}, known) == {}


def close_up(rng, size=(64, 96)):
    """Return what a camera at the hand may show uint8[H, W, 3]: two fingers before whatever is below."""
    image = np.full((*size, 3), rng.integers(40, 220, 3), np.float32)
    image[:, size[1] // 4 : size[1] // 3] = image[:, 2 * size[1] // 3 : 3 * size[1] // 4] = (30, 30, 30)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def test_two_cameras_of_one_size_that_are_swapped_are_noticed(known):
    for seed in range(1000, 1100):
        rng = np.random.default_rng(seed)
        front, wrist = table(rng), close_up(rng)
        assert mistakes({"front": front, "wrist": wrist}, known) == {}
        assert mistakes({"front": wrist, "wrist": front}, known) == {"front": "unlike itself, and wrist looks like it"}
