"""What is drawn on the table: splits kept, nothing overlapping, words that matter, goals that can be done."""

import itertools

import numpy as np
import pytest

from envs.tabletop import arm, scene
from envs.tabletop.goals import KINDS, Goal
from envs.tabletop.layout import DISTRACTORS, SPAWN_MAX, SPAWN_MIN, START_MAX, START_MIN, draw
from envs.tabletop.splits import HELDOUT_PAIRS, object_count

SCENES = 20


def layouts(kinds=KINDS, subtasks=(1, 1), split="train"):
    return [draw(np.random.default_rng(seed), kinds=kinds, subtasks=subtasks, split=split) for seed in range(SCENES)]


def named(goals) -> set[str]:
    return {name for goal in goals for name in (goal.object, goal.target) if name}


def test_spawn_area_is_large_enough_and_inside_the_vertical_reach():
    assert ((SPAWN_MAX - SPAWN_MIN) >= (0.15, 0.25)).all()
    for x, y in itertools.product(*zip(SPAWN_MIN, SPAWN_MAX, strict=True)):
        arm.ik_vertical(x, y, 0.012)
    for corner in itertools.product(*zip(START_MIN, START_MAX, strict=True)):
        arm.ik_vertical(*corner)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_stand_apart_inside_the_spawn_area(kind):
    for layout in layouts(kinds=(kind,)):
        for one, other in itertools.combinations(layout.placements, 2):
            assert np.hypot(one.x - other.x, one.y - other.y) >= 0.060
        for place in layout.placements:
            assert SPAWN_MIN[0] <= place.x <= SPAWN_MAX[0] and SPAWN_MIN[1] <= place.y <= SPAWN_MAX[1]
            assert 0.020 <= 2 * place.half_size <= 0.030


@pytest.mark.parametrize("subtasks", [(1, 1), (2, 5)])
def test_scenes_hold_the_named_objects_and_three_more_without_doubles(subtasks):
    for layout in layouts(subtasks=subtasks):
        names = [place.name for place in layout.placements]
        assert len(set(names)) == len(names) and named(layout.goals) <= set(names)
        assert len(names) >= len(named(layout.goals)) + DISTRACTORS
        assert subtasks[0] <= len(layout.goals) <= subtasks[1]
        for shape, slots in scene.SLOTS.items():
            assert sum(name.endswith(shape) for name in names) <= slots


def test_long_instructions_never_name_more_of_a_shape_than_a_scene_holds():
    layout = draw(np.random.default_rng(852), kinds=KINDS, subtasks=(4, 5))  # its first goals name four cylinders
    names = [place.name for place in layout.placements]
    assert named(layout.goals) <= set(names)
    for shape, slots in scene.SLOTS.items():
        assert sum(name.endswith(shape) for name in names) <= slots


@pytest.mark.parametrize("kind", ["pick", "place", "stack", "push"])
def test_a_scene_has_another_object_that_the_same_words_could_name(kind):
    for layout in layouts(kinds=(kind,)):
        (goal,), swapped = layout.goals, layout.swapped
        assert swapped.kind == goal.kind and swapped.object != goal.object
        assert named([swapped]) <= {place.name for place in layout.placements}
        shape = goal.object.split()[1]
        assert sum(place.name.endswith(shape) for place in layout.placements) >= 2


def test_training_scenes_never_hold_held_out_pairs():
    for layout in layouts(subtasks=(1, 3)):
        assert not {place.name for place in layout.placements} & set(HELDOUT_PAIRS)
        assert not named([*layout.goals, layout.swapped]) & set(HELDOUT_PAIRS)


def test_held_out_objects_are_what_is_asked_for_in_their_split():
    for layout in layouts(kinds=("pick", "place", "stack", "push"), split="heldout_objects"):
        assert layout.goals[0].object in HELDOUT_PAIRS


def test_held_out_counts_are_more_than_in_training():
    low, high = object_count("heldout_counts")
    assert all(low <= len(layout.placements) <= high for layout in layouts(kinds=("pick",), split="heldout_counts"))
    assert all(len(layout.placements) < low for layout in layouts(kinds=("pick",)))


def test_long_instructions_can_be_done_in_order():
    for layout in layouts(subtasks=(2, 5)):
        goals = layout.goals
        drawer = [goal.kind for goal in goals if goal.kind in ("open", "close")]
        assert all(a != b for a, b in itertools.pairwise(drawer))
        if drawer:
            assert (layout.drawer_opening > 0.8) == (drawer[0] == "close")
        assert all(goal.kind != "pick" for goal in goals[:-1])
        used = [name for goal in goals for name in (goal.object, goal.target) if name]
        assert len(set(used)) == len(used)


def test_given_goals_are_kept_and_impossible_ones_refused():
    goal = Goal("place", "purple cube", target="orange bowl")
    assert draw(np.random.default_rng(0), kinds=("pick",), goals=[goal]).goals == (goal,)
    bowls = [Goal("place", "red cube", target=f"{colour} bowl") for colour in ("red", "green", "blue")]
    with pytest.raises(ValueError, match="3 bowls"):
        draw(np.random.default_rng(0), kinds=("place",), goals=bowls)
    with pytest.raises(ValueError, match=r"2 subtasks cannot be made of \['open'\] alone"):
        draw(np.random.default_rng(0), kinds=("open",), subtasks=(2, 2))


def test_a_button_that_is_to_be_pressed_is_dark_at_first_and_is_pressed_once():
    with pytest.raises(ValueError, match="ask for it once"):
        draw(np.random.default_rng(0), [], goals=[Goal("press"), Goal("open"), Goal("press")])
    for kind, possible in (("press", {False}), ("open", {False}), ("place", {False, True})):
        assert {draw(np.random.default_rng(seed), [kind]).lit for seed in range(20)} == possible


def test_same_seed_draws_the_same_scene():
    assert draw(np.random.default_rng(4), kinds=KINDS) == draw(np.random.default_rng(4), kinds=KINDS)
