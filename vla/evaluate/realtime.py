"""Evaluation by the loop that deploys: physics goes on while the policy thinks, in virtual time.

Each worker has an environment and a copy of the policy, and flies one episode at a time: loop, guard, executor and
strategy are those of `vla deploy`, the clock stands still while this machine computes. So a chunk takes as long as it
is told to take, on every machine, and the same seed gives the same record.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor as Thread
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import gymnasium
import torch

from vla.control.clock import Clock, VirtualClock
from vla.control.completion import Completion
from vla.control.deploy import check_contract
from vla.control.executor import Executor
from vla.control.grammar import Grammar
from vla.control.hierarchy import Hierarchy, Pacing, within_reach
from vla.control.inference import Timed
from vla.control.loop import Loop
from vla.control.planner import ClausePlanner, PolicyPlanner
from vla.control.robot import Robot
from vla.control.steering import Verbatim
from vla.control.stepping import Stepping
from vla.control.strategy import Strategy
from vla.control.supervisor import Supervisor
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.guarded import Guarding
from vla.evaluate.onlooker import Controlled, Hearing, Onlooker
from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.witness import Witness
from vla.evaluate.workers import Host, Worker, WorkerCrash, Workers, ready
from vla.model.history import follow
from vla.types import Embodiment


class TrialRobot(Robot, Protocol):
    """A robot (control/robot.py) in the middle of an episode, whose environment says how it goes."""

    @property
    def infos(self) -> list[dict[str, Any]]:
        """What the environment says: after the reset, and after each control step that has passed."""
        ...

    def observe(self) -> dict[str, Any]:
        """Return the present observation, {"pixels": {camera: uint8[H, W, 3]}, "agent_pos": float32[S]}."""
        ...


class MakeTrial(Protocol):
    """Begins an episode of an environment as a robot in the time of `now`, which gets `hz` commands a second."""

    def __call__(
        self, env: gymnasium.Env, now: Callable[[], float], hz: float, seed: int, options: Mapping[str, Any]
    ) -> TrialRobot:
        """Lay out the scene that a reset with this seed and these options does."""
        ...


@dataclass(frozen=True)
class Realtime:
    """What stands around the policy: as in `vla deploy`, but for the robot."""

    robot: MakeTrial
    planner_ms: float = 300.0  # that a planner takes to name the next subtask, or to check one


@dataclass(frozen=True)
class Timing:
    """How chunks are put together and how late they come."""

    strategy: Callable[[], Strategy]
    latency_s: float  # from an observation to its chunk, all in all


@dataclass
class Landing:
    """What comes back from a worker."""

    episode: Episode
    fault: str  # of the policy, empty if there was none


class PolicyFault(RuntimeError):
    """The policy failed or answered what cannot be carried out; nothing was measured then."""


class Late(Thread):
    """Answers at once and lets it be known when a delay has passed on a clock, for a planner in virtual time."""

    def __init__(self, clock: Clock, delay_s: float):
        """Take how long everything takes."""
        self._clock, self._delay_s = clock, delay_s

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call a function now; the future is done when the delay has passed."""
        future = _Later(self._clock, self._clock.now() + self._delay_s)
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # travels to whoever asks for the result, as from any executor
            future.set_exception(error)
        return future


class _Later(Future):
    def __init__(self, clock: Clock, ready_s: float):
        super().__init__()
        self._clock, self._ready_s = clock, ready_s

    def done(self) -> bool:
        return self._clock.now() >= self._ready_s - 1e-9 and super().done()


class RealtimeHost(Host):
    """What lives inside a worker: the policy, the present environment, and the loop around both."""

    def __init__(
        self,
        load_policy: Callable[[], PlanningPolicy],
        realtime: Realtime,
        guarding: Guarding,
        pacing: Pacing,
        grammar: Grammar,
    ) -> None:
        """Take what loads the policy, which happens with the first episode."""
        super().__init__()
        torch.set_num_threads(1)  # more would wait for the cores of the other workers
        self._load_policy, self._policy = load_policy, None
        self._realtime, self._pacing, self._grammar = realtime, pacing, grammar
        self._guarding, self._collides = guarding, guarding.collides and guarding.collides()

    def fly(self, case: Case, timing: Timing) -> Landing:
        """Carry out one episode and return its record; `frames` has its frames, if the case wanted them."""
        policy = self._policy = follow(self._policy or self._load_policy())
        guarding, clock = self._guarding, VirtualClock()
        self.open(case.world)
        assert self.env is not None
        robot = self._realtime.robot(self.env, clock.now, guarding.hz, case.seed, case.options)
        body, infos = Embodiment.from_dict(robot.embodiment()), robot.infos
        strategy = timing.strategy()
        check_contract(policy, body, strategy)

        witness = Witness(case, self._pacing.linger_steps)
        episode, spoken = witness.episode, witness.begin(infos[0])
        if case.questions:
            self._ask(episode, robot)
        stepping = self._stepping(policy, spoken, clock, body) if case.stepping else None
        hierarchy = stepping.hierarchy if stepping else None
        completion = Completion(k=self._pacing.k, threshold=self._pacing.threshold)
        steering = Hearing(stepping or Verbatim(), witness, infos, completion, body.control_hz, hierarchy)
        executor = Executor(strategy, body)
        most_steps = (self.env.spec.max_episode_steps if self.env.spec else None) or inf
        onlooker = Onlooker(witness, infos, executor, guarding.hz, most_steps)
        loop = Loop(
            robot=robot,
            guard=guarding.guard(body, self._collides),
            executor=executor,
            inference=Timed(Controlled(policy, case.control, mute=not spoken), clock, timing.latency_s),
            steering=steering,
            clock=clock,
            logbook=onlooker,
            instruction=spoken or episode.instruction,  # without words the loop would hold
        )
        onlooker.when_over = loop.leave
        summary = loop.run(inf)
        if case.questions:
            self._ask(episode, robot)
        episode.loop, episode.interventions = onlooker.record(summary), dict(summary.interventions)
        self.recording = onlooker.recording
        plans, claims, ended = [], steering.claims, None
        if hierarchy:
            plans, claims, ended = _noted(hierarchy, "plan"), _noted(hierarchy, "done"), hierarchy.ended
        for step, text in plans:
            witness.judge_plan(text, step, infos[min(step, len(infos) - 1)])
        return Landing(witness.finish(plans, claims, ended, control_dt_s=1 / body.control_hz), onlooker.fault)

    def _stepping(self, policy: PlanningPolicy, spoken: str, clock: Clock, body: Embodiment) -> Stepping:
        supervisor = Supervisor(ClausePlanner(self._grammar, PolicyPlanner(policy)), self._grammar, policy)
        thread = Late(clock, self._realtime.planner_ms / 1000)
        return Stepping(supervisor, spoken, within_reach(self._pacing, policy), body.control_hz, thread)

    def _ask(self, episode: Episode, robot: TrialRobot) -> None:
        self.observation = robot.observe()
        episode.asked.append(self.questions(episode.case.seed, episode.case.questions))


def _noted(hierarchy: Hierarchy, event: str) -> list[tuple[int, str]]:
    return [(note.step, note.text) for note in hierarchy.notes if note.event == event]


def run(
    cases: Iterable[Case],
    *,
    policy: PlanningPolicy,
    workers: Workers,
    timing: Timing,
    on_episode: Callable[[Episode], None],
    keep: Callable[[Episode], bool] = lambda episode: True,
) -> None:
    """Run every case once, one at a time in each worker, and hand each finished episode over.

    The workers must be of a RealtimeHost with the same policy as this one, which is only asked whether it fits. `keep`
    is asked after a recorded episode if its frames are wanted. A crash of an environment ends its episode with the
    traceback in the record; a policy that fails raises PolicyFault.
    """
    waiting, idle = deque(cases), list(workers.all)
    if waiting:
        body = Embodiment.from_dict(idle[0].ask("open", waiting[0].world))
        check_contract(policy, body, timing.strategy())
    flying: dict[int, tuple[Worker, Case]] = {}
    while waiting or flying:
        while waiting and idle:
            worker, case = idle.pop(0), waiting.popleft()
            worker.request("fly", case, timing)
            flying[id(worker)] = worker, case
        for worker in ready([worker for worker, _ in flying.values()]):
            _, case = flying.pop(id(worker))
            on_episode(_landed(worker, case, keep))
            idle.append(worker)


def _landed(worker: Worker, case: Case, keep: Callable[[Episode], bool]) -> Episode:
    """Return the episode that a worker has finished, with its frames if they are wanted."""
    try:
        landing: Landing = worker.answer()
        episode = landing.episode
        episode.case = case
        if not landing.fault and case.record and keep(episode):
            episode.recording = worker.ask("frames")
    except WorkerCrash as error:
        return Episode(case, outcome="crash", crash=str(error))
    if landing.fault:
        raise PolicyFault(f"the policy failed in {case.task}, seed {case.seed}, {landing.fault}")
    return episode
