"""Few-shot sequences: only the examples tell what a made-up name stands for."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.train.conftest import frames_of
from vla.data.framecache import FrameCache
from vla.model.processor import Processor
from vla.model.prompts import NAMES, point_prompt, what_prompt
from vla.model.vocabulary import build_tokenizer
from vla.train.batch import of_shots
from vla.train.batches import Batches, Labels
from vla.train.shots import FewShot, WithShots, few_shot_texts
from vla.types import Embodiment

CAMERAS = {"front": (40, 64), "wrist": (64, 64)}
THINGS = ("red cube", "blue bowl")
MOST = 2


@pytest.fixture(scope="module")
def labels(demonstrations):
    """Those of real episodes, in which two things are pointed at in every frame, at another place in each."""
    labels = Labels.read(demonstrations)
    return dataclasses.replace(
        labels, vqa=[json.dumps([pointing(n, t) for t in THINGS]) for n in range(len(labels.vqa))]
    )


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


def test_the_place_that_is_taught_is_that_of_the_box(plain):
    parts = plain.sequences.draw(np.random.default_rng(2))
    fields, _ = plain.sequences.pack([parts])
    tokenizer = plain.batches.processor.tokenizer
    for part, ids, at, box in zip(
        parts, *(fields[name][0] for name in ("shot_ids", "shot_at", "shot_box")), strict=True
    ):
        corners = [int(word) for word in part.answer.strip("<>").split()[1:]]
        assert tokenizer.convert_ids_to_tokens(int(ids[at])) == f"<loc{corners[3]:04d}>"
        np.testing.assert_allclose(box * 1023, corners, atol=1e-3)


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
