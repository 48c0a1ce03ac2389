"""A chunk that cannot be carried out counts for nothing: it neither moves the arm nor tells how far the task is."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from arms import SEEING, Flight, Walker
from drive import MIDDLE

from vla.control.plan import refusal
from vla.control.steering import Verbatim
from vla.types import ActionChunk

GOOD = ActionChunk(np.tile(MIDDLE, (16, 1)).astype(np.float32), 0.1, 0.0, progress=0.5, done=0.1)


class Attentive(Verbatim):
    """Keeps what it hears."""

    def __init__(self):
        self.heard = []

    def hear(self, chunk, text):
        self.heard.append(chunk.done)


def spoiled(how):
    """Return a chunk that says it is done and cannot be followed."""
    actions = {
        "nan": np.full((16, 2), np.nan),
        "shape": np.zeros((16, 3)),
        "leap": np.tile([-1.4, 0.5], (16, 1)),
        "words": np.full((16, 2), "up"),
    }
    return replace(GOOD, actions=actions[how], progress=0.95, done=0.9)


@pytest.mark.parametrize("how", ["nan", "shape", "leap", "words"])
def test_a_chunk_that_is_refused_is_not_heard_either(tmp_path, how):
    def trouble(observation):
        if 101.0 < observation.time_s < 101.6:
            return replace(spoiled(how), time_s=observation.time_s)

    steering, shown = Attentive(), []
    flight = Flight(tmp_path, policy=Walker(trouble), steering=steering)
    flight.troubles["read"] = lambda since_s: shown.append(flight.loop.latest and flight.loop.latest.done) and None
    flight.run(3.0)
    assert flight.executor.counts["refused"] > 0
    assert set(steering.heard) == {0.1}
    assert set(shown) == {None, 0.1}
    assert flight.logbook.fault == ""


@pytest.mark.parametrize("name", ["progress", "done"])
@pytest.mark.parametrize("value", ["yes", math.nan, math.inf, -0.01, 1.5, np.array([0.5]), [0.5], 1j])
def test_completion_must_be_a_number_between_none_and_all(name, value):
    assert f"its {name} is" in refusal(replace(GOOD, **{name: value}), SEEING)


@pytest.mark.parametrize("value", [None, 0, 1, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_completion_that_is_not_given_or_is_a_number_passes(value):
    assert refusal(replace(GOOD, progress=value, done=value), SEEING) == ""


def test_completion_in_words_is_an_error_of_the_policy_and_the_arm_goes_on(tmp_path):
    def trouble(observation):
        if 101.0 < observation.time_s < 101.6:
            return replace(GOOD, done="yes", time_s=observation.time_s)

    flight = Flight(tmp_path, policy=Walker(trouble))
    flight.run(4.0)
    assert "its done is 'yes', it must be a number 0..1" in flight.reasons()
    assert flight.arm.truth()["is_success"]


def test_what_old_words_have_come_to_is_not_shown_under_new_ones(tmp_path):
    flight, shown = Flight(tmp_path, latency_s=0.3), []

    def look(since_s):
        if since_s == pytest.approx(2.0):
            flight.loop.instruct("down")
        if latest := flight.loop.latest:
            shown.append((since_s, latest.text, latest.done))

    flight.troubles["read"] = look
    flight.run(4.0)
    fresh = [done for since_s, _, done in shown if 2.05 < since_s < 2.3]
    assert fresh and set(fresh) == {None}
    assert shown[-1][1:] == ("down", 0.1)
