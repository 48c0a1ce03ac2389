"""Many episodes of one kind, each written down as it ends, so that hours of them can be cut off and go on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.bench.ledger import Ledger
from vla.evaluate.episodes import Case, Episode, LoopRecord
from vla.evaluate.suite import Run

KEPT = (  # of an episode, beside its loop
    "success", "outcome", "crash", "steps", "success_step", "instruction",
    "subtasks", "finished_subtasks", "plans", "wrong_plans", "interventions",
)  # fmt: skip


def fly_cell(path: Path, cases: Sequence[Case], run: Run, settings: Mapping[str, Any]) -> list[Episode]:
    """Fly the cases that a file does not hold yet, write each down as it ends, and return all in order.

    Raises ValueError if the file was written with other settings.
    """
    ledger = Ledger(path, settings)
    done = {_key(case): _episode(case, ledger.rows[_key(case)]) for case in cases if _key(case) in ledger.rows}
    left = [case for case in cases if _key(case) not in done]
    with tqdm(total=len(cases), initial=len(done), desc=path.stem, unit="episode") as bar:

        def landed(episode: Episode) -> None:
            row = episode.to_dict()
            ledger.add(_key(episode.case), {key: row[key] for key in (*KEPT, "loop") if key in row})
            done[_key(episode.case)] = episode
            bar.set_postfix_str(f"{sum(row.success for row in done.values())}/{len(done)} successes")
            bar.update()

        run(left, on_episode=landed, keep=lambda episode: False)
    return [done[_key(case)] for case in cases]


def _key(case: Case) -> str:
    return f"{case.task} {case.seed}"


def _episode(case: Case, row: Mapping[str, Any]) -> Episode:
    loop = LoopRecord(**row["loop"]) if "loop" in row else None
    return Episode(case, loop=loop, **{key: row[key] for key in KEPT})
