"""The action codec is an inverse pair that clips nothing it was fitted on; decoding never averages two modes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.model.actions import ActionCodec, bin_centers, expectation_around_mode, soft_targets
from vla.model.vocabulary import ACTION_BINS


def demonstrations(seed, count=40, horizon=6, dim=4):
    rng = np.random.default_rng(seed)
    state = rng.normal(0, 1, (count, dim)).astype(np.float32)
    windows = (state[:, None] + rng.normal(0, 0.3, (count, horizon, dim)).cumsum(axis=1)).astype(np.float32)
    windows[..., -1] = rng.uniform(0, 1, (count, horizon))
    return state, windows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_decode_inverts_encode_and_no_fitted_target_is_clipped(seed):
    state, windows = demonstrations(seed)
    codec = ActionCodec.fit(state, windows)
    values = codec.encode(torch.from_numpy(windows), torch.from_numpy(state))
    assert values.abs().max() < 1
    np.testing.assert_allclose(codec.decode(values, torch.from_numpy(state)), windows, atol=1e-5)


def test_gripper_is_absolute_and_joints_are_relative():
    state, windows = demonstrations(0)
    codec = ActionCodec.fit(state, windows)
    values = codec.encode(torch.from_numpy(windows), torch.from_numpy(state))
    moved = codec.decode(values, torch.from_numpy(state + 0.1)).numpy()
    np.testing.assert_allclose(moved[..., :-1], windows[..., :-1] + 0.1, atol=1e-5)
    np.testing.assert_allclose(moved[..., -1], windows[..., -1], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.95, 0.95), st.floats(0.5, 3.0))
def test_soft_labels_decode_to_the_value_finer_than_a_bin(value, sigma):
    target = soft_targets(torch.tensor([value]), sigma)
    decoded, mass = expectation_around_mode(target.log(), radius=12)
    assert target.sum().item() == pytest.approx(1, abs=1e-5)
    assert decoded.item() == pytest.approx(value, abs=0.2 / ACTION_BINS)
    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_two_modes_are_not_averaged():
    centers = bin_centers()
    logits = torch.full((ACTION_BINS,), -20.0)
    logits[20], logits[200] = 1.0, 0.9
    decoded, mass = expectation_around_mode(logits, radius=6)
    assert decoded.item() == pytest.approx(centers[20].item(), abs=1e-4)
    assert 0.5 < mass.item() < 0.55


def test_a_missing_statistic_is_named():
    state, windows = demonstrations(0)
    data = ActionCodec.fit(state, windows).to_dict()
    del data["state_low"]
    with pytest.raises(KeyError, match="state_low"):
        ActionCodec.from_dict(data)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="high > low"):
        ActionCodec(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3), np.ones(3))
