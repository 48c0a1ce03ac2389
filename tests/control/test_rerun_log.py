"""A run can be written for the Rerun viewer; without its library the run does not begin."""

import sys

import numpy as np
import pytest
from arms import HZ, SEEING

from vla.control.logbook import Logbook, Moment, Tick
from vla.control.rerun_log import RerunLog
from vla.control.severity import State
from vla.types import Observation

POSE = np.array([0.1, 0.2])


def entries(log):
    """Tell a log one of each."""
    log.event(7.0, "state", state="HOLD", reasons=["camera front: too old"])
    log.chunk(7.0, np.zeros((4, 2)), progress=0.5, done=None, dropped="")
    log.tick(Tick(7.0, 0.001, POSE, None, POSE, State.NORMAL))
    images = {name: np.zeros((one.height, one.width, 3), np.uint8) for name, one in SEEING.cameras.items()}
    seen = Observation(images, POSE.astype(np.float32), "pick", 7.0)
    for step in range(3):
        log.frame(Moment(seen, POSE, 0.1 * step, State.NORMAL), POSE)


class Kept:
    """A log that keeps what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *what, **more: self.told.append(name)


def test_another_log_is_told_all_that_the_logbook_is(tmp_path):
    kept = Kept()
    logbook = Logbook(tmp_path, SEEING, "pick", HZ, also=kept, patient=True)
    entries(logbook)
    logbook.close({"success": True})
    assert kept.told == ["event", "chunk", "tick", "frame", "frame"]  # the last frame waits for its action


def test_another_log_that_fails_does_not_end_the_recording(tmp_path):
    class Broken(Kept):
        def tick(self, tick):
            raise RuntimeError("no room")

    broken = Broken()
    logbook = Logbook(tmp_path, SEEING, "pick", HZ, also=broken, patient=True)
    entries(logbook)
    logbook.close({"success": True})
    assert broken.told == ["event", "chunk"] and not logbook.fault
    assert (tmp_path / "dataset" / "meta" / "info.json").exists()


def test_without_the_library_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"pip install 'vla-stack\[viz\]'"):
        RerunLog(tmp_path / "run.rrd", SEEING)


def test_the_file_can_be_read_back(tmp_path):
    rerun = pytest.importorskip("rerun")
    log = RerunLog(tmp_path / "deep" / "run.rrd", SEEING)
    entries(log)
    log.close()
    assert (tmp_path / "deep" / "run.rrd").stat().st_size > 1000 and rerun.__version__
