"""An operator changes the words, takes the joints and gives them back while the loop runs; the guard stays between."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from arms import HZ, SEEING, Flight
from drive import MIDDLE

from vla.bench.guard import shares_of_limits
from vla.control.cockpit import Cockpit
from vla.control.steering import Verbatim


class Desk:
    """Does things at given times of a run, from inside the loop's thread as any thread might."""

    def __init__(self, flight: Flight, plan, simulated=True, unknown=lambda text: []):
        self.flight, self.plan, self.shown, self.replies = flight, list(plan), [], []
        self.cockpit = Cockpit(flight.loop, flight.guard, flight.loop._steering, unknown, simulated)
        flight.troubles["read"] = self.look

    def look(self, time_s):
        if (snapshot := self.cockpit.snapshot()) is not None:
            self.shown.append((time_s, snapshot))
        while self.plan and self.plan[0][0] <= time_s:
            _, what, *arguments = self.plan.pop(0)
            self.replies.append(getattr(self.cockpit, what)(*arguments))

    def between(self, start_s, end_s):
        return [snapshot for time_s, snapshot in self.shown if start_s < time_s < end_s]


def limits_used(flight):
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    return max(float(share.max()) for share in shares_of_limits(path, SEEING, HZ).values())


def test_other_words_are_carried_out_while_it_runs(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    desk = Desk(flight, [(2.0, "instruct", "Down.")])
    flight.run(6.0)
    assert desk.replies == [""]
    assert flight.arm.heights().max() > 0.3 and flight.arm.joints[0] < -1.1
    assert desk.between(0.5, 1.9)[-1].instruction == "up" and desk.between(2.5, 6)[-1].instruction == "down"
    assert limits_used(flight) <= 1 + 1e-9


def test_frames_are_recorded_under_the_words_of_their_time(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    Desk(flight, [(2.0, "instruct", "down")])
    flight.run(4.0)
    rows = pq.read_table(next(tmp_path.glob("dataset/data/*/*.parquet")), columns=["task_index"])["task_index"]
    tasks = pq.read_table(tmp_path / "dataset" / "meta" / "tasks.parquet").to_pydict()
    named = dict(zip(tasks["task_index"], tasks["task"], strict=True))
    said = [named[row] for row in rows.to_pylist()]
    assert said[:18] == ["up"] * 18 and said[-15:] == ["down"] * 15


def test_words_that_the_policy_was_never_taught_change_nothing(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    desk = Desk(flight, [(1.0, "instruct", "to the moon")], unknown=lambda text: ["moon"])
    flight.run(4.0)
    assert "does not know “moon”" in desk.replies[0] and flight.arm.truth()["is_success"]


def test_punctuation_alone_changes_nothing(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    desk = Desk(flight, [(1.0, "instruct", " ?! ")])
    flight.run(4.0)
    assert "no words" in desk.replies[0] and flight.arm.truth()["is_success"]


def test_while_the_server_of_the_policy_is_away_words_are_refused(tmp_path):
    def away(text):
        raise RuntimeError("it is not there")

    flight = Flight(tmp_path, instruction="up")
    desk = Desk(flight, [(1.0, "instruct", "down")], unknown=away)
    flight.run(4.0)
    assert "it is not there" in desk.replies[0] and flight.arm.truth()["is_success"]


def test_under_takeover_the_operator_moves_the_arm_and_the_policy_is_not_asked(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    jogs = [(2.0 + 0.1 * i, "jog", 0, -0.1) for i in range(5)]
    desk = Desk(flight, [(1.0, "takeover", True), *jogs, (5.0, "takeover", False)])
    flight.run(9.0)
    held = [snapshot.command[0] for snapshot in desk.between(1.5, 2.0)]
    assert all(snapshot.takeover for snapshot in desk.between(1.1, 4.9)) and np.ptp(held) < 1e-9
    moved = desk.between(4.5, 4.9)[-1].command[0] - held[-1]
    assert moved == pytest.approx(-0.5, abs=0.01)
    assert not [seen for seen in flight.policy.seen if 101.3 < seen.time_s < 104.9]
    assert not desk.between(5.2, 9)[0].takeover and flight.arm.truth()["is_success"]  # and the policy goes on
    assert limits_used(flight) <= 1 + 1e-9
    assert [event["on"] for event in flight.logbook.events if event["event"] == "takeover"] == [True, False]


def test_a_key_that_is_held_down_does_not_run_ahead_of_the_arm(tmp_path):
    flight = Flight(tmp_path)
    desk = Desk(flight, [(1.0, "takeover", True), *((2.0, "jog", 0, 0.2) for _ in range(50))])
    flight.run(4.0)
    start = desk.between(1.5, 2.0)[-1].command[0]
    assert max(snapshot.command[0] for snapshot in desk.between(2, 4)) <= start + 0.31
    assert limits_used(flight) <= 1 + 1e-9


def test_stop_ends_a_takeover_and_clear_lets_the_policy_go_on(tmp_path):
    flight = Flight(tmp_path, instruction="up")
    plan = [(1.0, "takeover", True), (2.0, "estop", "the page"), (2.5, "jog", 0, -0.2), (4.0, "clear")]
    desk = Desk(flight, plan)
    flight.run(9.0)
    stopped = desk.between(2.6, 3.9)
    assert {snapshot.state for snapshot in stopped} == {"ESTOP"} and not stopped[-1].takeover
    assert np.ptp([snapshot.command[0] for snapshot in stopped]) < 1e-9
    assert desk.between(8, 9)[-1].state == "NORMAL" and flight.arm.truth()["is_success"]


class Silent(Verbatim):
    """Has nothing to do, as when the instruction has been carried out or given up."""

    why_idle = "all is done"

    def look(self, observation):
        return None


def test_where_there_is_nothing_to_do_the_operator_can_take_over(tmp_path):
    flight = Flight(tmp_path, steering=Silent())
    jogs = [(when, "jog", 0, -0.1) for when in (1.1, 2.0, 2.1, 2.2)]  # the first one while the arm is still held
    desk = Desk(flight, [(1.0, "takeover", True), *jogs, (5.0, "takeover", False)])
    flight.run(7.0)
    assert desk.between(0.8, 1.0)[-1].state == "HOLD" and all(s.takeover for s in desk.between(1.1, 4.9))
    assert desk.between(4.5, 4.9)[-1].state == "NORMAL"
    assert desk.between(4.5, 4.9)[-1].command[0] == pytest.approx(MIDDLE[0] - 0.3, abs=0.01)
    assert desk.between(6.5, 7)[-1].state == "HOLD" and not desk.between(6.5, 7)[-1].takeover
    assert limits_used(flight) <= 1 + 1e-9


def test_in_a_stop_nobody_takes_over_before_it_is_cleared(tmp_path):
    flight = Flight(tmp_path)
    desk = Desk(flight, [(1.0, "estop", "the page"), (2.0, "takeover", True)])
    flight.run(4.0)
    assert not any(snapshot.takeover for snapshot in desk.between(2.1, 4)) and desk.shown[-1][1].state == "ESTOP"
    assert "stopped (ESTOP): clear that first" in desk.replies[-1]


def test_a_real_arm_is_not_moved_by_keyboard(tmp_path):
    flight = Flight(tmp_path)
    desk = Desk(flight, [(1.0, "takeover", True)], simulated=False)
    flight.run(2.0)
    assert "use a leader arm" in desk.replies[0] and not any(snapshot.takeover for _, snapshot in desk.shown)


def test_a_moment_shows_what_the_loop_did(tmp_path):
    flight = Flight(tmp_path)
    desk = Desk(flight, [])
    flight.run(2.0)
    last = desk.shown[-1][1]
    assert last.progress == 0.5 and last.done == 0.1 and last.subtask == "up" and last.missed == 0
    assert last.images["front"].shape == (32, 48, 3) and len(last.joints) == len(last.command) == 2
    assert last.age_s == pytest.approx(1 / HZ)


def test_a_loop_that_is_stuck_shows_an_old_moment(tmp_path):
    flight = Flight(tmp_path)
    desk = Desk(flight, [])
    flight.run(1.0)
    flight.clock.advance(3.0)
    assert desk.cockpit.snapshot().age_s >= 3.0 and flight.loop.age_s >= 3.0


def test_without_the_bus_the_moment_is_shown_without_joints(tmp_path):
    flight, shown = Flight(tmp_path), []
    cockpit = Desk(flight, []).cockpit

    def trouble(since_s):
        shown.append(cockpit.snapshot())
        if since_s > 0.5:
            raise OSError("unplugged")

    flight.troubles["read"] = trouble
    flight.run(1.0)
    assert shown[-1].state == "HOLD" and "unplugged" in str(shown[-1].reasons) and list(shown[-1].joints) == [None] * 2
