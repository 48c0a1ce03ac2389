"""What a made-up name means, told by worked examples alone: accuracy by the number of examples, with controls.

Each question is about a thing in a scene, under a name that means something else in the next question: "point to the
dax", and "what is the dax". Examples show the thing in other scenes and point to it by that name. Controls, each with
the most examples:

| control       | what is changed                                           | what is left if examples count         |
|---------------|-----------------------------------------------------------|----------------------------------------|
| other_boxes   | boxes of the examples are those of other things, mixed    | no more than by none                   |
| other_thing   | examples point to another thing in sight, always the same | that one is pointed at: see `followed` |
| grey_examples | frames of the examples are grey                           | no more than by none                   |
| grey_question | the frame of the question is grey                         | nothing to point at                    |

`by_its_name` asks for the same things by their real names: what no example can improve on.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from vla.bench.sight import BATCH, TOKENS, Box, Scene, Sight
from vla.evaluate.questions import box_iou
from vla.evaluate.statistics import Rate
from vla.model.checkpoint import load
from vla.model.few_shot import Shot
from vla.model.prompts import NAMES, point_prompt, what_prompt
from vla.model.vocabulary import read_box
from vla.types import Observation

GREY = 128


class Eyes(Protocol):
    """Whoever answers about scenes after examples."""

    def generate(
        self,
        observations: Sequence[Observation],
        prompts: Sequence[str],
        max_tokens: int = 24,
        shots: Sequence[Sequence[Shot]] = (),
    ) -> list[str]:
        """Answer as `VLAPolicy.generate` does."""
        ...


@dataclass(frozen=True)
class Case:
    """A thing to be pointed at in a scene, other scenes that show it, and other things to be misled by."""

    scene: Scene
    thing: str
    name: str
    examples: tuple[tuple[Scene, str], ...]  # scenes, and what is pointed at in them
    other: str  # another thing in sight
    misleading: tuple[tuple[Scene, str], ...]  # scenes that show that one
    mixed: tuple[tuple[Scene, str], ...]  # the scenes of the examples, and any other thing in each of them


def measure(
    *,
    seed: int,
    checkpoint: str | None,
    device: str,
    threads: int,
    shots: Sequence[int],
    questions: int,
    sight: Sight,
) -> dict[str, Any]:
    """Ask a checkpoint about scenes that no weight was chosen on.

    A box is right where it overlaps the true one by half; `chosen` counts boxes whose middle is nearest to that of the
    thing meant, among all in sight, by chance `chosen_by_chance`. Raises ValueError for a checkpoint that was never
    taught made-up names, or cannot read so many examples.
    """
    torch.set_num_threads(threads)
    if checkpoint is None:
        raise ValueError("checkpoint=null: give a folder that vla train recipe=few_shot wrote")
    policy = load(checkpoint, device=device)
    if unknown := policy.unknown_words(" ".join(NAMES)):
        raise ValueError(f"{checkpoint} was never taught {unknown}: train one with vla train recipe=few_shot")
    scenes = list(replace(sight, seed=sight.seed + seed).draw(sight.scenes))
    cases = draw(scenes, questions, max(shots), np.random.default_rng([sight.seed, seed]))
    return report(policy, cases, shots) | {"scenes": sight.scenes}


def report(policy: Eyes, cases: Sequence[Case], shots: Sequence[int]) -> dict[str, Any]:
    """Accuracy by the number of examples, and of the controls with the most."""
    most = max(shots)
    misled = [replace(case, examples=case.misleading) for case in cases]
    controls = {
        "other_boxes": [replace(case, examples=case.mixed) for case in cases],
        "other_thing": misled,
        "grey_examples": [
            replace(case, examples=tuple((_grey(scene), thing) for scene, thing in case.examples)) for case in cases
        ],
        "grey_question": [replace(case, scene=_grey(case.scene)) for case in cases],
    }
    return {
        "point": {str(count): point(policy, cases, count) for count in shots},
        "point_controls": {name: point(policy, changed, most) for name, changed in controls.items()},
        "followed": point(policy, [replace(case, thing=case.other) for case in misled], most),
        "what": {str(count): what(policy, cases, count) for count in shots},
        "what_controls": {name: what(policy, changed, most) for name, changed in controls.items()},
        "by_its_name": point(policy, [replace(case, name=case.thing) for case in cases], 0),
        "chosen_by_chance": float(np.mean([1 / len(_in_sight(case.scene)) for case in cases])),
        "questions": len(cases),
    }


def draw(scenes: Sequence[Scene], count: int, most: int, rng: np.random.Generator) -> list[Case]:
    """Draw questions about things that at least `most` other scenes show, beside another such thing in sight."""
    showing: defaultdict[str, list[Scene]] = defaultdict(list)
    for scene in scenes:
        for thing in _in_sight(scene):
            showing[thing].append(scene)
    known = {thing for thing, where in showing.items() if len(where) > most}
    possible = []
    for scene in scenes:
        things = [thing for thing in _in_sight(scene) if thing in known]
        possible += [(scene, thing) for thing in things if len(things) > 1]
    if not possible:
        raise ValueError(f"no thing is in sight in more than {most} of {len(scenes)} scenes: raise sight.scenes=")
    cases = []
    for row in rng.permutation(len(possible))[:count]:
        scene, thing = possible[row]
        others = [other for other in _in_sight(scene) if other in known and other != thing]
        other = others[rng.integers(len(others))]
        examples, misleading = (_examples(showing[name], scene, name, most, rng) for name in (thing, other))
        mixed = tuple((shown, _another(shown, thing, rng)) for shown, _ in examples)
        cases.append(Case(scene, thing, NAMES[rng.integers(len(NAMES))], examples, other, misleading, mixed))
    return cases


def point(policy: Eyes, cases: Sequence[Case], count: int) -> dict[str, Any]:
    """Say how often the box is that of the thing, and how often the thing is the nearest of all in sight."""
    boxes = [read_box(text) for text in _ask(policy, cases, [point_prompt(case.name) for case in cases], count)]
    pairs = list(zip(cases, boxes, strict=True))
    right = Rate.of(box is not None and box_iou(box, _box(case.scene, case.thing)) >= 0.5 for case, box in pairs)
    chosen = Rate.of(box is not None and _nearest(case.scene, box) == case.thing for case, box in pairs)
    return {"accuracy": right.value, "ci95": right.ci95, "chosen": chosen.value, "chosen_ci95": chosen.ci95}


def what(policy: Eyes, cases: Sequence[Case], count: int) -> dict[str, Any]:
    """Say how often the real name is told."""
    said = _ask(policy, cases, [what_prompt(case.name) for case in cases], count)
    right = Rate.of(text == case.thing for case, text in zip(cases, said, strict=True))
    return {"accuracy": right.value, "ci95": right.ci95}


def _ask(policy: Eyes, cases: Sequence[Case], prompts: Sequence[str], count: int) -> list[str]:
    answers: list[str] = []
    for start in tqdm(range(0, len(cases), BATCH), unit="batch", desc=f"{count} shots", leave=False):
        part = cases[start : start + BATCH]
        shots = [[_shot(case.name, *example) for example in case.examples[:count]] for case in part]
        observations = [_observed(case.scene) for case in part]
        answers += policy.generate(observations, prompts[start : start + BATCH], TOKENS, shots=shots)
    return [answer.strip() for answer in answers]


def _shot(name: str, scene: Scene, thing: str) -> Shot:
    box = " ".join(str(value) for value in _box(scene, thing))
    return Shot(_observed(scene), point_prompt(name), f"<box {box}>")


def _observed(scene: Scene) -> Observation:
    return Observation(dict(scene.images), np.zeros(0, np.float32), "", 0.0)  # joints are not read for words


def _examples(
    scenes: Sequence[Scene], asked: Scene, thing: str, most: int, rng: np.random.Generator
) -> tuple[tuple[Scene, str], ...]:
    others = [scene for scene in scenes if scene is not asked]
    return tuple((others[row], thing) for row in rng.permutation(len(others))[:most])


def _another(scene: Scene, thing: str, rng: np.random.Generator) -> str:
    """Any other thing in sight; the same where there is none."""
    others = [other for other in _in_sight(scene) if other != thing] or [thing]
    return others[rng.integers(len(others))]


def _in_sight(scene: Scene) -> list[str]:
    return [thing for thing, box in scene.boxes.items() if box is not None]


def _box(scene: Scene, thing: str) -> Box:
    box = scene.boxes[thing]
    assert box is not None, f"{thing} is drawn from things in sight"
    return box


def _nearest(scene: Scene, box: Box) -> str:
    """The thing in sight whose middle is nearest to that of a box, as wide as high."""

    def apart(thing: str) -> float:
        own = _box(scene, thing)
        return float(np.hypot(own[0] + own[2] - box[0] - box[2], (own[1] + own[3] - box[1] - box[3]) / 2))

    return min(_in_sight(scene), key=apart)


def _grey(scene: Scene) -> Scene:
    return replace(scene, images={name: np.full_like(image, GREY) for name, image in scene.images.items()})
