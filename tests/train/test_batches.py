"""What a training batch holds: the right targets for the right words, and questions with their answers."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from tests.train.conftest import frames_of
from vla.data.framecache import EarlierFrames, FrameCache
from vla.model.processor import Processor
from vla.model.prompts import ALL_FINISHED, JOINS
from vla.model.vocabulary import build_tokenizer
from vla.train.batches import Batches, Labels
from vla.train.objective import augment
from vla.types import Embodiment

CAMERAS = {"front": (40, 64), "wrist": (64, 64)}


@pytest.fixture(scope="module")
def labels(demonstrations):
    return Labels.read(demonstrations)


@pytest.fixture(scope="module")
def batches(demonstrations, labels):
    embodiment = Embodiment.from_dict(demonstrations.info["vla"]["embodiment"])
    processor = Processor(embodiment, CAMERAS, labels.fit_codec(16), build_tokenizer(labels.texts()), 80)
    frames = FrameCache(demonstrations, CAMERAS, frames_of(demonstrations), workers=1)
    return Batches(labels, frames, processor, batch_size=16, seed=3, max_given_steps=4, given_share=0.5)


def test_subtasks_follow_each_other_as_the_instruction_says(demonstrations, labels):
    for episode, plan in zip(demonstrations.episodes, labels.plans, strict=True):
        number = labels.subtask_number[episode.start : episode.start + episode.length]
        assert number[0] == 0 and number[-1] == len(plan) - 1 and set(np.diff(number)) <= {0, 1}
        assert (len(plan) > 1) == (episode.extra["kind"] == "long")
        last = episode.start + episode.length - 1
        assert labels.done[last] and labels.subtask_end[last] == labels.episode_end[last] == last + 1


def test_windows_are_the_targets_that_follow(labels):
    index = np.array([0, 5])
    np.testing.assert_array_equal(labels.window(index, 4)[1], labels.action[5:9])
    end = labels.episode_end[0]
    np.testing.assert_array_equal(labels.window(np.array([end - 1]), 3)[0], labels.action[[end - 1] * 3])


def test_a_batch_depends_on_seed_and_step_alone(batches):
    first, again, other = batches[7], batches[7], batches[8]
    assert torch.equal(first.actions, again.actions) and torch.equal(first.question_ids, again.question_ids)
    assert not torch.equal(first.state, other.state)


def test_every_kind_of_batch_comes_and_texts_fit_it(batches, labels):
    kinds = {}
    for step in range(60):
        batch = batches[step]
        kinds.setdefault(batch.kind, batch)
    assert set(kinds) == {"whole", "wordy", "short"}
    tasks = {batches.processor.tokenizer.decode(batches.processor.tokenize(text)) for text in labels.task}
    for ids, mask in zip(kinds["whole"].text_ids, kinds["whole"].text_mask, strict=True):
        assert batches.processor.tokenizer.decode(ids[mask]) in tasks


def test_steps_beyond_the_subtask_do_not_count(batches):
    seen = False
    for step in range(30):
        batch = batches[step]
        assert (batch.counts.sum(1) >= 1).all() and (batch.given_steps <= batch.counts.sum(1)).all()
        seen |= bool((~batch.counts).any())
    assert seen


def test_a_window_counts_only_as_far_as_the_expert_led(batches, labels):
    settings = {"batch_size": 16, "seed": 3, "max_given_steps": 4, "given_share": 0.5}
    driven = dataclasses.replace(labels, rollin=np.ones(len(labels.state), bool))
    led = Batches(driven, batches.frames, batches.processor, **settings)
    assert (led[0].counts.sum(1) == led[0].given_steps + 1).all() and (batches[0].counts.sum(1) > 1).any()


def test_given_steps_are_what_the_arm_was_given_and_the_targets_after_them_the_experts(batches, labels):
    executed = labels.action + np.float32(0.01)
    settings = {"batch_size": 32, "seed": 3, "max_given_steps": 4, "given_share": 0.5}
    other = Batches(dataclasses.replace(labels, executed=executed), batches.frames, batches.processor, **settings)
    plain = Batches(dataclasses.replace(labels, executed=None), batches.frames, batches.processor, **settings)
    seen = 0
    for step in range(5):
        shown = torch.arange(batches.processor.codec.action_horizon) < other[step].given_steps[:, None]
        moved = (other[step].actions - plain[step].actions).abs().amax(-1) > 1e-4
        assert (moved == shown).all()
        seen += int(shown.sum())
    assert seen


def test_only_answers_have_labels_and_they_end(batches):
    tokenizer = batches.processor.tokenizer
    for step in range(10):
        batch = batches[step]
        for ids, labels in zip(batch.question_ids, batch.question_labels, strict=True):
            answer = labels[labels != -100]
            if len(answer):
                assert answer[-1] == tokenizer.eos_token_id
                assert torch.equal(ids[labels != -100], answer)
        assert tokenizer.unk_token_id not in batch.question_ids
        assert tokenizer.unk_token_id not in batch.text_ids


def test_plans_name_the_next_subtask_and_end_with_done(labels, batches):
    rng = np.random.default_rng(0)
    last = int(labels.episode_end[0]) - 1
    answers = {batches._plan(last, rng)["answer"] for _ in range(50)}
    assert ALL_FINISHED in answers
    for index in np.flatnonzero(labels.subtask_number == 0)[:20]:
        if not labels.done[index]:
            assert batches._plan(int(index), rng)["answer"] == labels.plans[labels.plan_of[index]][0]


SAID = [("lift the red cube", "pick up the red cube"), ("pick up the red cube", "pick up the red cube")]
SAID += [("shut the drawer", "close the drawer"), ("hit the button", "press the button")]


def test_made_up_plans_name_the_step_that_follows_the_finished_one(batches):
    rng, steps, finished, failures = np.random.default_rng(0), set(), set(), 0
    batches, subtask_of = copy.copy(batches), dict(SAID)
    batches.said = SAID
    for _ in range(200):
        plan = batches._made_up_plan(rng)
        instruction, after, *lesson, _ = plan["question"].split(" : ")
        said = re.split("|".join(JOINS), instruction)
        order = [subtask_of[text] for text in said] + [ALL_FINISHED]
        before = after.removeprefix("after ")
        assert plan["answer"] == order[0 if before == "nothing" else order.index(before) + 1]
        assert lesson in ([], [f"failed {plan['answer']}"])
        failures += bool(lesson)
        steps.add(len(said))
        finished.add(plan["answer"] == ALL_FINISHED)
    assert steps >= {1, 2, 3} and finished == {True, False} and 5 < failures < 60


def test_a_made_up_plan_has_no_more_steps_than_the_model_reads(batches):
    short = copy.copy(batches)
    short.said = SAID
    short.processor = dataclasses.replace(batches.processor, max_text_tokens=24)
    rng = np.random.default_rng(0)
    assert all(len(short.processor.tokenize(short._made_up_plan(rng)["question"])) <= 24 for _ in range(100))


def test_stored_questions_are_read(labels):
    stored = [json.loads(row) for row in labels.vqa if row != "[]"]
    assert stored and all({"question", "answer", "type"} <= set(item) for row in stored for item in row)


def test_every_thing_that_is_pointed_at_comes_with_the_word_that_names_it(batches):
    processor, seen = batches.processor, 0
    for step in range(10):
        batch = batches[step]
        for ids, at, box in zip(batch.named_ids, batch.named_at, batch.named_box, strict=True):
            words = processor.tokenizer.convert_ids_to_tokens(ids.tolist())
            assert (at >= 0).sum() == words.count("point")
            for place, corners in zip(at[at >= 0], box[at >= 0], strict=True):
                assert words[place] in ("cube", "cylinder", "bowl", "plate", "drawer", "button")
                assert place + 1 == len(words) or words[place + 1] in ("point", "<pad>")
                seen += bool(((corners >= 0) & (corners <= 1)).all())
    assert seen > 20


def test_a_named_box_is_that_of_the_stored_answer(labels, batches):
    index = next(i for i, row in enumerate(labels.vqa) if "<box" in row)
    items = [item for item in json.loads(labels.vqa[index]) if item["type"] == "point"]
    _, _, boxes = batches._named(np.array([index]), np.random.default_rng(0))
    for item, box in zip(items, boxes[0], strict=False):
        told = "not visible" if box.isnan().any() else "<box {:.0f} {:.0f} {:.0f} {:.0f}>".format(*(box * 1023))
        assert told == item["answer"]


def test_what_is_absent_is_pointed_at_in_vain(labels, batches):
    episodes = [plan for plan, absent in enumerate(labels.absent) if absent]
    assert episodes
    for plan in episodes:
        rows = [row for row, of in zip(labels.vqa, labels.plan_of, strict=True) if of == plan]
        captions = [item["answer"] for row in rows for item in json.loads(row) if item["type"] == "caption"]
        assert not any(name in caption for name in labels.absent[plan] for caption in captions)
    index = int(np.flatnonzero(labels.plan_of == episodes[0])[0])
    asked = batches._point_in_vain(index, np.random.default_rng(0))
    assert (
        asked["answer"] == "not visible"
        and asked["question"].removeprefix("point to the ") in labels.absent[plan_of(labels, index)]
    )
    ids, at, box = batches._named(np.array([index]), np.random.default_rng(0))
    words = batches.processor.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    last = int(at[0].max())
    assert " ".join(words[last - 1 : last + 1]) in labels.absent[plan_of(labels, index)]
    assert box[0, int(at[0].argmax())].isnan().all()


def plan_of(labels, index):
    return int(labels.plan_of[index])


def test_some_pointing_questions_are_about_what_is_absent(batches):
    asked = []
    for step in range(60):
        batch = batches[step]
        for ids, labels in zip(batch.question_ids, batch.question_labels, strict=True):
            words = batches.processor.tokenizer.convert_ids_to_tokens(ids.tolist())
            if words[0] == "point":
                asked.append("visible" in words)
                assert not asked[-1] or (labels != -100).sum() == 3  # not, visible, end
    assert 0.1 < np.mean(asked) < 0.5


def test_earlier_frames_are_of_the_same_episode(batches, labels, demonstrations):
    history = EarlierFrames(batches.frames, demonstrations.starts, frames=2, stride=3)
    reading = Batches(labels, history, batches.processor, batch_size=16, seed=3, max_given_steps=4, given_share=0.5)
    start = demonstrations.episodes[1].start
    index = np.array([start, start + 4, start + 9, start - 1])
    expected = [[start - age for age in ages] for ages in ((0, 0, 0), (-4, -1, 0), (-9, -6, -3), (1, 4, 7))]
    np.testing.assert_array_equal(history.numbers(index), expected)
    np.testing.assert_array_equal(history.gather("wrist", index), batches.frames["wrist"][np.array(expected)])
    batch, plain = reading[5], batches[5]
    assert torch.equal(batch.images["front"][:, 0], plain.images["front"]) and batch.images["front"].shape[1] == 3
    assert torch.equal(batch.actions, plain.actions)
    changed = augment(batch.images["front"], 0.2, torch.Generator().manual_seed(0))
    same = augment(plain.images["front"], 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(changed[:, 0], same)
