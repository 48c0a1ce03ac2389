"""Whatever the delays, the executor tells targets of now: in order, in one piece, and none when there is none."""

import numpy as np
import pytest
from chunks import DT_S, STEPS, TICK_S, clock_chunk, play, restless_chunk
from drive import ARM
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.executor import Executor, Question
from vla.control.strategy import Ensemble, Overlap, RealTime, Sequential
from vla.types import ActionChunk

NONE = np.empty((0, 0))
STRATEGIES = [Sequential, Ensemble, Overlap, RealTime]
delays = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=8)
FAST = settings(max_examples=10, deadline=None)


def moving(strategy, now_s: float = 1.0) -> Executor:
    """Return an executor that has just begun a chunk from rest."""
    executor = Executor(strategy, ARM)
    executor.halt(0.0, np.zeros(2))
    executor.take(clock_chunk(now_s), Question(now_s, None, NONE), now_s)
    executor.resume(now_s)
    return executor


@pytest.mark.parametrize("make", STRATEGIES)
@given(delays_s=delays)
@FAST
def test_targets_never_go_back_in_time(make, delays_s):
    _, path = play(make(), lambda question: clock_chunk(question.frame_s), delays_s)
    told = np.array([target[0] for _, target in path if target is not None])
    assert len(told) and (np.diff(told) >= -1e-9).all()


@pytest.mark.parametrize("make", [Overlap, RealTime])
@given(delays_s=delays)
@FAST
def test_a_moving_arm_is_told_the_step_of_now(make, delays_s):
    executor, path = play(make(), lambda question: clock_chunk(question.frame_s), delays_s)
    assert executor.counts["chunks"] > 2
    late = [(now_s, target[0]) for now_s, target in path if target is not None and now_s > 3.0]
    assert late
    for now_s, told in late:
        assert told == pytest.approx(now_s, abs=1e-6)


@given(delays_s=delays)
@FAST
def test_an_ensemble_is_of_steps_of_now(delays_s):
    _, path = play(Ensemble(), lambda question: clock_chunk(question.frame_s), delays_s)
    for now_s, target in path:
        if target is not None and now_s > 3.0:
            assert target[0] == pytest.approx(now_s, abs=1e-6)


@given(delays_s=delays)
@FAST
def test_sequential_carries_out_every_chunk_from_its_beginning(delays_s):
    """With chunks that go up by one each step, it has gone up by three a chunk, however late they came."""
    heights = []

    def think(question: Question) -> ActionChunk:
        start = heights[-1] if heights else 0.0
        heights.append(start + 3)
        return ActionChunk(start + np.arange(1.0, STEPS + 1)[:, None] * np.ones(2), DT_S, question.frame_s)

    _, path = play(Sequential(replan_steps=3), think, delays_s)
    told = np.array([target[0] for _, target in path if target is not None])
    assert (np.diff(told) >= -1e-9).all()
    assert np.diff(told).max() <= TICK_S / DT_S * 2.01  # within a step, smooth interpolation may double the pace
    waits = [height for height in heights[:-2] if height < told[-1]]
    assert all(np.isclose(told, height).any() for height in waits)


@given(seed=st.integers(0, 2**32 - 1), delays_s=delays)
@FAST
def test_overlap_and_real_time_chunks_join_without_a_jump(seed, delays_s):
    for make in (Overlap, RealTime):
        rng = np.random.default_rng(seed)
        executor, _ = play(make(), lambda question, rng=rng: restless_chunk(rng, question), delays_s)
        assert executor.seams
        assert max(seam.position for seam in executor.seams) <= 1e-9


def test_real_time_chunking_and_overlap_join_more_smoothly_than_a_switch():
    """At 200 ms: the speed jumps least where the policy continues what is executed, most where chunks just switch."""
    jumps = {}
    for name, strategy in {
        "switch": Overlap(blend_steps=1),
        "overlap": Overlap(),
        "rtc": RealTime(),
        "ensemble": Ensemble(replan_steps=3),
    }.items():
        rng = np.random.default_rng(3)
        if name == "switch":
            strategy._blend_steps = 1e-6  # a new chunk takes over at once
        executor, _ = play(strategy, lambda question, rng=rng: restless_chunk(rng, question), [0.2], seconds=20.0)
        jumps[name] = np.mean([seam.velocity for seam in executor.seams])
    assert jumps["rtc"] < jumps["overlap"] < 0.2 * jumps["ensemble"] < 0.2 * jumps["switch"]


@given(delay_s=st.floats(0.0, 0.37), seed=st.integers(0, 2**32 - 1))
@FAST
def test_a_foreseen_delay_leaves_nothing_to_blend(delay_s, seed):
    """Up to the four steps that the policy knows, the new chunk is the old one wherever both are executed."""
    rng = np.random.default_rng(seed)
    strategy = RealTime(max_given_steps=4)
    questions: list[Question] = []

    def think(question: Question) -> ActionChunk:
        questions.append(question)
        return restless_chunk(rng, question)

    executor, _ = play(strategy, think, [delay_s])
    assert executor.counts["unforeseen"] == 0
    asked = [question for question in questions[2:] if question.lead is not None]
    assert asked and all(len(question.given) * DT_S >= delay_s for question in asked)


@pytest.mark.parametrize("guidance", [None, "identity"])
def test_a_policy_that_is_led_sees_all_that_is_left_of_the_older_chunk(guidance):
    questions: list[Question] = []

    def think(question: Question) -> ActionChunk:
        questions.append(question)
        return clock_chunk(question.frame_s)

    play(RealTime(max_given_steps=4, guidance=guidance), think, [0.6])
    asked = [question for question in questions[3:] if question.lead is not None]
    assert asked and all(question.given_steps == (7 if guidance else 4) for question in asked)
    for question in asked:
        assert len(question.given) > question.given_steps if guidance else len(question.given) == question.given_steps
        np.testing.assert_allclose(question.given[:, 0], question.frame_s + DT_S * (1 + np.arange(len(question.given))))


def test_a_delay_beyond_what_the_policy_knows_is_counted():
    rng = np.random.default_rng(0)
    executor, path = play(RealTime(), lambda question: restless_chunk(rng, question), [0.6])
    assert executor.counts["unforeseen"] > 0
    assert max(seam.position for seam in executor.seams) <= 1e-9
    assert all(target is not None for now_s, target in path if now_s > 0.7)  # and still it never starves


@pytest.mark.parametrize("make", [Ensemble, Overlap, RealTime])
@given(delay_s=st.floats(0.0, 1.5))
@FAST
def test_while_answers_come_within_a_horizon_there_is_always_a_target(make, delay_s):
    """1.6 s here; beyond half of it a frame is shown before the answer to the one before it has come."""
    executor, path = play(make(), lambda question: clock_chunk(question.frame_s), [delay_s], seconds=3 * delay_s + 4.0)
    begun_s = next(now_s for now_s, target in path if target is not None)
    assert [now_s for now_s, target in path if now_s > begun_s and target is None] == []
    assert executor.counts["late"] == executor.counts["unordered"] == 0


def test_a_second_frame_is_not_shown_where_waiting_for_the_first_answer_costs_nothing():
    executor = moving(Overlap())
    executor.delays_s.append(0.2)
    assert executor.ask(1.5) is not None
    assert all(executor.ask(1.5 + tick * TICK_S, asked_s=1.5) is None for tick in range(1, 20))


@pytest.mark.parametrize("make", [Ensemble, Overlap, RealTime])
def test_past_its_last_step_a_chunk_has_no_target(make):
    executor = moving(make())
    end_s = 1.0 + STEPS * DT_S
    assert executor.target(end_s) is not None and not executor.idle(end_s)
    assert executor.target(end_s + TICK_S) is None and executor.idle(end_s + TICK_S)


def test_sequential_waits_at_its_last_step_for_as_long_as_it_may():
    executor = moving(Sequential(replan_steps=3, patience_s=0.5))
    waiting = executor.target(1.0 + 3 * DT_S + 0.4)
    assert waiting == pytest.approx([1.3, 1.3])
    assert executor.idle(1.5)
    assert executor.target(1.0 + 3 * DT_S + 0.6) is None


def test_an_answer_to_an_older_frame_is_not_followed():
    executor = moving(Overlap())
    newer, older = executor.ask(1.4), executor.ask(1.3)
    assert newer and older
    assert executor.take(clock_chunk(1.4), newer, 1.5) == ""
    assert "before" in executor.take(clock_chunk(1.3), older, 1.52)
    assert "before" in executor.take(clock_chunk(1.4), newer, 1.54)  # nor the same one twice
    assert executor.counts["unordered"] == 2
    assert executor.target(1.6) == pytest.approx([1.6, 1.6])


def test_an_answer_whose_steps_are_all_over_is_not_followed():
    executor = moving(Overlap())
    question = executor.ask(1.5)
    assert question is not None
    assert "over" in executor.take(clock_chunk(1.5, steps=4), question, 2.0)
    assert executor.counts["late"] == 1


@pytest.mark.parametrize("make", STRATEGIES)
def test_a_halt_forgets_and_begins_where_the_arm_is_held(make):
    executor = moving(make())
    question = executor.ask(1.6)
    executor.halt(1.7, np.array([9.0, 9.0]))
    assert executor.target(1.72) is None
    assert question is None or "before" in executor.take(clock_chunk(1.6), question, 1.74)
    fresh = executor.ask(1.76)
    assert fresh is not None and fresh.lead is None
    executor.take(clock_chunk(1.76), fresh, 1.8)
    assert executor.target(1.82) == pytest.approx([9.0, 9.0])  # until it may move
    executor.resume(1.9)
    assert executor.target(1.9) == pytest.approx([9.0, 9.0])
    assert executor.target(2.0) == pytest.approx([1.86, 1.86])  # its first step, one period after it began


def test_a_chunk_does_not_wait_for_ever():
    executor = Executor(Overlap(), ARM)
    executor.halt(0.0, np.zeros(2))
    executor.take(clock_chunk(1.0), Question(1.0, None, NONE), 1.1)
    assert executor.target(1.5) is not None
    assert executor.target(2.5) is None


def test_an_arm_at_rest_begins_with_an_answer_however_long_it_took():
    executor = Executor(Overlap(), ARM)
    executor.halt(0.0, np.zeros(2))
    executor.take(clock_chunk(1.0), Question(1.0, None, NONE), 3.0)
    assert executor.target(3.02) is not None
    executor.resume(3.02)
    assert executor.target(3.12) == pytest.approx([1.1, 1.1])


@pytest.mark.parametrize(
    ("chunk", "why"),
    [
        (ActionChunk(np.full((4, 2), np.nan), DT_S, 1.0), "finite"),
        (ActionChunk(np.zeros((4, 3)), DT_S, 1.0), "shape"),
        (ActionChunk(np.zeros((0, 2)), DT_S, 1.0), "shape"),
        (ActionChunk([[0.0, 0.0]], DT_S, 1.0), "list"),  # type: ignore[arg-type]
        (ActionChunk(np.array([["a", "b"]]), DT_S, 1.0), "array of numbers"),
        (ActionChunk(np.zeros((4, 2)), 0.0, 1.0), "period"),
        (ActionChunk(np.zeros((4, 2)), float("nan"), 1.0), "period"),
        (ActionChunk(np.zeros((4, 2)), "fast", 1.0), "period"),  # type: ignore[arg-type]
    ],
)
def test_a_chunk_that_is_none_is_refused_whole_and_the_old_one_goes_on(chunk, why):
    executor = moving(Overlap())
    question = executor.ask(1.5)
    assert question is not None
    assert why in executor.take(chunk, question, 1.52)
    assert executor.counts["refused"] == 1
    assert executor.target(1.6) == pytest.approx([1.6, 1.6])


@pytest.mark.parametrize("make", STRATEGIES)
def test_steps_must_be_positive(make):
    with pytest.raises(ValueError, match="at least 1"):
        make(replan_steps=0)
