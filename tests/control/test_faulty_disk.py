"""Whatever the disk does, it ends the recording at most, and says so."""

import json

import numpy as np
import pytest

from tests.control.arms import SEEING, Flight, Walker
from vla.control.clock import VirtualClock
from vla.control.faults.disk import FaultyDisk
from vla.control.faults.schedule import Faults
from vla.control.logbook import Logbook
from vla.data.dataset import EpisodeDataset


def flown(folder, kind, **what):
    """Fly with a logbook on a faulty disk from the first second on; return the flight."""
    flight = Flight(folder / "plain", policy=Walker())
    faults = Faults([{"name": "disk", "kind": kind, "at_s": 1.0, **what}], flight.clock, hardware=False)
    flight.logbook.close({"success": False})
    flight.logbook = Logbook(folder / "run", SEEING, "up", 50.0, patient=True, disk=FaultyDisk(faults))
    flight.loop._logbook = flight.logbook
    flight.run(8.0)
    return flight


@pytest.mark.parametrize(("kind", "words"), [("off", "No space left"), ("wrong", "MiB are free")])
def test_a_full_disk_ends_the_recording_and_not_the_motion(tmp_path, kind, words):
    flight = flown(tmp_path, kind)
    assert words in flight.logbook.fault
    assert flight.arm.truth()["is_success"] and "HOLD" not in [state for t, state in flight.states() if t < 8.0]


def test_what_was_recorded_before_the_disk_was_nearly_full_is_kept(tmp_path):
    flight = flown(tmp_path, "wrong")
    dataset = EpisodeDataset(flight.logbook.folder / "dataset")
    assert 10 <= len(dataset) < 80
    events = [json.loads(line) for line in (flight.logbook.folder / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "end" and np.isfinite(events[-1]["time_s"])


def test_a_disk_that_is_well_writes_everything():
    done = []
    FaultyDisk(Faults([], VirtualClock(), hardware=False)).run(lambda: done.append(1))
    assert done == [1]
