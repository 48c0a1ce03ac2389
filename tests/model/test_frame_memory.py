"""A frame is encoded once however often it is asked about, and what is remembered changes no answer."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.tiny import PROMPTS, handed_over, observation, tiny_policy
from vla.model.memory import Memory


@pytest.fixture
def policy():
    return tiny_policy()


def encoded(policy):
    """Count the frames that its encoder gets."""
    counts = []
    policy.network.vision.encoder.register_forward_pre_hook(
        lambda _, __, named: counts.append(len(named["pixel_values"])), with_kwargs=True
    )
    return counts


def test_planner_controller_and_questions_look_once_at_the_frame_that_they_share(policy):
    seen, counts = observation(), encoded(policy)
    policy.next_subtask([seen], [[]])
    assert counts == [1, 1]  # a frame of each camera
    policy.act([replace(seen, instruction=PROMPTS[1])])
    policy.generate([seen] * 3, PROMPTS, 2)
    assert counts == [1, 1]
    policy.act([observation(1)])
    assert counts == [1, 1, 1, 1]
    memory = policy.network.vision.memory
    assert (memory.looks, memory.hits) == (2 + 2 + 6 + 2, 2 + 6)


def test_a_batch_encodes_each_frame_of_it_once(policy):
    counts = encoded(policy)
    policy.generate([observation(0), observation(1), observation(0)], PROMPTS, 1)
    assert counts == [2, 2]


def test_remembered_frames_change_no_answer(policy):
    other = tiny_policy()
    other.network.vision.memory = None
    observations = [observation(seed, text) for seed, text in enumerate(PROMPTS)]
    for _ in range(2):
        mine, theirs = ([chunk.actions for chunk in one.act(observations)] for one in (policy, other))
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert policy.generate(observations, PROMPTS, 3) == other.generate(observations, PROMPTS, 3)


def test_one_pixel_makes_another_frame_and_so_does_the_camera(policy):
    counts, seen = encoded(policy), observation()
    policy.act([seen])
    changed = seen.images["front"].copy()
    changed[40:44, 40:44] ^= 255
    policy.act([replace(seen, images={**seen.images, "front": changed})])
    assert counts == [1, 1, 1]
    memory, image = Memory(4), torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    assert memory.recall("front", image, lambda images: torch.zeros(1, 2)).sum() == 0
    assert memory.recall("wrist", image, lambda images: torch.ones(1, 2)).sum() == 2


def test_only_the_last_frames_are_kept_and_training_remembers_nothing(policy):
    counts = encoded(policy)
    memory = policy.network.vision.memory
    for seed in range(8):
        policy.act([observation(seed)])
    assert len(memory._kept) == memory.frames == 12
    policy.act([observation(0)])
    assert len(counts) == 18
    images = policy.processor.images([observation(0)])
    policy.network.vision(images)  # gradients are wanted
    assert len(counts) == 20


def test_a_copy_starts_empty_and_threads_do_not_quarrel():
    memory, image = Memory(2), torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    memory.recall("front", image, lambda images: torch.zeros(1, 2))
    for other in (copy.deepcopy(memory), handed_over(memory)):
        assert other.frames == 2 and not other._kept and other.looks == 0

    def ask(first):
        for number in range(100):
            frame = torch.full((1, 4, 4, 3), (first + number) % 7, dtype=torch.uint8)
            found = memory.recall("wrist", frame, lambda images: images.float().mean((1, 2)))
            if not (found == frame[0, 0, 0].float()).all():
                wrong.append(number)

    wrong: list[int] = []
    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and memory.looks == 401
