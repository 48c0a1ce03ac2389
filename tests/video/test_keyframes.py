"""Keyframes are few, told with reasons, and never miss the first and the last frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import record
from tests.video.test_events import track_of
from vla.video.events import PIXELS, STATE, Event
from vla.video.keyframes import GAP_S, KEYFRAME_APART_S, WEIGHTS, all_events, boundaries, choose, scores
from vla.video.track import Track

KINDS = [(signal, kind) for signal, table in WEIGHTS.items() for kind in table]


@pytest.fixture(scope="module")
def track(tmp_path_factory) -> Track:
    """A scene of two discs."""
    return track_of(record(3), tmp_path_factory.mktemp("scene"))


@st.composite
def event_lists(draw) -> list[Event]:
    """Events of all kinds, also outside the video."""
    rows = draw(st.lists(st.tuples(st.floats(-1, 30), st.sampled_from(KINDS), st.floats(0, 1)), max_size=40))
    return [Event(time_s, kind, signal, strength, f"{kind} happens") for time_s, (signal, kind), strength in rows]


@settings(max_examples=60, deadline=None)
@given(events=event_lists(), budget=st.integers(2, 30))
def test_first_and_last_within_budget_in_order_apart_and_with_reasons(track, events, budget):
    chosen = choose({"top": track}, events, budget)
    frames, time_s = [keyframe.frame for keyframe in chosen], [keyframe.time_s for keyframe in chosen]
    assert 2 <= len(chosen) <= budget and frames[0] == 0 and frames[-1] == track.sample[-1]
    assert (np.diff(time_s) >= KEYFRAME_APART_S - 1e-6).all()
    assert all(keyframe.why and keyframe.kinds for keyframe in chosen)
    assert [track.time_s[frame] for frame in frames] == time_s
    assert choose({"top": track}, events[::-1], budget) == chosen or len({e.time_s for e in events}) < len(events)


def test_the_strongest_moments_win_when_the_budget_is_small(track):
    events = [Event(4.0, "grasp", STATE, 1.0, "grasps"), Event(5.5, "pause", STATE, 1.0, "pauses")]
    assert [keyframe.time_s for keyframe in choose({"top": track}, events, 3)][1] == pytest.approx(4.0)
    (_, grasp, pause, _) = choose({"top": track}, events, 4)
    assert (grasp.kinds, pause.why) == (("grasp",), ("pauses",))


def test_a_budget_without_room_for_both_ends_is_refused(track):
    with pytest.raises(ValueError, match="a budget of 1 keyframes is not possible"):
        choose({"top": track}, [], 1)


def test_long_silence_is_broken_by_the_frame_that_looks_least_like_its_ends(track):
    chosen = choose({"top": track}, [], 10)
    assert np.diff([keyframe.time_s for keyframe in chosen]).max() <= GAP_S
    assert all(keyframe.kinds == ("fill",) for keyframe in chosen[1:-1])


def test_signals_that_agree_add_up_and_those_of_one_kind_do_not():
    time_s = np.arange(100) / 10
    one = [Event(5.0, "stop", PIXELS, 1.0, "stops")]
    twice = [*one, Event(5.1, "stop", PIXELS, 1.0, "stops")]
    agreed = [*one, Event(5.0, "novelty", PIXELS, 1.0, "new")]
    alone, double, both = (scores(events, time_s).max() for events in (one, twice, agreed))
    assert double == alone and both > alone


def test_boundaries_leave_both_ends_out(track):
    ends = [Event(0.1, "grasp", STATE, 1.0, "grasps"), Event(float(track.time_s[-1]) - 0.1, "grasp", STATE, 1.0, "")]
    assert boundaries(ends, track.time_s) == []
    assert boundaries([*ends, Event(3.0, "grasp", STATE, 1.0, "")], track.time_s) == [3.0]


def test_a_state_with_holes_is_not_listened_to(track):
    scene = record(3)
    scene.state.joints[5] = np.nan
    assert {event.signal for event in all_events({"top": track}, scene.state)} == {PIXELS}
