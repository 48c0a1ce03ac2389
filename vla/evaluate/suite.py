"""Everything that one evaluation runs: which episodes, which videos to keep, and the summary of it all."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from vla.evaluate import controls, questions, summary
from vla.evaluate.controls import Control
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.videos import episode_frames, write_video
from vla.evaluate.workers import World
from vla.types import Embodiment

CONTROLS = {control.name: control for control in (controls.BLANK_INSTRUCTION, controls.SWAPPED, controls.BLANK_CAMERA)}


def world_of(entry: Mapping[str, Any], embodiment: Embodiment, **extra: Any) -> World:
    """Build a world from a config entry {id, kwargs}, with the cameras that the policy expects."""
    cameras = {name: [camera.height, camera.width] for name, camera in embodiment.cameras.items()}
    kwargs = {"cameras": list(cameras), "image_size": cameras, **entry.get("kwargs", {}), **extra}
    return World(entry["id"], kwargs)


def single_cases(
    tasks: Mapping[str, Mapping[str, Any]], embodiment: Embodiment, *, episodes: int, seed: int, **case: Any
) -> list[Case]:
    """Return `episodes` cases of every task, all tasks on the same seeds."""
    return [
        Case(task, world_of(entry, embodiment), seed + index, **case)
        for task, entry in tasks.items()
        for index in range(episodes)
    ]


def held_out_cases(
    entry: Mapping[str, Any],
    splits: Mapping[str, Mapping[str, Any]],
    embodiment: Embodiment,
    *,
    episodes: int,
    seed: int,
    questions: int,
) -> list[Case]:
    """Return `episodes` cases of every kind of every split {name: {split, kinds}}, with questions about each scene."""
    return [
        Case(
            kind,
            world_of(entry, embodiment, split=split["split"]),
            seed + index,
            options={"kind": kind},
            group=f"held_out/{name}",
            questions=questions,
        )
        for name, split in splits.items()
        for kind in split["kinds"]
        for index in range(episodes)
    ]


def control_cases(
    tasks: Mapping[str, Mapping[str, Any]], embodiment: Embodiment, names: Sequence[str], *, episodes: int, seed: int
) -> list[Case]:
    """Return `episodes` cases of every task under every control."""
    unknown = sorted(set(names) - set(CONTROLS))
    if unknown:
        raise ValueError(f"no control {unknown}; possible: {list(CONTROLS)}")
    chosen: list[Control] = [CONTROLS[name] for name in names]
    return [
        case
        for control in chosen
        for case in single_cases(
            tasks, embodiment, episodes=episodes, seed=seed, control=control, group=f"control/{control.name}"
        )
    ]


@dataclass
class Gallery:
    """Keeps videos: a few of every way in which episodes end."""

    folder: Path
    embodiment: Embodiment
    each: int  # videos of every outcome; successes count per task
    written: dict[str, Episode] = field(default_factory=dict)  # file name -> episode
    counts: Counter = field(default_factory=Counter)

    def _key(self, episode: Episode) -> tuple[str, ...]:
        return (episode.outcome, episode.case.task) if episode.success else (episode.outcome,)

    def wants(self, episode: Episode) -> bool:
        """Say whether this outcome has too few videos so far."""
        return self.counts[self._key(episode)] < (1 if episode.success else self.each)

    def add(self, episode: Episode) -> None:
        """Write the episode's video and let go of its frames."""
        if episode.recording is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.counts[self._key(episode)] += 1
        name = f"{episode.case.task}_{episode.case.seed}_{episode.outcome}.mp4"
        frames = episode_frames(episode, self.embodiment)
        write_video(self.folder / name, frames, fps=self.embodiment.control_hz)
        episode.recording = None
        self.written[name] = episode


class Run(Protocol):
    """Runs cases and hands their episodes over: `rollout.run` or `realtime.run` with all else bound."""

    def __call__(
        self, cases: Sequence[Case], *, on_episode: Callable[[Episode], None], keep: Callable[[Episode], bool]
    ) -> None:
        """Run every case once; `keep` is asked if the frames of an episode are wanted."""
        ...


def fly(cases: Sequence[Case], *, run: Run, record: Path, gallery: Gallery, label: str) -> list[Episode]:
    """Run the cases under a progress bar and return their episodes in the same order.

    Each record is appended to the JSON-lines file `record` as it comes; the gallery keeps some videos.
    """
    episodes: list[Episode] = []
    with tqdm(total=len(cases), desc=label, unit="episode", smoothing=0.05) as bar, record.open("a") as lines:

        def landed(episode: Episode) -> None:
            gallery.add(episode)
            episodes.append(episode)
            lines.write(json.dumps({"policy": label, **episode.to_dict()}) + "\n")
            lines.flush()
            fine = [row for row in summary.finished(episodes) if row.case.group == episode.case.group]
            good = sum(episode.success for episode in fine)
            bar.set_postfix_str(f"{episode.case.group} {good}/{len(fine)} successes")
            bar.update()

        run(cases, on_episode=landed, keep=gallery.wants)
    order = {id(case): index for index, case in enumerate(cases)}
    return sorted(episodes, key=lambda episode: order[id(episode.case)])


def summarise(
    episodes: Sequence[Episode], *, policy: PlanningPolicy, tolerance_s: float, latencies_s: Sequence[float]
) -> dict[str, Any]:
    """Return what result.json documents, and beside it the answers to all questions."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.case.group, []).append(episode)
    single, long = groups.get("single", []), groups.get("long_horizon", [])
    held_out = {key.split("/")[1]: rows for key, rows in groups.items() if key.startswith("held_out/")}
    controlled = [row for key, rows in groups.items() if key.startswith("control/") for row in rows]
    hz = policy.embodiment.control_hz
    answers = questions.ask(policy, [pair for episode in episodes for pair in episode.asked])
    return {
        **summary.overall(single),
        "crashes": len(episodes) - len(summary.finished(episodes)),
        "per_task": {task: summary.task_row(rows) for task, rows in summary.by_task(single).items()},
        "long_horizon": {
            **summary.long_horizon_row(long),
            "completion": summary.completion_row(long, control_hz=hz, tolerance_s=tolerance_s),
        },
        "held_out": {
            name: {
                **summary.overall(rows),
                "per_task": {task: summary.task_row(group) for task, group in summary.by_task(rows).items()},
            }
            for name, rows in held_out.items()
        },
        "controls": summary.controls_row(controlled),
        "controls_per_task": summary.controls_per_task(controlled),
        "completion": summary.completion_row(single, control_hz=hz, tolerance_s=tolerance_s),
        "questions": questions.score(answers),
        "chunk_latency_ms": summary.latency_row(latencies_s),
        "guard_interventions": summary.interventions_row(episodes),
        "loop": summary.loop_row(single) if any(episode.loop for episode in single) else None,
    }
