"""A chunk that is made from noise can be led toward what an older one foresaw."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import observation, tiny_config, tiny_processor
from vla.model.guidance import LIMIT, check_variant, led, prefix_weights, strength
from vla.model.network import Network
from vla.model.policy import VLAPolicy

HORIZON = 8


def policy_of(name):
    torch.manual_seed(0)
    processor = tiny_processor()
    return VLAPolicy(Network(**tiny_config(processor.tokenizer), head={"name": name}), processor)


@given(st.integers(0, 8), st.integers(1, 8))
def test_weights_are_those_of_the_paper(decided, foreseen):
    weights = prefix_weights(torch.tensor([decided]), foreseen, HORIZON)[0].numpy()
    delay, expected = min(decided, foreseen), []
    for step in range(HORIZON):  # equation 5, with the horizon of execution written as what is foreseen
        share = (foreseen - step) / (foreseen - delay + 1)
        inside = share * (math.exp(share) - 1) / (math.e - 1)
        expected.append(1.0 if step < delay else inside if step < foreseen else 0.0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert (np.diff(weights) <= 1e-6).all()


def test_the_strength_is_limited_where_the_noise_is_strong_and_ends_at_the_chunk():
    times = np.linspace(0, 1, 51)
    strengths = [strength(float(time)) for time in times]
    assert strengths[0] == 0 and strengths[-1] == LIMIT and max(strengths) == LIMIT
    middle = 0.5  # equation 2: (1 - tau) / tau / r^2, r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2)
    assert strength(middle) == pytest.approx(1 * (0.25 + 0.25) / 0.25)


def euler(velocity, noise, toward, weights, variant, steps=10):
    chunk = noise
    for step in range(steps):
        chunk = chunk - led(velocity, chunk, 1 - step / steps, toward, weights, variant) / steps
    return chunk


@pytest.mark.parametrize("variant", ["identity", "jacobian"])
def test_steps_are_led_as_far_as_they_weigh_and_others_stay(variant):
    noise = torch.randn(1, HORIZON, 2, generator=torch.Generator().manual_seed(0))
    own, toward, weights = torch.zeros(1, HORIZON, 2), torch.ones(1, HORIZON, 2), torch.zeros(1, HORIZON)
    weights[0, :2], weights[0, 2] = 1.0, 0.3

    def velocity(noisy):  # of a policy that has one chunk to say, whatever the noise
        return noise - own

    with torch.no_grad():
        chunk = euler(velocity, noise, toward, weights, variant)
    far = (chunk - toward).abs().amax(-1)[0]
    assert (far[:2] < 0.1).all() and 0.1 < far[2] < 0.9
    torch.testing.assert_close(chunk[:, 3:], own[:, 3:], atol=1e-5, rtol=0)


def test_the_jacobian_is_that_of_the_way_from_noise_to_chunk():
    noisy, toward, time = torch.full((1, 1, 1), 0.2), torch.ones(1, 1, 1), 0.4
    weights = torch.ones(1, 1)

    def velocity(chunk):
        return 0.5 * chunk

    with torch.no_grad():
        error = 1 - (0.2 - time * 0.1)
        plain = led(velocity, noisy, time, toward, weights, "identity").item()
        full = led(velocity, noisy, time, toward, weights, "jacobian").item()
    assert plain == pytest.approx(0.1 - strength(time) * error)
    assert full == pytest.approx(0.1 - strength(time) * error * (1 - time * 0.5))


@pytest.mark.parametrize("variant", ["identity", "jacobian"])
def test_a_policy_with_a_flow_head_is_led_by_what_an_older_chunk_foresaw(variant):
    policy = policy_of("flow")
    plain = policy.act([observation(0)])[0].actions
    older = (plain + np.float32(0.2)).astype(np.float32)
    policy.guide(variant)
    led_by = policy.act([observation(0)], older[None], given_steps=1)[0].actions
    again = policy.act([observation(0)])[0].actions
    before, after = np.abs(plain - older)[1:3].mean(), np.abs(led_by - older)[1:3].mean()
    assert after < 0.7 * before
    np.testing.assert_allclose(led_by[0], older[0], atol=1e-6)
    np.testing.assert_allclose(again, plain, atol=1e-6)  # there was no older chunk
    policy.guide(None)
    unled = policy.act([observation(0)], older[None], given_steps=1)[0].actions
    np.testing.assert_allclose(unled, policy.act([observation(0)], older[None, :1], given_steps=1)[0].actions)


def test_other_heads_and_other_words_are_refused():
    with pytest.raises(ValueError, match="for a flow head, this is Parallel"):
        policy_of("parallel").guide("identity")
    with pytest.raises(ValueError, match="'full' is not known; possible: null, identity, jacobian"):
        check_variant("full")
    policy_of("parallel").guide(None)
