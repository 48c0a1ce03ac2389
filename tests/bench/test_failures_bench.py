"""Failures are scored by their moment, and runs that go well by not being called failures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.tabletop.failure import MODES, FailingExpert
from vla.bench.failures import Case, examine, score
from vla.bench.ledger import Ledger
from vla.bench.mishaps import NONE, RECOVERED, Mishaps
from vla.data.dataset import EpisodeDataset
from vla.video.child import Decoder
from vla.video.outcome import Outcome, Suspect, decided

FINE = decided([])


def blamed(*moments: float, mode: str = "slip") -> Outcome:
    """An outcome with suspects at these times, the first one blamed."""
    return decided([Suspect(moment, mode, ("seen",)) for moment in moments])


def test_the_moment_counts_within_a_second_first_or_among_three():
    cases = [
        Case("slip", 3.0, 10.0, blamed(3.9)),
        Case("slip", 3.0, 10.0, blamed(5.0, 2.5)),
        Case("blocked", 3.0, 10.0, blamed(4.5, 9.0)),
        Case("missed_grasp", 3.0, 10.0, FINE),
        Case(NONE, -1.0, 10.0, FINE),
        Case(NONE, -1.0, 10.0, blamed(2.0)),
        Case(RECOVERED, -1.0, 10.0, FINE),
    ]
    found = score(cases)
    assert (found["top1"], found["top3"]) == (1 / 4, 2 / 4)
    assert (found["false_failures"], found["false_failures_recovered"]) == (1 / 2, 0)
    assert found["by_mode"] == {"blocked": 0, "missed_grasp": 0, "slip": 1 / 2} and found["mode_accuracy"] == 1
    assert found["random_top1"] == pytest.approx(0.2) and found["median_error_s"] == pytest.approx(1.5)
    assert found["episodes"] == {"slip": 2, "blocked": 1, "missed_grasp": 1, NONE: 2, RECOVERED: 1}


@settings(deadline=None)
@given(st.lists(st.builds(Case, st.sampled_from([NONE, *MODES]), st.floats(0, 9), st.just(10.0), st.just(FINE))))
def test_who_blames_nothing_finds_nothing_and_has_no_false_failures(cases):
    found = score(cases)
    assert found["top1"] in (None, 0) and found["false_failures"] in (None, 0) and found["median_error_s"] is None


@pytest.mark.slow
def test_mishaps_are_recorded_with_their_truth_and_mostly_found(tmp_path):
    modes = {mode: kinds for mode, kinds in MODES.items()} | {NONE: ["close", "pick"], RECOVERED: ["pick"]}
    sizes = {"front": [128, 256], "wrist": [128, 128]}
    mishaps = Mishaps("envs:tabletop/Mixed-v0", {"image_size": sizes}, modes, FailingExpert, seed=3)
    mishaps.collect(tmp_path / "dataset", len(modes))
    extras = [episode.extra for episode in EpisodeDataset(tmp_path / "dataset").episodes]
    assert [extra["mode"] for extra in extras] == list(modes)
    assert all((extra["failed_s"] > 0) == (extra["mode"] in MODES) for extra in extras)
    ledger = Ledger(tmp_path / "failures.jsonl", {})
    with Decoder() as decoder:
        found = score(examine(tmp_path / "dataset", decoder, ledger))
        assert score(examine(tmp_path / "dataset", decoder, ledger)) == found
    assert found["top1"] >= 0.5 and found["false_failures"] == 0
