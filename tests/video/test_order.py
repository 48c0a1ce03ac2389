"""Steps are told in their order: they begin where something sets off, and carrying steps are those with a grasp."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.video.events import PIXELS, STATE, Event
from vla.video.order import APART_S, in_order
from vla.video.segments import Segment, divided

PICK, OPEN, PRESS = "pick up the red cube", "open the drawer", "press the button"


def parts(*edges_s: float) -> list[Segment]:
    """Segments between times."""
    return [Segment(start_s, stop_s, "x") for start_s, stop_s in pairwise(edges_s)]


def events(signal: str = STATE, **kinds: list[float]) -> list[Event]:
    """Events of kinds at times."""
    found = [Event(time_s, kind, signal, 1.0, "seen") for kind, times_s in kinds.items() for time_s in times_s]
    return sorted(found, key=lambda event: event.time_s)


def begins(*told) -> list[float]:
    """When all steps begin [s]."""
    return [start_s for start_s, _ in in_order(*told)]


@pytest.mark.parametrize("signal", [STATE, PIXELS])
def test_a_step_begins_where_something_sets_off(signal):
    seen = events(signal, set_off=[4.0], finish=[1.5, 3.0, 6.0])
    assert in_order([OPEN, PRESS], parts(0.0, 1.5, 3.0, 7.0), seen) == [(0.0, 1.0), (4.0, 1.0)]


def test_it_begins_at_an_edge_that_is_near():
    seen = events(set_off=[3.9], finish=[3.0, 6.0])
    assert begins([OPEN, PRESS], parts(0.0, 3.0, 4.0, 7.0), seen) == [0.0, 4.0]


def test_joints_are_believed_before_pixels():
    seen = [*events(set_off=[4.0]), *events(PIXELS, set_off=[2.0])]
    assert begins([OPEN, PRESS], parts(0.0, 2.0, 4.0, 6.0), seen) == [0.0, 4.0]


@pytest.mark.parametrize(("steps", "second_s"), [([PICK, OPEN], 4.0), ([OPEN, PICK], 2.0)])
def test_of_two_rests_the_one_that_leaves_the_grasp_to_the_carrying_step_counts(steps, second_s):
    seen = events(set_off=[2.0, 4.0], grasp=[3.0], finish=[1.5, 3.5, 5.5])
    assert begins(steps, parts(0.0, 2.0, 4.0, 6.0), seen) == [0.0, second_s]


def test_a_rest_within_a_step_does_not_end_it():
    seen = events(set_off=[0.8, 3.0, 6.2], finish=[0.5, 2.5, 5.5, 8.5])
    assert begins([OPEN, PRESS, OPEN], parts(0.0, 0.8, 3.0, 6.2, 9.0), seen) == [0.0, 3.0, 6.2]


def test_a_step_without_a_rest_before_it_is_divided_all_the_same_and_doubted():
    (first_s, first), (second_s, second) = in_order([OPEN, PRESS], parts(0.0, 2.0, 4.0), events(finish=[2.0, 3.5]))
    assert (first_s, second_s) == (0.0, 2.0) and max(first, second) < 0.5


def test_less_room_than_steps_leaves_the_last_out_and_is_doubted():
    assert in_order([OPEN, PRESS, PICK], parts(0.0, 2.0), events(finish=[1.0])) == [(0.0, pytest.approx(1 / 3))]


def test_thousands_of_events_take_no_time_that_matters():
    when_s = [float(moment) for moment in np.linspace(1.0, 9999.0, 6000)]
    told = in_order([OPEN, PRESS], parts(0.0, 10_000.0), events(set_off=when_s, finish=when_s))
    assert len(told) == 2 and 4000 < told[1][0] < 6000


times = st.lists(st.floats(0.1, 29.9), max_size=8)


@given(st.lists(st.sampled_from([PICK, OPEN, PRESS]), min_size=1, max_size=5), times, times, times, times)
def test_steps_begin_in_order_apart_and_cut_the_segments_without_a_hole(steps, edges_s, set_off, grasp, finish):
    segments, seen = parts(0.0, *sorted(set(edges_s)), 30.0), events(set_off=set_off, grasp=grasp, finish=finish)
    told = in_order(steps, segments, seen)
    starts_s = [start_s for start_s, _ in told]
    assert starts_s[0] == 0 and 1 <= len(told) <= len(steps) and all(0 <= sure <= 1 for _, sure in told)
    assert all(after_s - before_s >= APART_S - 1e-9 for before_s, after_s in pairwise(starts_s))
    cut = divided(segments, starts_s, seen)
    assert [part.stop_s for part in cut[:-1]] == [part.start_s for part in cut[1:]]
    assert {part.start_s for part in cut} == {part.start_s for part in segments} | set(starts_s)
    assert cut[-1].stop_s == 30.0 and {part.why for part in segments} <= {part.why for part in cut}
