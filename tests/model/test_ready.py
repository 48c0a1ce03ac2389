"""The way back to the ready pose ends there, at a pace that every joint keeps, and goes on from what is decided."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import embodiment, observation, tiny_policy
from vla.model.ready import NEAR, way_back
from vla.types import READY

BODY = embodiment()
POSE = np.array([0.5, -1.2, 0.4], np.float32)
joints = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0, 1)).map(lambda values: np.array(values, np.float32))


@given(joints)
def test_followed_chunk_by_chunk_it_arrives_and_says_so(state):
    for _ in range(40):
        chunk = way_back(replace(observation(), state=state), POSE, BODY, steps=16)
        assert chunk.done == float(np.abs(POSE - state)[:-1].max() < NEAR)
        if chunk.done:
            break
        state = chunk.actions[2]
    assert chunk.done == 1.0
    np.testing.assert_allclose(chunk.actions[-1], POSE, atol=1e-5)


@given(joints, st.integers(0, 3))
def test_no_joint_is_asked_for_more_than_it_can(state, given_steps):
    decided = np.linspace(state, state + 0.02, 4)[:given_steps] if given_steps else None
    chunk = way_back(replace(observation(), state=state), POSE, BODY, 16, decided)
    assert chunk.actions.shape == (16, 3)
    if given_steps:
        np.testing.assert_allclose(chunk.actions[:given_steps], decided, atol=1e-6)
    strides = np.abs(np.diff(np.concatenate([state[None], chunk.actions]), axis=0))
    assert (strides <= np.array(BODY.velocity_max) / BODY.control_hz + 1e-5).all()


def test_the_policy_answers_it_among_others_and_only_where_it_knows_a_pose():
    policy = tiny_policy()
    asked, other = observation(0, READY), observation(1)
    unknowing = policy.act([asked])[0]
    assert policy.ready is None and unknowing.confidence is not None
    policy.processor.ready = POSE
    back, alone = policy.act([asked, other])
    assert back.confidence is None and back.time_s == asked.time_s
    np.testing.assert_allclose(alone.actions, policy.act([other])[0].actions, atol=1e-5)
    way = np.abs(POSE - back.actions[-1])
    assert (way < np.abs(POSE - asked.state))[:-1].all()


def test_joints_that_cannot_be_are_refused_as_in_any_other_skill():
    policy = tiny_policy()
    policy.processor.ready = POSE
    for state in (np.array([0.1, np.nan, 0.0], np.float32), np.zeros(1, np.float32)):
        with pytest.raises(ValueError, match="state must be 3 finite values"):
            policy.act([replace(observation(0, READY), state=state)])


def test_decided_steps_are_kept_by_the_policy_too():
    policy = tiny_policy()
    policy.processor.ready = POSE
    asked = observation(0, READY)
    decided = (asked.state + np.array([[0.01, 0.01, 0], [0.02, 0.02, 0]], np.float32)).clip([-2, -2, 0], [2, 2, 1])
    chunk = policy.act([asked], given=decided[None], given_steps=2)[0]
    np.testing.assert_allclose(chunk.actions[:2], decided, atol=1e-6)
    assert np.abs(chunk.actions[2] - decided[1]).max() <= 0.3 + 1e-5


@pytest.mark.parametrize("steps", [1, 4])
def test_a_short_horizon_is_kept(steps):
    assert way_back(observation(), POSE, BODY, steps).actions.shape == (steps, 3)
