"""Measurements that cannot be true are not believed; a joint that does not follow is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.control.arms import Record
from tests.control.drive import ARM
from vla.control.proprioception import Proprioception

HZ = 50.0
AT = np.array([0.2, 0.5], np.float32)


def sense(*joints):
    """Return a sense that has believed these, one a tick."""
    body = Proprioception(ARM, HZ)
    for tick, measured in enumerate(joints):
        assert body.admit(Record(np.array(measured, np.float32), tick / HZ)) is not None
    return body


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (np.array([np.nan, 0.5], np.float32), "lift is not finite"),
        (np.array([0.2, np.inf], np.float32), "gripper is not finite"),
        (np.array([0.2], np.float32), "not 2 joint positions"),
        ([0.2, 0.5], "not 2 joint positions"),
        (AT + np.array([2 * np.pi, 0], np.float32), "lift cannot have gone"),
        (np.array([1e30, 0.5], np.float32), "lift cannot have gone"),
    ],
)
def test_what_cannot_be_is_not_believed(joints, words):
    body = sense(AT)
    assert body.admit(Record(joints, 1 / HZ)) is None
    assert words in body.wrong
    assert body.admit(Record(AT, 2 / HZ)) is not None and not body.wrong


def test_a_turn_too_far_is_never_believed_however_long_it_lasts():
    body = sense(AT)
    wrapped = AT + np.array([2 * np.pi, 0], np.float32)
    assert not any(body.admit(Record(wrapped, 0.02 * tick)) for tick in range(1, 500))
    body.forget()  # engaged anew
    assert body.admit(Record(wrapped, 11.0)) is not None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_any_motion_within_the_speed_limit_is_believed(shares):
    body, lift = sense(AT), 0.2
    for tick, share in enumerate(shares, 1):
        lift += share * ARM.velocity_max[0] / HZ
        assert body.admit(Record(np.array([lift, 0.5], np.float32), tick / HZ)) is not None


def test_a_joint_that_stays_behind_is_named_after_a_while_and_the_gripper_never():
    body = sense(AT)
    there = [Record(AT, tick / HZ) for tick in range(50)]
    ahead, squeezed = AT + np.array([0.3, 0.0]), AT - np.array([0.0, 0.5])
    said = [body.behind(record, ahead) for record in there]
    assert not any(said[:15]) and all("lift is 0.30 rad" in words for words in said[16:])
    assert not body.behind(there[-1], AT)
    assert not any(body.behind(record, squeezed) for record in there)
    assert not body.behind(None, ahead) and not body.behind(there[0], None)


def test_a_fast_joint_lags_and_is_not_called_blocked_until_it_stops():
    body, lag = sense(AT), np.array([0.4, 0.0])
    moving = [np.array([0.2 + 1.5 * tick / HZ, 0.5], np.float32) for tick in range(100)]
    assert not any(body.behind(Record(at, tick / HZ), at + lag) for tick, at in enumerate(moving))
    said = [body.behind(Record(moving[-1], (100 + tick) / HZ), moving[-1] + lag) for tick in range(40)]
    assert not said[0] and "lift is 0.40 rad" in said[31]


def test_a_joint_that_is_pushed_away_from_its_command_is_blocked():
    body = sense(AT)
    away = [np.array([0.2 - 0.5 * tick / HZ, 0.5], np.float32) for tick in range(40)]
    assert any(body.behind(Record(at, tick / HZ), AT + np.array([0.3, 0.0])) for tick, at in enumerate(away))
