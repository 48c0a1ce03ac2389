"""The guard as a whole: what it follows, what it refuses, when it holds and what lets it go on."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from tests.control.drive import ARM, FAR, MIDDLE, NEAR, driven, moving
from vla.control.guard import Guard
from vla.control.severity import State

# limits


@pytest.mark.parametrize("hz", [30.0, 100.0, 500.0, 1000.0])
@pytest.mark.parametrize("limit", ["velocity", "acceleration", "jerk"])
def test_a_wild_command_is_followed_at_each_limit_and_never_beyond(hz, limit):
    drive = driven(hz, pose=np.array([-1.5, 0.0]))
    drive.to(drive.command, 0.1)
    for goal in ([-1.0, 0.6], [-0.5, 1.0], [0.0, 0.5], [0.5, 0.0], [1.0, 0.6], [0.5, 0.0]):
        drive.to(np.array(goal), 0.3)
    assert 0.99 < drive.used()[limit] <= 1


@pytest.mark.parametrize("hz", [30.0, 50.0, 100.0, 500.0, 1000.0])
def test_a_motion_inside_the_limits_goes_through_unchanged_and_uncounted(hz):
    drive = driven(hz, pose=np.array([-1.0, 0.2]))
    for tick in range(round(2.2 * hz) + 1):
        share = min(tick / hz / 2.0, 1.0)
        target = np.array([-1.0, 0.2]) + np.array([2.0, 0.7]) * share**3 * (10 - 15 * share + 6 * share**2)
        status = drive(target)  # at most 1.9 of 2 rad/s, 2.9 of 10 rad/s^2 and 15 of 200 rad/s^3
        np.testing.assert_allclose(drive.command, target, atol=1e-9)
    assert status.interventions == {} and status.at_rest


@pytest.mark.parametrize("hz", [30.0, 100.0, 500.0, 1000.0])
def test_at_full_speed_towards_the_end_of_the_range_it_stops_at_the_end(hz):
    drive = driven(hz, pose=np.array([0.3, 0.5]))
    for lift in (0.35, 0.9, 1.45, 1.65):  # the last one is a near miss
        drive.to(np.array([lift, 0.5]), 0.3)
    drive.to(np.array([1.65, 0.5]), 0.5)
    assert max(command[0] for command in drive.path) == pytest.approx(1.5, abs=1e-12)
    assert max(command[0] for command in drive.path) <= 1.5
    assert drive.guard.journal.counts["clipped"] > 0


def test_a_reachable_target_is_reached_exactly_and_stays_reached():
    drive = driven()
    status = drive.to(NEAR, 1.0)
    np.testing.assert_allclose(drive.command, NEAR, atol=1e-12)
    assert status.state is State.NORMAL and status.at_rest and status.reasons == ()


def test_from_full_speed_it_comes_to_rest_inside_the_limits():
    drive = driven(pose=np.array([-1.4, 0.5]))
    for lift in (-1.35, -0.8, -0.25):
        drive.to(np.array([lift, 0.5]), 0.25)
    assert drive.used()["velocity"] > 0.99
    drive.guard.estop("test")
    status = drive.to(None, 2.0 / 10.0 + 10.0 / 200.0 + 0.03)
    assert status.at_rest and status.state is State.ESTOP
    assert max(drive.used().values()) <= 1


# what may come in


VECTORS = st.one_of(
    some.arrays(st.sampled_from(["f8", "f4", "i8", "c16", "U3", "?"]), st.sampled_from([(2,), (3,), (1, 2), ()])),
    some.arrays("f8", (2,), elements=st.floats(-2, 2)),
    st.none(),
    st.sampled_from(["", 1e30, math.nan, object(), [0.0, 0.5]]),
)
TIMES = st.one_of(st.none(), st.floats(), st.floats(49, 52))


@given(st.lists(st.tuples(VECTORS, VECTORS, TIMES, TIMES, st.one_of(st.none(), st.floats())), max_size=20))
@settings(max_examples=40, deadline=None)
def test_whatever_comes_in_the_limits_hold(inputs):
    drive = driven(30.0)
    drive.to(NEAR, 0.2)
    for target, measured, due_s, measured_s, now_s in inputs:
        changes = {} if now_s is None else {"now_s": now_s}
        drive(target, measured=measured, due_s=due_s, measured_s=measured_s, **changes)
    path = np.array(drive.path)
    assert np.isfinite(path).all()
    assert (path >= ARM.position_min).all() and (path <= ARM.position_max).all()
    assert max(drive.used().values()) <= 1


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("dtype", "stop"),
        ("shape", np.zeros(3)),
        ("finite", np.array([np.nan, 0.5])),
        ("range", np.array([57.3, 0.5])),
        ("leap", np.array([-0.3, 0.5])),
    ],
)
def test_a_bad_command_is_refused_counted_and_braked_on_from_the_last_command(rule, target):
    drive = moving()
    before, speed = drive.command, drive.command - drive.path[-2]
    status = drive(target)
    assert status.state is State.DEGRADED
    assert status.interventions[rule] == 1
    assert any(rule in reason for reason in status.reasons)
    assert 0 < drive.command[0] - before[0] < speed[0]  # slower, no jump
    for _ in range(40):
        status = drive(target)
    assert status.at_rest
    assert status.interventions[rule] == 41 or rule == "leap"  # in a hold there is nothing to leap from
    assert max(drive.used().values()) <= 1


def test_a_command_past_its_time_is_refused_and_braked_on():
    drive = moving()
    status = drive(np.array([0.6, 0.5]), due_s=drive.now_s - 0.2)
    assert status.interventions["age"] == 1 and status.state is State.DEGRADED
    assert drive.command[0] - drive.path[-2][0] < drive.path[-2][0] - drive.path[-3][0]


def test_after_one_bad_command_good_ones_are_followed_and_the_alarm_clears():
    drive = driven()
    drive.to(NEAR, 0.1)
    drive(np.array([np.nan, 0.5]))
    assert drive.to(FAR, 0.45).state is State.DEGRADED
    np.testing.assert_allclose(drive.command, FAR, atol=1e-2)
    assert drive.to(FAR, 0.1).state is State.NORMAL


def test_a_bad_measurement_is_noticed_but_braked_for_only_when_it_lasts():
    drive = moving()
    goal = np.array([0.6, 0.5])
    states = [drive(goal, measured=np.array([np.nan, 0.5])).state for _ in range(6)]
    assert states[:3] == [State.DEGRADED] * 3 and states[-1] is State.HOLD


def test_demands_beyond_the_limits_are_counted_by_rule():
    drive = driven()
    drive.to(NEAR, 0.2)
    drive.to(FAR, 0.2)
    entry = drive.guard.journal.recent[-1]
    assert (entry.rule, entry.count, entry.first_s) == ("velocity", 1, pytest.approx(50.21))
    assert entry.reason == "lift was asked for 17.5 times its largest velocity"
    assert drive.guard.journal.counts == {"velocity": 1}


# engaging


def test_before_engaging_there_is_no_command():
    command, status = Guard(ARM, 100.0).step(NEAR, MIDDLE, 1.0, 1.0)
    assert command is None and status.state is State.IDLE


def test_an_emergency_stop_before_engaging_sends_nothing_either():
    guard = Guard(ARM, 100.0)
    guard.estop("test")
    command, status = guard.step(NEAR, MIDDLE, 1.0, 1.0)
    assert command is None and status.state is State.ESTOP


def test_the_first_command_is_the_measured_pose():
    drive = driven(pose=np.array([0.123, 0.456]))
    assert drive().state is State.ENGAGING
    np.testing.assert_array_equal(drive.command, [0.123, 0.456])


def test_a_first_command_that_meets_the_arm_is_followed():
    drive = driven()
    assert drive(np.add(MIDDLE, [0.099, -0.099])).state is State.NORMAL


def test_a_first_command_away_from_the_arm_is_refused_and_says_so():
    drive = driven()
    status = drive.to(np.add(MIDDLE, [0.11, 0.0]), 1.0)
    assert status.state is State.ENGAGING
    assert "0.11 away from lift" in status.reasons[0]
    assert status.interventions["engage"] == 100
    np.testing.assert_array_equal(drive.command, MIDDLE)
    assert drive(NEAR).state is State.NORMAL


def test_a_slow_approach_is_slow_until_it_meets_the_command():
    drive = driven(slow_approach=True)
    goal = np.add(MIDDLE, [1.0, 0.3])
    while drive(goal).state is State.ENGAGING:
        pass
    assert drive.command[0] == pytest.approx(goal[0] - 0.1, abs=0.01)
    speeds = np.abs(np.diff(drive.path[:-1], axis=0)) * 100
    assert 0.249 < speeds.max() <= 0.25
    drive.to(goal, 0.5)
    assert np.abs(np.diff(drive.path[-50:], axis=0)).max() * 100 > 0.3
    np.testing.assert_allclose(drive.command, goal, atol=1e-9)


@pytest.mark.parametrize("pose", [np.array([np.nan, 0.5]), np.zeros(3), [0.0, 0.5], np.array([1.53, 0.5])], ids=repr)
def test_a_pose_that_is_none_of_this_arm_cannot_be_engaged(pose):
    with pytest.raises(ValueError, match="cannot engage"):
        Guard(ARM, 100.0).engage(pose)


def test_an_arm_that_rests_a_little_outside_its_range_begins_at_its_edge():
    drive = driven(pose=np.array([1.51, -0.01]))
    drive()
    np.testing.assert_array_equal(drive.command, [1.5, 0.0])


def test_a_moving_arm_cannot_be_engaged():
    drive = moving()
    with pytest.raises(RuntimeError, match="while the arm moves"):
        drive.guard.engage(drive.command)


# collisions


def wall(lift: float):
    """Return a `collides` for a wall that the lift must not enter."""
    return lambda q: bool(q[0] > lift)


@pytest.mark.parametrize("hz", [30.0, 100.0, 500.0])
def test_it_brakes_before_what_it_would_hit(hz):
    drive = driven(hz, pose=np.array([-1.0, 0.5]), collides=wall(0.4))
    for lift in (-0.95, -0.4, 0.15, 0.7):
        status = drive.to(np.array([lift, 0.5]), 0.4)
    lifts = [command[0] for command in drive.path]
    assert 0.3 < max(lifts) <= 0.4
    assert status.state is State.DEGRADED and status.interventions["collision"] > 0
    assert max(drive.used().values()) <= 1
    assert drive.to(np.array([0.2, 0.5]), 1.0).state is State.NORMAL  # away from it is free
    np.testing.assert_allclose(drive.command[0], 0.2, atol=1e-9)


def test_a_thin_obstacle_inside_the_braking_path_is_seen():
    def thin(q: np.ndarray) -> bool:
        return bool(0.2 < q[0] < 0.26)

    drive = driven(pose=np.array([-1.2, 0.5]), collides=thin)
    for lift in (-1.15, -0.6, -0.05, 0.5):
        drive.to(np.array([lift, 0.5]), 0.4)
    assert max(command[0] for command in drive.path) <= 0.2


def test_what_would_collide_keeps_no_other_joint_from_following():
    """An arm that is held back by the table lets go when told to, and comes back when told to."""
    drive = driven(pose=np.array([0.2, 0.1]), collides=wall(0.3))
    drive.to(np.array([0.25, 0.1]), 0.3)
    status = drive.to(np.array([0.5, 0.8]), 0.8)
    assert status.state is State.DEGRADED and status.interventions["collision"] > 0
    assert 0.29 < drive.command[0] <= 0.3
    assert drive.command[1] == pytest.approx(0.8, abs=1e-9)
    assert drive.to(np.array([0.1, 0.8]), 1.0).state is State.NORMAL
    np.testing.assert_allclose(drive.command, [0.1, 0.8], atol=1e-9)
    assert max(drive.used().values()) <= 1


def test_joints_that_only_together_collide_do_not_move_there_together():
    drive = driven(pose=np.array([0.0, 0.2]), collides=lambda q: bool(q[0] + q[1] > 0.6))
    drive.to(np.array([0.05, 0.2]), 0.3)
    drive.to(np.array([0.45, 0.9]), 1.0)
    assert max(command.sum() for command in drive.path) <= 0.6
    assert drive.command.sum() > 0.55


def test_it_cannot_be_engaged_in_a_collision():
    with pytest.raises(ValueError, match="collides there"):
        driven(collides=wall(-0.1))


# off


def test_off_must_be_spelled_out():
    for mode in (False, None, "OFF", ""):
        with pytest.raises(ValueError, match="a bare off is false"):
            Guard(ARM, 100.0, mode=mode)  # type: ignore[arg-type]


def test_off_is_refused_on_hardware_without_a_second_word_and_logged(caplog):
    with pytest.raises(ValueError, match="refused on hardware; off_on_hardware=true"):
        Guard(ARM, 100.0, mode="off")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        Guard(ARM, 100.0, mode="off", hardware=False)
        Guard(ARM, 100.0, mode="off", off_on_hardware=True)
    assert [record.message for record in caplog.records] == ["the guard of two joints is off, no limit is kept"] * 2


def test_on_is_the_default():
    drive = driven()
    drive.to(NEAR, 0.1)
    drive(FAR)
    assert np.abs(drive.command - FAR).max() > 0.1


def test_off_lets_commands_through_unchanged_but_not_what_is_no_number():
    drive = driven(mode="off", hardware=False)
    for target in (FAR, MIDDLE, np.array([5.0, -3.0])):
        status = drive(target)
        np.testing.assert_array_equal(drive.command, target)
    assert status.state is State.DEGRADED and "off" in status.reasons[0]
    assert drive(np.array([np.nan, 0.0])).interventions["finite"] == 1
    np.testing.assert_array_equal(drive.command, [5.0, -3.0])


def test_off_still_stops():
    drive = driven(mode="off", hardware=False)
    drive(FAR)
    drive.guard.estop("button")
    assert drive(MIDDLE).state is State.ESTOP
    np.testing.assert_array_equal(drive.command, FAR)


# construction


@pytest.mark.parametrize("hz", [0.0, -1.0, 9.9, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(hz):
    with pytest.raises(ValueError, match="must be ticks a second"):
        Guard(ARM, hz)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("velocity_max", (0.0, 1.0)),
        ("jerk_max", (1.0,)),
        ("acceleration_max", (math.inf, 1.0)),
        ("position_min", (math.nan, 0.0)),
        ("position_max", (-1.5, 1.0)),
    ],
)
def test_limits_that_are_none_are_refused(field, values):
    body = type(ARM)(**(vars(ARM) | {field: values}))
    with pytest.raises(ValueError, match=field):
        Guard(body, 100.0)
