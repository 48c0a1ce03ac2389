"""Frames of standing still are recognised, also with something in the jaws; where episodes begin is known; who led."""

import numpy as np

from vla.train.batches import Labels


def labels(state, action):
    count = len(state)
    nothing, end = np.zeros(count), np.full(count, count)
    return Labels(
        state=np.asarray(state, np.float32),
        action=np.asarray(action, np.float32),
        progress=nothing,
        done=nothing > 0,
        task=["move"] * count,
        subtask=["move"] * count,
        vqa=["[]"] * count,
        episode_end=end,
        subtask_end=end,
        subtask_number=nothing.astype(int),
        plans=[("move",)],
        plan_of=nothing.astype(int),
        absent=[()],
    )


def test_the_ready_pose_is_the_middle_of_those_in_which_episodes_begin():
    state = np.array([[1.0, 0.0], [9.0, 9.0], [3.0, 1.0], [9.0, 9.0], [9.0, 9.0]])
    some = labels(state, state)
    some.plan_of = np.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(some.ready(), [2.0, 0.5])


def test_a_moving_joint_is_not_still_until_it_stops():
    joint = np.minimum(np.arange(20) * 0.1, 1.0)
    state = np.stack([joint, np.zeros(20)], axis=1)
    still = labels(state, state).still(steps=3)
    assert not still[:10].any() and still[10:].all()


def test_a_jaw_that_presses_on_something_is_still():
    state, action = np.tile([0.5, 0.3], (10, 1)), np.tile([0.5, 0.0], (10, 1))
    assert labels(state, action).still().all()


def test_a_jaw_that_is_about_to_open_is_not_still():
    state, action = np.tile([0.5, 0.0], (10, 1)), np.tile([0.5, 0.0], (10, 1))
    action[4:, 1] = 1.0
    still = labels(state, action).still(steps=3)
    assert not still[2] and still[0] and still[6]


def test_the_answer_to_a_policy_that_is_stuck_is_no_standing_still():
    state = np.zeros((20, 2))
    stuck = labels(state, state + 0.5)
    assert stuck.still().all()
    stuck.rollin = np.arange(20) < 8
    assert not stuck.still()[:8].any() and stuck.still()[8:].all()


def test_a_window_holds_until_a_policy_has_driven():
    some = labels(np.zeros((8, 2)), np.zeros((8, 2)))
    assert (some.led_until() >= 8).all()
    some.rollin = np.array([1, 1, 0, 0, 0, 1, 0, 0], bool)
    assert some.led_until()[:6].tolist() == [1, 2, 6, 6, 6, 6] and (some.led_until()[6:] >= 8).all()
