"""`vla eval`: measure a checkpoint in closed loop over seeded episodes, with intervals and controls."""

import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.control.hierarchy import Pacing
from vla.evaluate import realtime, rollout, suite, summary
from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.realtime import RealtimeHost, Timing
from vla.evaluate.report import console_table, write_report
from vla.evaluate.rollout import single_latencies_s
from vla.evaluate.workers import Workers
from vla.model.checkpoint import DEFAULT, load
from vla.result import write_result
from vla.types import Observation

MODES = ("lockstep", "realtime")

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="eval")
def main(config: DictConfig) -> None:
    """Run the evaluation, then write result.json, episodes.jsonl, videos and report.html."""
    out = Path(HydraConfig.get().runtime.output_dir)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["checkpoint"] = settings["policy"] or settings["checkpoint"] or str(DEFAULT)
    _check_mode(settings, HydraConfig.get().overrides.task)
    torch.set_num_threads(settings["threads"])
    policy = _maker(config, settings["checkpoint"])()
    other = _maker(config, settings["against"])() if settings["against"] else None
    _leave_out_words(settings, [policy, other])

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
    cases = [*single, *long, *held_out, *controls]
    with _started(config, policy, _maker(config, settings["checkpoint"])) as (workers, run):
        episodes = suite.fly(cases, run=run, record=record, gallery=gallery, label="eval")
        log.info("timing single chunks")
        first = workers.all[0].ask("reset", cases[0].world, seed, cases[0].options, False)
        latencies_s = single_latencies_s(
            policy,
            Observation.from_gym(first.observation, first.infos[0]["instruction"], time.monotonic()),
            repeats=settings["latency_repeats"],
        )
    result = suite.summarise(episodes, policy=policy, tolerance_s=settings["tolerance_s"], latencies_s=latencies_s)
    if other is not None:
        with _started(config, other, _maker(config, settings["against"])) as (_, run):
            rivals = suite.fly([*single, *long], run=run, record=record, gallery=gallery, label="against")
        result["against"] = _compare(episodes, rivals, settings["against"])

    result |= {"checkpoint": settings["checkpoint"], "seed": seed, "seconds": time.monotonic() - started_s}
    result |= {"videos": sorted(f"videos/{name}" for name in gallery.written), "report": "report.html"}
    result |= {key: settings[key] for key in ("pacing", "mode", "guard")}
    if settings["mode"] == "realtime":
        result |= {key: settings[key] for key in ("latency_ms", "strategy", "realtime")}
    write_report(out, result, gallery=gallery.written)
    path = write_result(out, **result)
    print(console_table(result))
    print(f"\n{path}\n{out / 'report.html'}")


def _maker(config: DictConfig, source: str) -> Callable[[], PlanningPolicy]:
    """Return what makes the policy of a checkpoint folder or behind a URL, in this process and in others."""
    if "://" not in source:
        return partial(load, source, device=config.device)
    if config.remote is None:
        raise ValueError(f"{source}: no client is configured; give remote._target_, called with url=")
    return instantiate(config.remote, url=source, _partial_=True)


def _leave_out_words(settings: dict[str, Any], policies: Sequence[PlanningPolicy | None]) -> None:
    """Fly no long instructions and ask no questions where a policy is behind a server that answers none."""
    if all(getattr(policy, "talks", True) for policy in policies):
        return
    log.warning("no long instructions and no questions: the server of the policy answers in actions only")
    settings["long_horizon"]["episodes"] = settings["held_out"]["questions"] = 0


def _check_mode(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise ValueError for a mode that there is not, and for keys that mean nothing in it."""
    if settings["mode"] not in MODES:
        raise ValueError(f"mode={settings['mode']}; possible: {', '.join(MODES)}")
    keys = [key for key in ("latency_ms", "strategy", "realtime") if any(_is_about(key, word) for word in overrides)]
    if settings["mode"] == "lockstep" and keys:
        raise ValueError(
            f"{', '.join(keys)}: in mode=lockstep the world waits for the policy; say mode=realtime as well"
        )
    if settings["latency_ms"] < 0:
        raise ValueError(f"latency_ms={settings['latency_ms']}: an answer cannot come before it was asked for")


def _is_about(key: str, override: str) -> bool:
    return re.split(r"[.=@]", override.lstrip("+~"))[0] == key


@contextmanager
def _started(
    config: DictConfig, policy: PlanningPolicy, make_policy: Callable[[], PlanningPolicy]
) -> Iterator[tuple[Workers, suite.Run]]:
    """Start the workers for the mode, in real time with a policy each; yield them and what runs cases on them."""
    pacing, grammar = Pacing(**config.pacing), instantiate(config.skills)
    guarding = instantiate(config.guard, _convert_="all")
    if config.mode == "lockstep":
        with Workers(config.workers, guarding.host()) as workers:
            yield workers, partial(rollout.run, policy=policy, workers=workers, pacing=pacing, grammar=grammar)
        return
    timing = Timing(instantiate(config.strategy, _partial_=True), config.latency_ms / 1000)
    around = instantiate(config.realtime, _convert_="all")
    multiprocessing.set_forkserver_preload([realtime.__name__])  # torch is loaded once for all workers
    with Workers(config.workers, partial(RealtimeHost, make_policy, around, guarding, pacing, grammar)) as workers:
        yield workers, partial(realtime.run, policy=policy, workers=workers, timing=timing)


def _compare(ours: list, theirs: list, checkpoint: str) -> dict[str, Any]:
    """Compare on the single-step cases, and apart from them on the long ones."""

    def of(episodes: list, group: str) -> list:
        return [episode for episode in episodes if episode.case.group == group]

    row = {"checkpoint": checkpoint, **summary.overall(of(theirs, "single"))}
    row["paired"] = summary.paired_row(of(ours, "single"), of(theirs, "single"))
    if of(theirs, "long_horizon"):
        row["paired_long_horizon"] = summary.paired_row(of(ours, "long_horizon"), of(theirs, "long_horizon"))
    return row


if __name__ == "__main__":
    main()
