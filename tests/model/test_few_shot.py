"""Examples before a question: who sees whom, whatever stands beside, and an answer that follows the examples."""

from dataclasses import replace

import pytest
import torch

from tests.model.test_fusion import open_gates
from tests.model.tiny import PROMPTS, observation, tiny_config, tiny_processor
from vla.model.few_shot import Parts, Shot, generate, interleaved, lengthened, read, stride
from vla.model.losses import word_loss
from vla.model.network import Network
from vla.model.policy import VLAPolicy

DESIGNS = {
    "prefix": dict(),
    "prefix_nearest": dict(shots=dict(frames="nearest")),
    "early_fusion": dict(vision=None, connector=dict(name="linear"), fusion=dict(name="early_fusion", patch_size=16)),
    "cross_attention": dict(fusion=dict(name="cross_attention")),
    "instructed": dict(connector=dict(name="qformer", tokens=6, instructed=True)),
    "kept": dict(keep=5),
    "recall": dict(shots=dict(recall=True)),
    "recall_beside": dict(shots=dict(recall=True), fusion=dict(name="cross_attention")),
    "kept_beside": dict(keep=5, fusion=dict(name="cross_attention")),
}
POSITIONS = 320
ANSWERS = ["green bowl", "red cube", "<box 10 20 30 40>"]


def built(gates=True, **changes):
    processor = tiny_processor()
    torch.manual_seed(0)
    config = tiny_config(processor.tokenizer)
    config["language"]["n_positions"] = POSITIONS
    network = Network(**{**config, **changes}).eval()
    for parameter in network.parameters():  # large enough that every path through the network shows
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    if network.cross is not None and gates:
        open_gates(network)
    return VLAPolicy(network, processor)


@pytest.fixture(scope="module", params=DESIGNS)
def policy(request):
    return built(**DESIGNS[request.param])


def shots(*seeds):
    return [Shot(observation(seed), PROMPTS[seed % 3], ANSWERS[seed % 3]) for seed in seeds]


def asked(policy, *rows):
    """Lay out one question after the examples of each row."""
    observations = [observation(100 + number) for number in range(len(rows))]
    prompts = [PROMPTS[(number + 1) % 3] for number in range(len(rows))]
    return interleaved(policy.processor, observations, prompts, rows)


def hidden(policy, parts):
    """States of the words that are there, row by row and part by part."""
    states = read(policy.network, parts).hidden
    return [[states[row, part][words] for part, words in enumerate(mask)] for row, mask in enumerate(parts.mask)]


def changed_frame(parts, number):
    """The same, with other frames in part `number` of those that are there."""
    images = {camera: image.clone() for camera, image in parts.images.items()}
    for image in images.values():
        image[number] = image[number].flip(0)
    return replace(parts, images=images)


def close(mine, theirs):
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def differ(mine, theirs):
    assert (mine - theirs).abs().max() > 1e-4


def test_without_examples_everything_is_as_without_the_argument(policy):
    observations, network = [observation(seed) for seed in range(2)], policy.network
    plain = policy.generate(observations, PROMPTS[:2], 5)
    assert policy.generate(observations, PROMPTS[:2], 5, shots=[(), []]) == plain
    parts = asked(policy, shots(1, 2), [])
    ids, mask = (tensor[1:, -1] for tensor in (parts.ids, parts.mask))
    pad = int((~mask).sum())
    with torch.no_grad():
        images = {camera: image[-1:] for camera, image in parts.images.items()}
        words, real = ids[:, pad:], mask[:, pad:]
        alone = network.answering(network.look(images, words, real), words, real, real)
    close(hidden(policy, parts)[1][-1], alone[0])


@torch.no_grad()
def test_neither_what_stands_beside_nor_missing_examples_nor_the_order_of_rows_change_anything(policy):
    rows = [shots(1), shots(2, 3, 4), [], shots(5, 6)]
    parts = asked(policy, *rows)
    together = hidden(policy, parts)
    for row, examples in enumerate(rows):
        alone = asked(policy, *rows)
        frames = int(alone.there[:row].sum()), int(alone.there[: row + 1].sum())
        images = {camera: image[slice(*frames)] for camera, image in alone.images.items()}
        kept = [*range(len(examples)), parts.there.shape[1] - 1]
        own = Parts(images, *(x[row : row + 1][:, kept] for x in (alone.there, alone.ids, alone.mask, alone.asked)))
        for mine, theirs in zip(hidden(policy, own)[0], (together[row][part] for part in kept), strict=True):
            close(mine, theirs)


@torch.no_grad()
def test_a_later_example_changes_no_earlier_words_and_an_earlier_one_changes_all_later_ones(policy):
    parts = asked(policy, shots(1, 2, 3))
    before = hidden(policy, parts)[0]
    other = asked(policy, [*shots(1), replace(shots(2)[0], answer=ANSWERS[0], observation=observation(9)), *shots(3)])
    after = hidden(policy, other)[0]
    close(after[0], before[0])
    for part in (2, 3):
        differ(after[part], before[part])


@torch.no_grad()
def test_words_see_earlier_frames_themselves_or_through_earlier_words_alone(policy):
    """An example without words has nothing by which its frames could be known, unless they are seen."""
    parts, network = asked(policy, shots(1, 2)), policy.network
    before, after = hidden(policy, parts)[0], hidden(policy, changed_frame(parts, 0))[0]
    differ(after[2], before[2])
    mask = parts.mask.clone()
    mask[:, 0] = False
    silent = replace(parts, mask=mask)
    before, after = hidden(policy, silent)[0], hidden(policy, changed_frame(silent, 0))[0]
    if network.all_frames and network.cross is None:
        differ(after[2], before[2])
    else:
        close(after[2], before[2])


@torch.no_grad()
def test_the_words_of_an_example_look_among_its_own_frames(policy):
    parts = asked(policy, shots(1, 2))
    before, after = (read(policy.network, each).named for each in (parts, changed_frame(parts, 1)))
    mask = parts.mask[0]
    for part in (0,) if policy.network.recall else (0, 2):  # what follows may recall what it found
        close(after[part][mask[part]], before[part][mask[part]])
    differ(after[1][mask[1]], before[1][mask[1]])


@torch.no_grad()
def test_a_word_recalls_what_earlier_examples_with_it_point_at_and_no_other_word_does():
    policy = built(shots=dict(recall=True))
    examples = [Shot(observation(seed), "pick up the red cube", "<box 10 20 30 40>") for seed in (1, 2)]
    parts = interleaved(policy.processor, [observation(3)], ["is there a blue cube"], [examples])
    before, after = (read(policy.network, each).words for each in (parts, changed_frame(parts, 0)))
    words = policy.processor.tokenizer.convert_ids_to_tokens(parts.ids[0, -1].tolist())
    told = [word for word, change in zip(words, (after - before)[0].abs().amax(1), strict=True) if change > 1e-4]
    assert told == ["cube"]
    plain = policy.network.embedding(parts.ids[:, -1]) * parts.mask[:, -1, :, None]
    assert [word for word, change in zip(words, (before - plain)[0].abs().amax(1), strict=True) if change > 0] == told


@torch.no_grad()
def test_generation_continues_as_a_full_pass_predicts(policy):
    network, rows = policy.network, [shots(1, 2), shots(3)]
    parts = asked(policy, *rows)
    answer = generate(network, parts, 4, eos=-1, pad=0)
    for step in range(4):
        said = answer[:, :step]
        grown = [torch.cat([values, values.new_zeros(*values.shape[:2], step)], dim=2) for values in vars_of(parts)]
        for values, fill in zip(grown, (said, torch.ones_like(said) > 0, torch.zeros_like(said) > 0), strict=True):
            values[:, -1, values.shape[2] - step :] = fill
        states = read(network, Parts(parts.images, parts.there, *grown)).hidden
        assert torch.equal(network.likeliest(states[:, -1, -1]), answer[:, step])


def vars_of(parts):
    return parts.ids, parts.mask, parts.asked


def test_words_come_out_for_every_row(policy):
    said = policy.generate([observation(1), observation(2)], PROMPTS[:2], 3, shots=[shots(3, 4), []])
    assert len(said) == 2 and said[1] == policy.generate([observation(2)], PROMPTS[1:2], 3)[0]


LEARNT = {
    "prefix": dict(),
    "prefix_nearest": dict(shots=dict(frames="nearest")),
    "cross_attention": dict(fusion=dict(name="cross_attention", freeze=False)),
}


@pytest.mark.parametrize("design", LEARNT)
def test_a_few_sequences_are_learnt_and_then_the_answer_follows_that_of_the_example(design):
    policy = built(gates=False, **LEARNT[design])  # these open while it learns
    network, processor, answers = policy.network, policy.processor, ["red", "blue"]
    network.embedding.weight.data.mul_(10)  # words that are easily told apart are soon learnt
    rows = [[Shot(observation(seed), PROMPTS[2], answer)] for seed in (1, 2) for answer in answers]
    seen = [observation(7) for _ in rows]
    parts = interleaved(processor, seen, [f"{PROMPTS[2]} {row[0].answer}" for row in rows], rows)
    labels = torch.full_like(parts.ids, -100)
    labels[:, -1, -1] = parts.ids[:, -1, -1]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        loss = word_loss(network, read(network, parts).hidden.flatten(0, 1), labels.flatten(0, 1), 4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    said = policy.generate(seen, [PROMPTS[2]] * len(rows), 1, shots=rows)
    assert said == answers * 2


def test_what_cannot_be_read_is_refused():
    policy = built()
    seen, prompt = [observation(1)], PROMPTS[:1]
    most = (POSITIONS - policy.network.start - 12) // stride(policy.network)
    policy.generate(seen, prompt, 4, shots=[shots(*range(most))])
    with pytest.raises(ValueError, match=rf"{most + 1} shots of .* the language model reads {POSITIONS}: give fewer"):
        policy.generate(seen, prompt, 4, shots=[shots(*range(most + 1))])
    with pytest.raises(ValueError, match="shots for 2 observations, there are 1: give each some or none"):
        policy.generate(seen, prompt, 4, shots=[shots(1), shots(2)])
    long = Shot(observation(1), " ".join(["red"] * 20), " ".join(["cube"] * 20))
    with pytest.raises(ValueError, match="an example has 41 tokens of question and answer, the model reads 32"):
        policy.generate(seen, prompt, 4, shots=[[long]])
    with pytest.raises(ValueError, match="frames='last' is not known, possible: all, nearest"):
        built(shots=dict(frames="last"))


def test_frames_that_have_places_in_rows_and_columns_are_refused():
    policy = built()
    policy.network.language.config.rope_parameters = {"mrope_section": [2, 3, 3]}
    with pytest.raises(ValueError, match="gives the frames of one observation places in rows and columns"):
        policy.generate([observation(1)], PROMPTS[:1], 4, shots=[shots(1)])


def test_a_longer_table_of_positions_begins_every_part_as_the_first():
    network, short = built().network, torch.randn(96, 32)
    name, period = "language.transformer.wpe.weight", stride(network)
    table = lengthened(network, {name: short, "other": short})[name]
    assert table.shape == (POSITIONS, 32) and torch.equal(table[:period], short[:period])
    for part in range(1, POSITIONS // period):
        apart = table[part * period : (part + 1) * period] - short[:period]
        torch.testing.assert_close(apart, apart[:1].expand_as(apart))
        assert apart.abs().max() > 0.1
    assert lengthened(network, {name: torch.randn(POSITIONS, 32)}) == {}
