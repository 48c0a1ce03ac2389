"""What a checkpoint sees and what it makes up: POPE's three ways, boxes, and both again on spoilt pictures.

Li et al. 2023, Evaluating Object Hallucination in Large Vision-Language Models: as many questions about things that
are there as about things that are not, the latter drawn at random, from what is there most often otherwise, or
(adversarial; things are placed independently here, so co-occurrence says nothing) from what shares its colour with one
thing in sight and its shape with another.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
from tqdm import tqdm

from vla.bench.ledger import Ledger
from vla.control.views import by_views
from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.questions import box_iou
from vla.model.checkpoint import DEFAULT, digest, load
from vla.model.vocabulary import read_box
from vla.types import Observation

WAYS = ("random", "popular", "adversarial")
BINS = 1024  # of a box, across and down the image
BATCH, TOKENS = 32, 16
KEPT = 0.8  # share of each side that a cropped picture keeps
TURNED_DEG = 10.0
DARK = 0.35
BLUR = 0.01  # standard deviation of a blurred picture, of its width
Box = tuple[int, int, int, int]  # left, top, right, bottom, 0..BINS - 1


@dataclass(frozen=True)
class Scene:
    """One still picture of each camera, and where what is on the table lies in the one that boxes are about."""

    images: Mapping[str, np.ndarray]  # camera -> uint8[H, W, 3]
    boxes: Mapping[str, Box | None]  # thing -> its box, None where it cannot be seen


@dataclass(frozen=True)
class Sight:
    """Draws scenes of an environment and asks a checkpoint about them."""

    id: str  # of the gymnasium environment, whose things_in_sight() tells the truth
    env: Mapping[str, Any]  # its arguments
    scenes: int
    degraded: int  # pictures, a quarter of each kind
    seed: int
    checkpoint: str | None = None  # a folder, None for the shipped one
    device: str = "cpu"
    by_views: bool = False  # whether questions are also asked of several views of a picture, as the planner does

    @property
    def identity(self) -> dict[str, str]:
        """What the answers depend on."""
        return {"sight": repr(self), "weights": digest(Path(self.checkpoint or DEFAULT))}

    def measure(self, ledger: Ledger | None = None) -> dict[str, Any]:
        """Return `pope` by way, `pointing` and `degraded` by kind of spoiling, each with the number of questions.

        `pope_by_views` has the answers of the majority of views; `pope_never_shown` those about colours and shapes
        that are in sight, but nowhere together (in training's scenes: the pairs that it never sees), so that every yes
        is false. What a ledger holds is not asked again.
        """
        policy = load(self.checkpoint or DEFAULT, device=self.device)
        scenes = list(self.draw(max(self.scenes, -(-self.degraded // 4))))
        asked, few = scenes[: self.scenes], scenes[: self.degraded // 4]

        def once(key: str, ask: Callable[[], Any]) -> Any:
            return ledger.once(key, ask) if ledger else ask()

        def ask_about(some: Sequence[Scene], way: str, views: bool = False) -> dict[str, float | int | None]:
            rng = np.random.default_rng([self.seed, WAYS.index(way)])
            return agreement(policy, pope(some, way, rng), views)

        return {
            "pope": {way: once(f"pope {way}", partial(ask_about, asked, way)) for way in WAYS},
            "pope_never_shown": once("never shown", lambda: agreement(policy, never_shown(asked))),
            "pope_by_views": {way: once(f"views {way}", partial(ask_about, asked, way, True)) for way in WAYS}
            if self.by_views
            else None,
            "pointing": once("pointing", partial(pointing, policy, asked)),
            "degraded": {
                kind: once(kind, partial(ask_about, [spoil(scene, kind) for scene in few], "adversarial"))
                | {"images": len(few)}
                for kind in SPOILED
            },
        }

    def draw(self, count: int) -> Iterator[Scene]:
        """Yield the first pictures of so many episodes."""
        environment = gymnasium.make(self.id, disable_env_checker=True, **self.env)
        world: Any = environment.unwrapped
        with closing(environment):
            for number in tqdm(range(count), unit="scene", desc="scenes", leave=False):
                observation, _ = environment.reset(seed=self.seed + number)
                yield Scene(dict(observation["pixels"]), world.things_in_sight())


Question = tuple[Scene, str, bool]  # a picture, a thing, whether it is there


def pope(scenes: Sequence[Scene], way: str, rng: np.random.Generator) -> list[Question]:
    """Return questions about every thing that can be seen, and as many about things that are not there.

    What is not there is in other scenes, as POPE draws from the things of its pictures; see `never_shown`.
    """
    common = Counter(name for scene in scenes for name in scene.boxes)
    every = sorted(common)
    questions: list[Question] = []
    for scene in scenes:
        seen = [name for name, box in scene.boxes.items() if box is not None]
        absent = [name for name in every if name not in scene.boxes]
        if way == "adversarial":
            near = [{name.split()[part] for name in seen} for part in (0, 1)]
            absent = [name for name in absent if all(name.split()[part] in near[part] for part in (0, 1))]
        count = min(len(seen), len(absent))
        if way == "popular":
            others = sorted(absent, key=lambda name: (-common[name], name))[:count]
        else:
            others = [str(name) for name in rng.choice(absent, count, replace=False)] if count else []
        there = [str(name) for name in rng.choice(seen, count, replace=False)] if count else []
        questions += [(scene, name, True) for name in there] + [(scene, name, False) for name in others]
    return questions


def never_shown(scenes: Sequence[Scene]) -> list[Question]:
    """Return questions about colours and shapes that are in sight, but in none of the scenes together."""
    names = {name for scene in scenes for name in scene.boxes}
    questions: list[Question] = []
    for scene in scenes:
        seen = [name.split() for name, box in scene.boxes.items() if box is not None]
        pairs = sorted({f"{colour} {shape}" for colour, _ in seen for _, shape in seen} - names)
        questions += [(scene, name, False) for name in pairs]
    return questions


def agreement(
    policy: PlanningPolicy, questions: Sequence[Question], views: bool = False
) -> dict[str, float | int | None]:
    """Return accuracy, precision, recall, F1 and the share of yes; an answer that is neither yes nor no is wrong."""
    prompts = [f"is there {'an' if name[0] in 'aeiou' else 'a'} {name}" for _, name, _ in questions]
    answers = _ask(policy, [scene for scene, _, _ in questions], prompts, views)
    return rates([(there, answer) for (_, _, there), answer in zip(questions, answers, strict=True)])


def rates(pairs: Sequence[tuple[bool, str]]) -> dict[str, float | int | None]:
    """Return the rates of pairs of a truth and an answer."""
    if not pairs:
        return {"accuracy": None, "precision": None, "recall": None, "f1": None, "yes_ratio": None, "questions": 0}
    true, yes = (np.array(column) for column in zip(*((there, said == "yes") for there, said in pairs), strict=True))
    right = np.array([said == ("yes" if there else "no") for there, said in pairs])
    hits = int((true & yes).sum())
    precision, recall = hits / max(int(yes.sum()), 1), hits / max(int(true.sum()), 1)
    return {
        "accuracy": float(right.mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "yes_ratio": float(yes.mean()),
        "questions": len(pairs),
    }


def pointing(policy: PlanningPolicy, scenes: Sequence[Scene]) -> dict[str, float | int | None]:
    """Return how well the boxes of everything in sight are told: mean overlap, and the share with half or more."""
    asked = [(scene, name, box) for scene in scenes for name, box in scene.boxes.items() if box is not None]
    answers = _ask(policy, [scene for scene, _, _ in asked], [f"point to the {name}" for _, name, _ in asked])
    told = [read_box(answer) for answer in answers]
    overlaps = [box_iou(box, own) if own else 0.0 for (_, _, box), own in zip(asked, told, strict=True)]
    return {
        "box_iou": float(np.mean(overlaps)) if overlaps else None,
        "half_or_more": float(np.mean([overlap >= 0.5 for overlap in overlaps])) if overlaps else None,
        "questions": len(asked),
    }


def _ask(policy: PlanningPolicy, scenes: Sequence[Scene], prompts: Sequence[str], views: bool = False) -> list[str]:
    answers: list[str] = []
    for start in tqdm(range(0, len(prompts), BATCH), unit="batch", desc="ask", leave=False):
        part = scenes[start : start + BATCH]
        state = np.zeros(len(policy.embodiment.joints), np.float32)  # is not read where words are asked for
        observations = [Observation(dict(scene.images), state, "", 0.0) for scene in part]
        questions = prompts[start : start + BATCH]
        if views:
            answers += by_views(policy, observations, questions, TOKENS)
        else:
            answers += policy.generate(observations, questions, TOKENS)
    return [answer.strip() for answer in answers]


def _blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), BLUR * image.shape[1])


def _dark(image: np.ndarray) -> np.ndarray:
    return (image * DARK).astype(np.uint8)


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move a picture by a map of the unit square, float64[2, 3]; what comes in from outside repeats the border."""
    height, width = image.shape[:2]
    size = np.diag([width, height, 1.0])
    pixels = (size @ np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(size))[:2]
    return cv2.warpAffine(image, pixels, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _crop() -> np.ndarray:
    edge = (1 - KEPT) / 2
    return np.array([[1 / KEPT, 0, -edge / KEPT], [0, 1 / KEPT, -edge / KEPT]])


def _turn(aspect: float) -> np.ndarray:
    """Map the unit square of a picture `aspect` times as wide as high by a turn about its middle."""
    cosine, sine = np.cos(np.deg2rad(TURNED_DEG)), np.sin(np.deg2rad(TURNED_DEG))
    turn = np.array([[cosine, sine / aspect], [-sine * aspect, cosine]])
    return np.column_stack([turn, 0.5 - turn @ [0.5, 0.5]])


SPOILED = ("blur", "dark", "rotated", "cropped")


def spoil(scene: Scene, kind: str) -> Scene:
    """Return a scene seen badly; things that are no longer wholly in the picture with boxes cannot be seen."""
    if kind in ("blur", "dark"):
        paint = _blurred if kind == "blur" else _dark
        return Scene({camera: paint(image) for camera, image in scene.images.items()}, scene.boxes)
    maps = {
        camera: _crop() if kind == "cropped" else _turn(image.shape[1] / image.shape[0])
        for camera, image in scene.images.items()
    }
    images = {camera: _moved(image, maps[camera]) for camera, image in scene.images.items()}
    lead = next(iter(maps.values()))
    return Scene(images, {name: box and _box_after(box, lead) for name, box in scene.boxes.items()})


def _box_after(box: Box, matrix: np.ndarray) -> Box | None:
    """Return the box around a moved box, None where it leaves the picture."""
    left, top, right, bottom = (value / (BINS - 1) for value in box)
    corners = np.array([[x, y, 1.0] for x in (left, right) for y in (top, bottom)]) @ matrix.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    if low.min() < 0 or high.max() > 1:
        return None
    x0, y0, x1, y1 = (round(float(value) * (BINS - 1)) for value in (*low, *high))
    return x0, y0, x1, y1
