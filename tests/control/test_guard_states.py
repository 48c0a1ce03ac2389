"""When the guard holds, brakes or stops, and what lets it go on."""

import signal
import threading

import numpy as np
import pytest

from tests.control.drive import ARM, FAR, NEAR, driven, moving
from vla.control.guard import Guard
from vla.control.severity import State


def test_without_news_the_last_command_counts_until_it_is_too_old():
    drive = driven()
    drive.to(NEAR, 0.2)
    drive(FAR)
    states = [drive(None).state for _ in range(12)]
    assert states[:9] == [State.NORMAL] * 9 and states[-1] is State.HOLD
    drive.to(None, 1.0)
    assert drive.at_rest
    assert 0 < drive.command[0] - NEAR[0] < FAR[0] - NEAR[0]


def test_a_hold_ends_by_itself_half_a_second_after_commands_are_back():
    drive = moving()
    drive.to(None, 1.0)
    rest = drive.command
    states = [drive(rest + 0.01).state for _ in range(60)]
    assert states.index(State.NORMAL) == 50
    assert set(states[:50]) == {State.HOLD}


def test_the_command_that_ends_a_hold_must_meet_the_arm_too():
    drive = moving()
    drive.to(None, 1.0)
    rest = drive.command
    assert drive.to(np.add(rest, [-0.3, 0.0]), 1.0).state is State.ENGAGING
    np.testing.assert_array_equal(drive.command, rest)
    assert drive(rest).state is State.NORMAL


def test_a_fault_at_rest_moves_nothing():
    drive = driven()
    drive.to(NEAR, 1.0)
    for fault in (State.DEGRADED, State.HOLD, State.STOP1, State.ESTOP):
        drive.guard.alarm("test", fault, "test")
        drive.to(None, 0.3)
        drive.guard.clear("test")
    drive.guard.acknowledge()
    drive.to(None, 1.0, measured=None)
    np.testing.assert_array_equal(np.diff(drive.path[-200:], axis=0), 0)


def test_a_fault_in_motion_only_slows_it_down():
    drive = moving()
    drive.guard.alarm("test", State.HOLD, "test")
    start = len(drive.path) - 2
    drive.to(np.array([0.9, 0.5]), 0.5)
    speeds = np.diff([command[0] for command in drive.path[start:]])
    turned = int(np.argmax(np.diff(speeds) < 0))  # jerk allows no sooner
    assert turned <= 10.0 / 200.0 * 100 + 1
    assert (np.diff(speeds[turned:]) <= 1e-12).all() and (speeds >= 0).all()
    assert drive.at_rest


@pytest.mark.parametrize("state", [State.HOLD, State.STOP1, State.ESTOP])
def test_in_a_hold_or_worse_commands_are_not_followed(state):
    drive = driven()
    drive.to(NEAR, 0.5)
    drive.guard.alarm("camera", state, "frozen")
    status = drive.to(NEAR + 0.05, 2.0)
    assert status.state is state and "camera: frozen" in status.reasons
    np.testing.assert_allclose(drive.command, NEAR, atol=1e-9)


def test_degraded_follows_commands():
    drive = driven()
    drive.guard.alarm("camera", State.DEGRADED, "late")
    assert drive.to(NEAR, 0.5).state is State.DEGRADED
    np.testing.assert_allclose(drive.command, NEAR, atol=1e-9)


def test_the_worst_of_several_alarms_decides():
    drive = driven()
    drive.to(NEAR, 0.2)
    drive.guard.alarm("a", State.DEGRADED, "bad")
    drive.guard.alarm("b", State.STOP1, "worse")
    assert drive(NEAR).state is State.STOP1
    drive.guard.clear("b")
    drive.guard.acknowledge()
    assert drive.to(NEAR, 0.6).state is State.DEGRADED


def test_stop1_ends_with_a_human_and_goes_on_where_it_is():
    drive = driven()
    drive.to(NEAR, 0.2)
    drive.guard.alarm("servo", State.STOP1, "hot")
    drive(NEAR)
    drive.guard.clear("servo")
    assert drive.to(NEAR, 5.0).state is State.STOP1
    drive.guard.acknowledge()
    assert drive(NEAR).state is State.NORMAL


def test_an_emergency_stop_latches_until_acknowledged_and_then_engaged():
    drive = driven()
    drive.to(NEAR, 0.5)
    drive.guard.estop("button")
    assert drive(NEAR + 0.05).state is State.ESTOP
    assert drive.to(NEAR + 0.05, 10.0).state is State.ESTOP
    with pytest.raises(RuntimeError, match="ESTOP: estop: button"):
        drive.guard.engage(drive.command)
    drive.guard.acknowledge()
    status = drive(NEAR + 0.05)
    assert status.state is State.IDLE
    assert drive.guard.step(NEAR, NEAR, drive.now_s + 0.01, drive.now_s)[0] is None
    drive.guard.engage(drive.command)
    drive.now_s += 0.01
    assert drive(NEAR).state is State.NORMAL


def test_an_emergency_stop_pressed_again_needs_acknowledging_again():
    drive = driven()
    drive.guard.estop("button")
    drive(NEAR)
    drive.guard.acknowledge()
    drive(NEAR)
    drive.guard.estop("button")
    assert drive.to(NEAR, 3.0).state is State.ESTOP


def test_an_emergency_stop_may_come_from_a_signal_or_another_thread():
    drive = driven()
    drive.to(NEAR, 0.2)
    previous = signal.signal(signal.SIGUSR1, lambda *_: drive.guard.estop("signal"))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert drive(NEAR).reasons[0] == "estop: signal"
    other = driven()
    thread = threading.Thread(target=other.guard.estop, args=("thread",))
    thread.start()
    thread.join()
    assert other(NEAR).state is State.ESTOP


def test_a_stalled_loop_holds_and_brakes_inside_the_limits():
    drive = moving()
    drive.now_s += 0.5
    assert drive(np.array([0.6, 0.5])).state is State.HOLD
    assert max(drive.used().values()) <= 1


@pytest.mark.parametrize("state", [State.IDLE, State.ENGAGING, State.NORMAL])
def test_an_alarm_that_is_none_is_refused(state):
    with pytest.raises(ValueError, match=f"cannot be {state.name}; possible: DEGRADED"):
        Guard(ARM, 100.0).alarm("camera", state, "fine")


def test_what_is_kept_is_bounded():
    drive = driven()
    for tick in range(2000):
        drive(np.zeros(3) if tick % 2 else "stop")
    assert drive.guard.journal.counts["shape"] == 1000
    assert len(drive.guard.journal.recent) == 1000  # of 2000
