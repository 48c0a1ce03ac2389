"""An outage of the policy server is judged by what the log and the commands say."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from envs.robots.twin import Twin
from envs.tabletop.collision import Collision
from tests.control.drive import ARM
from vla.bench.outage import Course, Outages, judge, measure
from vla.control.strategy import RealTime

HZ = 50.0


def course(hold_s=3.58, normal_s=5.0, moving=True, jump=0.0):
    """Return a run whose server is killed at 2 s, when the last due action is that of 3.5 s, and back at 4.5 s."""
    log = [
        {"event": "state", "time_s": 1.0, "state": "NORMAL"},
        {"event": "state", "time_s": hold_s, "state": "HOLD"},
        {"event": "state", "time_s": normal_s, "state": "NORMAL"},
    ]
    times_s = np.arange(1.0, 6.0, 1 / HZ)
    path = 0.2 + 0.02 * np.cos(times_s * moving)
    commands = np.stack([path + jump * (times_s > 4), path], axis=1)
    ticks = [{"due_s": due_s, "target": [0.2, 0.2] if due_s < 3.49 or due_s > 4.6 else None} for due_s in times_s]
    return Course(2.0, 4.5, log, ticks, list(zip(times_s.tolist(), commands, strict=True)))


def test_what_is_held_in_time_and_goes_on_in_time_is_right():
    row = judge(course(), ARM, HZ)
    assert row["wrong"] == [] and row["limits_used"] < 1
    assert row["hold_after_due_ms"] == pytest.approx(80) and row["back_after_ms"] == pytest.approx(500)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (course(hold_s=3.61), "not in HOLD within 0.1 s"),
        (course(normal_s=6.6), "not back in NORMAL within 2.0 s"),
        (course(moving=False), "nothing moved when the server was killed"),
        (course(jump=0.1), "of a limit"),
        (replace(course(), log=course().log[:1]), "not in HOLD"),
    ],
)
def test_what_is_late_or_jumps_is_wrong(changed, what):
    assert any(what in wrong for wrong in judge(changed, ARM, HZ)["wrong"])


@pytest.mark.slow  # a server and a twin in processes of their own, in wall-clock time
def test_a_server_that_is_killed_under_a_moving_arm_is_survived():
    sizes = {"front": (128, 256), "wrist": (128, 128)}
    twin = partial(Twin, hz=HZ, camera_hz=30.0, image_size=sizes, randomize=False)
    result = measure(Outages(2, twin, Collision(), RealTime, "put the red cube in the blue bowl", HZ), seed=0)
    assert result["kills"] == 2 and all(row["limits_used"] <= 1 + 1e-9 for row in result["rows"])
    assert all(row["hold_after_due_ms"] is not None and row["back_after_ms"] is not None for row in result["rows"])
