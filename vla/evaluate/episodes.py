"""One episode of an evaluation: what was asked for, and the record of what happened."""

from dataclasses import asdict, dataclass, field
from typing import Any

from vla.evaluate.controls import PLAIN, Control
from vla.evaluate.pilot import Prediction
from vla.evaluate.workers import Recording, World

# Every way in which an episode can end, in the order of reports, with the words for people.
OUTCOMES = {
    "success": "success",
    "wrong_target": "did the other thing: the goal that another instruction would have named",
    "no_contact": "touched nothing",
    "slipped": "came at least half way and lost it",
    "near_miss": "came at least half way",
    "missed": "touched something, came less than half way",
    "wrong_plan": "the planner named a subtask that was not due",
    "done_too_early": "declared a subtask done that was not",
    "gave_up": "gave up after repeated attempts at one subtask",
    "crash": "crashed (never counted as a failure)",
}


@dataclass(frozen=True)
class Case:
    """One episode to run."""

    task: str  # the name under which it is counted
    world: World
    seed: int
    options: dict[str, Any] = field(default_factory=dict)  # for the environment's reset
    control: Control = PLAIN
    stepping: bool = False  # ask the planner for subtasks one by one
    group: str = "single"  # single, long_horizon, held_out, control, demo
    questions: int = 0  # asked about the first frame, and again about the last
    record: bool = False  # keep the frames
    max_steps: int | None = None  # on top of the environment's own limit


@dataclass
class LoopRecord:
    """What the control loop did in one episode."""

    ticks: int
    missed: int  # periods that were skipped; time that is virtual misses none
    idle_ticks: int  # since the first motion, in which there was nothing new to do
    states: dict[str, int]  # ticks in each state of the guard
    chunks: dict[str, int]  # what became of them
    velocity_jumps: list[float]  # [rad/s], where one chunk ended or another came in, of the joint that jumped most


@dataclass
class Episode:
    """What happened; times count control steps from the reset."""

    case: Case
    instruction: str = ""  # as the environment gave it
    spoken: str = ""  # as the policy got it
    kind: str = ""  # the task kind of the first subtask
    outcome: str = "missed"  # a key of OUTCOMES
    success: bool = False
    success_step: int | None = None
    swapped_success: bool = False
    steps: int = 0
    subtasks: int = 1  # in the instruction
    finished_subtasks: int = 0  # truly, in order
    best_progress: float = 0.0  # of the present subtask, truly
    last_progress: float = 0.0
    touched: bool = False
    plans: list[tuple[int, str]] = field(default_factory=list)
    wrong_plans: int = 0
    claims: list[tuple[int, str]] = field(default_factory=list)
    truths: list[tuple[int, str]] = field(default_factory=list)  # (first step, subtask) at which it is truly done
    predictions: list[Prediction] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)  # of the batch that held this episode's observation
    ended: str | None = None  # what the policy's side said last: done, gave_up
    crash: str | None = None  # the traceback
    seconds: float = 0.0  # simulated
    interventions: dict[str, int] | None = None  # of the guard, by rule; None without one
    loop: LoopRecord | None = None  # None in lockstep
    recording: Recording | None = None
    asked: list[tuple[dict[str, Any], list[dict[str, str]]]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without frames."""
        skipped = ("case", "recording", "asked", "loop")
        plain = {key: value for key, value in self.__dict__.items() if key not in skipped}
        plain["predictions"] = [asdict(prediction) for prediction in self.predictions]
        case = self.case
        return {
            "task": case.task,
            "group": case.group,
            "control": case.control.name,
            "seed": case.seed,
            "world": {"id": case.world.id, "kwargs": case.world.kwargs},
            **plain,
            **({"loop": asdict(self.loop)} if self.loop else {}),
        }


def outcome(episode: Episode) -> str:
    """Name how the episode ended: success, or the failure that explains most."""
    if episode.crash is not None:
        return "crash"
    if episode.success:
        return "success"
    if episode.swapped_success:
        return "wrong_target"
    if episode.case.stepping:
        if episode.wrong_plans:
            return "wrong_plan"
        if len(episode.claims) > len(episode.truths):
            return "done_too_early"
        if episode.ended == "gave_up":
            return "gave_up"
    if not episode.touched:
        return "no_contact"
    if episode.best_progress >= 0.5:
        return "slipped" if episode.last_progress < episode.best_progress - 0.2 else "near_miss"
    return "missed"
