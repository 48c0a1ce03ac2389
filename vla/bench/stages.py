"""What each stage of training adds: a checkpoint with a new connector, taught stage by stage and measured after each.

Stage 1 teaches the connector alone, stage 2 adapts the rest to instructions and actions, stage 3 prefers true answers,
or what the expert would have done in rollouts that failed. Stage 2 also runs without stage 1 before it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.bench.comparison import ONLY, step

CONNECTOR = "alignment"  # brings the new connector in; without a step taken it is as drawn
UNTAUGHT = ["steps=1", "learning_rate=0.0", "warmup_steps=1", "ema_decay=0.0"]
STAGES = {  # name -> recipe, the stage before
    "untaught": (CONNECTOR, None),
    "alignment": ("alignment", None),
    "instruction": ("instruction", "alignment"),
    "instruction_alone": ("instruction", None),
    "preference": ("preference", "instruction"),
    "preference_actions": ("preference_actions", "instruction"),
}


def measure(
    *,
    seed: int,
    out: str,
    init: str,
    collect: Sequence[str],
    steps: Mapping[str, int],
    train: Sequence[str],
    evaluate: Sequence[str],
    eval_seed: int,
    grounding: Sequence[str],
) -> dict[str, Any]:
    """Train the stages on the same demonstrations, fly each outcome and ask it about held-out scenes.

    init: the checkpoint that the first stages start from; steps: of each recipe; collect, train, evaluate, grounding:
    overrides of the verbs. `rows` has a line for every stage and one for `init`; what is finished is not done again.
    Stage 3 for actions collects its own rollouts, failed ones included. Raises RuntimeError where a run fails.
    """
    folder = Path(out).resolve()
    collected = step("collect", folder / "demonstrations", [*collect, f"seed={seed}"])
    data = [f'dataset="{folder / "demonstrations" / "dataset"}"', f'frames="{folder / "frames"}"']
    trained: dict[str, dict[str, Any]] = {}
    rows = []
    with tqdm(["init", *STAGES], desc="stages", unit="stage") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            if name == "init":
                rows.append(_measured(folder / name, name, init, None, evaluate, eval_seed, grounding))
                continue
            recipe, before = STAGES[name]
            start = trained[before]["checkpoint"] if before else init
            words = [f"recipe=stages/{recipe}", f'init="{start}"', f"seed={seed}", f"steps={steps[recipe]}", *train]
            words += data if recipe != "preference_actions" else []
            words += UNTAUGHT if name == "untaught" else []
            trained[name] = step("train", folder / name / "train", words, after=trained.get(before or "", collected))
            checkpoint = trained[name]["checkpoint"]
            rows.append(_measured(folder / name, name, checkpoint, trained[name], evaluate, eval_seed, grounding))
    (folder / "stages.md").write_text(for_people(rows))
    return {"rows": rows}


def _measured(
    folder: Path,
    name: str,
    checkpoint: str,
    trained: dict[str, Any] | None,
    evaluate: Sequence[str],
    eval_seed: int,
    grounding: Sequence[str],
) -> dict[str, Any]:
    """Fly a checkpoint and ask it; return its line."""
    words = [f'checkpoint="{checkpoint}"', *ONLY, *evaluate, f"seed={eval_seed}"]
    flown = step("eval", folder / "eval", words, after=trained)
    words = ["bench=grounding", f'bench.checkpoint="{checkpoint}"', *grounding]
    asked = step("bench", folder / "grounding", words, after=trained)
    keys = ("pope", "pointing_iou50", "counting", "relations", "yesno", "without_image")
    return {
        "name": name,
        "after": STAGES[name][1] or "init" if name in STAGES else None,
        "samples": trained["samples"] if trained and name != "untaught" else 0,
        "success_rate": flown["success_rate"],
        "ci95": flown["ci95"],
        "episodes": flown["episodes"],
        "blank_camera": flown["controls"]["blank_camera"],
        "per_task": {task: row["success_rate"] for task, row in flown["per_task"].items()},
        **{key: asked[key] for key in keys},
    }


def for_people(rows: Sequence[dict[str, Any]]) -> str:
    """Return the lines as a Markdown table."""
    titles = ["stage", "after", "samples", "success", "POPE adversarial", "yes/no", "without the picture", "boxes"]
    titles += ["relations", "of a caption's things, made up / found"]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for row in rows:
        low, high = row["ci95"] or (0.0, 1.0)
        shares = [row["pope"]["adversarial"]["accuracy"], row["yesno"]["accuracy"]]
        shares += [row["without_image"]["yesno"]["accuracy"], row["pointing_iou50"], row["relations"]["accuracy"]]
        told = [row["counting"]["chair"], row["counting"]["recall"]]
        cells = [row["name"], row["after"] or "", f"{row['samples'] / 1e3:.0f} k"]
        cells.append(f"{_percent(row['success_rate'])} ({100 * low:.0f}-{100 * high:.0f})")
        cells += [_percent(share) for share in shares] + [" / ".join(map(_percent, told))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
