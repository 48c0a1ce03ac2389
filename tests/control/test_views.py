"""A frame seen in several ways is the same frame, moved a little, whatever its size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla.control.views import SHIFT, SIDES, views
from vla.types import Observation


@given(st.integers(30, 80), st.integers(30, 80))
def test_views_show_the_same_things_moved_to_each_side(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2, width // 2] = 255
    seen = Observation({"front": image}, np.zeros(6, np.float32), "look", 1.5)
    by = round(SHIFT * height)
    for (down, right), view in zip(SIDES, views(seen), strict=True):
        assert view.images["front"].shape == image.shape and view.time_s == seen.time_s
        row, column = np.argwhere(view.images["front"][..., 0])[0]
        assert (row - height // 2, column - width // 2) == (by * down, by * right)


def test_what_leaves_at_one_border_is_not_replaced_by_the_other():
    image = np.zeros((50, 50, 3), np.uint8)
    image[:, 0] = 200
    left = views(Observation({"front": image}, np.zeros(6, np.float32), "look", 0.0))[SIDES.index((0, -1))]
    assert not left.images["front"].any()
