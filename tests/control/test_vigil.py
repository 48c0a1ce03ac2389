"""What the vigil reports to the guard: a bus that errs, one that stays away, a servo that needs a human."""

import numpy as np
import pytest

from tests.control.drive import MIDDLE, driven
from vla.control.severity import State
from vla.control.vigil import BUS_S, Vigil


class ServoError(OSError):
    latched = True


@pytest.fixture
def drive():
    drive = driven()
    drive.to(MIDDLE, 0.2)
    return drive


def test_a_bus_that_stays_away_needs_a_human_in_the_end(drive):
    vigil = Vigil(drive.guard)
    vigil.bus("bus read", OSError("gone"), 10.0)
    assert drive().state is State.HOLD
    vigil.bus("bus read", OSError("gone"), 10.0 + BUS_S - 0.1)
    assert drive().state is State.HOLD
    vigil.bus("bus read", OSError("gone"), 10.0 + BUS_S + 0.1)
    assert drive().state is State.STOP1
    vigil.bus("bus read", None, 16.0)
    assert drive.to(MIDDLE, 2.0).state is State.STOP1
    drive.guard.acknowledge()
    assert drive.to(MIDDLE, 1.0).state is State.NORMAL


def test_a_bus_that_fails_again_and_again_has_five_seconds_each_time(drive):
    vigil = Vigil(drive.guard)
    for now_s in (10.0, 14.0):
        vigil.bus("bus read", OSError("gone"), now_s)
        vigil.bus("bus read", None, now_s + 1)
    vigil.bus("bus read", OSError("gone"), 18.0)
    assert drive().state is State.HOLD


def test_a_servo_that_shut_down_needs_a_human_at_once(drive):
    Vigil(drive.guard).bus("bus write", ServoError("overload"), 10.0)
    status = drive()
    assert status.state is State.STOP1 and "overload" in status.reasons[0]


def test_a_wrong_picture_degrades_until_it_is_right(drive):
    vigil = Vigil(drive.guard)
    vigil.pictures({"front": "it shows nothing", "wrist": ""})
    status = drive(MIDDLE)
    assert status.state is State.DEGRADED and status.reasons == ("picture front: it shows nothing",)
    vigil.pictures({"front": "", "wrist": ""})
    assert drive.to(np.array(MIDDLE), 1.0).state is State.NORMAL


def test_the_reason_is_the_present_one_however_long_it_is_as_bad(drive):
    vigil = Vigil(drive.guard)
    vigil.report("policy", State.DEGRADED, "its actions hold numbers that are not finite")
    assert drive(MIDDLE).reasons == ("policy: its actions hold numbers that are not finite",)
    vigil.report("policy", State.DEGRADED, "the server is gone")
    assert drive(MIDDLE).reasons == ("policy: the server is gone",)
    assert [entry.rule for entry in drive.guard.journal.recent] == ["policy"]  # one alarm, with other words


def test_the_age_of_a_frozen_camera_grows_as_it_is_told(drive):
    vigil, told = Vigil(drive.guard), []
    for tick in range(1, 4):
        vigil.cameras({"front": None}, 10.0 + tick, 10.0)
        told += drive(MIDDLE).reasons
    assert told == [f"camera front: its newest frame is {age}.000 s old" for age in (1, 2, 3)]
