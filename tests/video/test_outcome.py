"""What goes wrong is told with its moment and evidence; what goes right, or is put right, is no failure."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import Scene, record
from vla.video.grips import grips
from vla.video.outcome import FAILURE, MODES, NONE, SUSPECTS, UNKNOWN, Suspect, decided, judge
from vla.video.source import Item
from vla.video.things import Moved, colours_named, shape_named

TASK = "put the disc down, then put the disc down"


def outcome(scene: Scene, task: str = TASK, **changes):
    """Judge a scene whose state is changed."""
    return judge(Item("scene", Path("."), {}, task=task, state=replace(scene.state, **changes)), {})


def closed(scene: Scene, start_s: float, stop_s: float, opening: float = 0.0) -> np.ndarray:
    """Return the gripper with another opening between two times."""
    gripper = scene.state.gripper.copy()
    here = (scene.state.time_s >= start_s - 1e-6) & (scene.state.time_s <= stop_s + 1e-6)
    gripper[here & (gripper[:, 0] <= 0.5)] = opening
    return gripper


@pytest.mark.parametrize("seed", range(4))
def test_two_discs_carried_well_are_no_failure(seed):
    found = outcome(record(seed))
    assert (found.label, found.suspects, found.failure) == (NONE, (), None)


@pytest.mark.parametrize("seed", range(4))
def test_what_falls_out_of_the_gripper_slips_at_that_moment(seed):
    scene = record(seed)
    grip = grips(scene.state)[1]
    lost_s = round((grip.closed_s + grip.stop_s) / 2, 1)
    found = outcome(scene, gripper=closed(scene, lost_s, grip.stop_s))
    assert found.label == FAILURE and found.failure is not None
    assert found.failure.mode == "slip" and found.failure.time_s == pytest.approx(lost_s, abs=0.11)
    assert "while it holds" in found.failure.evidence[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_gripper_that_closes_on_nothing_misses_and_what_follows_puts_it_right(seed):
    scene = record(seed)
    first, second = grips(scene.state)
    missed = closed(scene, first.closed_s - 0.05, first.stop_s)
    found = outcome(scene, gripper=missed)  # the second disc makes no good for the first
    assert found.failure is not None and found.failure.mode == "missed_grasp"
    assert found.failure.time_s == pytest.approx(first.closed_s, abs=0.11)
    again = outcome(scene, task="put the disc down", gripper=missed)
    assert again.label == NONE and [suspect.put_right for suspect in again.suspects] == [True]
    last = outcome(scene, task="put the disc down", gripper=closed(scene, second.closed_s - 0.05, second.stop_s))
    assert last.failure is not None and last.failure.time_s == pytest.approx(second.closed_s, abs=0.11)


def test_an_instruction_that_asks_for_no_grasp_is_not_judged_by_the_gripper():
    scene = record(1)
    first, _ = grips(scene.state)
    missed = closed(scene, first.closed_s - 0.05, first.stop_s)
    assert outcome(scene, task="push the button", gripper=missed).label == NONE


@pytest.mark.parametrize("ahead", [0.0, 0.4])
def test_an_arm_that_pushes_against_a_wall_is_blocked_and_one_that_rests_is_not(ahead):
    scene = record(2, rest_s=2.0)
    speed = np.linalg.norm(np.gradient(scene.state.joints, axis=0), axis=1)
    rest = int(np.argmax(np.convolve(speed < 1e-6, np.ones(15), mode="valid") == 15))
    command = np.vstack([scene.state.joints[1:], scene.state.joints[-1:]])
    command[rest + 2 : rest + 15] += ahead
    found = outcome(scene, task="open the drawer", command=command)
    assert found.label == (FAILURE if ahead else NONE)
    if found.failure:
        assert found.failure.mode == "blocked"
        assert found.failure.time_s == pytest.approx(scene.state.time_s[rest + 3], abs=0.21)


def test_without_a_state_nothing_is_claimed():
    assert judge(Item("video", Path("."), {}), {}).label == UNKNOWN
    scene = record(0)
    broken = scene.state.gripper.copy()
    broken[3] = np.nan
    assert outcome(scene, gripper=broken).label == UNKNOWN


suspects = st.lists(
    st.builds(Suspect, st.floats(0, 60), st.sampled_from(sorted(MODES)), st.just(("seen",)), st.booleans()), max_size=6
)


@settings(deadline=None)
@given(suspects)
def test_it_failed_just_if_the_first_suspect_was_not_put_right(listed):
    found = decided(listed)
    assert (found.label == FAILURE) == bool(listed and not listed[0].put_right)
    assert len(found.suspects) == min(len(listed), SUSPECTS) and found.words
    assert (found.failure is None) == (found.label != FAILURE)


def table(*things: tuple[str, str, tuple[int, int]]) -> np.ndarray:
    """Draw boxes and discs of 12 pixels on a grey table."""
    colours = {"red": (215, 20, 20), "blue": (25, 60, 220), "green": (25, 160, 45)}
    image = np.full((128, 256, 3), 170, np.uint8)
    for shape, colour, (x, y) in things:
        if shape == "box":
            cv2.rectangle(image, (x - 6, y - 6), (x + 6, y + 6), colours[colour], -1)
        else:
            cv2.circle(image, (x, y), 7, colours[colour], -1)
    return image


def test_the_colour_that_moved_is_told_and_what_only_goes_is_not():
    before = table(("box", "red", (40, 40)), ("box", "blue", (90, 80)), ("disc", "green", (200, 30)))
    after = table(("box", "red", (150, 90)), ("box", "blue", (90, 80)))
    change = Moved(before, after)
    assert change.share("red") > 0.003 and change.share("blue") == change.share("green") == 0


@pytest.mark.parametrize("leaves", ["box", "disc"])
def test_of_two_things_of_a_colour_the_one_that_left_is_told_by_its_shape(leaves):
    box, disc = ("box", "red", (40, 40)), ("disc", "red", (120, 80))
    stays, goes = (disc, box) if leaves == "box" else (box, disc)
    left = Moved(table(box, disc), table(stays, (goes[0], "red", (200, 100)))).left("red")
    assert left is not None
    squareness, (other,) = left
    assert (squareness > other) == (leaves == "box")
    assert Moved(table(box), table(disc)).left("red") is None


def test_colours_and_shapes_are_read_from_words():
    assert colours_named("put the Red cube on the black plate") == ["red", "black"]
    assert [shape_named(text) for text in ("the blue cylinder", "a green block", "it")] == ["round", "square", ""]
