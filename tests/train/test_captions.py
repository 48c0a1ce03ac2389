"""Captions say what is known of a frame, and which other frames they are true of."""

import json

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import tiny_processor
from vla.train.captions import drawn, facts_of, true_of

FACTS = ("a red cube", "a blue cube", "a green bowl", "the drawer is open")
PROCESSOR = tiny_processor(texts=[*FACTS, "a, b"])


def stored(facts):
    caption = [{"question": "describe the scene", "answer": ", ".join(facts), "type": "caption"}] if facts else []
    return json.dumps([{"question": "is there a cube", "answer": "yes", "type": "yesno"}, *caption])


@given(st.lists(st.lists(st.sampled_from(FACTS), unique=True), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_caption_is_true_of_its_own_frame_and_of_each_that_has_all_its_facts(frames, seed):
    captions = drawn([stored(facts) for facts in frames], PROCESSOR, np.random.default_rng(seed))
    told = [set(text.split(", ")) - {""} for text in PROCESSOR.words(captions["caption_ids"])]
    true = true_of(captions["caption_facts"], captions["frame_facts"])
    for row, facts in enumerate(frames):
        assert told[row] <= set(facts) and bool(told[row]) == bool(facts) == bool(captions["caption_mask"][row].any())
        for column, said in enumerate(told):
            assert true[row, column] == (said <= set(facts))


def test_frames_without_a_caption_have_no_facts():
    assert facts_of(stored([])) == [] and facts_of("[]") == []


def test_single_facts_are_told_and_all_together():
    captions = drawn([stored(FACTS)] * 200, PROCESSOR, np.random.default_rng(0))
    counts = (captions["caption_facts"] != -1).sum(1)
    assert torch.bincount(counts, minlength=5)[1:].min() > 20
