"""Ticks come at absolute deadlines: nothing drifts, nothing bursts, what is missed is counted."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.clock import Metronome, RealClock, VirtualClock


def test_quick_work_never_moves_a_deadline():
    clock = VirtualClock(5.0)
    metronome = Metronome(clock, 30.0)
    due_s = []
    for _ in range(3000):
        due_s.append(metronome.wait())
        clock.advance(0.02)  # of 0.0333 s
    assert due_s[-1] == pytest.approx(5.0 + 2999 / 30, abs=1e-9)
    assert metronome.missed == 0


@given(work=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=50), hz=st.sampled_from([10.0, 30.0, 100.0, 1000.0]))
@settings(deadline=None)
def test_missed_periods_are_skipped_and_counted(work, hz):
    clock = VirtualClock(1.0)
    metronome = Metronome(clock, hz)
    start_s = before_s = metronome.wait()
    for ticks, seconds in enumerate(work, start=1):
        clock.advance(seconds)
        late_s = clock.now()
        due_s = metronome.wait()
        periods = (due_s - start_s) * hz
        assert periods == pytest.approx(round(periods), abs=1e-6)  # where it always was
        assert due_s > before_s
        assert due_s >= late_s - 1e-6 / hz  # a deadline that is over is never made up for
        assert due_s <= late_s + 1 / hz + 1e-9
        assert round(periods) == ticks + metronome.missed == metronome.tick
        before_s = due_s


def test_a_virtual_clock_does_not_go_back():
    clock = VirtualClock(3.0)
    clock.sleep_until(2.0)
    assert clock.now() == 3.0
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1.0)


@pytest.mark.parametrize("spin_s", [0.0, 0.001])
def test_the_real_clock_never_wakes_early(spin_s):
    clock = RealClock(spin_s)
    until_s = time.monotonic() + 0.02
    clock.sleep_until(until_s)
    assert until_s <= clock.now() < until_s + 30.0
    clock.sleep_until(until_s - 5.0)
    assert clock.now() < until_s + 30.0


def test_changes_of_the_wall_clock_are_not_seen(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before_s = RealClock().now()
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert 0.0 <= RealClock().now() - before_s < 30.0
