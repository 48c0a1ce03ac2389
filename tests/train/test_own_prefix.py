"""Where words choose what is seen, a question has a sequence of its own, and loses there what it would lose beside."""

import pytest
import torch

from tests.model.test_network import inputs
from tests.model.tiny import PROMPTS, tiny_config, tiny_processor
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.train.batches import Batch
from vla.train.objective import losses

SETTINGS = dict(sigma_bins=1.5, location_sigma=4.0, augmentation=0.0, state_noise=0.0)
PROMPT_TOKENS = 2


def built(**changes):
    processor = tiny_processor()
    torch.manual_seed(0)
    return VLAPolicy(Network(**{**tiny_config(processor.tokenizer), **changes}), processor)


def batch_of(policy):
    """Two frames with instructions, and questions about them whose last words are the answer."""
    given, processor = inputs(policy), policy.processor
    ids, mask = processor.text(PROMPTS[1:])
    labels = torch.where(mask & (torch.arange(ids.shape[1]) >= PROMPT_TOKENS), ids, -100)
    return Batch(
        kind="short",
        images=given["images"],
        text_ids=given["text_ids"],
        text_mask=given["text_mask"],
        state=given["state"],
        actions=given["given_actions"],
        counts=torch.ones(2, 4, dtype=torch.bool),
        given_steps=given["given_steps"],
        progress=torch.rand(2),
        done=torch.ones(2),
        question_ids=ids,
        question_mask=mask,
        question_labels=labels,
        named_ids=ids,
        named_at=torch.tensor([[1], [-1]]),
        named_box=torch.tensor([[[0.1, 0.1, 0.4, 0.4]], [[torch.nan] * 4]]),
    )


def lost(policy, batch):
    policy.network.train(False)
    generator = torch.Generator().manual_seed(0)
    return losses(policy.network, policy.processor, batch, **SETTINGS, generator=generator)


def test_with_all_tokens_kept_every_loss_is_what_it_is_without():
    beside = built()
    apart = built(keep=beside.network.vision.num_tokens)
    batch = batch_of(beside)
    mine, theirs = lost(beside, batch), lost(apart, batch)
    assert not apart.network.one_prefix and mine["words"] > 1
    for name, loss in mine.items():
        torch.testing.assert_close(theirs[name], loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [dict(keep=3), dict(connector=dict(name="qformer", tokens=6, instructed=True))])
def test_the_answer_chooses_nothing_that_is_seen_and_the_question_does(changes):
    """Else training would show the answer to what is to find it."""
    policy = built(**changes)
    batch, network = batch_of(policy), policy.network.eval()
    asked = batch.question_mask & (batch.question_labels == -100)
    answered = batch.question_ids.clone()
    answered[:, PROMPT_TOKENS:] = answered[:, PROMPT_TOKENS:].flip(0)
    with torch.no_grad():
        first, second = (
            network.answering(network.look(batch.images, ids, asked), ids, batch.question_mask, asked)
            for ids in (batch.question_ids, answered)
        )
        torch.testing.assert_close(first[:, :PROMPT_TOKENS], second[:, :PROMPT_TOKENS], atol=1e-5, rtol=1e-4)
        assert (first[:, PROMPT_TOKENS:] - second[:, PROMPT_TOKENS:]).abs().max() > 1e-6


def test_what_an_instructed_connector_learns_from_includes_the_words():
    policy = built(connector=dict(name="qformer", tokens=6, instructed=True))
    sum(lost(policy, batch_of(policy)).values()).backward()
    connector = policy.network.vision.connector
    assert connector.words.weight.grad.any() and connector.order.grad.any() and connector.queries.grad.any()
