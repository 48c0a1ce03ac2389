"""One joint: whatever it is asked for, its differences stay inside the limits and it can stop where it said."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.joint import Joint

LOW, HIGH = -1.0, 1.0
RATES = (30.0, 100.0, 500.0, 1000.0)


@st.composite
def joints(draw: st.DrawFn, rates=RATES, slowest=0.1) -> tuple[Joint, tuple[float, float, float], float]:
    """Draw limits from where jerk rules to where it does not matter, and a rate."""
    hz = draw(st.sampled_from(rates))
    speed, acceleration = draw(st.floats(slowest, 10)), draw(st.floats(1, 100))
    jerk = acceleration * draw(st.floats(1, 3 * hz))
    return Joint(LOW, HIGH, speed, acceleration, jerk, hz), (speed, acceleration, jerk), hz


goals = st.one_of(st.none(), st.sampled_from([LOW, HIGH]), st.floats(LOW, HIGH))
plans = st.lists(st.tuples(goals, st.integers(1, 40)), min_size=1, max_size=8)


def drive(joint: Joint, plan: list[tuple[float | None, int]]) -> list[float]:
    """Return the positions, from where the joint is, on the way to one goal after the other."""
    path = [joint.position]
    for goal, ticks in plan:
        for _ in range(ticks):
            joint.plan(goal)
            joint.advance()
            path.append(joint.position)
    return path


def differences(path: list[float], hz: float) -> list[np.ndarray]:
    """Return speeds, accelerations and jerks of a path that begins at rest."""
    found, difference = [], np.diff(path)
    for power in (1, 2, 3):
        found.append(difference * hz**power)
        difference = np.diff(difference, prepend=0)
    return found


@given(joints(), plans, st.floats(LOW, HIGH))
@settings(max_examples=60, deadline=None)
def test_no_goals_break_a_limit(drawn, plan, start):
    joint, limits, hz = drawn
    joint.place(start)
    path = drive(joint, plan)
    assert min(path) >= LOW and max(path) <= HIGH
    for values, limit in zip(differences(path, hz), limits, strict=True):
        assert np.abs(values).max() <= limit


@given(joints(), plans)
@settings(max_examples=60, deadline=None)
def test_braking_leads_where_the_closed_form_says(drawn, plan):
    joint, _, _ = drawn
    joint.place(0.0)
    drive(joint, plan)
    joint.plan(None)
    foreseen = [joint.braked(ticks) for ticks in range(200)]
    rest = joint.rest
    path = drive(joint, [(None, 200)])[1:]
    np.testing.assert_allclose(path, foreseen, atol=1e-9)
    assert joint.rest == rest
    if joint.at_rest:
        assert joint.position == pytest.approx(rest, abs=1e-9)


@given(joints(rates=(30.0, 100.0), slowest=1.0), plans, st.floats(LOW, HIGH))
@settings(max_examples=40, deadline=None)
def test_a_goal_that_stays_is_reached_exactly(drawn, plan, goal):
    joint, _, hz = drawn
    joint.place(0.0)
    drive(joint, [*plan, (goal, round(8 * hz))])
    assert joint.at_rest
    assert joint.position == pytest.approx(goal, abs=1e-12)


@pytest.mark.parametrize("hz", RATES)
def test_a_long_way_takes_no_longer_than_the_limits_ask_for(hz):
    speed, acceleration, jerk = 2.0, 20.0, 400.0
    joint = Joint(LOW, HIGH, speed, acceleration, jerk, hz)
    joint.place(LOW)
    ticks = 0
    while not (joint.at_rest and joint.position > HIGH - 1e-9):
        drive(joint, [(HIGH, 1)])
        ticks += 1
    shortest_s = (HIGH - LOW) / speed + speed / acceleration + acceleration / jerk
    assert ticks / hz <= shortest_s + 6 / hz + 0.005


@pytest.mark.parametrize("hz", RATES)
def test_from_full_speed_it_comes_to_rest_in_the_shortest_time(hz):
    speed, acceleration, jerk = 2.0, 10.0, 200.0
    joint = Joint(-10.0, 10.0, speed, acceleration, jerk, hz)
    joint.place(0.0)
    drive(joint, [(10.0, round(hz))])
    assert np.diff(drive(joint, [(10.0, 1)]))[0] * hz == pytest.approx(speed, rel=1e-4)
    ticks = 0
    while not joint.at_rest:
        drive(joint, [(None, 1)])
        ticks += 1
    assert ticks <= (speed / acceleration + acceleration / jerk) * hz + 3


moving_goals = st.lists(
    st.tuples(st.floats(LOW, HIGH), st.floats(-0.5, 0.5), st.integers(1, 20)), min_size=1, max_size=8
)


@given(joints(), moving_goals, st.floats(LOW, HIGH))
@settings(max_examples=60, deadline=None)
def test_no_goals_that_are_said_to_move_break_a_limit(drawn, plan, start):
    """Whether they really do or not, and however fast they are said to."""
    joint, limits, hz = drawn
    joint.place(start)
    path = [joint.position]
    for goal, pace, ticks in plan:
        for tick in range(ticks):
            joint.plan(min(max(goal + pace * tick, LOW), HIGH), goal_step=pace)
            joint.advance()
            path.append(joint.position)
    path += drive(joint, [(None, 400)])[1:]  # and braking from there breaks none either
    assert min(path) >= LOW and max(path) <= HIGH
    for values, limit in zip(differences(path, hz), limits, strict=True):
        assert np.abs(values).max() <= limit


@given(joints(), plans, st.floats(LOW, HIGH), st.floats(0.1, 0.999))
@settings(max_examples=60, deadline=None)
def test_a_motion_inside_the_limits_is_followed_without_lag(drawn, plan, start, share):
    joint, (speed, acceleration, jerk), hz = drawn
    leader = Joint(LOW, HIGH, share * speed, share * acceleration, share * jerk, hz)
    leader.place(start)
    joint.place(start)
    path = drive(leader, plan)
    for last, goal in itertools.pairwise(path):
        joint.plan(goal, goal_step=goal - last)
        joint.advance()
        assert joint.position == pytest.approx(goal, abs=1e-12)


@given(joints(slowest=1.0), st.floats(-1.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_goal_that_sets_off_at_once_is_caught_up_with_and_then_followed(drawn, share):
    joint, (speed, acceleration, jerk), hz = drawn
    pace = 0.5 * share * speed
    seconds = 0.8 / max(abs(pace), 0.8)
    soon = 4 * (abs(pace) / acceleration + acceleration / jerk) + 12 / hz
    joint.place(0.0)
    lags = []
    for tick in range(1, round(seconds * hz)):
        goal = pace * tick / hz
        joint.plan(goal, goal_step=pace / hz)
        joint.advance()
        if tick / hz > soon:
            lags.append(abs(joint.position - goal))
    assert max(lags, default=0.0) <= 1e-9


def test_a_goal_ahead_is_never_passed():
    joint = Joint(LOW, HIGH, 3.0, 30.0, 600.0, 100.0)
    joint.place(-0.8)
    assert max(drive(joint, [(0.31, 200)])) <= 0.31 + 1e-12


def test_it_turns_around_at_speed_without_stopping_first():
    joint = Joint(LOW, HIGH, 2.0, 10.0, 200.0, 100.0)
    joint.place(-0.9)
    path = drive(joint, [(0.9, 40), (-0.9, 60)])
    speeds, accelerations, _ = differences(path, 100.0)
    turning = int(np.argmax(speeds[40:] < 0)) + 40
    assert accelerations[turning] == pytest.approx(-10.0, rel=1e-4)


def test_less_speed_where_only_a_share_is_allowed():
    joint = Joint(LOW, HIGH, 2.0, 10.0, 200.0, 100.0)
    joint.place(LOW)
    path = [joint.position]
    for _ in range(200):
        joint.plan(HIGH, speed_share=0.1)
        joint.advance()
        path.append(joint.position)
    assert differences(path, 100.0)[0].max() == pytest.approx(0.2, rel=1e-4)
