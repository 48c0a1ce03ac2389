"""A chunk in a wrong unit or order of joints is told from a fast one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.control.drive import ARM
from vla.control.plan import leap
from vla.types import ActionChunk

START = np.array([0.5, 0.5], np.float32)
STEPS = np.array([0.2, 0.245])  # that the arm can make in one control period


def chunk(*actions):
    return ActionChunk(np.array(actions, np.float32), 0.1, 0.0)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=16))
def test_what_the_arm_can_do_is_never_a_leap(shares):
    path = START + np.cumsum(np.array(shares) * STEPS, axis=0)
    assert not leap(chunk(*path), START, ARM, engaging=True)
    assert not leap(chunk(*path), START, ARM, engaging=False)


@pytest.mark.parametrize("step", [0, 3])
def test_a_leap_is_named_by_step_and_joint(step):
    path = np.tile(START, (8, 1))
    path[step:, 0] = np.degrees(0.5)
    assert f"its step {step} moves lift by" in leap(chunk(*path), START, ARM, engaging=False)


def test_the_first_step_must_be_near_while_engaging_but_for_the_gripper():
    far, squeezed = START + np.array([0.4, 0.0]), START + np.array([0.0, 0.4])
    assert leap(chunk(far), START, ARM, engaging=True) and not leap(chunk(far), START, ARM, engaging=False)
    assert not leap(chunk(squeezed), START, ARM, engaging=True)


@pytest.mark.parametrize("step", [0, 3])
def test_joints_in_a_wrong_order_are_told_by_all_of_them_leaping_a_little_less(step):
    path = np.tile(START, (8, 1))
    path[step:] += 2 * STEPS
    assert f"its step {step} moves the joints at 2.0 times" in leap(chunk(*path), START, ARM, engaging=False)
    path[step:, 1] = START[1]
    assert not leap(chunk(*path), START, ARM, engaging=False)
