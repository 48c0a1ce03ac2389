"""The policy's thread: the newest request wins, errors become answers, and a call that hangs can be seen."""

import threading
import time

import numpy as np
import pytest

from vla.control.clock import RealClock, VirtualClock
from vla.control.executor import Question
from vla.control.inference import Request, Threaded, Timed, answer, takes_given
from vla.types import ActionChunk, Observation

PATIENCE_S = 60.0


def request(frame_s: float, given: int = 0, asked_s: float = 0.0) -> Request:
    observation = Observation({}, np.zeros(2, np.float32), "go", frame_s)
    return Request(observation, Question(frame_s, None, np.zeros((given, 2)), given), asked_s)


class Slow:
    """Thinks until it is released, and keeps what it saw."""

    def __init__(self):
        self.release, self.begun = threading.Event(), threading.Semaphore(0)
        self.frames: list[float] = []

    def act(self, observations):
        (observation,) = observations
        self.frames.append(observation.time_s)
        self.begun.release()
        assert self.release.wait(PATIENCE_S)
        return [ActionChunk(np.zeros((4, 2)), 0.1, observation.time_s)]


class Given(Slow):
    """Continues given steps."""

    def act(self, observations, given=None, given_steps=0):
        self.given, self.given_steps = given, given_steps
        return [ActionChunk(np.zeros((4, 2)), 0.1, observations[0].time_s)]


class Broken:
    """Fails in a way of its own each time."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def act(self, observations):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def wait_for(condition) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.001)


def test_the_newest_request_wins_and_answers_carry_the_time_of_their_frame():
    policy = Slow()
    inference = Threaded(policy, RealClock())
    inference.ask(request(1.0))
    assert policy.begun.acquire(timeout=PATIENCE_S)
    for frame_s in (2.0, 3.0, 4.0):
        inference.ask(request(frame_s))
    assert inference.answers() == []
    policy.release.set()
    found = []
    wait_for(lambda: found.extend(inference.answers()) or len(found) == 2)
    assert [one.request.question.frame_s for one in found] == [1.0, 4.0]
    assert policy.frames == [1.0, 4.0]
    assert dict(inference.counts) == {"asked": 4, "answered": 2, "failed": 0, "replaced": 2}
    inference.close()


def test_a_call_that_hangs_can_be_seen_and_does_not_keep_the_loop_from_ending():
    policy = Slow()
    inference = Threaded(policy, RealClock())
    assert inference.waiting_s() == 0.0
    inference.ask(request(1.0, asked_s=time.monotonic()))
    assert policy.begun.acquire(timeout=PATIENCE_S)
    wait_for(lambda: inference.waiting_s() > 0.01)
    began_s = time.monotonic()
    inference.close()
    assert time.monotonic() - began_s < PATIENCE_S
    policy.release.set()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (ValueError("no such camera"), "ValueError: no such camera"),
        (MemoryError(), "MemoryError: no reason given"),
        (None, "TypeError"),
        ([], "not with one chunk"),
        (["chunk"], "not with one chunk"),
        (KeyError("x" * 10_000), "KeyError"),
    ],
)
def test_every_error_becomes_an_answer(reply, words):
    found = answer(Broken(reply), request(1.0))
    assert found.chunk is None
    assert words in found.error
    assert len(found.error) <= 500


def test_a_policy_that_failed_is_asked_again():
    good = ActionChunk(np.zeros((4, 2)), 0.1, 2.0)
    inference = Threaded(Broken(RuntimeError("out of memory"), [good]), RealClock())
    for frame_s in (1.0, 2.0):
        inference.ask(request(frame_s))
        found = []
        wait_for(lambda found=found: found.extend(inference.answers()) or found)
        assert (found[0].chunk is good) == (frame_s == 2.0)
    assert inference.counts["failed"] == 1
    inference.close()


def test_given_steps_reach_a_policy_that_takes_them():
    policy = Given()
    assert takes_given(policy) and not takes_given(Slow())
    assert answer(policy, request(1.0, given=3)).error == ""
    assert policy.given_steps == 3 and policy.given.shape == (1, 3, 2)
    answer(policy, request(1.0))
    assert policy.given is None


def test_in_virtual_time_every_answer_takes_exactly_its_delay():
    clock = VirtualClock(10.0)
    policy = Slow()
    policy.release.set()
    inference = Timed(policy, clock, latency_s=0.2)
    inference.ask(request(10.0, asked_s=10.0))
    assert inference.waiting_s() > 0
    clock.advance(0.1)
    inference.ask(request(10.1, asked_s=10.1))
    assert inference.answers() == [] and inference.waiting_s() == pytest.approx(0.1)
    clock.advance(0.1)
    assert [one.request.question.frame_s for one in inference.answers()] == [10.0]
    assert inference.waiting_s() == pytest.approx(0.1)
    clock.advance(0.09)
    assert inference.answers() == []
    clock.advance(0.01)
    assert [one.request.question.frame_s for one in inference.answers()] == [10.1]
    assert inference.waiting_s() == 0.0
    assert dict(inference.counts) == {"asked": 2, "answered": 2, "failed": 0, "replaced": 0}


def test_answers_that_are_held_back_do_not_keep_the_policy_from_the_next_request():
    clock, policy, found = VirtualClock(10.0), Slow(), []
    policy.release.set()
    inference = Threaded(policy, clock, latency_s=0.2)
    for frame_s in (10.0, 10.1):
        inference.ask(request(frame_s, asked_s=10.0))
        assert policy.begun.acquire(timeout=PATIENCE_S)  # with the second one while the first is held back
    assert inference.answers() == [] and inference.waiting_s() > 0
    clock.advance(0.2)
    wait_for(lambda: found.extend(inference.answers()) or found)
    clock.advance(0.2)
    wait_for(lambda: found.extend(inference.answers()) or len(found) == 2)
    assert [one.request.question.frame_s for one in found] == [10.0, 10.1]
    inference.close()
