"""Coloured things keep their number while they are followed, and are told by colour, shape and what they do."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.pictures import SHAPE, ground
from tests.video.scenes import on_grey, record
from tests.video.test_events import track_of
from vla.video.colours import HUES
from vla.video.objects import LOST_S, Follower, coded, sight

RGB = {"red": (210, 30, 30), "orange": (230, 120, 20), "yellow": (230, 220, 40), "green": (40, 170, 60)}
RGB |= {"blue": (40, 80, 210), "purple": (150, 50, 180)}


def draw(*things) -> np.ndarray:
    """Draw (colour, shape, x, y, side [px]) on grey ground."""
    image = ground()
    for colour, shape, x, y, side in things:
        if shape == "box":
            cv2.rectangle(
                image,
                (round(x - side / 2), round(y - side / 2)),
                (round(x + side / 2), round(y + side / 2)),
                RGB[colour],
                -1,
            )
        else:
            cv2.circle(image, (round(x), round(y)), round(side / 2), RGB[colour], -1)
    return image


@settings(max_examples=30)
@given(
    st.sampled_from(list(HUES)),
    st.sampled_from(["box", "disc"]),
    st.integers(30, 220),
    st.integers(30, 160),
    st.integers(12, 22),
)
def test_a_thing_is_seen_where_it_is_with_colour_and_shape(colour, shape, x, y, side):
    (seen,) = sight(draw((colour, shape, x, y, side)))
    unit = SHAPE[1]
    assert seen.kind == colour and abs(seen.x - x / unit) < 0.01 and abs(seen.y - y / unit) < 0.01
    assert abs(seen.width - side / unit) < 0.015 and abs(seen.height - side / unit) < 0.015
    assert seen.square is not None and (seen.square > 0.86 if shape == "box" else seen.square < 0.86)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_a_pixel_has_one_colour_at_most(red, green, blue):
    code = int(coded(np.full((1, 1, 3), (red, green, blue), np.uint8))[0, 0])
    assert 0 <= code <= len(HUES) and not (code and red == green == blue)


def follow(frames, fps: float = 20.0):
    """Follow frames; return the follower and (time, name, what) of all changes."""
    follower, changes = Follower(), []
    for number, image in enumerate(frames):
        found = follower.update(number / fps, sight(image), keep=True)
        changes += [(number / fps, name, what) for name, what in found]
    return follower, changes


def test_things_that_pass_each_other_keep_their_numbers():
    way = np.linspace(40, 210, 60)
    frames = [
        draw(("red", "box", x, 60, 20), ("red", "box", 250 - x, 110, 20), ("blue", "disc", x, 150, 20)) for x in way
    ]
    follower, _ = follow(frames)
    things = {thing.name: thing for thing in follower.things()}
    assert [thing.name for thing in follower.things()] == ["red box", "red box", "blue disc"]
    for thing in follower.things():
        assert len(thing.time_s) == 60 and np.ptp(thing.place[:, 1]) < 0.01
        assert thing.way == pytest.approx(170 / SHAPE[1], rel=0.1)
    assert things["blue disc"].place[-1, 0] == pytest.approx(210 / SHAPE[1], abs=0.01)


def test_moving_resting_hiding_and_leaving_are_told_at_their_times():
    still, way = [60.0] * 30, list(np.linspace(60, 180, 30))
    places = [*still, *way, *[180.0] * 30]
    frames = [draw(("green", "box", x, 90, 20)) for x in places]
    frames[70:80] = [ground()] * 10  # something stands before it for half a second
    frames += [ground()] * 40
    follower, changes = follow(frames)
    assert [(name, what) for _, name, what in changes] == [
        ("green box", what) for what in ("moves", "rests", "is gone")
    ]
    np.testing.assert_allclose([time_s for time_s, _, _ in changes], [1.7, 3.4, 4.5 + LOST_S], atol=0.3)
    (thing,) = follower.things()
    assert thing.way == pytest.approx(120 / SHAPE[1], rel=0.15)


def test_a_flicker_is_no_thing():
    frames = [draw(("red", "box", 60, 60, 20)) if number % 40 < 4 else ground() for number in range(120)]
    follower, changes = follow(frames)
    assert not follower.things() and not changes


def test_what_comes_later_appears_and_what_is_half_hidden_does_not_move():
    frames = [
        draw(("blue", "box", 90, 90, 24), *[("red", "disc", 200, 60, 20)] * (number > 20)) for number in range(80)
    ]
    for number, frame in enumerate(frames[40:56]):
        frame[:, 60 + 3 * number : 76 + 3 * number] = 20  # a dark bar passes before the box
    _, changes = follow(frames)
    assert ("red disc", "appears") in [(name, what) for _, name, what in changes]
    assert not [change for change in changes if change[2] == "moves"]


def test_every_disc_of_a_scene_is_followed_and_carried_ones_have_moved(tmp_path):
    scene = record(3)
    track = track_of(replace(scene, frames=on_grey(scene.frames)), tmp_path)
    moved = sorted(thing.name.split()[0] for thing in track.things if thing.way > 0.1)
    assert {thing.name.split()[0] for thing in track.things} == {"red", "green", "blue", "yellow"}
    assert set(moved) == {"red", "green"}
    for thing in track.things:
        assert np.isin(thing.time_s, track.time_s[track.sample]).all() and thing.place.shape == (len(thing.time_s), 4)
