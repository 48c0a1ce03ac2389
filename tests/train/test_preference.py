"""True answers come to be preferred, others are really other ones, and the network of before is what counts."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from tests.model.tiny import observation, tiny_policy
from tests.train.conftest import run
from vla.model import checkpoint
from vla.model.prompts import NOT_VISIBLE
from vla.train.batches import Batches, Labels
from vla.train.preference import answer_log_probability, preference_loss


def said(processor, pairs):
    """Ids, mask and labels of questions with answers."""
    rows = [(processor.tokenize(question), processor.tokenize(answer)) for question, answer in pairs]
    length = max(len(question) + len(answer) for question, answer in rows)
    ids, labels = torch.full((len(rows), length), processor.pad_id), torch.full((len(rows), length), -100)
    for row, (question, answer) in enumerate(rows):
        ids[row, : len(question) + len(answer)] = torch.tensor(question + answer)
        labels[row, len(question) : len(question) + len(answer)] = torch.tensor(answer)
    return ids, ids != processor.pad_id, labels


@pytest.fixture
def asked():
    policy = tiny_policy()
    images = policy.processor.images([observation(0), observation(1)])
    questions = ["is there a red cube", "point to the red cube"]
    better = said(policy.processor, zip(questions, ["red", "cube"], strict=True))
    worse = said(policy.processor, zip(questions, ["cube", "red"], strict=True))
    return policy.network, images, better, worse


def test_a_network_like_its_reference_loses_log_2_and_learns_to_tell_them_apart(asked):
    network, images, better, worse = asked
    reference = deepcopy(network).requires_grad_(False)
    start = preference_loss(network, reference, images, better, worse, 0.1)
    assert start.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        preference_loss(network, reference, images, better, worse, 0.5).backward()
        optimizer.step()
    assert preference_loss(network, reference, images, better, worse, 0.5) < 0.3
    visual = network.vision(images)
    gains = [answer_log_probability(network, visual, *answers) for answers in (better, worse)]
    assert (gains[0] > gains[1]).all()


def test_rows_without_an_answer_do_not_count(asked):
    network, images, better, worse = asked
    reference = deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        network.embedding.weight.add_(0.1 * torch.randn_like(network.embedding.weight))
    alone = preference_loss(
        network,
        reference,
        {name: image[:1] for name, image in images.items()},
        tuple(t[:1] for t in better),
        tuple(t[:1] for t in worse),
        0.1,
    )
    worse[2][1] = -100
    torch.testing.assert_close(preference_loss(network, reference, images, better, worse, 0.1), alone)


def test_answers_agree_with_the_ones_that_are_taught(asked):
    """The log-probability is that of the pass in which questions ride along with control."""
    network, images, better, _ = asked
    ids, mask, labels = better
    text = tiny_policy().processor.text(["pick up the red cube"] * 2)
    control = torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.zeros(2, dtype=torch.long)
    outputs = network(images, *text, *control, ids, mask)
    log_probability = torch.log_softmax(network.word_logits(outputs.question_hidden[:, :-1]), dim=-1)
    wanted = log_probability.gather(2, labels[:, 1:].clamp_min(0)[..., None]).squeeze(-1) * (labels[:, 1:] != -100)
    mine = answer_log_probability(network, network.vision(images), ids, mask, labels)
    torch.testing.assert_close(mine, wanted.sum(1), atol=1e-4, rtol=1e-4)


def test_untrue_answers_are_of_the_kind_of_the_true_one(demonstrations):
    labels = Labels.read(demonstrations)
    batches = Batches.__new__(Batches)
    batches.labels, batches.worse, batches.said = labels, True, [("pick it", "pick up the cube")]
    rng, kinds, every = np.random.default_rng(0), set(), {}
    for row in labels.vqa:
        for item in json.loads(row):
            every.setdefault(item["type"], set()).add(item["answer"])
    for number, row in enumerate(labels.vqa):
        for item in json.loads(row):
            other = batches._untrue(number, item, rng)
            if other is None:
                assert len(every[item["type"]]) == 1
                continue
            kinds.add(item["type"])
            assert other["answer"] != item["answer"] and other["question"] == item["question"]
            assert other["answer"] in every[item["type"]] | {NOT_VISIBLE, "yes", "no"}
    assert {"yesno", "point", "caption"} <= kinds


def test_stages_follow_each_other_by_their_recipes_alone(demonstrations, tmp_path):
    """The linear connector of the second stage is there in the third, whose recipe does not name it."""
    small = ["steps=2", "save_every=2", "warmup_steps=1"]
    run(demonstrations, tmp_path / "two", "recipe=stages/instruction", *small, "lora=null", "init=null")
    two = tmp_path / "two/checkpoints/last"
    run(demonstrations, tmp_path / "three", "recipe=stages/preference", *small, "learning_rate=0.0", f"init={two}")
    before, after = (checkpoint.load(path).network.state_dict() for path in (two, tmp_path / "three/checkpoints/last"))
    connector = [name for name in before if name.startswith("vision.connector.")]
    assert connector and before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-2) for name in connector)
    with pytest.raises(ValueError, match=r"model\.connector=.*'mlp'.* has {'name': 'linear'}; leave it out"):
        asked = ["++model.connector={name: mlp}", f"init={two}"]
        run(demonstrations, tmp_path / "other", "recipe=stages/preference", *small, *asked)
    with pytest.raises(ValueError, match=r"preference=true: .* tensors of the model have no equal in init="):
        asked = ["model.language.n_layer=5", f"init={two}"]
        run(demonstrations, tmp_path / "deeper", "recipe=stages/preference", *small, *asked)


def test_the_stage_runs_from_a_checkpoint(demonstrations, tmp_path):
    small = ["steps=3", "save_every=2", "warmup_steps=1", "learning_rate=1e-5"]
    with pytest.raises(ValueError, match="preference=true: give init="):
        run(demonstrations, tmp_path / "none", "recipe=stages/preference", *small, "init=null")
    run(demonstrations, tmp_path / "base", *small)
    base = tmp_path / "base/checkpoints/last"
    result = run(demonstrations, tmp_path / "dpo", "recipe=stages/preference", *small, f"init={base}")
    assert result["losses"]["preference"] == pytest.approx(np.log(2), abs=1e-3)  # as before, after three small steps
    assert checkpoint.load(tmp_path / "dpo/checkpoints/last").network.head.placeholders.isfinite().all()
