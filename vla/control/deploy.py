"""`vla deploy`: run a policy on a robot, simulated or not, in the loop that must not hurt anything."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.control.claim import claim
from vla.control.clock import Clock, RealClock
from vla.control.cockpit import Cockpit
from vla.control.executor import Executor, Seam
from vla.control.faults.injection import Injection
from vla.control.guard import Guard
from vla.control.hierarchy import Pacing
from vla.control.inference import Controller, Threaded, takes_given
from vla.control.listener import bind
from vla.control.logbook import Logbook
from vla.control.loop import Loop
from vla.control.operator import Operated, OperatorPage
from vla.control.quiet import quiet_interpreter
from vla.control.replay import HELD_S, Recording, Replay, present_joints
from vla.control.rerun_log import RerunLog
from vla.control.robot import Robot
from vla.control.steering import Steering, Verbatim
from vla.control.stepping import Stepping, who_reads
from vla.control.strategy import RealTime, Strategy
from vla.control.summary import Summary
from vla.control.words import admit_words, tidy
from vla.model.checkpoint import DEFAULT, load
from vla.model.history import follow
from vla.result import write_result
from vla.types import ContractError, Embodiment

log = logging.getLogger(__name__)
NOT_REPLAYED = (
    "policy",
    "checkpoint",
    "planner",
    "pacing",
    "strategy",
    "latency_ms",
)  # what a recording leaves to none


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="deploy")
def main(config: DictConfig) -> None:
    """Carry out one instruction or replay an episode, then write result.json beside the recording."""
    out = Path(HydraConfig.get().runtime.output_dir).resolve()
    torch.set_num_threads(config.threads)
    result = replay(config, out) if config.replay is not None else carry_out(config, out)
    path = write_result(out, **result, seed=config.seed, latency_ms=config.latency_ms)
    print(f"{_verdict(result)}\n{path}")
    if result["ended"].startswith("signal"):
        raise KeyboardInterrupt


def carry_out(config: DictConfig, out: Path) -> dict[str, Any]:
    """Carry out the instruction of a config with its policy."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    policy = make_policy(config)
    instruction = tidy(settings["instruction"] or "")
    steering = instantiate(config.planner, _partial_=True)(
        policy=policy,
        grammar=instantiate(config.skills),
        instruction=instruction,
        pacing=Pacing(**settings["pacing"]),
        control_hz=policy.embodiment.control_hz,
    )
    admit_words(instruction, who_reads(steering, policy))
    with claimed(settings["robot"]), closing(instantiate(config.robot.connect)) as robot:
        parts = {"strategy": instantiate(config.strategy), "steering": steering, **around(config)}
        result = deploy(robot, policy, instruction=instruction, seconds=_seconds(config), out=out, **parts)
    return {**result, "policy": settings["policy"] or settings["checkpoint"] or str(DEFAULT)}


def replay(config: DictConfig, out: Path) -> dict[str, Any]:
    """Drive the recorded episode that a config names, where it can be in the scene that it was recorded in."""
    given = {word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task}
    if unheard := sorted(key for key in given if key.partition(".")[0] in NOT_REPLAYED):
        raise ValueError(
            f"replay= does what was recorded and hears of no {', '.join(unheard)}: leave out one or the other"
        )
    recording = Recording.read(config.replay, config.episode)
    config.instruction = config.instruction if "instruction" in given else recording.task
    again = recording.scene is not None and "scene" in config.robot and not given & {"seed", "instruction"}
    if "seed" not in given and recording.seed is not None:
        config.seed = recording.seed
    make = partial(instantiate, config.robot.scene, **recording.scene) if again and recording.scene else None
    seconds = _seconds(config) if "seconds" in given else recording.seconds + HELD_S
    with claimed(config.robot), closing(make() if make else instantiate(config.robot.connect)) as robot:
        body = Embodiment.from_dict(robot.embodiment())
        recording.refuse_other(body)
        if not config.guard.slow_approach:
            recording.refuse_start(present_joints(robot), config.guard.engage_tol)
        policy = Replay(recording, body)
        parts = {"strategy": policy.playback, "steering": policy, **around(config)}
        result = deploy(robot, policy, instruction=config.instruction or "", seconds=seconds, out=out, **parts)
    told = {"replay": str(config.replay), "replayed_episode": config.episode, "followed": policy.followed()}
    return {**result, **told, "policy": None}


def around(config: DictConfig) -> dict[str, Any]:
    """Return what `deploy` takes of a config whatever it drives."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    collides = instantiate(config.robot.collides)
    return {
        "hz": settings["robot"]["hz"],
        "latency_s": settings["latency_ms"] / 1000,
        "faults": settings["faults"],
        "unlike_cameras": settings["unlike_cameras"],
        "rrd": settings["rrd"],
        "guard": {"collides": collides, "hardware": settings["robot"]["hardware"], **settings["guard"]},
        "page": partial(open_page, settings["web_host"], settings["web_port"]) if settings["web"] else None,
        "seed": None if settings["robot"]["hardware"] else settings["seed"],
    }


def _seconds(config: DictConfig) -> float:
    return inf if config.seconds is None else config.seconds


def claimed(robot: Mapping[str, Any]) -> AbstractContextManager:
    """Be the only commander of the robot of a config while this is entered; a real one must say what it is called."""
    if robot.get("claims") is not None:
        return claim(str(robot["claims"]))
    if robot["hardware"]:
        raise ValueError("robot.claims: give the serial number or port of this robot, which one process may command")
    return nullcontext()


def make_policy(config: DictConfig) -> Controller:
    """Return the policy behind a URL, or the one of a checkpoint folder."""
    if config.policy is None:
        return load(config.checkpoint or DEFAULT, device=config.device)
    if config.remote is None:
        raise ValueError(f"policy={config.policy}: no client is configured; give remote._target_, called with url=")
    return instantiate(config.remote, url=config.policy)


def deploy(
    robot: Robot,
    policy: Controller,
    *,
    instruction: str,
    seconds: float,
    out: Path,
    strategy: Strategy,
    hz: float,
    latency_s: float,
    guard: dict[str, Any],
    steering: Steering | None = None,
    page: Callable[[Cockpit, Embodiment], AbstractContextManager] | None = None,
    clock: Clock | None = None,
    faults: Sequence[Mapping[str, Any]] = (),
    unlike_cameras: bool = False,
    rrd: bool = False,
    seed: int | None = None,
) -> dict[str, Any]:
    """Run the loop in real time and return what result.json documents.

    `guard` holds more arguments of the Guard; `faults` those of `Fault`s, which are refused where `guard.hardware` is.
    `unlike_cameras` lets pictures pass that look mirrored, turned or blue for red beside those of training. `rrd` also
    writes `out`/run.rrd, for the Rerun viewer. `seed` of a simulated scene is kept with the episode.

    Raises ContractError before anything moves if the policy was trained for another body.
    """
    body = Embodiment.from_dict(robot.embodiment())
    injection = Injection(faults, robot, follow(policy), clock or RealClock(), hardware=guard.get("hardware", True))
    robot, policy, clock = injection.robot, injection.policy, injection.clock
    steering = injection.steering(steering or Verbatim())
    check_contract(policy, body, strategy)
    executor, keeper = Executor(strategy, body), Guard(body, hz, **guard)
    viewer = RerunLog(out / "run.rrd", body) if rrd else None
    logbook = Logbook(out, body, instruction, hz, disk=injection.disk, also=viewer)
    if unlike_cameras:
        logbook.event(
            clock.now(), "unlike cameras", reason="pictures are not compared with those of training, as asked"
        )
    inference = injection.inference(Threaded(policy, clock, latency_s))
    if isinstance(steering, Stepping):
        steering.tell = lambda note: logbook.event(clock.now(), note.event, text=note.text)
    loop = Loop(
        robot=robot,
        guard=keeper,
        executor=executor,
        inference=inference,
        steering=steering,
        clock=clock,
        logbook=logbook,
        instruction=instruction,
        glimpses={} if unlike_cameras else getattr(policy, "glimpses", {}),
    )
    if isinstance(steering, Replay):
        steering.finish = partial(loop.stop, "replayed")
    cockpit = Cockpit(loop, keeper, steering, who_reads(steering, policy), not guard.get("hardware", True))
    success = False
    try:
        with quiet_interpreter(), signals(loop), page(cockpit, body) if page else nullcontext():
            summary = loop.run(seconds)
        success = carried_out(robot)
    finally:
        inference.close()
        steering.close()
        logbook.close({"success": success} | ({} if seed is None else {"seed": seed}))
        if viewer is not None:
            viewer.close()
    return {"success": success} | describe(summary, executor, dict(inference.counts), logbook)


def carried_out(robot: Robot) -> bool:
    """Ask a simulated robot; one that has failed cannot say, and what it did is reported all the same."""
    try:
        truth = robot.truth()
    except OSError as error:
        log.error("nobody can say whether it was carried out: %s", error)
        return False
    return bool(truth and truth["is_success"])


def open_page(host: str, port: int, cockpit: Operated, body: Embodiment) -> OperatorPage:
    """Return the operator's page of a run, to be entered; its token, if any, is in the environment as VLA_TOKEN."""
    token = os.environ.get("VLA_TOKEN") or None
    page = OperatorPage(cockpit, body.joints, list(body.cameras), bind(host, port, token), token)
    print(f"operator's page: {page.address}")
    return page


def check_contract(policy: Controller, body: Embodiment, strategy: Strategy) -> None:
    """Raise before anything moves if the policy was not trained for this body, or cannot do what the strategy asks."""
    check = getattr(policy, "check", None)
    if check is not None:
        check(body)
    elif differences := policy.embodiment.differences(body):
        raise ContractError("the policy was trained for another body:\n  " + "\n  ".join(differences))
    if isinstance(strategy, RealTime) and not takes_given(policy):
        raise ValueError(
            f"strategy=rtc needs a policy that continues given steps, {type(policy).__name__} does not; "
            "possible: sequential, ensemble, overlap"
        )
    if isinstance(strategy, RealTime):
        lead = getattr(policy, "guide", None)
        if lead is not None:
            lead(strategy.guidance)
        elif strategy.guidance:
            raise ValueError(f"strategy.guidance={strategy.guidance} needs the checkpoint itself, not one behind a URL")


@contextmanager
def signals(loop: Loop) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) brake and hold, latched, and the second end the run as the arm stands."""
    received = 0

    def handle(number: int, _: object) -> None:
        nonlocal received
        received += 1
        name = signal.Signals(number).name
        if received == 1:
            loop.estop(f"signal {name}")
        else:
            loop.leave()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(summary: Summary, executor: Executor, inference: dict[str, int], logbook: Logbook) -> dict[str, Any]:
    """Return the numbers of a run."""
    return {
        "ticks": summary.ticks,
        "missed": summary.missed,
        "idle_ticks": summary.idle_ticks,
        "interventions": summary.interventions,
        "states": dict(summary.states),
        "ended": summary.ended,
        "late_ms": _percentiles([1000 * late_s for late_s in summary.late_s]),
        "delay_ms": _percentiles([1000 * delay_s for delay_s in executor.delays_s]),
        "seams": _seams(list(executor.seams)),
        "chunks": dict(executor.counts),
        "inference": inference,
        "events": list(logbook.events),
        "episode": str(logbook.folder / "dataset"),
        "episode_index": logbook.episode_index,
        "dropped_frames": logbook.dropped_frames,
        "recording_fault": logbook.fault or None,
    }


def _percentiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "max": float(max(values))}


def _seams(seams: list[Seam]) -> dict[str, Any]:
    """Return how far target and speed jumped where chunks met."""
    return {
        "count": len(seams),
        "position_rad": _percentiles([seam.position for seam in seams]),
        "velocity_rad_s": _percentiles([seam.velocity for seam in seams]),
    }


def _verdict(result: dict[str, Any]) -> str:
    seconds = {state: ticks for state, ticks in result["states"].items() if ticks}
    done = "carried out" if result["success"] else "not carried out"
    return (
        f"{done}; {result['ticks']} ticks ({result['missed']} missed, {result['idle_ticks']} idle), "
        f"guard: {', '.join(f'{state} {ticks}' for state, ticks in seconds.items())}, "
        f"{sum(result['interventions'].values())} interventions; ended: {result['ended']}"
    )
