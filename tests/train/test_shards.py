"""Splitting a batch over cores changes neither gradients nor which weights are trained."""

import pytest
import torch

from tests.model.tiny import tiny_policy
from vla.train.batch import Batch
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


def loss(network, part, step, number):
    outputs = network(part.images, part.text_ids, part.text_mask, part.state, part.actions, part.given_steps)
    return {"total": outputs.action_hidden.square().mean() + outputs.done.square().mean()}


def statistics(network):
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def test_mean_gradient_of_the_parts_is_that_of_the_whole_and_too_few_samples_are_refused():
    gradients, totals = [], []
    for count in (1, 2):
        policy = tiny_policy()
        network = policy.network.eval()  # batch statistics would differ between parts, as they should
        with Shards(network, count, loss) as shards:
            totals.append(shards.backward(batch(policy), 0)["total"])
            gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
            if count == 2:
                with pytest.raises(ValueError, match="1 cannot be split over 2 cores"):
                    shards.backward(batch(policy, 1), 1)
    (whole, split) = gradients
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert whole.keys() == split.keys() and len(whole) > 20
    for name in whole:
        torch.testing.assert_close(whole[name], split[name], atol=1e-5, rtol=1e-3)


def test_every_step_sees_the_weights_of_the_last_and_goes_on_from_the_mean_of_all_statistics():
    networks, data = [tiny_policy().network.train() for _ in range(3)], batch(tiny_policy())
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    means: list[torch.Tensor] = []
    shared, *alone = networks
    with Shards(shared, 2, loss) as shards:
        for step in range(2):
            for network in networks:
                network.zero_grad()
            shards.backward(data, step)
            for network, part in zip(alone, data.split(2), strict=True):
                (loss(network, part, step, 0)["total"] / 2).backward()
            means = [torch.stack(pair).mean(0) for pair in zip(*map(statistics, alone), strict=True)]
            for network in alone:
                for buffer, mean in zip(statistics(network), means, strict=True):
                    buffer.copy_(mean)
            for mine, *theirs in zip(*(network.parameters() for network in networks), strict=True):
                assert (mine.grad is None) == (theirs[0].grad is None)
                if mine.grad is not None and theirs[0].grad is not None and theirs[1].grad is not None:
                    torch.testing.assert_close(mine.grad, theirs[0].grad + theirs[1].grad, atol=1e-6, rtol=1e-4)
            with torch.no_grad():
                for parameter in (p for network in networks for p in network.parameters()):
                    parameter.mul_(0.99)
    for mine, mean in zip(statistics(shared), means, strict=True):
        torch.testing.assert_close(mine, mean)


def broken(network, part, step, number):
    if number:
        raise ArithmeticError("no such luck")
    return loss(network, part, step, number)


def test_a_process_that_fails_ends_the_step_with_its_name():
    policy = tiny_policy()
    with Shards(policy.network, 2, broken) as shards, pytest.raises(RuntimeError, match="shard 1 ended"):
        shards.backward(batch(policy), 0)
