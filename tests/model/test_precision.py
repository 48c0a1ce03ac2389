"""Fewer bits are close to the full ones, say the same alone and in a batch, and come back from a checkpoint."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import PROMPTS, observation, tiny_config, tiny_policy
from vla.model import checkpoint
from vla.model.precision import PRECISIONS, Int8Linear, linear_layers, stored, to_int8


def exported(policy, precision, folder):
    config = tiny_config(policy.processor.tokenizer)
    weights = stored(policy.network, precision)
    checkpoint.save(folder, config, weights, policy.processor, {}, precision=precision)
    return checkpoint.load(folder)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.floats(-6, 6))
def test_levels_times_scales_are_at_most_half_a_step_off(seed, outputs, inputs, magnitude):
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 10**magnitude
    levels, scale = to_int8(weight)
    assert levels.dtype == torch.int8 and levels.abs().max() <= 127
    assert ((levels * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


def test_a_row_of_zeros_stays_zero():
    levels, scale = to_int8(torch.zeros(2, 3))
    assert not levels.any() and scale.isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_export_acts_nearly_as_before_from_a_smaller_file(precision, tmp_path):
    policy = tiny_policy()
    full = {"config": tiny_config(policy.processor.tokenizer), "weights": policy.network.state_dict()}
    checkpoint.save(tmp_path / "full", **full, processor=policy.processor, provenance={})
    loaded = exported(policy, precision, tmp_path / precision)
    ours, theirs = (one.act([observation()])[0].actions for one in (policy, loaded))
    assert 0 < np.abs(ours - theirs).max() < 0.1
    before, after = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", precision))
    assert after < 0.55 * before


def test_int8_layers_do_multiply_in_int8(tmp_path):
    loaded = exported(tiny_policy(), "int8", tmp_path / "int8")
    layers = [layer for layer in loaded.network.modules() if isinstance(layer, Int8Linear)]
    assert len(layers) == len(linear_layers(tiny_policy().network)) > 10
    assert not linear_layers(loaded.network)
    layer = layers[0]
    inputs = torch.randn(2, 5, layer.levels.shape[1])
    whole = inputs @ (layer.levels * layer.scale[:, None]).T + (0 if layer.bias is None else layer.bias)
    error = (layer(inputs) - whole).abs()
    assert 0 < error.max() < 0.1 * whole.abs().max()


def test_a_batch_says_what_each_says_alone_to_the_bit(tmp_path):
    """One bright picture in a batch must not change how finely the others are rounded."""
    policy = exported(tiny_policy(), "int8", tmp_path / "int8")
    layer = next(layer for layer in policy.network.modules() if isinstance(layer, Int8Linear))
    inputs = torch.randn(2, 3, layer.levels.shape[1]) * torch.tensor([1.0, 1000.0])[:, None, None]
    assert torch.equal(layer(inputs)[0], layer(inputs[:1])[0])
    together = policy.act([observation(seed, PROMPTS[0]) for seed in range(3)])
    for seed, chunk in enumerate(together):
        alone = policy.act([observation(seed, PROMPTS[0])])[0]
        np.testing.assert_allclose(chunk.actions, alone.actions, atol=0.02)


def test_int8_is_refused_on_another_device_and_unknown_precisions_everywhere(tmp_path):
    policy = tiny_policy()
    exported(policy, "int8", tmp_path / "int8")
    with pytest.raises(ValueError, match="device=cuda cannot: give device=cpu"):
        checkpoint.load(tmp_path / "int8", device="cuda")
    with pytest.raises(ValueError, match="'int4' is not known, possible: bfloat16"):
        stored(policy.network, "int4")
    document = tmp_path / "int8" / "config.json"
    document.write_text(document.read_text().replace('"int8"', '"int2"'))
    with pytest.raises(ValueError, match="exported to 'int2', this version reads bfloat16"):
        checkpoint.load(tmp_path / "int8")
