"""A network comes to prefer what would have been right to what was done in rollouts that failed."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from tests.model.tiny import tiny_config, tiny_policy
from tests.train.test_shards import batch
from vla.data.framecache import FrameCache
from vla.model.heads import HEADS, fit_head
from vla.model.network import Network
from vla.model.processor import Processor
from vla.model.vocabulary import ACTION_BINS, build_tokenizer
from vla.train.batch import differing
from vla.train.batches import Batches, Labels
from vla.train.objective import losses
from vla.train.preference import chunk_margin
from vla.types import Embodiment

HORIZON = 4


def batches(dataset, folder, labels):
    cameras = {"front": (32, 32)}
    body = Embodiment.from_dict(dataset.info["vla"]["embodiment"])
    processor = Processor(body, cameras, labels.fit_codec(HORIZON), build_tokenizer(labels.texts()), 80)
    return Batches(labels, FrameCache(dataset, cameras, folder, workers=1), processor, 8, 3, 2, 0.0, failures=True)


def test_pairs_come_from_failed_rollouts_that_left_the_way(demonstrations, tmp_path):
    """As if the first two episodes had failed, and the arm had been given something else at their fifth frame."""
    labels = Labels.read(demonstrations)
    assert not labels.failed.any() and np.array_equal(labels.executed, labels.action)  # collected without noise
    labels.failed = labels.plan_of < 2
    starts = [episode.start for episode in demonstrations.episodes]
    labels.executed[[start + 5 for start in starts], 0] += 0.1
    astray = [start + step for start in starts[:2] for step in range(2, 6)]
    assert np.flatnonzero(labels.astray(HORIZON)).tolist() == astray
    made = batches(demonstrations, tmp_path, labels)
    compared = []
    for step in range(8):
        data = made[step]
        mine = differing(data.actions, data.worse_actions)
        compared += mine.tolist()
        assert data.counted()["preference_actions"] == mine.sum()
        decoded = [
            made.processor.codec.decode(chunk, torch.zeros(8, 6)) for chunk in (data.actions, data.worse_actions)
        ]
        differ = (decoded[1] - decoded[0])[data.counts]
        assert differ[:, 0].max() == pytest.approx(0.1, abs=1e-3) and differ[:, 1:].abs().max() < 1e-4
        assert ((decoded[1] - decoded[0])[mine][..., 0].amax(1) > 0.09).all()
    assert 0.3 < np.mean(compared) < 0.7  # the others are like any demonstration's, and keep the rest in mind


def test_without_failed_rollouts_it_says_how_to_get_some(demonstrations, tmp_path):
    with pytest.raises(ValueError, match="vla collect keep_failures=true"):
        batches(demonstrations, tmp_path, Labels.read(demonstrations))


def chunks(seed, count):
    """Return smooth random chunks float[N, T, A] in -1..1."""
    random = torch.Generator().manual_seed(seed)
    start, pace = (torch.rand(count, 1, 3, generator=random) - 0.5 for _ in range(2))
    return start + pace * torch.linspace(0, 1, HORIZON)[:, None]


def compared(head):
    """Return a policy with a head, and a batch with two chunks for each frame."""
    policy, data = tiny_policy(), batch(tiny_policy())
    small = {"scale": 4.0, "vocabulary": 300} if head == "fast" else {}
    torch.manual_seed(0)
    settings = fit_head(chunks(9, 200), head, **small)
    policy.network = Network(**tiny_config(policy.processor.tokenizer), head=settings).eval()
    data.actions, data.worse_actions = chunks(1, len(data.actions)), chunks(2, len(data.actions))
    return policy, data


def margin(network, data, counts, seed=0):
    shown = data.images, data.text_ids, data.text_mask, data.state
    return chunk_margin(network, shown, data.actions, data.worse_actions, counts, data.given_steps, seed)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_like_its_reference_loses_log_2_and_comes_to_prefer_the_better_chunk(head):
    policy, data = compared(head)
    network, reference = policy.network, deepcopy(policy.network).requires_grad_(False)
    settings = {"sigma_bins": 1.5, "location_sigma": 12.0, "augmentation": 0.0, "state_noise": 0.0, "beta": 0.1}

    def preference():
        random = torch.Generator().manual_seed(0)
        found = losses(network, policy.processor, data, generator=random, reference=reference, **settings)
        assert "preference" not in found
        return found["preference_actions"]

    assert preference().item() == pytest.approx(np.log(2), abs=1e-5)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        preference().backward()
        optimizer.step()
    assert preference() < 0.62
    counts = torch.ones_like(data.actions) > 0
    moved = margin(network, data, counts) - margin(reference, data, counts)
    assert moved.mean() > 0 and (moved > 0).float().mean() > 0.5


@pytest.mark.parametrize("head", HEADS)
def test_steps_and_joints_that_do_not_count_are_not_compared(head):
    policy, data = compared(head)
    counts = torch.ones_like(data.actions) > 0
    counts[:, 2:], counts[..., 1] = False, False
    with torch.no_grad():
        before = margin(policy.network, data, counts)
        data.worse_actions[:, 2:], data.worse_actions[..., 1] = 0.5, -0.5
        assert torch.equal(before, margin(policy.network, data, counts))
        data.worse_actions[:, 0, 0] += 0.2
        assert not torch.equal(before, margin(policy.network, data, counts))


@pytest.mark.parametrize("head", ["autoregressive", "parallel"])
def test_plausible_is_what_the_head_would_say(head):
    policy, data = compared(head)
    network, counts = policy.network.eval(), torch.ones_like(data.actions) > 0
    shown = data.images, data.text_ids, data.text_mask, data.state
    with torch.no_grad():
        said = network.act(*shown, data.actions, data.given_steps).values
        data.worse_actions = data.actions
        data.actions = said if head == "autoregressive" else most_likely(network, shown, data)
        assert (margin(network, data, counts) > 0).all()


def most_likely(network, shown, data):
    """Return the middle of each value's likeliest bin; what is executed is a mean around it."""
    outputs = network(*shown, data.actions, data.given_steps)
    bins = network.head.logits(outputs.action_hidden, outputs.context.table).argmax(-1)
    return (bins + 0.5) / ACTION_BINS * 2 - 1
