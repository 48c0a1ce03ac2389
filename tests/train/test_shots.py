"""Few-shot sequences: only the examples tell what a made-up name stands for."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.train.conftest import frames_of, run
from vla.data.framecache import FrameCache
from vla.model.checkpoint import load
from vla.model.few_shot import Shot
from vla.model.processor import Processor
from vla.model.prompts import NAMES, point_prompt, what_prompt
from vla.model.vocabulary import build_tokenizer
from vla.train.batch import of_shots
from vla.train.batches import Batches, Labels
from vla.train.shots import FewShot, WithShots, few_shot_texts
from vla.types import Embodiment, Observation

CAMERAS = {"front": (40, 64), "wrist": (64, 64)}
THINGS = ("red cube", "blue bowl")
MOST = 2


@pytest.fixture(scope="module")
def labels(demonstrations):
    """Real episodes, as if two things were pointed at in every frame and every second one were about one of them."""
    labels = Labels.read(demonstrations)
    count = len(labels.vqa)
    vqa = [json.dumps([pointing(number, thing) for thing in THINGS]) for number in range(count)]
    subtask = [f"pick up the {THINGS[0]}" if number % 2 else "press the button" for number in range(count)]
    return dataclasses.replace(labels, vqa=vqa, subtask=subtask)


def pointing(number, thing):
    left = number % 900 + THINGS.index(thing)
    return {"question": point_prompt(thing), "answer": f"<box {left} 20 {left + 100} 90>", "type": "point"}


@pytest.fixture(scope="module")
def built(demonstrations, labels):
    def build(share=(0, 1), **settings):
        embodiment = Embodiment.from_dict(demonstrations.info["vla"]["embodiment"])
        tokenizer = build_tokenizer([*labels.texts(), *few_shot_texts({"most": MOST})])
        processor = Processor(embodiment, CAMERAS, labels.fit_codec(16), tokenizer, 80)
        frames = FrameCache(demonstrations, CAMERAS, frames_of(demonstrations), workers=1)
        batches = Batches(labels, frames, processor, 8, 3, max_given_steps=4, given_share=0.5, share=share)
        return WithShots(batches, FewShot(MOST, **settings))

    return build


@pytest.fixture(scope="module")
def plain(built):
    return built(what=0.0, known=0.0)


def test_every_part_points_at_the_same_thing_by_the_same_made_up_name_in_another_episode(plain, labels):
    rng, names = np.random.default_rng(0), set()
    for _ in range(50):
        parts = plain.sequences.draw(rng)
        assert len(parts) == MOST + 1 == len({labels.plan_of[part.frame] for part in parts})
        assert len({part.question for part in parts}) == 1 and not any(t in parts[0].question for t in THINGS)
        names.add(parts[0].question)
        meant = {t for t in THINGS if all(part.answer == pointing(part.frame, t)["answer"] for part in parts)}
        assert len(meant) == 1
    assert names == {point_prompt(name) for name in NAMES}


def test_a_name_stands_now_for_this_and_now_for_that(plain):
    rng, meant = np.random.default_rng(0), {}
    for _ in range(200):
        part = plain.sequences.draw(rng)[0]
        thing = next(t for t in THINGS if part.answer == pointing(part.frame, t)["answer"])
        meant.setdefault(part.question, set()).add(thing)
    assert all(things == set(THINGS) for things in meant.values())


def test_the_first_answer_cannot_be_known_and_all_others_are_taught(plain):
    parts = plain.sequences.draw(np.random.default_rng(1))
    assert [part.taught for part in parts] == [False] + [True] * MOST
    fields, frames = plain.sequences.pack([parts])
    labels, ids = fields["shot_labels"][0], fields["shot_ids"][0]
    assert frames.tolist() == [[part.frame for part in parts]]
    assert (labels[0] == -100).all() and ((labels[1:] != -100).sum(1) == 5).all()  # four corners and the end
    taught = labels != -100
    assert torch.equal(labels[taught], ids[taught]) and not (taught & fields["shot_asked"][0]).any()


def test_what_the_arm_reaches_for_is_not_asked_for(plain):
    """Its pose would tell what is meant without any example."""
    rng = np.random.default_rng(0)
    frames = {thing: set() for thing in THINGS}
    for part in (part for _ in range(100) for part in plain.sequences.draw(rng)):
        frames[next(t for t in THINGS if part.answer == pointing(part.frame, t)["answer"])].add(part.frame % 2)
    assert frames == {THINGS[0]: {0}, THINGS[1]: {0, 1}}


def test_names_and_ends_of_boxes_are_taught_to_mean_what_is_at_the_box(built):
    sequences = built(what=1.0, known=0.0).sequences
    parts = sequences.draw(np.random.default_rng(2))
    fields, _ = sequences.pack([parts])
    said = [sequences.processor.tokenizer.convert_ids_to_tokens(ids) for ids in fields["shot_ids"][0].tolist()]
    at, name = fields["shot_at"][0].tolist(), parts[0].question.split()[-1]
    for number, (part, words, (called, end), box) in enumerate(
        zip(parts, said, at, fields["shot_box"][0], strict=True)
    ):
        corners = [int(word) for word in part.box.strip("<>").split()[1:]]
        np.testing.assert_allclose(box * 1023, [corners] * 2, atol=1e-3)
        assert words[called] == name if number else called == -1  # nothing tells what the first one means
        assert words[end] == f"<loc{corners[3]:04d}>" if number < MOST else end == -1  # the last answer is a word


def test_the_last_question_may_be_what_a_name_stands_for_or_about_a_real_name(built):
    rng = np.random.default_rng(0)
    for part in (built(what=1.0, known=0.0).sequences.draw(rng)[-1] for _ in range(10)):
        assert part.question in {what_prompt(name) for name in NAMES} and part.answer in THINGS
    for part in (built(what=0.0, known=1.0).sequences.draw(rng)[-1] for _ in range(10)):
        thing = part.question.removeprefix(point_prompt(""))
        assert part.answer == pointing(part.frame, thing)["answer"]


def test_control_samples_stay_as_they_are_without_sequences_and_frames_are_those_of_the_parts(plain):
    mine, theirs = plain[5], plain.batches[5]
    for name, value in vars(theirs).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(vars(mine)[name].nan_to_num(), value.nan_to_num())
    again = plain[5]
    assert torch.equal(mine.shot_ids, again.shot_ids) and not torch.equal(mine.shot_ids, plain[6].shot_ids)
    rng = np.random.default_rng([plain.batches.seed, 5, 1])
    frames = np.array([[part.frame for part in plain.sequences.draw(rng)] for _ in range(8)])
    cache = plain.batches.frames
    for camera in CAMERAS:
        expected = cache.gather(camera, frames.ravel()).reshape(8, MOST + 1, *CAMERAS[camera], 3)
        np.testing.assert_array_equal(mine.images[of_shots(camera)].numpy(), expected)


def test_the_shares_of_two_processes_are_the_batch(built):
    whole, parts = built()[4], [built(share=(number, 2))[4] for number in range(2)]
    for name in ("shot_ids", "shot_labels", "shot_at", "shot_box"):
        assert torch.equal(
            torch.cat([getattr(part, name) for part in parts]).nan_to_num(), getattr(whole, name).nan_to_num()
        )
    for name in whole.counted():
        assert sum(part.shares()[name] for part in parts) / 2 == pytest.approx(1.0)


def test_too_few_episodes_and_shares_above_one_are_refused(built, labels):
    processor = built().batches.processor
    with pytest.raises(ValueError, match="no thing is pointed at in 6 episodes of the dataset, at most in 4"):
        WithShots(built().batches, FewShot(5))
    with pytest.raises(ValueError, match="shares that are 1 together at most"):
        FewShot(2, what=0.7, known=0.6)
    assert set(processor.unknown_words("point to the dax")) == set()


def test_a_policy_trained_by_the_recipe_answers_after_examples(demonstrations, tmp_path):
    """From scratch and tiny; only that all parts fit together, and that more examples than taught are refused."""
    overrides = ["recipe=few_shot", "init=null", "shots.most=1", "model.language.n_positions=384", "steps=2"]
    result = run(demonstrations, tmp_path, *overrides)
    assert {"shots", "places"} <= set(result["losses"])
    policy = load(result["checkpoint"])
    assert policy.network.recall is not None and not policy.network.all_frames
    assert policy.unknown_words(f"point to the {NAMES[0]}") == []
    images = {name: demonstrations.frames(name, np.arange(2)) for name in CAMERAS}
    seen = [Observation({name: both[n] for name, both in images.items()}, np.zeros(6), "", 0.0) for n in range(2)]
    shot = Shot(seen[0], point_prompt(NAMES[0]), "<box 10 20 30 40>")
    asked = dict(prompts=[point_prompt(NAMES[0])], max_tokens=4)
    assert len(policy.generate(seen[1:], **asked, shots=[[shot]])) == 1
    with pytest.raises(ValueError, match=r"9 shots of .* the language model reads 384"):
        policy.generate(seen[1:], **asked, shots=[[shot] * 9])
