"""What a slow policy costs: strategies and injected delays on the same seeds, and a cross-check in wall-clock time."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vla.bench.cells import fly_cell
from vla.control.deploy import deploy
from vla.control.grammar import Grammar
from vla.control.hierarchy import Pacing
from vla.control.robot import Robot
from vla.control.strategy import Strategy
from vla.evaluate import realtime as loopwise
from vla.evaluate import rollout
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.realtime import Realtime, RealtimeHost, Timing
from vla.evaluate.statistics import PairedDifference, Rate
from vla.evaluate.suite import world_of
from vla.evaluate.summary import finished, interventions_row, loop_row
from vla.evaluate.workers import Workers
from vla.model.checkpoint import DEFAULT, digest, load
from vla.model.policy import VLAPolicy


@dataclass(frozen=True)
class WallClock:
    """Some episodes of one cell once more, in wall-clock time."""

    twin: Callable[..., Robot]  # called with env_id, kwargs, seed, options, hz
    strategy: str
    latency_ms: float
    episodes: int
    seconds: float  # of each episode


def measure(
    *,
    seed: int,
    out: str,
    checkpoint: str | None,
    device: str,
    workers: int,
    episodes: int,
    latencies_ms: Sequence[float],
    lockstep: bool,
    strategies: Mapping[str, Callable[[], Strategy]],
    cross_check: bool,
    wall_clock: WallClock,
    tasks: Mapping[str, Mapping[str, Any]],
    realtime: Realtime,
    guarding: Guarding,
    skills: Grammar,
    pacing: Mapping[str, Any],
) -> dict[str, Any]:
    """Fly `episodes` seeds in each cell of strategies and delays, and compare each cell with the one without delay.

    Every episode is written down in `out`/cells as it ends; the same call goes on where it was cut off.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; at least 1 is needed")
    if wrong := [latency for latency in latencies_ms if latency < 0]:
        raise ValueError(f"latencies_ms has {wrong}; no answer comes before it was asked for")
    torch.set_num_threads(1)
    folder, cells = Path(checkpoint or DEFAULT), Path(out) / "cells"
    policy, pace = load(folder, device=device), Pacing(**pacing)
    cases = spread(tasks, policy, episodes, seed)
    settings = {"seed": seed, "weights": digest(folder), "tasks": json.dumps(_plain(tasks)), "pacing": repr(pace)}
    rows: dict[str, Any] = {}
    reference = None
    if lockstep:
        with Workers(workers) as pool:
            run = partial(rollout.run, policy=policy, workers=pool, pacing=pace, grammar=skills)
            reference = fly_cell(cells / "lockstep.jsonl", cases, run, settings)
        rows["lockstep"] = _rate(reference)
    flown: dict[str, dict[str, list[Episode]]] = {}
    host = partial(RealtimeHost, partial(load, folder, device=device), realtime, guarding, pace, skills)
    with Workers(workers, host) as pool:
        for name, strategy in strategies.items():
            for latency_ms in latencies_ms:
                timing = Timing(strategy, latency_ms / 1000)
                run = partial(loopwise.run, policy=policy, workers=pool, timing=timing)
                about = settings | {"realtime": repr(realtime), "guard": repr(guarding), "timing": repr(timing)}
                path = cells / f"{name}_{latency_ms:g}ms.jsonl"
                flown.setdefault(name, {})[f"{latency_ms:g}"] = fly_cell(path, cases, run, about)
    rows["strategies"] = {
        name: {latency: _row(those, line.get("0"), reference) for latency, those in line.items()}
        for name, line in flown.items()
    }
    rows["best"] = {f"{latency_ms:g}": _best(rows["strategies"], f"{latency_ms:g}") for latency_ms in latencies_ms}
    if cross_check:
        virtual = flown.get(wall_clock.strategy, {}).get(f"{wall_clock.latency_ms:g}", [])
        strategy = strategies[wall_clock.strategy]
        rows["cross_check"] = _cross_check(wall_clock, cases, policy, strategy, guarding, virtual, Path(out))
    return {**rows, "episodes": episodes}


def spread(tasks: Mapping[str, Mapping[str, Any]], policy: VLAPolicy, episodes: int, seed: int) -> list[Case]:
    """Return so many cases, the tasks in turns, each task on the same seeds."""
    turns = [(task, index) for index in range(-(-episodes // len(tasks))) for task in tasks]
    return [
        Case(task, world_of(tasks[task], policy.embodiment), seed + index, group="delay")
        for task, index in turns[:episodes]
    ]


def _rate(rows: Sequence[Episode]) -> dict[str, Any]:
    fine = finished(rows)
    rate = Rate.of(row.success for row in fine)
    return {"success_rate": rate.value, "ci95": rate.ci95, "episodes": len(fine), "crashes": len(rows) - len(fine)}


def _row(rows: Sequence[Episode], undelayed: Sequence[Episode] | None, lockstep: Sequence[Episode] | None) -> dict:
    """Summarise one cell; paired differences are this cell's success minus the other's."""
    return {
        **_rate(rows),
        **loop_row(rows),
        "guard_interventions": interventions_row(rows),
        "against_0ms": _paired(rows, undelayed),
        "against_lockstep": _paired(rows, lockstep),
    }


def _paired(rows: Sequence[Episode], others: Sequence[Episode] | None) -> dict[str, Any] | None:
    """Compare on the cases that crashed in neither; None without any."""
    known = {(row.case.task, row.case.seed): row.success for row in finished(others or [])}
    keyed = [(row.success, (row.case.task, row.case.seed)) for row in finished(rows)]
    pairs = [(success, known[key]) for success, key in keyed if key in known]
    return PairedDifference.of(*zip(*pairs, strict=True)).__dict__ if pairs else None


def _best(strategies: Mapping[str, Mapping[str, Mapping[str, Any]]], latency: str) -> dict[str, Any]:
    """Name the strategy that succeeds most often at a delay, with what the delay costs it."""
    name = max(strategies, key=lambda one: strategies[one][latency]["success_rate"] or 0.0)
    row = strategies[name][latency]
    return {"strategy": name, **{key: row[key] for key in ("success_rate", "ci95", "idle_ticks", "against_0ms")}}


def _cross_check(
    check: WallClock,
    cases: Sequence[Case],
    policy: VLAPolicy,
    strategy: Callable[[], Strategy],
    guarding: Guarding,
    virtual: Sequence[Episode],
    out: Path,
) -> dict[str, Any]:
    """Deploy on the twin of some scenes; the delay is added to what this machine takes to think."""
    known = {(row.case.task, row.case.seed): row.success for row in finished(virtual)}
    collides = guarding.collides and guarding.collides()
    guard = {"hardware": False, "collides": collides, "mode": guarding.mode, "engage_tol": guarding.engage_tol}
    total, successes, delays_ms, twice = Counter[str](), [], [], []
    for case in tqdm(cases[: check.episodes], desc="wall clock", unit="episode"):
        twin = check.twin(case.world.id, case.world.kwargs, case.seed, case.options, hz=guarding.hz)
        with closing(twin) as robot:
            truth = robot.truth()
            result = deploy(
                robot,
                policy,
                instruction=truth["instruction"] if truth else "",
                seconds=check.seconds,
                out=out / "cross_check" / f"{case.task}_{case.seed}",
                strategy=strategy(),
                hz=guarding.hz,
                latency_s=check.latency_ms / 1000,
                guard=guard,
            )
        if result["ended"].startswith("signal"):
            raise KeyboardInterrupt
        total.update({key: result[key] for key in ("ticks", "missed", "idle_ticks")})
        successes.append(result["success"])
        delays_ms += [result["delay_ms"]["p50"]] if result["delay_ms"] else []
        if (key := (case.task, case.seed)) in known:
            twice.append((result["success"], known[key]))
    rate = Rate.of(successes)
    return {
        "strategy": check.strategy,
        "latency_ms": check.latency_ms,
        "success_rate": rate.value,
        "ci95": rate.ci95,
        "episodes": rate.episodes,
        **total,
        "delay_ms_p50": float(np.median(delays_ms)) if delays_ms else None,
        "same_scenes": len(twice),
        "same_scenes_virtual_success_rate": Rate.of(virtually for _, virtually in twice).value,
        "same_outcome": sum(really == virtually for really, virtually in twice),
    }


def _plain(tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) if isinstance(value, Mapping) else value for name, value in tasks.items()}
