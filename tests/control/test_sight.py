"""Pictures that cannot be true are not believed, and true ones always are."""

from dataclasses import replace

import numpy as np
import pytest

from tests.control.arms import Frame
from tests.control.drive import ARM
from vla.control.sight import Sight
from vla.types import Camera, Embodiment

BODY: Embodiment = replace(ARM, cameras={"front": Camera(24, 32)})
RNG = np.random.default_rng(0)
SCENE = RNG.integers(20, 200, (24, 32, 3)).astype(np.uint8)


class Shows:
    def __init__(self):
        self.frame = None

    def latest(self):
        if isinstance(self.frame, OSError):
            raise self.frame
        return self.frame


@pytest.fixture
def look():
    """Show one more picture while the arm is at a height; return the frame that is believed, and what is wrong."""
    sight, camera, numbers = Sight(BODY), Shows(), iter(range(1000))

    def show(image, height=0.0):
        camera.frame = image if isinstance(image, OSError) else Frame(image, float(next(numbers)))
        joints = None if height is None else np.array([height, 0.5], np.float32)
        believed = sight.look({"front": camera}, joints)["front"]
        return believed, sight.wrong["front"]

    return show


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros_like(SCENE), "shows nothing"),
        (np.full_like(SCENE, 255), "shows nothing"),
        (np.full_like(SCENE, 90), "lens covered"),
        (SCENE[:12], "must be uint8"),
        (SCENE.astype(np.float32), "must be uint8"),
        (None, "must be uint8"),
    ],
    ids=["dark", "bright", "flat", "half", "floats", "none"],
)
def test_what_cannot_be_a_picture_is_not_shown_and_the_one_before_it_counts_on(look, image, words):
    first, wrong = look(SCENE)
    assert not wrong
    believed, wrong = look(image)
    assert believed is first and words in wrong
    believed, wrong = look(SCENE[:, ::-1])
    assert believed is not first and not wrong


def test_a_picture_that_stays_while_the_arm_moves_is_frozen(look):
    look(SCENE, 0.0)
    assert not look(SCENE, 0.1)[1]  # one repetition may be
    believed, wrong = look(SCENE, 0.2)
    assert "same picture 3 times" in wrong and believed.time_s == 1.0
    assert not look(SCENE[::-1], 0.2)[1]


def test_a_motion_that_was_not_felt_is_not_held_against_the_camera(look):
    said = [look(SCENE, height)[1] for height in (0.0, 0.0, None, None, None, 0.3, 0.3, 0.3)]
    assert not any(said)


def test_a_still_arm_before_a_still_scene_is_no_fault(look):
    assert not any(look(SCENE, 0.01 * (index % 2))[1] for index in range(100))


def test_noise_alone_shows_that_a_camera_lives(look):
    for index in range(50):
        noisy = SCENE.copy()
        noisy[0, 0, 0] = index
        assert not look(noisy, 0.1 * index)[1]


def test_a_camera_that_errs_is_named_and_its_last_picture_ages(look):
    first, _ = look(SCENE)
    believed, wrong = look(OSError(19, "no such device"))
    assert believed is first and "no such device" in wrong
