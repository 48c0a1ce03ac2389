"""Designs side by side: one backbone, one dataset, one budget, several seeds; judged by closed-loop success.

Every run is `vla train` and then `vla eval`, in processes of their own and in a folder of its own below `out`. What is
finished is not done again, and a run that was cut off goes on, so the same command resumes. Speed is measured in the
end, one design right after another, so that all of them meet the machine as it is then.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.evaluate.statistics import Rate

try:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
except ImportError:  # the extra "plots"
    Figure = None

VERBS = {
    "collect": "vla.data.collect",
    "train": "vla.train.train",
    "eval": "vla.evaluate.evaluate",
    "bench": "vla.bench.bench",
}
ONLY = ("long_horizon.episodes=0", "held_out.episodes=0", "videos=0", "controls.which=[blank_camera]")
TIMED_STEPS = 150  # of training, by which its speed is told
MARK = "asked.json"  # of a step: its words, and which results it builds on
MEANS = ("chunk_latency_ms", "samples_per_s", "blank_camera")
APART = 10_000  # between the scenes of two seeds, so that no two runs fly the same


def measure(
    *,
    seed: int,
    out: str,
    recipes: Sequence[str],
    seeds: int,
    collect: Sequence[str],
    train: Sequence[str],
    evaluate: Sequence[str],
    eval_seed: int,
) -> dict[str, Any]:
    """Train every recipe on the same demonstrations with so many seeds and fly it; `rows` has one line a run.

    collect, train, evaluate: overrides of the three verbs; those of `train` are the budget. The blank camera of the
    evaluation is what words and joints alone come to. `summary` pools the seeds; `out`/comparison.md shows it, and
    `out`/comparison.png where matplotlib is installed. Raises RuntimeError where a run fails.
    """
    if seeds < 1 or not recipes:
        raise ValueError(f"seeds={seeds}, recipes={list(recipes)}: at least one of each is needed")
    folder = Path(out).resolve()
    collected = step("collect", folder / "demonstrations", [*collect, f"seed={seed}"])
    data = [f'dataset="{folder / "demonstrations" / "dataset"}"', f'frames="{folder / "frames"}"']
    rows, first = [], {}
    with tqdm(list(product(range(seed, seed + seeds), recipes)), desc="designs", unit="run") as bar:
        for number, recipe in bar:
            bar.set_postfix_str(f"{recipe}, seed {number}")
            run = folder / _folder(recipe) / str(number)
            words = [f"recipe={recipe}", *data, *train, f"seed={number}"]
            trained = step("train", run / "train", words, after=collected)
            words = [f'checkpoint="{trained["checkpoint"]}"', *ONLY, *evaluate]
            words.append(f"seed={eval_seed + APART * (number - seed)}")
            rows.append(line(recipe, number, trained, step("eval", run / "eval", words, after=trained)))
            first.setdefault(recipe, trained)
    speeds = {}
    for recipe in tqdm(recipes, desc="speed", unit="design"):
        words = [f"recipe={recipe}", *data, *train, f"seed={seed}", f"steps={TIMED_STEPS}"]
        speeds[recipe] = speed(folder / _folder(recipe) / "speed", words, first[recipe])
    rows = [row | speeds[row["name"]] for row in rows]
    summary = pooled(rows)
    (folder / "comparison.md").write_text(for_people(summary))
    return {"rows": rows, "summary": summary, "plot": draw(summary, folder / "comparison.png")}


def step(name: str, out: Path, words: Sequence[str], after: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a verb, unless it has finished with the same words before, and return its result.

    after: the result of the step that it builds on. Raises ValueError where `out` was begun otherwise.
    """
    mark, result = out / MARK, out / "result.json"
    asked = {"words": list(words), "after": None if after is None else dict(after)}
    if mark.exists() and json.loads(mark.read_text()) != asked:
        raise ValueError(f"{out} was begun with other settings or on other data; delete it or give another out=")
    if mark.exists() and result.exists() and json.loads(result.read_text()).get("complete", True):
        return json.loads(result.read_text())
    result.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(asked))
    with (out / "log.txt").open("a") as log:
        command = [sys.executable, "-m", VERBS[name], *words, f'out="{out}"']
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if code or not result.exists():
        raise RuntimeError(f"vla {name} ended with exit code {code}, see {out / 'log.txt'}; the same command goes on")
    found = json.loads(result.read_text())
    if not found.get("complete", True):
        raise RuntimeError(f"vla {name} stopped before its end, see {out / 'log.txt'}; the same command goes on")
    return found


def speed(folder: Path, words: Sequence[str], trained: Mapping[str, Any]) -> dict[str, float]:
    """Train a few steps with these words and time chunks of what was trained: `samples_per_s`, `chunk_latency_ms`."""
    again = step("train", folder / "train", words, after=trained)
    asked = ["bench=policy", f'bench.checkpoint="{trained["checkpoint"]}"', "bench.compiled=false"]
    latency = step("bench", folder / "policy", asked, after=trained)
    return {"samples_per_s": again["samples_per_s"], "chunk_latency_ms": latency["chunk_latency_ms"]["p50"]}


def _folder(recipe: str) -> str:
    return recipe.replace("/", "-")


def line(recipe: str, seed: int, trained: dict[str, Any], flown: dict[str, Any]) -> dict[str, Any]:
    """Return what a run came to."""
    blind = flown["controls_per_task"].get("blank_camera", {}).values()
    return {
        "name": recipe,
        "seed": seed,
        "success_rate": flown["success_rate"],
        "ci95": flown["ci95"],
        "episodes": flown["episodes"],
        "successes": round(sum((row["success_rate"] or 0) * row["episodes"] for row in flown["per_task"].values())),
        "blank_camera": flown["controls"]["blank_camera"],
        "blank_camera_successes": round(sum((row["asked"] or 0) * row["episodes"] for row in blind)),
        "blank_camera_episodes": sum(row["episodes"] for row in blind),
        "per_task": {task: row["success_rate"] for task, row in flown["per_task"].items()},
        "parameters": trained["parameters"],
        "samples": trained["samples"],
        "loss": trained["loss"],
    }


def pooled(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return success over all seeds of each design with the interval of its episodes, beside that of each seed.

    The interval knows nothing of how much trainings differ; the seeds show that. `better_than_blind`: whether it lies
    above that of the blank camera, which is what words and joints alone come to.
    """
    summary = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        rate = Rate(sum(row["successes"] for row in mine), sum(row["episodes"] for row in mine))
        blind = Rate(*(sum(row[f"blank_camera_{what}"] for row in mine) for what in ("successes", "episodes")))
        means = {key: sum(row[key] or 0 for row in mine) / len(mine) for key in MEANS}
        summary[name] = {
            "success_rate": rate.value,
            "ci95": rate.ci95,
            "blank_camera_ci95": blind.ci95,
            "better_than_blind": bool(rate.ci95 and blind.ci95 and rate.ci95[0] > blind.ci95[1]),
            "seeds": [row["success_rate"] for row in mine],
            "parameters": mine[0]["parameters"],
            **means,
        }
    return summary


def for_people(summary: dict[str, dict[str, Any]]) -> str:
    """Return the summary as a Markdown table."""
    lines = ["| design | success | by seed | blank camera | chunk [ms] | samples/s | parameters |", "| --- " * 7 + "|"]
    for name, row in summary.items():
        low, high = row["ci95"] or (0.0, 1.0)
        by_seed = ", ".join("crashed" if one is None else f"{100 * one:.0f}" for one in row["seeds"])
        lines.append(
            f"| {name} | {100 * (row['success_rate'] or 0):.0f} % ({100 * low:.0f}-{100 * high:.0f}) | {by_seed} "
            f"| {_blind(row)} | {row['chunk_latency_ms']:.0f} | {row['samples_per_s']:.0f} "
            f"| {row['parameters'] / 1e6:.2f} M |"
        )
    return "\n".join(lines) + "\n"


def _blind(row: dict[str, Any]) -> str:
    low, high = row["blank_camera_ci95"] or (0.0, 1.0)
    mark = "" if row["better_than_blind"] else " not told apart"
    return f"{100 * row['blank_camera']:.0f} % ({100 * low:.0f}-{100 * high:.0f}){mark}"


def draw(summary: dict[str, dict[str, Any]], path: Path) -> str | None:
    """Draw success with intervals, a point a seed; return the picture's name, None where matplotlib is missing."""
    if Figure is None:
        return None
    figure = Figure(figsize=(7, 0.6 * len(summary) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, row) in enumerate(reversed(summary.items())):
        low, high = row["ci95"] or (0.0, 1.0)
        seeds = [100 * one for one in row["seeds"] if one is not None]
        axes.plot(
            [100 * low, 100 * high], [place, place], color="#1f6f8b", linewidth=6, alpha=0.3, solid_capstyle="round"
        )
        axes.plot(100 * (row["success_rate"] or 0), place, "o", color="#1f6f8b", markersize=9)
        axes.plot(seeds, [place] * len(seeds), "|", color="#333333", markersize=11)
        axes.plot(100 * row["blank_camera"], place, "x", color="#b23a48", markersize=7, clip_on=False)
        axes.annotate(
            f"{row['chunk_latency_ms']:.0f} ms",
            (101, place),
            va="center",
            fontsize=9,
            color="#666666",
            annotation_clip=False,
        )
        axes.text(-2, place, name.rpartition("/")[2], ha="right", va="center")
    axes.set_yticks([])
    axes.set_xlim(0, 100)
    axes.set_xlabel("success [%]: all seeds with 95 % interval (dot)\neach seed (stroke), blank camera (cross)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    return path.name
