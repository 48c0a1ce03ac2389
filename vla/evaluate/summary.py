"""From episode records to the numbers of result.json."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.evaluate.episodes import OUTCOMES, Episode
from vla.evaluate.statistics import CompletionScore, PairedDifference, Rate, completion_score, percentiles_ms


def finished(episodes: Sequence[Episode]) -> list[Episode]:
    """Leave out the crashed ones: a crash is never a failed episode."""
    return [episode for episode in episodes if episode.crash is None]


def by_task(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    """Group by task, in the order of first appearance by case."""
    tasks: dict[str, list[Episode]] = {}
    for episode in episodes:
        tasks.setdefault(episode.case.task, []).append(episode)
    return tasks


def task_row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Summarise the episodes of one task."""
    fine = finished(episodes)
    rate = Rate.of(episode.success for episode in fine)
    to_success = [episode.success_step for episode in fine if episode.success_step is not None]
    outcomes = Counter(episode.outcome for episode in episodes)
    interventions = interventions_row(episodes)
    return {
        "success_rate": rate.value,
        "ci95": rate.ci95,
        "successes": rate.successes,
        "episodes": rate.episodes,
        "crashes": len(episodes) - len(fine),
        "mean_steps": float(np.mean([episode.steps for episode in fine])) if fine else None,
        "mean_steps_to_success": float(np.mean(to_success)) if to_success else None,
        "outcomes": {name: outcomes[name] for name in OUTCOMES if outcomes[name]},
        **({"guard_interventions": interventions} if interventions else {}),
    }


def mean_rate(episodes: Sequence[Episode]) -> float | None:
    """Success rate as the mean over tasks, so that none weighs more for having fewer crashes."""
    rates = [Rate.of(episode.success for episode in finished(rows)).value for rows in by_task(episodes).values()]
    known = [rate for rate in rates if rate is not None]
    return float(np.mean(known)) if known else None


def overall(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Rate as the mean over tasks, with the Wilson interval of all episodes pooled."""
    fine = finished(episodes)
    return {
        "success_rate": mean_rate(episodes),
        "ci95": Rate.of(episode.success for episode in fine).ci95,
        "episodes": len(fine),
        "crashes": len(episodes) - len(fine),
    }


def score_completion(episodes: Sequence[Episode], *, control_hz: float, tolerance_s: float) -> CompletionScore:
    """Score the declarations "done" of all episodes without a crash."""
    return completion_score(
        (
            ([(step / control_hz, text) for step, text in episode.claims],
             [(step / control_hz, text) for step, text in episode.truths])
            for episode in finished(episodes)
        ),
        tolerance_s=tolerance_s,
    )  # fmt: skip


def completion_row(episodes: Sequence[Episode], *, control_hz: float, tolerance_s: float) -> dict[str, Any]:
    """Summarise the completion output: declarations, and the mean error of the predicted progress."""
    score = score_completion(episodes, control_hz=control_hz, tolerance_s=tolerance_s)
    errors = [
        abs(prediction.progress - prediction.true_progress)
        for episode in finished(episodes)
        for prediction in episode.predictions
        if prediction.progress is not None
    ]
    return {**score.__dict__, "tolerance_s": tolerance_s, "progress_error": float(np.mean(errors)) if errors else None}


def controls_row(episodes: Sequence[Episode]) -> dict[str, float | None]:
    """Success under each control, means over tasks.

    With a blank instruction, `blank_instruction_other` counts the goal that the swapped instruction would have named:
    a policy that acts at random among the objects reaches both equally often, so it measures chance.
    """
    blank, swapped, blind = (
        [episode for episode in episodes if episode.case.control.name == name]
        for name in ("blank_instruction", "swapped", "blank_camera")
    )
    return {
        "blank_instruction": mean_rate(blank),
        "blank_instruction_other": _mean_swapped(blank),
        "swapped_named": _mean_swapped(swapped),
        "swapped_original": mean_rate(swapped),
        "blank_camera": mean_rate(blind),
    }


def controls_per_task(episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    """Both goals under each control for every task, with intervals."""
    rows: dict[str, dict[str, Any]] = {}
    for task, those in by_task(episodes).items():
        for name in dict.fromkeys(episode.case.control.name for episode in those):
            fine = [episode for episode in finished(those) if episode.case.control.name == name]
            asked, other = Rate.of(e.success for e in fine), Rate.of(e.swapped_success for e in fine)
            rows.setdefault(name, {})[task] = {
                "asked": asked.value,
                "asked_ci95": asked.ci95,
                "other": other.value,
                "other_ci95": other.ci95,
                "episodes": asked.episodes,
            }
    return rows


def _mean_swapped(episodes: Sequence[Episode]) -> float | None:
    """Mean over tasks of reaching the other goal."""
    rates = [Rate.of(e.swapped_success for e in finished(rows)).value for rows in by_task(episodes).values()]
    known = [rate for rate in rates if rate is not None]
    return float(np.mean(known)) if known else None


def long_horizon_row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Whole instructions completed, and the share of their subtasks."""
    fine = finished(episodes)
    subtasks = Rate(sum(e.finished_subtasks for e in fine), sum(e.subtasks for e in fine))
    wrong = sum(e.wrong_plans for e in fine)
    plans = sum(len(e.plans) for e in fine)
    return {
        **task_row(episodes),
        "subtasks_completed": subtasks.value,
        "plans_right": 1.0 - wrong / plans if plans else None,
    }


def interventions_row(episodes: Sequence[Episode]) -> dict[str, Any] | None:
    """Count what the guard did, by rule, and in how many episodes it did anything; None where there was none."""
    counts = [episode.interventions for episode in finished(episodes) if episode.interventions is not None]
    if not counts:
        return None
    rules = Counter[str]()
    for count in counts:
        rules.update(count)
    meddled = sum(any(count.values()) for count in counts)
    return {"total": rules.total(), "episodes": len(counts), "episodes_with_any": meddled, "rules": dict(rules)}


def loop_row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Add up what the control loop did in all episodes; `velocity_jump_rad_s` where chunks met."""
    loops = [episode.loop for episode in finished(episodes) if episode.loop]
    states, chunks = Counter[str](), Counter[str]()
    for loop in loops:
        states.update(loop.states)
        chunks.update(loop.chunks)
    jumps = [jump for loop in loops for jump in loop.velocity_jumps]
    p50, p99 = map(float, np.percentile(jumps, [50, 99])) if jumps else (None, None)
    return {
        "ticks": sum(loop.ticks for loop in loops),
        "idle_ticks": sum(loop.idle_ticks for loop in loops),
        "missed": sum(loop.missed for loop in loops),
        "states": dict(states),
        "chunks": dict(chunks),
        "velocity_jump_rad_s": {"p50": p50, "p99": p99, "max": max(jumps, default=None)},
    }


def latency_row(latencies_s: Sequence[float]) -> dict[str, Any]:
    """Chunk latency of one observation at a time."""
    return {**percentiles_ms(latencies_s), "measured": len(latencies_s)}


def paired_row(a: Sequence[Episode], b: Sequence[Episode]) -> dict[str, Any]:
    """Compare two policies over the cases that neither crashed in, per task and overall."""
    other = {(e.case.task, e.case.seed): e for e in finished(b)}
    pairs = [(e, other[e.case.task, e.case.seed]) for e in finished(a) if (e.case.task, e.case.seed) in other]
    if not pairs:
        raise ValueError("no case was finished by both policies; look at the crashes in episodes.jsonl")
    tasks = list(by_task([first for first, _ in pairs]))
    per_task = {
        task: PairedDifference.of(
            [x.success for x, _ in pairs if x.case.task == task], [y.success for x, y in pairs if x.case.task == task]
        ).__dict__
        for task in tasks
    }
    whole = PairedDifference.of([x.success for x, _ in pairs], [y.success for _, y in pairs]).__dict__
    return {**whole, "left_out": len(a) - len(pairs), "per_task": per_task}
