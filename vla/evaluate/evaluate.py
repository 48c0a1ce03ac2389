"""`vla eval`: measure a checkpoint in closed loop over seeded episodes, with intervals and controls."""

import logging
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.control.hierarchy import Pacing
from vla.evaluate import suite, summary
from vla.evaluate.report import console_table, write_report
from vla.evaluate.rollout import single_latencies_s
from vla.evaluate.workers import Workers
from vla.model.checkpoint import DEFAULT, load
from vla.result import write_result
from vla.types import Observation

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="eval")
def main(config: DictConfig) -> None:
    """Run the evaluation, then write result.json, episodes.jsonl, videos and report.html."""
    out = Path(HydraConfig.get().runtime.output_dir)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["checkpoint"] = settings["checkpoint"] or str(DEFAULT)
    pacing, grammar = Pacing(**settings["pacing"]), instantiate(config.skills)
    torch.set_num_threads(settings["threads"])
    policy = load(settings["checkpoint"], device=settings["device"])
    other = load(settings["against"], device=settings["device"]) if settings["against"] else None

    body, seed, count = policy.embodiment, settings["seed"], settings["episodes"]
    single = suite.single_cases(settings["tasks"], body, episodes=count, seed=seed, record=True)
    long = suite.single_cases(
        settings["long_horizon"]["tasks"],
        body,
        episodes=count if settings["long_horizon"]["episodes"] is None else settings["long_horizon"]["episodes"],
        seed=seed,
        stepping=True,
        group="long_horizon",
        record=True,
    )
    held_out = suite.held_out_cases(
        settings["held_out"]["world"],
        settings["held_out"]["splits"],
        body,
        episodes=min(count, settings["held_out"]["episodes"]),
        seed=seed,
        questions=settings["held_out"]["questions"],
    )
    controls = suite.control_cases(
        settings["tasks"],
        body,
        settings["controls"]["which"],
        episodes=min(count, settings["controls"]["episodes"]),
        seed=seed,
    )

    out.mkdir(parents=True, exist_ok=True)
    record = out / "episodes.jsonl"
    record.unlink(missing_ok=True)
    gallery = suite.Gallery(out / "videos", body, each=settings["videos"])
    started_s = time.monotonic()
    with Workers(settings["workers"]) as workers:
        flight = {"workers": workers, "pacing": pacing, "grammar": grammar, "record": record, "gallery": gallery}
        cases = [*single, *long, *held_out, *controls]
        episodes = suite.fly(cases, policy=policy, label="eval", **flight)
        log.info("timing single chunks")
        first = workers.all[0].ask("reset", cases[0].world, seed, cases[0].options, False)
        latencies_s = single_latencies_s(
            policy,
            Observation.from_gym(first.observation, first.infos[0]["instruction"], time.monotonic()),
            repeats=settings["latency_repeats"],
        )
        result = suite.summarise(episodes, policy=policy, tolerance_s=settings["tolerance_s"], latencies_s=latencies_s)
        if other is not None:
            rivals = suite.fly([*single, *long], policy=other, label="against", **flight)
            result["against"] = _compare(episodes, rivals, settings["against"])

    result |= {"checkpoint": settings["checkpoint"], "seed": seed, "seconds": time.monotonic() - started_s}
    result |= {"videos": sorted(f"videos/{name}" for name in gallery.written), "report": "report.html"}
    result["pacing"] = settings["pacing"]
    write_report(out, result, gallery=gallery.written)
    path = write_result(out, **result)
    print(console_table(result))
    print(f"\n{path}\n{out / 'report.html'}")


def _compare(ours: list, theirs: list, checkpoint: str) -> dict[str, Any]:
    """Compare on the single-step cases, and apart from them on the long ones."""

    def of(episodes: list, group: str) -> list:
        return [episode for episode in episodes if episode.case.group == group]

    row = {"checkpoint": checkpoint, **summary.overall(of(theirs, "single"))}
    row["paired"] = summary.paired_row(of(ours, "single"), of(theirs, "single"))
    if of(theirs, "long_horizon"):
        row["paired_long_horizon"] = summary.paired_row(of(ours, "long_horizon"), of(theirs, "long_horizon"))
    return row
