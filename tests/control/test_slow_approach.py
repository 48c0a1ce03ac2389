"""A chunk that begins far from the arm is refused, or approached slowly where that was asked for."""

import numpy as np
import pytest
from arms import HZ, SEEING, Flight, Walker
from drive import MIDDLE
from omegaconf import OmegaConf

from vla.bench.guard import shares_of_limits
from vla.control.guard import Guard
from vla.control.strategy import Overlap
from vla.types import ActionChunk

SPEED = 0.25  # [rad/s], by default
GOAL = np.array([1.0, 0.5])


def far(observation):
    """Want the lift 1 rad away at once, and gently on from there to 1.2 rad."""
    path = np.tile(GOAL, (16, 1))
    path[:, 0] += np.minimum(0.05 * np.arange(16), 0.2)
    return ActionChunk(path.astype(np.float32), 0.1, observation.time_s, progress=0.5, done=0.1)


def fly(folder, trouble=None, **guard):
    flight = Flight(folder, policy=Walker(far), strategy=Overlap(), guard=guard)
    if trouble:
        flight.troubles["see"] = trouble
    flight.run(8.0)
    return flight, np.abs(np.diff(flight.arm.heights())) * HZ


def test_without_being_asked_it_is_refused_and_nothing_moves(tmp_path):
    flight, speeds = fly(tmp_path)
    assert not speeds.any() and flight.executor.counts["refused"] > 0
    assert "which no arm can do at once" in str(list(flight.logbook.events))


@pytest.mark.parametrize("degraded", [False, True])
def test_where_it_is_asked_for_the_arm_goes_there_slowly_and_then_follows(tmp_path, degraded):
    blink = (lambda since_s: 1.0 < since_s < 1.3) if degraded else None  # the camera's newest frame is old
    flight, speeds = fly(tmp_path, blink, slow_approach=True)
    heights = flight.arm.heights()
    assert heights[-1] > GOAL[0] + 0.1
    assert ("DEGRADED" in [state for _, state in flight.states()]) == degraded
    met = int(np.argmax(heights >= GOAL[0] - 0.1))  # as close as a first command must be
    assert 3.0 < met / HZ < 5.5
    assert 0.9 * SPEED < speeds[: met - 1].max() <= SPEED * (1 + 1e-6)
    assert speeds[met:].max() > 1.2 * SPEED
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    assert max(share.max() for share in shares_of_limits(path, SEEING, HZ).values()) <= 1 + 1e-9


def test_after_a_hold_it_is_approached_slowly_again(tmp_path):
    flight, speeds = fly(tmp_path, lambda since_s: 1.0 < since_s < 2.5, slow_approach=True)
    assert "HOLD" in [state for time_s, state in flight.states() if time_s < 3.0]
    met = int(np.argmax(flight.arm.heights() >= GOAL[0] - 0.1))
    assert met and speeds[: met - 1].max() <= SPEED * (1 + 1e-6)


def test_how_fast_is_said_when_the_guard_is_made(tmp_path):
    _, speeds = fly(tmp_path, slow_approach=True, approach_speed=0.1)
    assert 0.09 < speeds.max() <= 0.1 * (1 + 1e-6)


def test_an_engagement_may_still_say_otherwise(tmp_path):
    guard = Guard(SEEING, HZ, slow_approach=True)
    guard.engage(MIDDLE, slow_approach=False)
    command, status = guard.step(GOAL, MIDDLE, 50.0, 50.0)
    assert "come closer" in str(guard.journal.recent[-1].reason) and status.engaging
    np.testing.assert_array_equal(command, MIDDLE)


def test_every_key_of_the_guard_in_the_config_is_one_that_the_guard_takes():
    keys = dict(OmegaConf.load("configs/deploy.yaml").guard)
    assert keys["slow_approach"] is False
    assert Guard(SEEING, HZ, **(keys | {"slow_approach": True})).slow_approach
