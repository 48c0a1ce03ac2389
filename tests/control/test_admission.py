"""Which commands may be followed: one test for each reason to refuse or change one."""

import numpy as np
import pytest

from tests.control.drive import ARM, MIDDLE
from vla.control.admission import Admission, Demand

NOW_S = 70.0


@pytest.fixture
def admission() -> Admission:
    return Admission(ARM, hz=100.0, max_age_s=0.1)


def judged(admission: Admission, target: object, due_s: float | None = NOW_S, previous=None) -> tuple[str, object]:
    """Return the rule and the goal of a verdict."""
    verdict = admission.judge(target, NOW_S, due_s, previous)
    assert bool(verdict.rule) == bool(verdict.reason)
    return verdict.rule, verdict.goal


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_numbers_of_any_usual_kind_are_taken(admission, dtype):
    assert judged(admission, np.array([1, 0], dtype)) == ("", [1.0, 0.0])


@pytest.mark.parametrize(
    "target",
    [[0.0, 0.5], "stop", None, 0.3, {}, *(MIDDLE.astype(kind) for kind in (object, str, complex, bool, np.longdouble))],
    ids=repr,
)
def test_what_is_no_array_of_numbers_is_refused(admission, target):
    assert judged(admission, target) == ("dtype", None)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2), (2, 1), (0,)])
def test_a_wrong_shape_is_refused(admission, shape):
    assert judged(admission, np.zeros(shape)) == ("shape", None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_one_value_that_is_not_finite_refuses_all(admission, value, place):
    target = MIDDLE.copy()
    target[place] = value
    assert judged(admission, target) == ("finite", None)


@pytest.mark.parametrize("target", [[1.71, 0.5], [-57.3, 0.5], [0.0, 1e30], [0.0, -0.26], [1e300, 0.5]])
def test_a_target_far_outside_the_range_is_refused(admission, target):
    assert judged(admission, np.array(target)) == ("range", None)


def test_a_near_miss_is_clipped(admission):
    assert judged(admission, np.array([1.65, -0.1])) == ("clipped", [1.5, 0.0])


def test_a_leap_of_more_than_three_steps_is_refused(admission):
    assert judged(admission, np.array([0.59, 0.5]), previous=[0.0, 0.5]) == ("", [0.59, 0.5])
    assert judged(admission, np.array([0.61, 0.5]), previous=[0.0, 0.5]) == ("leap", None)


def test_steps_are_those_of_the_slower_of_guard_and_commands():
    slow_guard = Admission(ARM, hz=5.0, max_age_s=0.1)
    assert judged(slow_guard, np.array([1.19, 0.5]), previous=[0.0, 0.5])[0] == ""


@pytest.mark.parametrize("due_s", [NOW_S - 0.11, NOW_S + 0.11, None, np.nan, np.inf, -np.inf])
def test_a_command_too_old_too_early_or_without_time_is_refused(admission, due_s):
    assert judged(admission, MIDDLE, due_s) == ("age", None)


@pytest.mark.parametrize("due_s", [NOW_S - 0.09, NOW_S, NOW_S + 0.05])
def test_a_command_that_is_due_is_taken(admission, due_s):
    assert judged(admission, MIDDLE, due_s)[0] == ""


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("velocity", [0.0, 0.021]),  # 2.1 rad/s at 100 Hz, 2 allowed
        ("acceleration", [0.0, 0.0011]),  # 11 rad/s^2 of 10
        ("jerk", [0.0, 0.0003]),  # 300 rad/s^3 of 200
    ],
)
def test_a_demand_beyond_a_limit_is_noticed(rule, path):
    demand = Demand(ARM, hz=100.0)
    found = [demand.excess([value, 0.5]) for value in path]
    assert found[0] is None
    assert found[1] is not None and found[1][0] == rule


def test_a_demand_inside_the_limits_is_none():
    demand = Demand(ARM, hz=100.0)
    ramp = np.cumsum(np.cumsum(np.cumsum([0.00019] * 5)))  # constant jerk of 190 rad/s^3
    assert [demand.excess([value, 0.5]) for value in [0.0, *ramp]] == [None] * 6
    assert demand.excess([ramp[-1], 0.5]) is not None  # stopped dead
    demand.forget()
    assert demand.excess([-1.0, 0.0]) is None


def test_a_leap_in_a_steady_stream_counts_once():
    demand = Demand(ARM, hz=100.0)
    stream = [*np.arange(10) * 0.0001, *(0.5 + np.arange(10) * 0.0001)]
    assert sum(demand.excess([value, 0.5]) is not None for value in stream) == 1


def test_a_motion_that_begins_too_suddenly_is_counted_for_that_and_not_for_going_on():
    demand = Demand(ARM, hz=100.0)
    speeds = [0.0005 * min(tick, 30) for tick in range(60)]  # 5 rad/s^2 at once, and gone at once at 1.5 rad/s
    found = [demand.excess([value, 0.5 + 0.0001 * tick]) for tick, value in enumerate(np.cumsum(speeds))]
    assert [tick for tick, excess in enumerate(found) if excess] == [1, 31]
    assert {excess[0] for excess in found if excess} == {"jerk"}


def test_a_sudden_change_of_pace_is_counted_once():
    demand = Demand(ARM, hz=100.0)
    found = [demand.excess([value, 0.5]) for value in np.cumsum([0.0] * 5 + [0.015] * 20)]  # 1.5 rad/s at once
    assert [excess[0] for excess in found if excess] == ["acceleration"]
