"""The policy answers in the units of the body, refuses bad input and other bodies, and knows what it was not taught."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.tiny import PROMPTS, embodiment, observation, tiny_policy
from vla.model.vocabulary import boxes_to_tokens, tokens_to_boxes
from vla.types import Camera, ContractError


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def test_chunks_are_inside_the_limits_and_stamped_with_the_frame(policy):
    chunk = policy.act([observation()])[0]
    assert chunk.actions.shape == (4, 3) and chunk.actions.dtype == np.float32
    assert (chunk.actions >= policy.embodiment.position_min).all()
    assert (chunk.actions <= policy.embodiment.position_max).all()
    assert chunk.dt_s == pytest.approx(0.1) and chunk.time_s == 12.5
    assert 0 <= chunk.confidence <= 1 and 0 <= chunk.progress <= 1 and 0 <= chunk.done <= 1


def test_a_batch_gives_what_each_observation_gives_alone(policy):
    observations = [observation(seed, text) for seed, text in enumerate(PROMPTS)]
    together = policy.act(observations)
    for one, chunk in zip(observations, together, strict=True):
        np.testing.assert_allclose(policy.act([one])[0].actions, chunk.actions, atol=1e-4)


def test_given_steps_are_kept(policy):
    seen = observation()
    given = np.broadcast_to(seen.state, (1, 4, 3)) + np.array([0.01, -0.02, 0.0])
    given = given.clip(policy.embodiment.position_min, policy.embodiment.position_max)
    chunk = policy.act([seen], given=given, given_steps=2)[0]
    np.testing.assert_allclose(chunk.actions[:2], given[0, :2], atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(images={}), "camera 'front' is missing"),
        (dict(state=np.array([0, np.nan, 0], np.float32)), "finite values"),
        (dict(state=np.zeros(5, np.float32)), "must be 3 finite values"),
    ],
)
def test_bad_observations_are_refused(policy, change, message):
    with pytest.raises(ValueError, match=message):
        policy.act([replace(observation(), **change)])


def test_float_frames_are_refused(policy):
    with pytest.raises(ValueError, match="uint8"):
        policy.act([observation(front=np.zeros((64, 64, 3), np.float32))])


def test_a_text_that_does_not_fit_is_refused_and_not_cut(policy):
    with pytest.raises(ValueError, match="the model reads 32"):
        policy.act([observation(instruction="pick up the red cube " * 10)])


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(name="other arm"), "name"),
        (dict(joints=("b", "a", "gripper")), "joints"),
        (dict(position_max=(2.0, 2.5, 1.0)), "position_max"),
        (dict(velocity_max=(3.0, 3.0, 4.0)), "velocity_max"),
        (dict(control_hz=30.0), "control_hz"),
        (dict(action_space="delta_joint"), "action_space"),
        (dict(cameras={"front": Camera(64, 64)}), "cameras"),
        (dict(cameras={"front": Camera(64, 64, 180), "wrist": Camera(64, 64)}), "cameras"),
        (dict(cameras={"front": Camera(64, 128), "wrist": Camera(64, 64)}), "cameras"),
    ],
)
def test_another_body_is_refused_one_difference_at_a_time(policy, change, named):
    with pytest.raises(ContractError, match=f"does not move this one:\n  {named}"):
        policy.check(embodiment(**change))


def test_the_same_body_with_larger_frames_is_accepted(policy):
    policy.check(embodiment(cameras={"front": Camera(128, 128), "wrist": Camera(256, 256)}))


def test_unknown_words_are_named_once_in_order(policy):
    assert policy.unknown_words("pick up the purple banana and the purple cube") == ["purple", "banana", "and"]
    assert policy.unknown_words("Pick up the RED cube") == []


def test_boxes_survive_the_tokenizer(policy):
    text = "<box 3 1023 0 512>"
    ids = policy.processor.tokenize(text)
    assert len(ids) == 4
    assert policy.processor.words(torch.tensor([ids])) == [text]
    assert tokens_to_boxes(boxes_to_tokens(f"a {text} b")) == f"a {text} b"


def test_generated_text_has_no_padding_or_end_marks(policy):
    for text in policy.generate([observation(), observation(1)], PROMPTS[:2], max_tokens=5):
        assert "<pad>" not in text and "<eos>" not in text
