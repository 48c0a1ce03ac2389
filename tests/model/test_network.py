"""Who sees whom in the network, and what that buys."""

import pytest
import torch

from tests.model.tiny import PROMPTS, tiny_policy
from vla.model.attention import ACTION, IMAGE, QUESTION, STATE, TAUGHT, TEXT, attention_mask


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def inputs(policy, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = {
        name: torch.randint(0, 255, (batch, *size, 3), dtype=torch.uint8, generator=generator)
        for name, size in policy.processor.cameras.items()
    }
    ids, mask = policy.processor.text(PROMPTS[:batch])
    codec = policy.processor.codec
    actions = torch.rand(batch, codec.action_horizon, codec.action_dim, generator=generator) * 2 - 1
    return dict(
        images=images,
        text_ids=ids,
        text_mask=mask,
        state=torch.rand(batch, codec.action_dim, generator=generator),
        given_actions=actions,
        given_steps=torch.zeros(batch, dtype=torch.long),
        question_ids=ids,
        question_mask=mask,
    )


@torch.no_grad()
def test_last_placeholder_influences_the_first_step(policy):
    before = policy.network(**inputs(policy)).action_hidden
    placeholders = policy.network.head.placeholders
    kept = placeholders[-2].clone()
    placeholders[-2] += torch.linspace(-1, 1, len(kept))  # not a constant, which LayerNorm would remove
    after = policy.network(**inputs(policy)).action_hidden
    placeholders[-2] = kept
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-4


@torch.no_grad()
def test_a_given_step_changes_the_steps_behind_it_and_a_hidden_one_does_not(policy):
    batch = inputs(policy)
    hidden = policy.network(**batch).action_hidden
    batch["given_actions"][:, 0] += 0.5
    torch.testing.assert_close(policy.network(**batch).action_hidden, hidden)
    batch["given_steps"][:] = 1
    assert (policy.network(**batch).action_hidden[:, 1:] - hidden[:, 1:]).abs().max() > 1e-4


@torch.no_grad()
def test_a_question_leaves_the_actions_alone_and_words_leave_the_question_alone(policy):
    batch = inputs(policy)
    together = policy.network(**batch)
    alone = policy.network(**{**batch, "question_ids": None, "question_mask": None})
    torch.testing.assert_close(together.action_hidden, alone.action_hidden, atol=1e-5, rtol=1e-4)
    batch["text_ids"] = batch["text_ids"].flip(0)
    other = policy.network(**batch)
    torch.testing.assert_close(together.question_hidden, other.question_hidden, atol=1e-5, rtol=1e-4)
    assert (together.action_hidden - other.action_hidden).abs().max() > 1e-4


@torch.no_grad()
def test_padding_of_the_text_changes_nothing(policy):
    batch = inputs(policy)
    short = policy.network(**batch).action_hidden
    padded = {**batch, "question_ids": None, "question_mask": None}
    padded["text_ids"] = torch.nn.functional.pad(batch["text_ids"], (0, 8), value=1)
    padded["text_mask"] = torch.nn.functional.pad(batch["text_mask"], (0, 8))
    torch.testing.assert_close(policy.network(**padded).action_hidden, short, atol=1e-5, rtol=1e-4)


def test_mask_follows_the_table():
    kinds = torch.tensor([IMAGE, IMAGE, TEXT, TEXT, STATE, ACTION, ACTION, TAUGHT, TAUGHT, QUESTION, QUESTION])
    sees = attention_mask(kinds, torch.ones(1, len(kinds), dtype=torch.bool))[0, 0].int().tolist()
    assert sees == [
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]


@torch.no_grad()
def test_generation_continues_as_the_training_pass_predicts(policy):
    """Neither the cache, nor the left padding, nor the word before the first new one changes what is likeliest."""
    batch, network, processor = inputs(policy), policy.network, policy.processor
    ids, mask = processor.prompts(PROMPTS[:2])
    answer = network.generate(batch["images"], ids, mask, 4, eos=-1, pad=0)
    rows = [processor.tokenize(text) for text in PROMPTS[:2]]
    for step in range(4):
        for row, tokens in enumerate(rows):
            one = {name: value[row : row + 1] for name, value in batch.items() if name != "images"}
            one["images"] = {name: image[row : row + 1] for name, image in batch["images"].items()}
            one["question_ids"] = torch.tensor([tokens])
            one["question_mask"] = torch.ones(1, len(tokens), dtype=torch.bool)
            assert network.likeliest(network(**one).question_hidden[:, -1]).item() == answer[row, step].item()
            tokens.append(int(answer[row, step]))


def test_camera_of_another_size_is_refused(policy):
    batch = inputs(policy)
    batch["images"]["front"] = batch["images"]["front"][:, :16]
    with pytest.raises(ValueError, match="camera 'front' gave"):
        policy.network(**batch)
