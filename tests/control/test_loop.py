"""One loop in virtual time: it keeps its rate and the limits, and holds and recovers whatever fails around it."""

import json
import os
import signal

import numpy as np
import pytest
from arms import HZ, SEEING, Flight, Walker
from drive import MIDDLE

from vla.bench.guard import shares_of_limits
from vla.control.deploy import signals
from vla.control.loop import StartError
from vla.control.severity import State
from vla.control.strategy import Ensemble, Overlap, RealTime, Sequential
from vla.types import ActionChunk


def limits_used(flight: Flight) -> float:
    """Return the largest share of any limit that the commands used."""
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    return max(float(share.max()) for share in shares_of_limits(path, SEEING, HZ).values())


@pytest.mark.parametrize(
    "strategy", [Sequential(), Ensemble(), Overlap(), RealTime()], ids=lambda one: type(one).__name__
)
def test_a_run_keeps_time_and_limits_and_ends_at_rest(tmp_path, strategy):
    flight = Flight(tmp_path, latency_s=0.2, strategy=strategy)
    summary = flight.run(4.0)
    assert summary.missed == 0
    assert 200 <= summary.ticks <= 200 + 3 * HZ
    assert [state for _, state in flight.states()] == ["NORMAL", "HOLD"]
    assert summary.ended == "the time is over"
    assert flight.arm.truth()["is_success"]
    assert limits_used(flight) <= 1 + 1e-9
    times_s = np.array([time_s for time_s, _ in flight.arm.sent])
    assert np.diff(times_s) == pytest.approx(1 / HZ)
    assert not np.ptp(flight.arm.heights()[-3:])


@pytest.mark.parametrize(("strategy", "latency_s"), [(RealTime(), 0.2), (RealTime(), 0.6), (Overlap(), 0.4)])
def test_a_slow_policy_is_never_waited_for(tmp_path, strategy, latency_s):
    flight = Flight(tmp_path, latency_s=latency_s, strategy=strategy)
    summary = flight.run(5.0)
    assert summary.idle_ticks <= 1  # the one in which the first chunk came
    assert flight.executor.counts["chunks"] >= 4


def test_sequential_waits_for_the_policy_and_its_idle_ticks_are_counted(tmp_path):
    flight = Flight(tmp_path, latency_s=0.2, strategy=Sequential(replan_steps=3))
    summary = flight.run(4.0)
    assert 0.3 * summary.ticks < summary.idle_ticks < 0.5 * summary.ticks  # 0.2 s after each 0.3 s
    assert summary.states["HOLD"] <= 2


def test_observations_hold_the_joints_of_their_frame(tmp_path):
    flight = Flight(tmp_path)
    flight.run(2.0)
    path = {round(time_s, 6): command for time_s, command in flight.arm.sent}
    moved = 0
    for observation in flight.policy.seen:
        before = round(observation.time_s - 1 / HZ, 6)
        if before in path:
            moved += abs(observation.state[0]) > 0.01
            np.testing.assert_allclose(observation.state, path[before], atol=1e-6)
            assert observation.images["front"][0, 0, 0] == int(127 + 100 * observation.state[0] / 1.5)
    assert moved > 3


def test_a_policy_that_falls_silent_is_braked_for_in_time_and_taken_up_again(tmp_path):
    flight = Flight(tmp_path, instruction="up", strategy=Overlap())
    silence = {"until_s": 6.0}
    act = flight.inference._policy.act

    def hang(observations, **given):
        if 1.0 < flight.clock.now() - 100.0 < 2.0:
            flight.inference._latency_s = silence["until_s"] - 2.0  # this answer takes until then
        else:
            flight.inference._latency_s = 0.1
        return act(observations, **given)

    flight.policy.act = hang
    flight.run(9.0)
    states = flight.states()
    hold_s = next(time_s for time_s, state in states if state == "HOLD")
    held = next(event for event in flight.logbook.events if event.get("state") == "HOLD")
    assert "command: the latest was due" in str(held["reasons"])
    assert hold_s < 3.0  # a chunk of 1.6 s whose frame was seen before 1.2 s, and 0.1 s
    degraded = [time_s for time_s, state in states if state == "DEGRADED"]
    assert degraded and degraded[0] < hold_s  # it had been seen thinking for too long before
    normal = [time_s for time_s, state in states if state == "NORMAL" and time_s > hold_s]
    assert normal and normal[0] < silence["until_s"] + 1.5
    assert flight.arm.truth()["is_success"]
    assert limits_used(flight) <= 1 + 1e-9


def test_an_error_of_the_policy_degrades_and_the_old_chunk_goes_on(tmp_path):
    def trouble(observation):
        if 101.0 < observation.time_s < 101.5:
            raise MemoryError("no room on the device")
        if 101.5 < observation.time_s < 102.0:
            return ActionChunk(np.full((16, 2), np.nan), 0.1, observation.time_s)

    flight = Flight(tmp_path, policy=Walker(trouble))
    summary = flight.run(4.0)
    assert "HOLD" not in [state for time_s, state in flight.states() if time_s < 4.0]
    assert "MemoryError: no room on the device" in flight.reasons()
    assert any("not finite" in str(event.get("reason")) for event in flight.logbook.events)
    assert flight.executor.counts["refused"] > 0 and flight.inference.counts["failed"] > 0
    assert summary.states["DEGRADED"] > 0
    assert np.isfinite(flight.arm.heights()).all()
    assert flight.arm.truth()["is_success"]


@pytest.mark.parametrize("what", ["read", "send"])
def test_a_bus_that_fails_holds_and_goes_on_when_it_is_back(tmp_path, what):
    flight = Flight(tmp_path)

    def trouble(since_s):
        if 0.5 < since_s < 0.8:
            raise OSError(5, "no answer from servo 3")

    flight.troubles[what] = trouble
    flight.run(5.0)
    hold_s = next(time_s for time_s, state in flight.states() if state == "HOLD")
    assert 0.5 < hold_s <= 0.5 + 3 / HZ
    assert "no answer from servo 3" in flight.reasons()
    assert [state for _, state in flight.states()].count("NORMAL") == 2
    assert flight.arm.truth()["is_success"]


def test_a_camera_that_shows_nothing_new_is_named(tmp_path):
    flight = Flight(tmp_path)
    flight.troubles["see"] = lambda since_s: 1.0 < since_s < 3.0
    flight.run(6.0)
    changes = flight.states()
    degraded_s = next(time_s for time_s, state in changes if state == "DEGRADED")
    hold_s = next(time_s for time_s, state in changes if state == "HOLD")
    assert 1.2 <= degraded_s <= 1.25 and 1.5 <= hold_s <= 1.55
    assert "camera front" in flight.reasons()
    assert next(state for time_s, state in changes if time_s > 3.0) != "HOLD"
    assert flight.arm.truth()["is_success"]


def test_a_tick_that_takes_too_long_is_skipped_counted_and_held_for(tmp_path):
    flight = Flight(tmp_path)
    slow = {50: 0.07, 100: 0.25}  # at which reading how long
    count = iter(range(10_000))
    flight.troubles["read"] = lambda since_s: flight.clock.advance(slow.get(next(count), 0.0))
    summary = flight.run(5.0)
    assert summary.missed == 3 + 12
    assert "stalled: no tick for" in flight.reasons()
    times_s = np.array([time_s for time_s, _ in flight.arm.sent])
    assert np.diff(times_s).min() >= 0.4 / HZ  # no burst to catch up
    assert flight.arm.truth()["is_success"]


def test_an_estop_is_latched_until_acknowledged_and_engaged_anew(tmp_path):
    flight = Flight(tmp_path)

    def operator(since_s):
        if since_s == pytest.approx(0.6):
            flight.guard.estop("hand in the way")
        if since_s == pytest.approx(3.0):
            flight.guard.acknowledge()
        if since_s == pytest.approx(4.0):
            flight.loop.engage()

    flight.troubles["read"] = operator
    flight.run(7.0)
    changes = flight.states()
    assert (0.6, "ESTOP") in changes
    assert not [state for time_s, state in changes if 0.6 < time_s < 3.0]
    assert [state for time_s, state in changes if 3.0 < time_s < 4.0] == ["IDLE"]
    after = [state for time_s, state in changes if 4.0 <= time_s < 7.0]
    assert "NORMAL" in after
    assert flight.arm.truth()["is_success"]
    resting = [command for time_s, command in flight.arm.sent if 101.5 < time_s < 103.0]
    assert not np.ptp(resting, axis=0).any()


def test_the_first_signal_holds_latched_and_the_run_ends_at_rest(tmp_path):
    flight = Flight(tmp_path)
    flight.troubles["read"] = lambda since_s: since_s == pytest.approx(0.6) and os.kill(os.getpid(), signal.SIGINT)
    with signals(flight.loop):
        summary = flight.run(60.0)
    assert summary.ended == "signal SIGINT"
    assert flight.states()[-1][1] == "ESTOP"
    assert 0 < flight.arm.heights()[-1] < 0.8  # on its way
    assert not np.ptp(flight.arm.heights()[-2:])
    assert limits_used(flight) <= 1 + 1e-9
    assert summary.ticks < 2 * HZ


def test_the_second_signal_ends_the_run_as_the_arm_stands(tmp_path):
    flight = Flight(tmp_path)
    flight.troubles["read"] = lambda since_s: since_s > 0.599 and os.kill(os.getpid(), signal.SIGTERM)
    with signals(flight.loop):
        summary = flight.run(60.0)
    assert summary.ended == "signal SIGTERM"
    assert flight.arm.sent[-1][0] <= 100.7
    step = np.diff(flight.arm.heights())[-1]
    assert step >= 0  # braking, nothing else


class Turns:
    """Says what to do in turns, by the time of the frame."""

    def __init__(self, turns):
        self.turns, self.heard = turns, []

    def look(self, observation):
        return [text for since_s, text in self.turns if observation.time_s >= 100.0 + since_s][-1]

    def hear(self, chunk, text):
        self.heard.append((text, chunk.done))

    @property
    def why_idle(self):
        return f"resting since turn {len(self.heard)}"


def test_steering_decides_what_the_controller_is_asked_for(tmp_path):
    steering = Turns([(0.0, "up"), (1.0, None), (2.0, "down")])
    flight = Flight(tmp_path, steering=steering, instruction="up, then down")
    flight.run(6.0)
    assert {seen.instruction for seen in flight.policy.seen} == {"up", "down"}
    changes = flight.states()
    assert changes[1][1] == "HOLD" and 1.0 <= changes[1][0] <= 1.1
    assert "steering: resting since turn" in flight.reasons()
    assert flight.arm.heights()[-1] == pytest.approx(-1.2, abs=1e-3)
    assert {text for text, _ in steering.heard} == {"up", "down"}
    assert not [seen for seen in flight.policy.seen if 101.0 <= seen.time_s < 102.0]


def test_an_answer_to_words_that_no_longer_count_is_dropped(tmp_path):
    flight = Flight(tmp_path, latency_s=0.3, steering=Turns([(0.0, "up"), (1.0, "down")]))
    flight.run(4.0)
    assert flight.executor.counts["other_words"] == 1
    assert flight.arm.heights()[-1] < 0


def test_a_robot_that_shows_nothing_is_not_engaged(tmp_path):
    flight = Flight(tmp_path)
    flight.troubles["see"] = lambda since_s: True
    with pytest.raises(StartError, match="nothing came from camera front"):
        flight.run(5.0)
    assert not flight.arm.sent


def test_a_camera_that_shows_the_world_upside_down_is_not_engaged(tmp_path):
    glimpse = np.full((16, 24, 3), 127, np.uint8)
    glimpse[8:] = 10  # as the arm's camera shows it
    Flight(tmp_path / "right", glimpses={"front": glimpse}).run(0.5)
    flight = Flight(tmp_path / "wrong", glimpses={"front": glimpse[::-1]})
    with pytest.raises(StartError, match=r"camera front looks upside down .* say unlike_cameras=true"):
        flight.run(5.0)
    assert not flight.arm.sent


def test_without_a_policy_the_arm_stays_where_it_is(tmp_path):
    flight = Flight(tmp_path, latency_s=100.0)
    summary = flight.run(3.0)
    assert not np.ptp(flight.arm.heights())
    assert summary.idle_ticks == 0
    assert State.NORMAL.name not in summary.states


def test_every_stop_is_dumped_and_everything_is_in_the_log(tmp_path):
    flight = Flight(tmp_path, policy=Walker())
    flight.troubles["see"] = lambda since_s: 1.0 < since_s < 3.0
    flight.run(6.0)
    names = sorted(path.name for path in (tmp_path / "stops").iterdir())
    assert names[0] == "001-HOLD.jsonl" and len(names) >= 2
    ticks = [json.loads(line) for line in (tmp_path / "stops" / names[0]).read_text().splitlines()]
    assert ticks[-1]["state"] == "HOLD" and ticks[-2]["state"] == "DEGRADED"
    assert len(ticks[0]["command"]) == 2
    log = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {"engage", "chunk", "state", "intervention", "end"} <= {entry["event"] for entry in log}
    followed = [entry for entry in log if entry["event"] == "chunk" and not entry["dropped"]]
    assert len(followed) == flight.executor.counts["chunks"]
    assert np.shape(followed[0]["actions"]) == (16, 2)


def test_a_stop_out_of_a_hold_is_dumped_too(tmp_path):
    flight = Flight(tmp_path)
    flight.troubles["see"] = lambda since_s: 1.0 < since_s < 3.0

    def operator(since_s):
        if since_s == pytest.approx(2.0):
            flight.guard.alarm("bus", State.STOP1, "a servo has shut down")
        if since_s == pytest.approx(2.5):
            flight.guard.estop("hand in the way")

    flight.troubles["read"] = operator
    flight.run(4.0)
    assert [state for _, state in flight.states()][1:] == ["DEGRADED", "HOLD", "STOP1", "ESTOP"]
    names = sorted(path.name for path in (tmp_path / "stops").iterdir())
    assert [name[4:-6] for name in names] == ["HOLD", "STOP1", "ESTOP", "ESTOP"]  # the last one is the end of the run
    ticks = [json.loads(line) for line in (tmp_path / "stops" / names[1]).read_text().splitlines()]
    assert [tick["state"] for tick in ticks[-2:]] == ["HOLD", "STOP1"]


def test_a_run_in_which_all_is_well_has_no_interventions_of_the_guard(tmp_path):
    flight = Flight(tmp_path, steering=Turns([(0.0, "up"), (1.0, None), (2.0, "up")]))
    summary = flight.run(4.0)
    assert summary.ended == "the time is over" and summary.states["HOLD"] > 10
    told = {event["rule"] for event in flight.logbook.events if event["event"] == "intervention"}
    assert {"end", "steering"} <= told  # it can be read what the arm was braked for
    assert not {"end", "steering"} & summary.interventions.keys()
