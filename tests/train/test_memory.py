"""Pieces of a batch give the gradients of the whole, and so do activations that are computed twice."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import tiny_config, tiny_policy
from tests.train.test_shards import batch, loss, statistics
from vla.model.network import Network
from vla.train.memory import backward, recompute_activations
from vla.train.objective import Objective

EXACT = {"sigma_bins": 1.5, "location_sigma": 12.0, "augmentation": 0.0, "state_noise": 0.0}
WEIGHTS = {"action": 1.0, "completion": 0.1, "words": 0.3, "grounding": 0.5}


def uneven(policy, seed, size=7):
    """A batch whose samples have between none and all of what the losses are means of."""
    whole, random = batch(policy, size), torch.Generator().manual_seed(seed)
    steps = torch.arange(whole.actions.shape[1])
    count = torch.randint(1, len(steps) + 1, (size, 1), generator=random)
    said = torch.rand(whole.question_labels.shape, generator=random) < 0.4
    named = torch.randint(-1, 3, (size, 2), generator=random)
    return dataclasses.replace(
        whole,
        counts=steps < count,
        given_steps=torch.minimum(torch.randint(0, 3, (size,), generator=random), count[:, 0] - 1),
        question_labels=torch.where(said, whole.question_labels, -100),
        named_at=named,
        named_box=torch.rand(size, 2, 1, generator=random).expand(-1, -1, 4),
    )


def gradients(network):
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def assert_alike(mine, theirs):
    assert mine.keys() == theirs.keys() and len(mine) > 20
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=2e-5, rtol=1e-3, msg=name)


POLICIES = [tiny_policy() for _ in range(2)]


@settings(max_examples=10)
@given(st.integers(2, 7), st.integers(0, 1000))
def test_pieces_have_the_losses_and_the_gradients_of_the_whole(pieces, seed):
    data, found = uneven(POLICIES[0], seed), []
    for policy, count in zip(POLICIES, (1, pieces), strict=True):
        policy.network.zero_grad()
        objective = Objective(policy.processor, EXACT, WEIGHTS, 0, False)
        found.append(backward(policy.network, objective, data, 0, 0, count, 1.0))  # in evaluation: no dropout
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert_alike(*(gradients(policy.network) for policy in POLICIES))


def test_every_piece_starts_from_the_same_statistics_and_their_mean_is_kept():
    data, alone = batch(tiny_policy()), [tiny_policy().network.train() for _ in range(2)]
    network = tiny_policy().network.train()
    backward(network, loss, data, 0, 0, 2, 1.0)
    for other, part in zip(alone, data.split(2), strict=True):
        loss(other, part, 0, 0)
    for mine, *each in zip(*map(statistics, (network, *alone)), strict=True):
        torch.testing.assert_close(mine, torch.stack(each).mean(0))


def test_more_pieces_than_samples_are_refused():
    with pytest.raises(ValueError, match="2 samples cannot be split into 3 pieces: lower accumulate="):
        backward(tiny_policy().network, loss, batch(tiny_policy(), 2), 0, 0, 3, 1.0)


def test_activations_computed_twice_change_nothing():
    data, found, passes = batch(tiny_policy()), [], []
    networks = [tiny_policy().network.train() for _ in range(2)]
    recompute_activations(networks[1])
    for network in networks:
        calls = []
        network.language.transformer.h[1].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(3)  # of dropout
        found.append(backward(network, loss, data, 0, 0, 1, 1.0))
        passes.append(len(calls))
    assert passes == [1, 2]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert_alike(*map(gradients, networks))


def test_a_head_that_reads_what_is_not_kept_is_refused():
    policy = tiny_policy()
    network = Network(**tiny_config(policy.processor.tokenizer), head={"name": "flow"})
    with pytest.raises(ValueError, match="the head flow reads keys and values of every layer"):
        recompute_activations(network)
