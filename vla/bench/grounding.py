"""What a checkpoint knows of a scene and what it makes up: POPE, boxes, relations, counting, answers without sight.

Captions are scored as CHAIR does (Rohrbach et al. 2018, arXiv:1809.02156): by the share of things that are not there.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from vla.bench.sight import Sight
from vla.evaluate.questions import Answer, ask
from vla.evaluate.statistics import Rate
from vla.model.checkpoint import DEFAULT, load

GREY = 128
RELATIONS = ("where", "which")


def measure(
    *, seed: int, checkpoint: str | None, device: str, threads: int, sight: Sight, questions: int
) -> dict[str, Any]:
    """Ask a checkpoint about scenes that no weight was chosen on; every answer is judged by the scene's truth.

    sight: the scenes, of which `degraded` are spoilt as well; questions: about each of them, beside POPE's and the
    boxes. `without_image` asks them of grey pictures: what the words alone give away.
    """
    torch.set_num_threads(threads)
    sight = replace(sight, checkpoint=checkpoint, device=device, seed=sight.seed + seed)
    policy = load(checkpoint or DEFAULT, device=device)
    asked = _draw(sight, questions)
    answers = ask(policy, asked)
    blind = ask(policy, [(_grey(observation), those) for observation, those in asked])
    seen = sight.measure()
    return {
        **seen,
        "pointing_iou50": seen["pointing"]["half_or_more"],
        "relations": _rates(answers, RELATIONS),
        "yesno": _rates(answers, ("yesno",)) | {"yes_ratio": _yes_ratio(answers)},
        "counting": counting([answer for answer in answers if answer.type == "caption"]),
        "without_image": {
            "yesno": _rates(blind, ("yesno",)) | {"yes_ratio": _yes_ratio(blind)},
            "relations": _rates(blind, RELATIONS),
            "counting": counting([answer for answer in blind if answer.type == "caption"]),
        },
        "scenes": sight.scenes,
    }


def counting(captions: Sequence[Answer]) -> dict[str, float | int | None]:
    """Say how often a caption names as many things as there are, how many it invents and how many it finds."""
    if not captions:
        return {"accuracy": None, "chair": None, "recall": None, "exact": None, "captions": 0}
    pairs = [(things(answer.truth), things(answer.answer)) for answer in captions]
    named, there = (sum(len(pair[side]) for pair in pairs) for side in (1, 0))
    found = sum(len([name for name in told if name in true]) for true, told in pairs)
    return {
        "accuracy": float(np.mean([len(true) == len(told) for true, told in pairs])),
        "chair": (named - found) / max(named, 1),
        "recall": sum(len(set(true) & set(told)) for true, told in pairs) / max(there, 1),
        "exact": float(np.mean([answer.right for answer in captions])),
        "captions": len(captions),
    }


def things(caption: str) -> list[str]:
    """Return the things that a caption lists: "a red cube, an orange bowl, the drawer is open" names two."""
    phrases = (phrase.strip().split() for phrase in caption.split(","))
    return [" ".join(words[1:]) for words in phrases if words and words[0] in ("a", "an")]


def _draw(sight: Sight, count: int) -> list[tuple[dict[str, Any], list[dict[str, str]]]]:
    environment = gymnasium.make(sight.id, disable_env_checker=True, **sight.env)
    world: Any = environment.unwrapped
    asked, rng = [], np.random.default_rng(sight.seed)
    with closing(environment):
        for number in tqdm(range(sight.scenes), unit="scene", desc="questions", leave=False):
            observation, _ = environment.reset(seed=sight.seed + number)
            asked.append((observation, world.questions(rng, count)))
    return asked


def _grey(observation: dict[str, Any]) -> dict[str, Any]:
    return observation | {"pixels": {name: np.full_like(image, GREY) for name, image in observation["pixels"].items()}}


def _rates(answers: Sequence[Answer], kinds: Sequence[str]) -> dict[str, Any]:
    rate = Rate.of(answer.right for answer in answers if answer.type in kinds)
    return {"accuracy": rate.value, "ci95": rate.ci95, "questions": rate.episodes}


def _yes_ratio(answers: Sequence[Answer]) -> float | None:
    return Rate.of(answer.answer.strip() == "yes" for answer in answers if answer.type == "yesno").value
