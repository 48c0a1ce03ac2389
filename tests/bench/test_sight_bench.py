"""Questions about things are balanced and true, spoilt pictures keep true boxes, and rates are what they say."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.bench.retrieval import recall, spans
from vla.bench.sight import BINS, SPOILED, WAYS, Scene, Sight, never_shown, pope, rates, spoil

COLOURS, SHAPES = ("red", "green", "blue", "orange"), ("cube", "bowl", "plate")
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
HEIGHT, WIDTH = 120, 240


def scene_of(names, hidden=()) -> Scene:
    """Draw a white box for every thing on a black table."""
    image, boxes = np.zeros((HEIGHT, WIDTH, 3), np.uint8), {}
    for number, name in enumerate(names):
        x, y = 30 + 45 * (number % 5), 30 + 50 * (number // 5)
        cv2.rectangle(image, (x, y), (x + 9, y + 9), (255, 255, 255), -1)
        corners = (x / WIDTH, y / HEIGHT, (x + 10) / WIDTH, (y + 10) / HEIGHT)
        boxes[name] = None if name in hidden else tuple(round(value * (BINS - 1)) for value in corners)
    return Scene({"front": image}, boxes)


tables = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(tables, st.sampled_from(WAYS), st.integers(0, 100))
def test_every_way_asks_as_often_about_what_is_there_as_about_what_is_not(drawn, way, seed):
    scenes = [scene_of(names, hidden=names[:1]) for names in drawn]
    questions = pope(scenes, way, np.random.default_rng(seed))
    assert sum(there for _, _, there in questions) * 2 == len(questions)
    for scene, name, there in questions:
        if there:
            assert scene.boxes[name] is not None
        else:
            assert name not in scene.boxes  # what is there and cannot be seen is not asked about
        if way == "adversarial":
            seen = [other for other, box in scene.boxes.items() if box is not None]
            assert all(name.split()[part] in {other.split()[part] for other in seen} for part in (0, 1))


def test_popular_asks_about_what_is_common_elsewhere():
    scenes = [scene_of(["red cube", "blue bowl"])] * 5 + [scene_of(["green plate", "orange cube"])]
    asked = [name for scene, name, there in pope(scenes, "popular", np.random.default_rng(0)) if not there]
    assert set(asked[-2:]) == {"red cube", "blue bowl"}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoilt_picture_differs_and_its_boxes_hold_what_they_held(kind):
    scene = scene_of(NAMES[:8])
    seen_badly = spoil(scene, kind)
    image = seen_badly.images["front"]
    assert image.shape == (HEIGHT, WIDTH, 3) and not np.array_equal(image, scene.images["front"])
    kept = {name: box for name, box in seen_badly.boxes.items() if box is not None}
    assert len(kept) >= 3 and (kind in ("rotated", "cropped")) == (kept != scene.boxes)
    for left, top, right, bottom in kept.values():
        part = image[
            round(top / BINS * HEIGHT) : round(bottom / BINS * HEIGHT),
            round(left / BINS * WIDTH) : round(right / BINS * WIDTH),
        ]
        assert part.mean() > 2 * image.mean()


def test_rates_are_those_of_the_paper():
    pairs = [(True, "yes"), (True, "no"), (False, "no"), (False, "yes"), (False, "maybe"), (True, "yes")]
    found = rates(pairs)
    assert found["accuracy"] == pytest.approx(3 / 6) and found["yes_ratio"] == pytest.approx(3 / 6)
    assert found["precision"] == pytest.approx(2 / 3) and found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3) and found["questions"] == 6
    assert rates([])["accuracy"] is None


def test_what_is_never_shown_is_of_colours_and_shapes_in_sight_and_in_no_scene():
    box = (0, 0, 9, 9)
    scenes = [Scene({}, {"red cube": box, "blue bowl": box, "green plate": None}), Scene({}, {"blue cube": box})]
    assert [(scene is scenes[0], name, there) for scene, name, there in never_shown(scenes)] == [
        (True, "red bowl", False)  # no plate is in sight, and a blue cube is shown
    ]


@pytest.mark.slow
def test_the_shipped_checkpoint_is_asked_about_scenes_of_the_simulator():
    sizes = {"front": (128, 256), "wrist": (128, 128)}
    found = Sight("envs:tabletop/Mixed-v0", {"image_size": sizes}, scenes=3, degraded=8, seed=1).measure()
    assert set(found["pope"]) == set(WAYS) and set(found["degraded"]) == set(SPOILED)
    assert all(own["questions"] >= 12 and own["accuracy"] > 0.5 for own in found["pope"].values())
    assert found["pointing"]["questions"] >= 12 and found["pointing"]["box_iou"] > 0.1


def test_search_finds_labelled_moments_and_chance_is_lower():
    true = [spans(["open the drawer"] * 30 + [f"pick up the {name}"] * 20, 10.0) for name in NAMES[:6]]
    records = [
        {
            "source": {"name": f"episode {number}", "task": "tidy up"},
            "keyframes": [],
            "qa": [],
            "outcome": {"label": "none", "words": "nothing", "moment_s": None, "suspects": []},
            "segments": [{"start_s": a, "stop_s": b, "label": text, "why": []} for a, b, text in own],
        }
        for number, own in enumerate(true)
    ]
    found = recall(records, true)
    assert found["recall_at_1"] == found["recall_at_5"] == 1 and found["queries"] == 7
    assert found["random_at_1"] is not None and found["random_at_1"] < 0.3
    blank = [record | {"segments": [part | {"label": "move"} for part in record["segments"]]} for record in records]
    assert recall(blank, true)["recall_at_1"] == 0
