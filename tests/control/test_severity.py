"""The severity rule: the worst alarm decides, and what it takes until one is gone."""

import pytest

from vla.control.journal import Journal
from vla.control.severity import Alarms, State

CLEAR = 5  # ticks


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(CLEAR, Journal())


def ticks(alarms: Alarms, count: int, at_rest: bool = True) -> State:
    """Let ticks pass without a cause and return the level of the last."""
    for _ in range(count):
        alarms.begin(0.0)
        level = alarms.settle(at_rest)
    return level


def test_the_worst_alarm_decides(alarms):
    alarms.sound("a", State.DEGRADED, "bad")
    alarms.sound("b", State.STOP1, "worse")
    alarms.sound("c", State.HOLD, "in between")
    assert alarms.settle(True) is State.STOP1
    assert alarms.reasons == ("b: worse", "c: in between", "a: bad")


def test_one_cause_may_get_worse_and_better(alarms):
    for _ in range(3 * CLEAR):
        alarms.sound("late", State.DEGRADED, "30 ms")
        alarms.settle(True)
    alarms.sound("late", State.HOLD, "300 ms")
    assert alarms.settle(True) is State.HOLD
    assert ticks(alarms, CLEAR + 1) is State.IDLE


@pytest.mark.parametrize("state", [State.DEGRADED, State.HOLD])
def test_an_alarm_goes_when_its_cause_has_been_gone_long_enough(alarms, state):
    alarms.sound("a", state, "bad")
    alarms.settle(True)
    assert ticks(alarms, CLEAR) is state
    assert ticks(alarms, 1) is State.IDLE


def test_a_cause_that_comes_back_starts_the_wait_anew(alarms):
    for _ in range(4):
        alarms.sound("a", State.HOLD, "bad")
        alarms.settle(True)
        assert ticks(alarms, CLEAR - 1) is State.HOLD


def test_a_hold_lasts_until_the_arm_is_at_rest(alarms):
    alarms.sound("a", State.HOLD, "bad")
    assert ticks(alarms, 10 * CLEAR, at_rest=False) is State.HOLD
    assert ticks(alarms, 1, at_rest=True) is State.IDLE


@pytest.mark.parametrize("state", [State.STOP1, State.ESTOP])
def test_from_stop1_up_only_a_human_ends_it(alarms, state):
    alarms.sound("a", state, "bad")
    assert ticks(alarms, 100 * CLEAR) is state
    alarms.acknowledge()
    assert ticks(alarms, 1) is State.IDLE


def test_to_acknowledge_before_the_cause_is_gone_is_not_enough(alarms):
    alarms.stand("camera", State.STOP1, "frozen")
    alarms.acknowledge()
    assert ticks(alarms, CLEAR) is State.STOP1
    alarms.withdraw("camera")
    assert ticks(alarms, 10 * CLEAR) is State.STOP1
    alarms.acknowledge()
    assert ticks(alarms, 1) is State.IDLE


def test_acknowledged_early_it_still_waits_for_the_cause_to_be_gone_long_enough(alarms):
    alarms.sound("a", State.ESTOP, "button")
    alarms.settle(True)
    alarms.acknowledge()
    assert ticks(alarms, CLEAR) is State.ESTOP
    assert ticks(alarms, 1) is State.IDLE


def test_what_stands_lasts_until_it_is_withdrawn(alarms):
    alarms.post(alarms.stand, "camera", State.HOLD, "frozen")
    assert alarms.level is State.IDLE  # requests wait for the next tick
    assert ticks(alarms, 10 * CLEAR) is State.HOLD
    alarms.post(alarms.withdraw, "camera")
    alarms.post(alarms.withdraw, "never there")
    assert ticks(alarms, CLEAR + 2) is State.IDLE


def test_an_alarm_is_written_down_once_and_each_refusal_too():
    journal = Journal()
    alarms = Alarms(CLEAR, journal)
    for _ in range(7):
        alarms.begin(3.0)
        alarms.sound("state", State.HOLD, "old")
        alarms.refuse("finite", "NaN")
        alarms.settle(True)
    assert journal.counts == {"state": 1, "finite": 7}


def test_alarms_of_other_monitors_are_written_down_and_not_counted_as_rules():
    journal = Journal()
    alarms = Alarms(CLEAR, journal)
    alarms.stand("camera front", State.HOLD, "old")
    alarms.post(alarms.sound, "estop", State.ESTOP, "hand in the way", False)
    for _ in range(7):
        alarms.begin(3.0)
        alarms.refuse("finite", "NaN")
        alarms.settle(True)
    assert journal.counts == {"finite": 7}
    assert [entry.rule for entry in journal.recent] == ["camera front", "estop", "finite"]
