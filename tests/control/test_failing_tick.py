"""Whatever is raised inside a tick, the arm comes to rest before the run ends, and the log says why."""

import json

import numpy as np
import pytest
from arms import HZ, SEEING, Flight
from drive import MIDDLE

from vla.bench.guard import shares_of_limits
from vla.control.steering import Verbatim


class Broken(Verbatim):
    """Fails when the arm is on its way."""

    def look(self, observation):
        if observation.time_s > 100.6:
            raise TypeError("'>' not supported between instances of 'str' and 'float'")
        return super().look(observation)


def speeds(flight):
    return np.abs(np.diff(flight.arm.heights())) * HZ


def limits_used(flight):
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    return max(float(share.max()) for share in shares_of_limits(path, SEEING, HZ).values())


def dumped(folder):
    newest = sorted((folder / "stops").iterdir())[-1]
    return newest.name, [json.loads(line) for line in newest.read_text().splitlines()]


def test_an_error_in_a_tick_brakes_is_dumped_and_is_raised_again(tmp_path):
    flight = Flight(tmp_path, steering=Broken())
    with pytest.raises(TypeError, match="'>' not supported"):
        flight.run(5.0)
    assert speeds(flight).max() > 0.5 and speeds(flight)[-1] == 0
    assert limits_used(flight) <= 1 + 1e-9
    assert flight.clock.now() < 102.0
    name, ticks = dumped(tmp_path)
    assert name.endswith("-STOP1.jsonl") and ticks[-1]["state"] == "STOP1" and ticks[0]["state"] == "ENGAGING"
    assert ticks[-1]["command"] == ticks[-2]["command"]
    assert flight.states()[-1][1] == "STOP1"
    assert "loop: TypeError: '>' not supported" in flight.reasons()
    (end,) = [event for event in flight.logbook.events if event["event"] == "end"]
    assert end["reason"].startswith("TypeError: '>' not supported")


@pytest.mark.parametrize("what", ["read", "send", "see"])
def test_a_robot_that_goes_on_raising_does_not_keep_the_loop_from_ending(tmp_path, what):
    flight = Flight(tmp_path)

    def trouble(since_s):
        if since_s > 0.6:
            raise ValueError("a driver that raises no OSError")

    flight.troubles[what] = trouble
    with pytest.raises(ValueError, match="no OSError") as raised:
        flight.run(5.0)
    assert flight.clock.now() < 102.0 and dumped(tmp_path)[0].endswith("-STOP1.jsonl")
    if what == "send":  # nothing can be done, and that is said
        assert raised.value.__notes__ == ["while braking: ValueError: a driver that raises no OSError"]
    else:
        assert speeds(flight).max() > 0.5 and speeds(flight)[-1] == 0


def test_a_log_that_raises_is_no_reason_to_leave_the_arm_moving(tmp_path, monkeypatch):
    flight = Flight(tmp_path)

    def tick(tick):
        if flight.clock.now() > 100.6:
            raise RuntimeError("the log is broken")

    monkeypatch.setattr(flight.logbook, "tick", tick)
    with pytest.raises(RuntimeError, match="the log is broken"):
        flight.run(5.0)
    assert speeds(flight).max() > 0.5 and speeds(flight)[-1] == 0


def test_while_it_brakes_for_an_error_it_can_still_be_left(tmp_path):
    flight = Flight(tmp_path, steering=Broken())
    flight.troubles["send"] = lambda since_s: since_s > 0.65 and flight.loop.leave()
    with pytest.raises(TypeError):
        flight.run(5.0)
    assert flight.clock.now() < 100.75 and speeds(flight)[-1] > 0.1
