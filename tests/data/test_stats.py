"""Statistics are exact: the same as NumPy over all values at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.data.stats import QUANTILES, array_stats, from_json, histogram_stats, image_histogram, to_json

images = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3)))


@given(images)
def test_image_statistics_equal_those_of_all_pixels(batch):
    stats = histogram_stats(np.sum([image_histogram(image) for image in batch], axis=0), frames=len(batch))
    pixels = batch.reshape(-1, 3) / 255
    for name, quantile in QUANTILES.items():
        np.testing.assert_allclose(stats[name].ravel(), np.quantile(pixels, quantile, axis=0), atol=1e-12)
    np.testing.assert_allclose(stats["mean"].ravel(), pixels.mean(0), atol=1e-12)
    np.testing.assert_allclose(stats["std"].ravel(), pixels.std(0), atol=1e-7)
    np.testing.assert_array_equal(stats["min"].ravel(), pixels.min(0))
    np.testing.assert_array_equal(stats["max"].ravel(), pixels.max(0))
    assert stats["count"].tolist() == [len(batch)]
    assert all(stats[name].shape == (3, 1, 1) for name in stats if name != "count")


@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-100, 100, width=32)))
def test_vector_statistics_equal_those_of_numpy(values):
    stats = array_stats(values)
    for name, quantile in QUANTILES.items():
        np.testing.assert_allclose(stats[name], np.quantile(values.astype(float), quantile, axis=0))
    np.testing.assert_allclose(stats["std"], values.astype(float).std(0))


def test_one_frame_has_quantiles_equal_to_its_value():
    stats = array_stats(np.array([[3.0]]))
    assert [stats[name].item() for name in ("q01", "q99", "mean", "std")] == [3, 3, 3, 0]


def test_flags_have_statistics():
    stats = array_stats(np.array([True, False, False, True]))
    assert (stats["mean"].item(), stats["max"].item()) == (0.5, 1.0)


def test_nothing_has_no_statistics():
    with pytest.raises(ValueError, match="at least one frame"):
        array_stats(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="has no statistics"):
        histogram_stats(np.zeros((3, 256), np.int64), frames=0)


def test_json_is_inverted():
    stats = {"action": array_stats(np.arange(6.0).reshape(3, 2))}
    back = from_json(to_json(stats))
    assert all(np.array_equal(back["action"][name], stats["action"][name]) for name in stats["action"])
