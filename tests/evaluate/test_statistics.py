"""Intervals, paired differences and the completion score have the properties that reports rely on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.evaluate.statistics import PairedDifference, Rate, completion_score, percentiles_ms

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=80)


@given(OUTCOMES)
def test_wilson_interval_holds_the_rate_and_stays_inside_0_1(outcomes):
    rate = Rate.of(outcomes)
    assert rate.value is not None and rate.ci95 is not None
    assert 0.0 <= rate.ci95[0] <= rate.value + 1e-12
    assert rate.value - 1e-12 <= rate.ci95[1] <= 1.0
    assert rate.ci95[1] - rate.ci95[0] > 0


def test_wilson_interval_matches_a_published_value():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 .. 0.3662.
    assert Rate(81, 263).ci95 == pytest.approx([0.2553, 0.3662], abs=1e-4)


def test_no_episodes_give_no_rate_instead_of_zero():
    assert Rate.of([]).value is None
    assert Rate.of([]).ci95 is None


def test_more_successes_than_episodes_is_refused():
    with pytest.raises(ValueError, match="5 successes in 4"):
        Rate(5, 4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_policies_mirrors_the_difference(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    forward, backward = PairedDifference.of(a, b), PairedDifference.of(b, a)
    assert forward.difference == -backward.difference
    np.testing.assert_allclose(forward.ci95, [-backward.ci95[1], -backward.ci95[0]])
    assert forward.ci95[0] < forward.ci95[1]


def test_a_policy_against_itself_has_an_interval_around_zero():
    outcomes = [True, False] * 25
    same = PairedDifference.of(outcomes, outcomes)
    assert same.difference == 0 and same.p_value == 1.0
    assert same.ci95[0] < 0 < same.ci95[1]


def test_a_clear_winner_has_an_interval_above_zero():
    clear = PairedDifference.of([True] * 50, [False] * 40 + [True] * 10)
    assert clear.ci95[0] > 0.5 and clear.p_value < 1e-6


def test_paired_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        shared = rng.random(50)
        a, b = shared < 0.8, np.where(rng.random(50) < 0.7, shared < 0.6, rng.random(50) < 0.6)
        low, high = PairedDifference.of(a.tolist(), b.tolist()).ci95
        covered += low <= 0.2 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_different_seeds_cannot_be_paired():
    with pytest.raises(ValueError, match="3 outcomes of A against 2 of B"):
        PairedDifference.of([True] * 3, [True] * 2)


@pytest.mark.parametrize(
    ("claim_s", "precision", "recall"),
    [(5.0, 1, 1), (4.5, 1, 1), (5.5, 1, 1), (4.4, 0, 0), (5.6, 1, 0), (None, None, 0)],
)
def test_a_declaration_counts_within_half_a_second(claim_s, precision, recall):
    claims = [] if claim_s is None else [(claim_s, "go red")]
    result = completion_score([(claims, [(5.0, "go red")])])
    assert (result.precision, result.recall) == (precision, recall)


def test_declaring_another_subtask_is_wrong():
    result = completion_score([([(5.0, "go blue")], [(5.0, "go red")])])
    assert (result.precision, result.recall) == (0, 0)


def test_only_the_first_declaration_of_a_subtask_counts():
    result = completion_score([([(1.0, "go red"), (5.0, "go red")], [(5.0, "go red")])])
    assert (result.declared, result.precision) == (1, 0)


def test_percentiles_are_milliseconds():
    assert percentiles_ms([0.01] * 99 + [0.1])["p50"] == pytest.approx(10.0)
    assert percentiles_ms([]) == {"p50": None, "p95": None}
