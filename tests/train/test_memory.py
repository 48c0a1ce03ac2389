"""Pieces of a batch give the gradients of the whole, and so do activations that are computed twice."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import handed_over, tiny_config, tiny_policy
from tests.train.test_shards import batch, loss, statistics
from vla.model.heads import fit_head
from vla.model.network import Network
from vla.train.memory import backward, recompute_activations, transformer_layers
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


LLAMA = dict(model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
LOOKING = {  # designs whose head looks at keys and values of every layer
    "flow": dict(head=dict(draws=2)),
    "insulated": dict(head=dict(insulate=True, tokens=dict(scale=10.0, vocabulary=400))),
    "crossing": dict(head=dict(joint_every=2, reads_state=True), language=LLAMA),
    "beside": dict(head=dict(), fusion=dict(name="cross_attention")),
}


def looking(head, **changes):
    """Build a network of one of these designs, and what it costs."""
    policy = tiny_policy()
    codec = policy.processor.codec
    torch.manual_seed(0)
    chunks = torch.rand(50, codec.action_horizon, codec.action_dim) * 2 - 1
    config = tiny_config(policy.processor.tokenizer) | changes
    network = Network(**config, head=fit_head(chunks, "flow", **head)).train()
    return network, Objective(policy.processor, EXACT, WEIGHTS, 0, False)


def passes_and_kept_bytes(network, objective, data):
    """Return losses, how often the last layers ran, bytes kept for the way back; gradients stay in the network."""
    calls, kept = [], {}
    for layers in (transformer_layers(network.language), transformer_layers(network.head)):
        mlp = next(module for module in layers[-1].children() if "MLP" in type(module).__name__)
        mlp.register_forward_pre_hook(lambda *_: calls.append(1))

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = objective(network, data, 0, 0)
    losses["total"].backward()
    losses = {name: float(loss.detach()) for name, loss in losses.items()}
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    return losses, len(calls), sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("name", LOOKING)
def test_a_head_that_looks_back_learns_the_same_from_activations_computed_twice(name):
    data = uneven(POLICIES[0], 1)
    built = [looking(**LOOKING[name]) for _ in range(2)]
    recompute_activations(built[1][0])
    (once, passes, kept), (twice, more_passes, less_kept) = (passes_and_kept_bytes(*each, data) for each in built)
    assert (passes, more_passes) == (2, 4)
    assert less_kept < 0.8 * kept
    assert twice == pytest.approx(once, rel=1e-5, abs=1e-6)
    assert_alike(*(gradients(network) for network, _ in built))


@torch.no_grad()
def test_a_network_that_computes_twice_decides_and_travels_as_before():
    network, _ = looking(**LOOKING["flow"])
    data = batch(POLICIES[0])
    asked = data.images, data.text_ids, data.text_mask, data.state, data.actions, data.given_steps
    before = network.eval().act(*asked).values
    recompute_activations(network)
    for same in (network, deepcopy(network), handed_over(network)):
        torch.testing.assert_close(same.act(*asked).values, before, atol=1e-6, rtol=1e-5)
    twin = deepcopy(network)
    for weight in twin.parameters():
        weight.mul_(1.5)
    assert (twin.act(*asked).values - before).abs().max() > 1e-3  # a copy runs its own layers
    torch.testing.assert_close(network.act(*asked).values, before, atol=1e-6, rtol=1e-5)
