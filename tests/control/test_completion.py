"""A subtask is over only when k predictions in a row say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.control.completion import Completion


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(1, 4))
def test_declared_exactly_when_the_last_k_agree(probabilities, k):
    completion = Completion(k=k, threshold=0.5)
    for index, probability in enumerate(probabilities):
        last = probabilities[max(0, index + 1 - k) : index + 1]
        assert completion.update(probability) == (len(last) == k and min(last) >= 0.5)


def test_one_disagreement_starts_the_count_again():
    completion = Completion(k=2, threshold=0.5)
    assert [completion.update(p) for p in (0.9, 0.1, 0.9, 0.9)] == [False, False, False, True]


def test_pending_between_the_first_and_the_kth_agreement():
    completion = Completion(k=2, threshold=0.5)
    assert not completion.pending
    completion.update(0.9)
    assert completion.pending
    completion.reset()
    assert not completion.pending


def test_a_policy_without_a_completion_output_is_refused():
    with pytest.raises(ValueError, match="predicts no `done`"):
        Completion(k=2, threshold=0.5).update(None)


@pytest.mark.parametrize(("k", "threshold"), [(0, 0.5), (2, 0.0), (2, 1.0)])
def test_impossible_settings_are_refused(k, threshold):
    with pytest.raises(ValueError, match="k must be at least 1"):
        Completion(k=k, threshold=threshold)
