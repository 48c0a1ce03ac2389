"""What a dual encoder finds is scored by the truth: one that knows finds all, one that is blind no more than grey."""

import numpy as np
import pytest

from vla.bench.dual import Frame, _chance, scored

FACTS = ["a red cube", "a blue cube", "an orange bowl", "a green plate", "a red bowl", "the drawer is open"]
HELD = "the gripper is holding the "


def frame(episode, facts):
    """A frame whose picture holds which facts are true, so that an encoder can read them."""
    code = np.zeros((4, 4, 3), np.uint8)
    code.reshape(-1)[: len(WORDS)] = [255 * (word in facts) for word in WORDS]
    return Frame(episode, {"front": code}, tuple(facts))


WORDS = [*FACTS, "the drawer is closed", f"{HELD}red cube", f"{HELD}blue cube", f"{HELD}orange bowl"]
FRAMES = [
    frame(0, ["a red cube", "a blue cube", "the drawer is open", f"{HELD}red cube"]),
    frame(0, ["a red cube", "a blue cube", "the drawer is closed"]),
    frame(1, ["a blue cube", "an orange bowl", "the drawer is closed", f"{HELD}blue cube"]),
    frame(1, ["a green plate", "an orange bowl", "the drawer is closed"]),
    frame(2, ["a red bowl", "a green plate", "the drawer is open"]),
]


class Knowing:
    """Vectors whose products are how many facts of a sentence are true of a frame, its own share first."""

    def embed_images(self, observations):
        rows = np.stack([o.images["front"].reshape(-1)[: len(WORDS)] for o in observations]) / 255.0
        return (rows / np.sqrt(rows.sum(axis=1, keepdims=True).clip(1e-9))).astype(np.float32)

    def embed_texts(self, texts):
        rows = np.array([[word in text.split(", ") for word in WORDS] for text in texts], np.float32)
        return rows / np.sqrt(rows.sum(axis=1, keepdims=True).clip(1e-9))


class Blind(Knowing):
    """Makes the same of every frame."""

    def embed_images(self, observations):
        return np.ones((len(observations), len(WORDS)), np.float32)


def values(found):
    """All shares in a result, by path."""
    flat = {}
    for name, part in found.items():
        if isinstance(part, dict):
            flat |= {f"{name}.{path}": value for path, value in values(part).items()}
        elif name in ("value", "average_precision"):
            flat[name] = part
    return flat


def test_who_knows_finds_and_names_everything():
    found = scored(Knowing(), FRAMES, 50, np.random.default_rng(0))
    grey = found.pop("grey")
    assert found["facts"]["recall_at_1"]["value"] == 1.0 and found["facts"]["average_precision"] == pytest.approx(1.0)
    assert found["captions"]["recall_at_1"]["value"] == 1.0 and found["captions"]["queries"] == 3
    assert {kind: part["value"] for kind, part in found["labels"].items()} == {
        "things": 1.0,
        "drawer": 1.0,
        "held": 1.0,
    }
    assert {kind: part["asked"] for kind, part in found["labels"].items()} == {"things": 5, "drawer": 5, "held": 2}
    assert found["labels"]["things"]["random"] == 0.25 and found["labels"]["held"]["random"] == 0.5
    assert grey["facts"]["average_precision"] < 0.8 and grey["facts"].keys() == found["facts"].keys()


def test_who_sees_nothing_is_as_good_with_grey_pictures():
    found = scored(Blind(), FRAMES, 50, np.random.default_rng(0))
    grey = found.pop("grey")
    assert found["captions"]["recall_at_1"]["value"] == 0.0
    assert values(found) == values(grey) and found["facts"]["average_precision"] < 0.8


def test_facts_that_are_true_of_most_frames_are_no_queries():
    found = scored(Knowing(), FRAMES, 50, np.random.default_rng(0))
    assert (
        found["facts"]["queries"] == len(WORDS) - 3
    )  # not a blue cube and a closed drawer, of three frames, and a held bowl


def test_chance_is_that_of_drawing_frames():
    assert _chance(np.array([True, False, False, False]), 1) == pytest.approx(0.25)
    assert _chance(np.array([True, True, False, False]), 2) == pytest.approx(1 - 1 / 6)
    assert _chance(np.array([True] * 3 + [False] * 3), 5) == 1.0
