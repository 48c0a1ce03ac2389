"""Instructions: what is said is understood, and what is held out stays out."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.tabletop import language
from envs.tabletop.goals import KINDS, SIDES, Goal
from envs.tabletop.language import COLOURS, PICKABLE, SHAPES, TEMPLATES
from envs.tabletop.splits import HELDOUT_PAIRS, HELDOUT_PARAPHRASES, SPLITS, looks, object_count

names = {shapes: [f"{colour} {shape}" for colour in COLOURS for shape in shapes] for shapes in (PICKABLE, SHAPES)}


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    """Any goal that makes sense."""
    kind = draw(st.sampled_from(KINDS))
    if kind in ("open", "close", "press"):
        return Goal(kind)
    thing = draw(st.sampled_from(names[PICKABLE]))
    if kind == "pick":
        return Goal(kind, thing)
    if kind == "push" and draw(st.booleans()):
        return Goal(kind, thing, side=draw(st.sampled_from(SIDES)))
    shapes = {"place": ("bowl", "plate"), "stack": PICKABLE, "push": SHAPES}[kind]
    targets = [f"{colour} {shape}" for colour in COLOURS for shape in shapes]
    return Goal(kind, thing, draw(st.sampled_from([target for target in targets if target != thing])))


@given(goal=goals(), seed=st.integers(0, 10_000), split=st.sampled_from(SPLITS))
@settings(max_examples=300, deadline=None)
def test_parse_inverts_phrase(goal: Goal, seed: int, split: str) -> None:
    assert language.parse(language.phrase(goal, np.random.default_rng(seed), split)) == [goal]


@given(several=st.lists(goals(), min_size=2, max_size=5), seed=st.integers(0, 10_000), split=st.sampled_from(SPLITS))
@settings(max_examples=200, deadline=None)
def test_parse_inverts_instruction(several: list[Goal], seed: int, split: str) -> None:
    assert language.parse(language.instruction(several, np.random.default_rng(seed), split)) == several


@given(goal=goals())
@settings(max_examples=100, deadline=None)
def test_every_paraphrase_means_its_goal_and_differs_from_the_others(goal: Goal) -> None:
    key = language.template_of(goal)
    said = {language.phrase(goal, np.random.default_rng(seed)) for seed in range(200)}
    assert said == {language._fill(template, goal) for template in TEMPLATES[key]}
    assert language.parse(language.canonical(goal)) == [goal]


@pytest.mark.parametrize("key", TEMPLATES)
def test_every_template_has_enough_paraphrases_and_none_is_held_out(key: str) -> None:
    assert len(set(TEMPLATES[key])) >= 6
    assert len(set(HELDOUT_PARAPHRASES[key])) >= 2
    assert not set(TEMPLATES[key]) & set(HELDOUT_PARAPHRASES[key])


def test_held_out_paraphrases_use_only_words_of_training() -> None:
    trained = set(re.findall(r"[a-z]+", " ".join(text for texts in TEMPLATES.values() for text in texts)))
    held_out = set(re.findall(r"[a-z]+", " ".join(text for texts in HELDOUT_PARAPHRASES.values() for text in texts)))
    assert held_out <= trained
    assert len(language.words()) <= 80


def test_held_out_pairs_leave_every_colour_and_shape_in_training() -> None:
    trained = language.object_names()
    assert set(HELDOUT_PAIRS) == set(language.object_names(heldout=True))
    assert not set(trained) & set(HELDOUT_PAIRS)
    assert {name.split()[0] for name in trained} == set(COLOURS)
    assert {name.split()[1] for name in trained} == set(SHAPES)


def test_held_out_looks_and_counts_do_not_overlap_training() -> None:
    train, held_out = looks("train"), looks("heldout_looks")
    for field in ("camera_shift_m", "camera_tilt_deg", "light_gain", "light_angle_deg", "shade", "table_gain"):
        (low, high), (other_low, other_high) = getattr(train, field), getattr(held_out, field)
        assert low < high and other_low < other_high, field
        assert other_high < low or other_low > high, field
    assert not set(train.textures) & set(held_out.textures)
    assert object_count("heldout_counts")[0] > object_count("train")[1]
    assert looks("heldout_counts") == train


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("Put the red cube in the blue bowl.", ["place"]),
        ("  open the drawer AND press the button ", ["open", "press"]),
        ("open the drawer; press the button. After that, shut the drawer!", ["open", "press", "close"]),
        ("pick up the red cube and put it on the white plate, and then open the drawer", ["place", "open"]),
    ],
)
def test_ways_of_typing_do_not_matter(text: str, kinds: list[str]) -> None:
    assert [goal.kind for goal in language.parse(text)] == kinds


@pytest.mark.parametrize(
    "text, parts",
    [
        ("throw the red cube into the blue bowl", ["unknown words: throw", "'drop the red cube into the blue bowl'"]),
        ("pick up the pink cube", ["unknown words: pink", "colours: red, green"]),
        ("put the red bowl in the blue bowl", ["nearest", "X is a cube or a cylinder"]),
        ("stack the red cube on the red cube", ["is not an instruction"]),
        ("", ["is not an instruction"]),
    ],
)
def test_refusal_says_what_is_unknown_nearest_and_possible(text: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        language.parse(text)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize("goal", [Goal("push", "red cube"), Goal("pick", "red bowl"), Goal("open", "red cube")])
def test_a_goal_without_a_sentence_is_refused(goal: Goal) -> None:
    with pytest.raises(ValueError, match="cannot be said"):
        language.canonical(goal)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'test' is not known; possible: train"):
        language.phrase(Goal("open"), np.random.default_rng(0), "test")
