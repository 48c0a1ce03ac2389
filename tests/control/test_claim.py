"""Two processes never command one robot, and a dead one does not keep it."""

import os
import signal
import subprocess
import sys

import pytest

from vla.control.claim import ClaimedError, _folder, claim

HOLD = """
import sys, time
from vla.control.claim import claim
with claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def robot():
    name = f"/dev/ttyACM0 of test {os.getpid()}"
    yield name
    for path in _folder().glob(f"vla-robot-*{os.getpid()}*.lock"):
        path.unlink()


@pytest.fixture
def commander(robot):
    process = subprocess.Popen([sys.executable, "-c", HOLD, robot], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_commander_is_refused_with_the_name_of_the_first(commander, robot):
    with pytest.raises(ClaimedError, match=f"process {commander.pid} already"), claim(robot):
        raise AssertionError("both command it")


def test_another_robot_is_free(commander, robot):
    with claim(f"{robot}, the other"):
        pass


def test_a_commander_that_was_killed_keeps_nothing(commander, robot):
    os.kill(commander.pid, signal.SIGKILL)
    commander.wait()
    with claim(robot):
        pass


def test_a_port_has_one_claim_under_all_its_names(tmp_path, robot):
    port, link = tmp_path / f"port {os.getpid()}", tmp_path / f"by-id {os.getpid()}"
    port.touch()
    link.symlink_to(port)
    with claim(str(port)), pytest.raises(ClaimedError), claim(str(link)):
        raise AssertionError("both command it")


def test_who_is_done_lets_go(robot):
    for _ in range(2):
        with claim(robot):
            pass
