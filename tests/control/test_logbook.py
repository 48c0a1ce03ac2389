"""A run is recorded as others can read it, survives a kill up to what was said, and never stops the control."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from arms import HZ, SEEING, Flight

from vla.control import logbook
from vla.control.logbook import Logbook, Moment, Tick
from vla.control.severity import State
from vla.data.dataset import EpisodeDataset
from vla.types import Observation


def test_a_run_becomes_an_episode_of_commands_as_they_were_sent(tmp_path):
    flight = Flight(tmp_path)
    flight.run(4.0)
    data = pq.read_table(next(tmp_path.glob("dataset/data/*/*.parquet"))).to_pydict()
    frames = len(data["index"])
    assert 38 <= frames <= 50
    np.testing.assert_allclose(np.diff(data["since_s"]), 0.1, atol=1e-6)
    sent = {round(time_s - 100.0, 3): command for time_s, command in flight.arm.sent}
    for since_s, state, action in zip(data["since_s"], data["observation.state"], data["action"], strict=True):
        if 0.2 < since_s < 3.8:
            np.testing.assert_allclose(state, sent[round(since_s - 0.02, 3)], atol=1e-6)
            np.testing.assert_allclose(action, sent[round(since_s + 0.08, 3)], atol=1e-6)  # reached at the next frame
    assert set(data["guard"]) <= set(State)
    episode = pq.read_table(next(tmp_path.glob("dataset/meta/episodes/*/*.parquet"))).to_pydict()
    assert episode["success"] == [True] and episode["tasks"] == [["up"]]
    assert EpisodeDataset(tmp_path / "dataset").episodes  # the reader of training takes it
    assert flight.logbook.dropped_frames == 0 and flight.logbook.fault == ""


def test_the_next_run_in_the_same_folder_is_the_next_episode(tmp_path):
    for index in range(2):
        flight = Flight(tmp_path, instruction=["up", "down"][index])
        assert flight.logbook.episode_index == index
        flight.run(1.0)
    episodes = pq.ParquetDataset(sorted(tmp_path.glob("dataset/meta/episodes/*/*.parquet"))).read().to_pydict()
    assert sorted(episodes["tasks"]) == [["down"], ["up"]]


def test_a_disk_that_fails_ends_the_recording_and_not_the_control(tmp_path, monkeypatch):
    flight = Flight(tmp_path)
    add = logbook.EpisodeRecorder.add

    def full(self, frame, task):
        if self.length == 10:
            raise OSError(28, "No space left on device")
        add(self, frame, task)

    monkeypatch.setattr(logbook.EpisodeRecorder, "add", full)
    summary = flight.run(4.0)
    assert "No space left" in flight.logbook.fault
    assert flight.arm.truth()["is_success"] and summary.states["NORMAL"] > 150
    assert not list(tmp_path.glob("dataset/data/*/*.parquet"))
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) > 5  # the log went on


def test_an_encoder_that_is_too_slow_costs_frames_and_not_time(tmp_path):
    book = Logbook(tmp_path, SEEING, "up", HZ)
    gate = threading.Event()
    book._jobs.put(gate.wait)
    image = np.zeros((32, 48, 3), np.uint8)
    for index in range(logbook.FRAMES + 11):
        observation = Observation({"front": image}, np.zeros(2, np.float32), "up", index * 0.1)
        book.frame(Moment(observation, np.zeros(2, np.float32), index * 0.1, State.NORMAL), np.zeros(2))
    assert book.dropped_frames == 10
    gate.set()
    book.close({"success": False})
    data = pq.read_table(next(tmp_path.glob("dataset/data/*/*.parquet")))
    assert len(data) == logbook.FRAMES


def test_a_dump_holds_the_last_seconds(tmp_path):
    book = Logbook(tmp_path, SEEING, "up", hz=100.0, keep_s=5.0)
    for index in range(2000):
        book.tick(Tick(index / 100, 0.0, None, None, np.full(2, index), State.NORMAL))
    book.dump(State.STOP1)
    book.close({"success": False})
    lines = (tmp_path / "stops" / "001-STOP1.jsonl").read_text().splitlines()
    assert [json.loads(line)["due_s"] for line in lines] == pytest.approx(np.arange(1500, 2000) / 100)


def test_reasons_that_come_by_turns_are_written_down_once(tmp_path):
    book = Logbook(tmp_path, SEEING, "up", hz=100.0)
    for index in range(100):
        book.event(index / 10, "policy", reason=f"it is not there; next try in {index / 100} s")
        book.event(index / 10, "policy", reason="no connection: [Errno 111] Connection refused")
    book.event(10.0, "state", state="NORMAL")
    book.event(10.1, "policy", reason="it is not there; next try in 0.1 s")
    book.close({"success": False})
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (
        [line["event"] for line in lines]
        == ["policy", "policy", "state", "policy"]
        == [e["event"] for e in book.events]
    )


def test_dumps_of_an_earlier_run_in_the_folder_are_kept(tmp_path):
    for state in (State.HOLD, State.HOLD, State.STOP1):
        book = Logbook(tmp_path, SEEING, "up", hz=100.0)
        book.tick(Tick(0.0, 0.0, None, None, None, state))
        book.dump(state)
        book.close({"success": False})
    assert sorted(path.stem for path in (tmp_path / "stops").iterdir()) == ["001-HOLD", "002-HOLD", "003-STOP1"]


KILLED = """
import os, sys, threading
sys.path[:0] = {paths!r}
from pathlib import Path
from arms import Flight
flight = Flight(Path({folder!r}), latency_s=0.1)
flight.run(1.0)
flight = Flight(Path({folder!r}), latency_s=0.1)
def kill(since_s):
    if since_s > 2.0:
        written = threading.Event()  # in virtual time the disk is behind, in real time hardly
        flight.logbook._jobs.put(written.set)
        written.wait(60)
        os.kill(os.getpid(), 9)
flight.troubles["read"] = kill
flight.troubles["see"] = lambda since_s: since_s > 0.5
flight.run(9.0)
"""


def test_a_kill_loses_the_episode_under_way_and_nothing_else(tmp_path):
    here = Path(__file__).parent
    code = KILLED.format(paths=[str(here), str(here.parents[1])], folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event.get("state") == "HOLD" and "camera front" in str(event["reasons"])]
    whole = [path for path in (tmp_path / "stops").iterdir() if path.suffix == ".jsonl" and path.name[0] != "."]
    assert whole and all(json.loads(line) for path in whole for line in path.read_text().splitlines())
    flight = Flight(tmp_path)  # opens what the killed run left, and repairs it
    assert flight.logbook.episode_index == 1
    flight.run(0.5)
    episodes = pq.ParquetDataset(sorted(tmp_path.glob("dataset/meta/episodes/*/*.parquet"))).read()
    assert len(episodes) == 2


def test_a_reason_that_repeats_but_for_its_numbers_is_written_once_until_another_comes(tmp_path):
    book = Logbook(tmp_path, SEEING, "pick", hz=50)
    for tick in range(5):
        book.event(0.02 * tick, "policy", reason=f"not there; next try in {1.5 - 0.02 * tick:.2f} s")
    book.event(0.2, "state", state="HOLD")
    book.event(0.3, "policy", reason="not there; next try in 1.2 s")
    book.event(0.4, "state", state="NORMAL")
    book.event(0.5, "state", state="NORMAL")
    book.close({"success": False})
    assert [(event["time_s"], event["event"]) for event in book.events] == [
        (0.0, "policy"), (0.2, "state"), (0.3, "policy"), (0.4, "state"), (0.5, "state")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("actions", "written"),
    [
        (np.full((1, 2), "up"), [["up", "up"]]),
        (np.array([[None, "up"]], object), "array([[None, 'up']], dtype=object)"),
        ([[0.5, {1j}]], [[0.5, "{1j}"]]),
        (np.array([[0.1234567, 1]]), [[0.12346, 1.0]]),
        (np.array([[1 + 2j]]), "array([[1.+2.j]])"),
    ],
)
def test_whatever_came_as_a_chunk_is_written_down(tmp_path, actions, written):
    book = Logbook(tmp_path, SEEING, "up", HZ)
    book.chunk(0.0, actions, done=object(), dropped="refused")
    book.event(0.1, "end")
    book.close({"success": False})
    chunk, end = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert chunk["actions"] == written and "object object" in chunk["done"] and end["event"] == "end"
    assert book.fault == ""


def test_a_job_that_fails_is_told_ends_the_recording_and_not_the_thread(tmp_path, monkeypatch):
    flight = Flight(tmp_path)
    add = logbook.EpisodeRecorder.add

    def broken(self, frame, task):
        if self.length == 10:
            raise KeyError("a mistake of ours")
        add(self, frame, task)

    monkeypatch.setattr(logbook.EpisodeRecorder, "add", broken)
    flight.run(3.0)
    assert flight.logbook.fault == "KeyError: 'a mistake of ours'"
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["event"] == "end"
    assert not list(tmp_path.glob("dataset/data/*/*.parquet"))
