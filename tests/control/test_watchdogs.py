"""The watchdogs bark when a time has run out, and not before."""

import math

import pytest

from vla.control.severity import State
from vla.control.watchdogs import Watchdogs

START_S = 20.0


def barks(dogs: Watchdogs) -> dict[str, State]:
    """Return the findings of this tick by name."""
    return {name: state for name, state, _ in dogs.findings()}


def started(hz: float) -> Watchdogs:
    """Return watchdogs after a first tick with everything in order."""
    dogs = Watchdogs(hz, max_age_s=0.1)
    dogs.tick(START_S)
    dogs.saw_state(None)
    assert barks(dogs) == {}
    return dogs


@pytest.mark.parametrize(
    ("hz", "fine_s", "late_s"), [(1000.0, 0.019, 0.021), (100.0, 0.029, 0.031), (30.0, 0.099, 0.101)]
)
def test_a_late_tick_degrades_and_a_stalled_loop_holds(hz, fine_s, late_s):
    for gap_s, expected in ((fine_s, {}), (late_s, {"late": State.DEGRADED}), (0.201, {"stalled": State.HOLD})):
        dogs = started(hz)
        dogs.tick(START_S + gap_s)
        dogs.saw_state(None)
        assert barks(dogs) == expected


def test_no_rate_is_slow_enough_to_wait_longer_than_a_stall():
    dogs = started(10.0)
    dogs.tick(START_S + 0.21)
    dogs.saw_state(None)
    assert barks(dogs) == {"stalled": State.HOLD}


@pytest.mark.parametrize("now_s", [START_S - 1.0, math.nan, math.inf, -math.inf])
def test_a_clock_that_is_none_holds_and_is_survived(now_s):
    dogs = started(100.0)
    estimate = dogs.tick(now_s)
    assert math.isfinite(estimate)
    dogs.saw_state(None)
    assert barks(dogs) == {"clock": State.HOLD}
    dogs.tick(estimate + 0.01)
    dogs.saw_state(None)
    assert barks(dogs) == {}


def test_measurements_may_miss_three_ticks():
    dogs = started(100.0)
    for tick in range(1, 4):
        dogs.tick(START_S + tick * 0.01)
        assert barks(dogs) == {}
    dogs.tick(START_S + 0.04)
    assert barks(dogs) == {"state": State.HOLD}


@pytest.mark.parametrize("measured_s", [START_S - 0.05, START_S + 1.0, math.nan])
def test_a_measurement_counts_from_when_it_came(measured_s):
    dogs = started(100.0)
    dogs.tick(START_S + 0.01)
    dogs.saw_state(measured_s)
    assert barks(dogs) == {"state": State.HOLD}


def test_no_measurement_since_the_start_counts_from_there():
    dogs = Watchdogs(100.0, max_age_s=0.1)
    for tick in range(4):
        dogs.tick(START_S + tick * 0.01)
        assert barks(dogs) == {}
    dogs.tick(START_S + 0.04)
    assert barks(dogs) == {"state": State.HOLD}


def test_a_command_lasts_so_long_after_it_was_due():
    dogs = started(10.0)
    dogs.saw_command(START_S)
    dogs.tick(START_S + 0.099)
    dogs.saw_state(None)
    assert barks(dogs) == {}
    dogs.tick(START_S + 0.101)
    dogs.saw_state(None)
    assert barks(dogs) == {"command": State.HOLD}


def test_before_the_first_command_there_is_none_to_miss():
    dogs = started(10.0)
    for tick in range(1, 50):
        dogs.tick(START_S + tick * 0.1)
        dogs.saw_state(None)
        assert barks(dogs) == {}
