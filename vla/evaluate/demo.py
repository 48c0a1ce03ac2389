"""`vla demo`: watch a checkpoint carry out instructions on the simulated arm; leaves a video and a page."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.control.grammar import Grammar
from vla.control.hierarchy import Pacing
from vla.control.planner import steps_of
from vla.control.words import tidy
from vla.evaluate import questions
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.live import Lines
from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.rollout import run
from vla.evaluate.showcase import Refusal, make_card, meddling, verdict, write_page
from vla.evaluate.suite import world_of
from vla.evaluate.videos import episode_frames, title_card, write_video
from vla.evaluate.workers import WorkerCrash, Workers, last_words
from vla.model.checkpoint import DEFAULT, load
from vla.result import write_result


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="demo")
def main(config: DictConfig) -> None:
    """Carry out the instructions, then write result.json, demo.mp4 and report.html."""
    out = Path(HydraConfig.get().runtime.output_dir).resolve()
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["checkpoint"] = settings["checkpoint"] or str(DEFAULT)
    torch.set_num_threads(settings.pop("threads"))
    policy = load(settings["checkpoint"], device=settings.pop("device"))
    del settings["skills"], settings["guard"]
    made = {"grammar": instantiate(config.skills), "guarding": instantiate(config.guard)}
    result = show(policy, **settings | {"out": out} | made)
    write_result(out, **result)
    print(f"\nvideo   {result['video'] or 'none, since nothing moved'}\nreport  {result['report']}")


def show(
    policy: PlanningPolicy,
    *,
    out: Path,
    checkpoint: str,
    instruction: str | None,
    instructions: Sequence[str],
    world: Mapping[str, Any],
    max_steps: Mapping[str, int],
    seed: int,
    workers: int,
    questions_asked: int,
    view: bool,
    pacing: Mapping[str, Any],
    grammar: Grammar,
    guarding: Guarding,
) -> dict[str, Any]:
    """Run the demo and return what result.json documents; `instruction` is the user's own and comes first."""
    started_s = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    scene = world_of(world, policy.embodiment, render_mode="human" if view else "rgb_array")
    own = tidy(instruction) if instruction else None
    texts = [text for text in (own, *instructions) if text]
    several = {text: len(steps_of(text, grammar)) > 1 for text in texts}
    cases = [
        Case(
            task=text,
            world=scene,
            seed=seed + index,
            options={"instruction": text},
            stepping=several[text],
            group="demo",
            questions=questions_asked,
            record=True,
            max_steps=max_steps["several" if several[text] else "single"],
        )
        for index, text in enumerate(texts)
    ]
    episodes: list[Episode] = []
    refusal = unknown(policy, own, instructions) if own else None
    if refusal is None:
        with Workers(1 if view else workers, guarding.host()) as pool:
            refusal = impossible(pool, cases[0], instructions) if own or view else None
            if refusal is None:
                episodes = fly(cases, policy=policy, workers=pool, pacing=Pacing(**pacing), grammar=grammar)
        if episodes and all(episode.crash is not None for episode in episodes):
            raise WorkerCrash(str(episodes[0].crash))
    if refusal is not None:
        print(f"  “{refusal.instruction}” is not carried out. {refusal.reason}")
        print("  The arm did not move. Try for example: " + "; ".join(f"“{text}”" for text in refusal.examples))
    return _write(policy, episodes, refusal, out=out, checkpoint=checkpoint, typed=own, view=view, started_s=started_s)


def unknown(policy: PlanningPolicy, text: str, examples: Sequence[str]) -> Refusal | None:
    """Say which words the policy was never taught; None when it knows all."""
    words = policy.unknown_words(text)
    if not words:
        return None
    these = "this word" if len(words) == 1 else "these words"
    return Refusal(text, f"The policy does not know {these}: {', '.join(f'“{word}”' for word in words)}.", examples)


def impossible(pool: Workers, case: Case, examples: Sequence[str]) -> Refusal | None:
    """Say why the world cannot be set up for the case's instruction; None when it can.

    Raises WorkerCrash where it is not the instruction that stands in the way.
    """
    try:
        pool.all[0].ask("reset", case.world, case.seed, case.options, False)
    except WorkerCrash as crash:
        if crash.refusal is None and crash.died and case.world.kwargs.get("render_mode") == "human":
            told = "no window can be opened: is the display there? Without one leave view out"
            raise WorkerCrash(str(crash), told) from None
        if crash.refusal is None:
            raise
        return Refusal(case.options["instruction"], f"The world cannot be set up for it: {crash.refusal}.", examples)
    return None


class Closed(Exception):
    """Somebody has seen enough."""


CLOSED = "the window was closed"  # what a world says then


def fly(
    cases: Sequence[Case], *, policy: PlanningPolicy, workers: Workers, pacing: Pacing, grammar: Grammar
) -> list[Episode]:
    """Run the cases with a live line each, unless the window is closed; return their episodes in the same order."""
    episodes: list[Episode] = []
    with Lines() as lines, suppress(Closed):

        def landed(episode: Episode) -> None:
            if episode.crash is not None and CLOSED in last_words(episode.crash):
                raise Closed
            lines.close(episode, f"{verdict(episode)}; {meddling(episode.interventions)}")
            episodes.append(episode)

        run(
            cases,
            policy=policy,
            workers=workers,
            pacing=pacing,
            grammar=grammar,
            on_episode=landed,
            on_step=lines.update,
        )
    return sorted(episodes, key=lambda episode: episode.case.seed)


def _write(
    policy: PlanningPolicy,
    episodes: Sequence[Episode],
    refusal: Refusal | None,
    *,
    out: Path,
    checkpoint: str,
    typed: str | None,
    view: bool,
    started_s: float,
) -> dict[str, Any]:
    """Write video and page; return the result."""
    shown = [episode for episode in episodes if episode.recording is not None]
    video = out / "demo.mp4"
    headline = _headline(episodes, refusal)
    if shown:
        write_video(video, _frames(shown, policy, headline), fps=policy.embodiment.control_hz)
    else:
        video.unlink(missing_ok=True)  # of an earlier run in the same folder
    cards = [make_card(episode, questions.ask(policy, episode.asked[:1]), policy.embodiment) for episode in shown]
    seconds = time.monotonic() - started_s
    report = write_page(
        out,
        cards,
        headline=headline,
        lead=_lead(episodes, refusal, seconds),
        refusal=refusal,
        video=video.name if shown else None,
        large="the front camera" if view else "the scene",
        checkpoint=checkpoint,
        seed=episodes[0].case.seed if episodes else 0,
        example="put the green cube in the red bowl",
    )
    print(f"\n  {headline}")
    own = [episode.success for episode in episodes if episode.case.task == typed]
    good = sum(episode.success for episode in episodes)
    return {
        "success": bool(own and own[0]) if typed else 2 * good > len(episodes),
        "episodes": [_row(episode) for episode in episodes] if refusal is None else [_refused_row(refusal)],
        "video": str(video) if shown else None,
        "report": str(report),
        "refused": refusal.reason if refusal else None,
        "seconds": seconds,
        "checkpoint": checkpoint,
    }


def _row(episode: Episode) -> dict[str, Any]:
    steps = episode.success_step if episode.success_step is not None else episode.steps
    return {
        "instruction": episode.case.task,
        "success": episode.success,
        "seconds": steps * episode.seconds / max(episode.steps, 1),
        "outcome": episode.outcome,
        "plans": [text for _, text in episode.plans],
        "interventions": episode.interventions,
        "crash": episode.crash,
    }


def _refused_row(refusal: Refusal) -> dict[str, Any]:
    return {"instruction": refusal.instruction, "success": False, "seconds": 0.0, "outcome": "refused"}


def _headline(episodes: Sequence[Episode], refusal: Refusal | None) -> str:
    if refusal is not None:
        return "The arm did not move"
    good, count = sum(episode.success for episode in episodes), len(episodes)
    if count == 0:
        return "The window was closed before anything was carried out"
    if good == 0:
        return "The instruction was not carried out" if count == 1 else f"None of {count} instructions was carried out"
    return "The instruction was carried out" if count == 1 else f"{good} of {count} instructions carried out"


def _lead(episodes: Sequence[Episode], refusal: Refusal | None, seconds: float) -> str:
    if refusal is not None:
        return "An instruction that the policy cannot understand is answered, not guessed at."
    crashes = [f"{episode.case.task} ({verdict(episode)})" for episode in episodes if episode.crash is not None]
    crashed = f" Not carried out to the end: {'; '.join(crashes)}." if crashes else ""
    failed = [episode.case.task for episode in episodes if not episode.success and episode.crash is None]
    failures = f" Not carried out: {'; '.join(failed)}." if failed else ""
    return (
        "A vision-language-action policy read camera pictures and words, and moved the joints of a simulated SO-101 arm"
        f" in closed loop. All of it took {seconds:.0f} seconds on this machine.{failures}{crashed}"
    )


def _frames(episodes: Sequence[Episode], policy: PlanningPolicy, headline: str) -> Iterator[np.ndarray]:
    hz = policy.embodiment.control_hz
    yield from title_card(["words and pixels in, joint commands out", headline], fps=hz, seconds=1.6)
    for episode in episodes:
        yield from episode_frames(episode, policy.embodiment)
