"""Splitting a batch over cores changes neither gradients nor which weights are trained."""

import pytest
import torch

from tests.model.tiny import tiny_policy
from vla.train.batches import Batch
from vla.train.shards import Shards


def batch(policy, size=6):
    generator = torch.Generator().manual_seed(0)
    shapes = policy.processor.cameras
    ids, mask = policy.processor.text(["pick up the red cube"] * size)
    horizon, dim = policy.processor.codec.action_horizon, policy.processor.codec.action_dim
    return Batch(
        kind="short",
        images={
            n: torch.randint(0, 255, (size, *s, 3), dtype=torch.uint8, generator=generator) for n, s in shapes.items()
        },
        text_ids=ids,
        text_mask=mask,
        state=torch.rand(size, dim, generator=generator),
        actions=torch.rand(size, horizon, dim, generator=generator),
        counts=torch.ones(size, horizon, dtype=torch.bool),
        given_steps=torch.zeros(size, dtype=torch.long),
        progress=torch.zeros(size),
        done=torch.zeros(size),
        question_ids=ids,
        question_mask=mask,
        question_labels=ids,
        named_ids=ids,
        named_at=torch.full((size, 1), -1),
        named_box=torch.full((size, 1, 4), torch.nan),
    )


def loss(network, part, number):
    outputs = network(part.images, part.text_ids, part.text_mask, part.state, part.actions, part.given_steps)
    return {"total": outputs.action_logits.square().mean() + outputs.done.square().mean()}


def gradients(count):
    policy = tiny_policy()
    network = policy.network.eval()  # batch statistics would differ between parts, as they should
    shards = Shards(network, count)
    value = shards.backward(batch(policy), loss)["total"]
    return value, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_mean_gradient_of_the_parts_is_that_of_the_whole():
    (one, whole), (three, split) = gradients(1), gradients(3)
    assert one == pytest.approx(three, rel=1e-5)
    assert whole.keys() == split.keys() and len(whole) > 20
    for name in whole:
        torch.testing.assert_close(whole[name], split[name], atol=1e-5, rtol=1e-3)


def test_replicas_share_weights_and_end_with_the_same_statistics():
    policy = tiny_policy()
    shards = Shards(policy.network.train(), 2)
    for mine, theirs in zip(*(network.parameters() for network in shards.networks), strict=True):
        assert mine is theirs
    shards.backward(batch(policy), loss)
    first, second = (dict(network.named_buffers()) for network in shards.networks)
    changed = [name for name in first if name.endswith("running_mean")]
    assert changed and all(torch.equal(first[name], second[name]) for name in changed)
    assert any(first[name].abs().max() > 0 for name in changed)


def test_a_batch_smaller_than_the_cores_is_refused():
    policy = tiny_policy()
    with pytest.raises(ValueError, match="a batch of 1 cannot be split over 2 cores"):
        Shards(policy.network, 2).backward(batch(policy, 1), loss)
