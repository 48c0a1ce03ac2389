"""Whatever the disk does, it ends the recording at most, and says so."""

import json

import numpy as np
import pytest

from tests.control.arms import SEEING, Flight, Walker
from vla.control.clock import VirtualClock
from vla.control.faults.disk import FaultyDisk
from vla.control.faults.schedule import Faults
from vla.control.logbook import LOOK_EVERY, Disk, Logbook
from vla.data.dataset import EpisodeDataset


class Filling(Disk):
    """Nearly full from the second look on; the logbook may look later than the loop's clock says."""

    looks = 0

    def free_bytes(self, folder):
        self.looks += 1
        return super().free_bytes(folder) if self.looks < 2 else 2**20


def flown(folder, disk=None, **fault):
    """Fly with a logbook on a disk that is faulty from the first second on, or on a given one; return the flight."""
    flight = Flight(folder / "plain", policy=Walker())
    faults = Faults([{"name": "disk", "at_s": 1.0, **fault}] if fault else [], flight.clock, hardware=False)
    flight.logbook.close({"success": False})
    flight.logbook = Logbook(folder / "run", SEEING, "up", 50.0, patient=True, disk=disk or FaultyDisk(faults))
    flight.loop._logbook = flight.logbook
    flight.run(8.0)
    return flight


@pytest.mark.parametrize(("kind", "words"), [("off", "No space left"), ("wrong", "MiB are free")])
def test_a_full_disk_ends_the_recording_and_not_the_motion(tmp_path, kind, words):
    flight = flown(tmp_path, kind=kind)
    assert words in flight.logbook.fault
    assert flight.arm.truth()["is_success"] and "HOLD" not in [state for t, state in flight.states() if t < 8.0]


def test_what_was_recorded_before_the_disk_was_nearly_full_is_kept(tmp_path):
    flight = flown(tmp_path, Filling())
    dataset = EpisodeDataset(flight.logbook.folder / "dataset")
    assert len(dataset) == LOOK_EVERY
    events = [json.loads(line) for line in (flight.logbook.folder / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "end" and np.isfinite(events[-1]["time_s"])


def test_a_disk_that_is_well_writes_everything():
    done = []
    FaultyDisk(Faults([], VirtualClock(), hardware=False)).run(lambda: done.append(1))
    assert done == [1]
