"""Visual tokens that words choose: the queries of an instructed Q-Former, and the tokens that are kept of many."""

import pytest
import torch

from tests.model.test_network import inputs
from tests.model.tiny import PROMPTS, observation, tiny_config, tiny_policy, tiny_processor
from vla.model.connectors import build_connector
from vla.model.grounding import most_relevant
from vla.model.network import Network
from vla.model.policy import VLAPolicy

CHOSEN = {
    "instructed": dict(connector=dict(name="qformer", tokens=6, instructed=True)),
    "kept": dict(keep=5),
    "both": dict(connector=dict(name="qformer", tokens=6, instructed=True), keep=5),
    "kept_beside": dict(keep=5, fusion=dict(name="cross_attention")),
}


def built(**changes):
    processor = tiny_processor()
    torch.manual_seed(0)
    network = Network(**{**tiny_config(processor.tokenizer), **changes}).eval()
    for parameter in network.parameters():  # large enough that every path through the network shows
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    for look in network.cross.looks.values() if network.cross else ():
        look.attention_gate.data.fill_(1.0)
    return VLAPolicy(network, processor)


def alone(batch):
    return {**batch, "question_ids": None, "question_mask": None}


def reads(network):
    """Keep what the language model is given: embeddings, positions and what lies beside."""
    given = []
    network.language.base_model.register_forward_pre_hook(lambda _, __, named: given.append(named), with_kwargs=True)
    return given


@torch.no_grad()
def test_an_instruction_changes_what_an_instructed_q_former_sees_and_no_other():
    torch.manual_seed(0)
    features, mask = torch.randn(2, 12, 8), torch.ones(2, 4, dtype=torch.bool)
    words, other = torch.randn(2, 4, 16), torch.randn(2, 4, 16)
    connector = build_connector(8, 16, "qformer", tokens=3, instructed=True).eval()
    found = connector(features, None, (words, mask))
    assert found.shape == (2, 3, 16)
    assert (found - connector(features, None, (other, mask))).abs().max() > 1e-4
    assert (found - connector(features, None, (words.flip(1), mask))).abs().max() > 1e-5  # their order counts
    assert (found - connector(features.flip(0), None, (words, mask))).abs().max() > 1e-4
    plain = built(connector=dict(name="qformer", tokens=6)).network
    batch = inputs(tiny_policy())
    before = plain.look(batch["images"], batch["text_ids"], batch["text_mask"])
    assert torch.equal(before, plain.look(batch["images"], batch["text_ids"].flip(0), batch["text_mask"]))


@torch.no_grad()
def test_padding_on_either_side_is_no_word():
    torch.manual_seed(0)
    features, words = torch.randn(1, 12, 8), torch.randn(1, 3, 16)
    connector = build_connector(8, 16, "qformer", tokens=3, instructed=True, max_words=3).eval()
    found = connector(features, None, (words, torch.ones(1, 3, dtype=torch.bool)))
    for sides in ((0, 2), (2, 0)):
        padded = torch.nn.functional.pad(words, (0, 0, *sides), value=7.0)
        mask = torch.nn.functional.pad(torch.ones(1, 3, dtype=torch.bool), sides)
        torch.testing.assert_close(connector(features, None, (padded, mask)), found, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="an instruction of 4 words, this connector reads 3"):
        connector(features, None, (torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool)))


def test_every_weight_of_an_instructed_q_former_learns():
    torch.manual_seed(0)
    connector = build_connector(12, 16, "qformer", instructed=True)
    words = torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    connector(torch.randn(3, 8, 12), None, words).square().mul(torch.rand(16)).sum().backward()
    still = [name for name, weight in connector.named_parameters() if weight.grad is None or not weight.grad.any()]
    last = f"layer.{connector.former.config.num_hidden_layers - 1}."  # after it, nothing reads what became of words
    assert not [
        n for n in still if not n.endswith("key.bias") and not (last in n and ("intermediate" in n or "output" in n))
    ]


@torch.no_grad()
def test_each_tile_is_seen_with_the_words_of_its_frame():
    tiled = dict(vision=dict(model_type="patches", patch_size=8), tiling=dict(tile=16, max_tokens=30))
    network = built(**tiled, **CHOSEN["instructed"], cameras={"front": [32, 32]}).network
    batch = inputs(tiny_policy())
    frames = {"front": batch["images"]["wrist"]}
    together = network.look(frames, batch["text_ids"], batch["text_mask"])
    for row in range(2):
        one = {"front": frames["front"][row : row + 1]}
        single = network.look(one, batch["text_ids"][row : row + 1], batch["text_mask"][row : row + 1])
        torch.testing.assert_close(together[row : row + 1], single, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_keeping_all_tokens_is_the_same_as_not_choosing():
    count = tiny_policy().network.vision.num_tokens
    plain, all_kept = built().network, built(keep=count).network
    batch = inputs(tiny_policy())
    mine, theirs = plain(**alone(batch)), all_kept(**alone(batch))
    assert torch.equal(mine.action_hidden, theirs.action_hidden)
    ids, mask = tiny_processor().prompts(PROMPTS[:2])
    answers = [one.generate(batch["images"], ids, mask, 4, eos=-1, pad=0) for one in (plain, all_kept)]
    assert torch.equal(*answers)


@torch.no_grad()
def test_kept_tokens_are_fewer_and_keep_their_place_and_their_position_embedding():
    network = built(keep=5).network
    batch, given = inputs(tiny_policy()), reads(network)
    outputs = network(**alone(batch))
    embeddings, positions = given[0]["inputs_embeds"], given[0]["position_ids"]
    full = network.vision.num_tokens
    assert embeddings.shape[1] == 5 + batch["text_ids"].shape[1] + 1 + network.head.max_tokens
    assert (positions[:, 5] == full).all() and (positions[:, :5].diff(dim=1) > 0).all()
    words = network.embedding(batch["text_ids"]) * batch["text_mask"].unsqueeze(-1)
    relevance = network.grounding.relevance(words, batch["text_mask"], outputs.seen)
    assert torch.equal(positions[:, :5], relevance.topk(5).indices.sort(dim=1).values)
    for row in range(2):
        torch.testing.assert_close(embeddings[row, :5], outputs.visual[row, positions[row, :5]])


@torch.no_grad()
def test_words_choose_what_is_kept_by_what_they_name():
    network = built(keep=3).network
    batch = inputs(tiny_policy())
    visual = network.look(batch["images"], batch["text_ids"], batch["text_mask"])
    seen = network.grounding.seen(network.vision.by_camera(visual))
    words = network.embedding(batch["text_ids"])
    relevance = network.grounding.relevance(words, batch["text_mask"], seen)
    assert (relevance[0] - relevance[1]).abs().max() > 1e-6  # each frame and its words choose for themselves
    assert relevance.shape == visual.shape[:2] and (relevance >= 0).all() and (relevance <= 1).all()
    named = network.grounding(words, seen)[1].exp()[..., 1:]  # of the first camera
    expected = (named * batch["text_mask"].unsqueeze(-1)).amax(dim=1)
    torch.testing.assert_close(relevance[:, : expected.shape[1]], expected)
    silent = network.grounding.relevance(words, torch.zeros_like(batch["text_mask"]), seen)
    assert not silent.any()
    assert most_relevant(torch.tensor([[0.1, 0.9, 0.2, 0.8]]), 2).tolist() == [[1, 3]]


@pytest.mark.parametrize("name", CHOSEN)
@torch.no_grad()
def test_generation_continues_as_a_question_of_its_own_predicts(name):
    policy = built(**CHOSEN[name])
    network, processor, batch = policy.network, policy.processor, inputs(policy)
    ids, mask = processor.prompts(PROMPTS[:2])
    answer = network.generate(batch["images"], ids, mask, 3, eos=-1, pad=0)
    rows = [processor.tokenize(text) for text in PROMPTS[:2]]
    lengths = [len(row) for row in rows]
    for step in range(3):
        for row, tokens in enumerate(rows):
            images = {camera: image[row : row + 1] for camera, image in batch["images"].items()}
            said, there = torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool)
            asked = torch.arange(len(tokens))[None] < lengths[row]
            visual = network.look(images, said[:, : lengths[row]], there[:, : lengths[row]])
            hidden = network.answering(visual, said, there, asked)
            assert network.likeliest(hidden[:, -1]).item() == answer[row, step].item()
            tokens.append(int(answer[row, step]))


@pytest.mark.parametrize("name", CHOSEN)
def test_a_policy_acts_and_answers_alone_as_in_a_batch(name):
    policy = built(**CHOSEN[name])
    observations = [observation(seed, text) for seed, text in enumerate(PROMPTS[:2])]
    assert not policy.network.one_prefix
    together, said = policy.act(observations), policy.generate(observations, PROMPTS[:2], 3)
    for one, chunk, text, words in zip(observations, together, PROMPTS[:2], said, strict=True):
        torch.testing.assert_close(
            *map(torch.from_numpy, (policy.act([one])[0].actions, chunk.actions)), atol=1e-3, rtol=0
        )
        assert policy.generate([one], [text], 3) == [words]


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="keep=0: there are"):
        built(keep=0)
    with pytest.raises(ValueError, match="keep=999: there are"):
        built(keep=999)
    with pytest.raises(ValueError, match="no vector of their own"):
        built(**CHOSEN["instructed"], dual=dict(size=8))
    policy = built(**CHOSEN["instructed"])
    with pytest.raises(ValueError, match="sees nothing without words"):
        policy.network.vision(inputs(policy)["images"])
