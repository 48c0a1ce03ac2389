"""What the hierarchy is worth: long instructions carried out in several ways by one checkpoint on the same seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from vla.bench.cells import fly_cell
from vla.control.grammar import Grammar
from vla.control.hierarchy import Pacing
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.rollout import run
from vla.evaluate.statistics import PairedDifference
from vla.evaluate.suite import world_of
from vla.evaluate.summary import finished, long_horizon_row
from vla.evaluate.workers import Workers
from vla.model.checkpoint import DEFAULT, digest, load

UNCHECKED = 0.5  # of the done probability, where what is declared done is believed, as in eval.yaml


@dataclass(frozen=True)
class Way:
    """One way to carry out a long instruction."""

    name: str
    stepping: bool  # subtask by subtask; else the controller gets the whole instruction
    pacing: Pacing
    disturbed: bool = False


def ways(pacing: Pacing) -> list[Way]:
    """Return the ways that are compared; the last three meet the same mishaps.

    unrevised: the plan is carried out once, step by step, and nothing is looked at again; disturbed: what fails is
    seen and tried again; replan: in the end all is looked at once more, and what came undone is done again.
    """
    completion, replan = replace(pacing, replan=False), replace(pacing, replan=True)
    unrevised = replace(completion, check=False, attempts=1, threshold=max(UNCHECKED, pacing.threshold))
    return [
        Way("flat", False, completion),
        Way("timer", True, replace(pacing, switch="timer", replan=False)),
        Way("completion", True, completion),
        Way("unrevised", True, unrevised, disturbed=True),
        Way("disturbed", True, completion, disturbed=True),
        Way("replan", True, replan, disturbed=True),
    ]


PAIRS = {  # what is claimed -> better way, other way
    "completion_against_flat": ("completion", "flat"),
    "completion_against_timer": ("completion", "timer"),
    "replan_against_unrevised": ("replan", "unrevised"),
    "replan_against_disturbed": ("replan", "disturbed"),
}


def measure(
    *,
    seed: int,
    out: str,
    checkpoint: str | None,
    device: str,
    threads: int,
    workers: int,
    episodes: int,
    world: Mapping[str, Any],
    guarding: Guarding,
    skills: Grammar,
    pacing: Mapping[str, Any],
) -> dict[str, Any]:
    """Run `episodes` seeds each way; success, subtasks per episode, and paired differences with their intervals.

    Every episode is written down in `out`/cells as it ends; the same call goes on where it was cut off.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; at least 1 is needed")
    torch.set_num_threads(threads)
    policy = load(checkpoint or DEFAULT, device=device)
    spelt = sha256(repr(list(skills)).encode()).hexdigest()[:16]  # what is asked about a subtask decides it too
    settings = {"seed": seed, "weights": digest(Path(checkpoint or DEFAULT)), "skills": spelt, "guard": repr(guarding)}
    flown: dict[str, list[Episode]] = {}
    with Workers(workers, guarding.host()) as pool:
        for way in ways(Pacing(**pacing)):
            kwargs = {"disturb": True} if way.disturbed else {}
            place = world_of(world, policy.embodiment, **kwargs)
            cases = [Case(way.name, place, seed + i, stepping=way.stepping, group="long") for i in range(episodes)]
            fly = partial(run, policy=policy, workers=pool, pacing=way.pacing, grammar=skills)
            about = settings | {"world": place.id, **place.kwargs, "pacing": repr(way.pacing)}
            flown[way.name] = fly_cell(Path(out) / "cells" / f"{way.name}.jsonl", cases, fly, about)
    return {**{name: _row(rows) for name, rows in flown.items()}, "paired": _pairs(flown), "episodes": episodes}


def _row(rows: Sequence[Episode]) -> dict[str, Any]:
    fine = finished(rows)
    done = sum(row.finished_subtasks for row in fine)
    return {**long_horizon_row(rows), "subtasks_per_episode": done / len(fine) if fine else None}


def _pairs(flown: Mapping[str, Sequence[Episode]]) -> dict[str, Any]:
    """Compare on the seeds that crashed neither way."""
    pairs = {}
    for claim, (better, other) in PAIRS.items():
        those = {row.case.seed: row.success for row in finished(flown[other])}
        both = [(row.success, those[row.case.seed]) for row in finished(flown[better]) if row.case.seed in those]
        if both:
            pairs[claim] = PairedDifference.of(*zip(*both, strict=True)).__dict__
    return pairs
