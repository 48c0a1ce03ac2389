"""Closed loop over many seeded episodes: environments in workers, one policy that answers them in batches."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from vla.control.grammar import Grammar
from vla.control.hierarchy import Pacing, within_reach
from vla.control.planner import ClausePlanner, PolicyPlanner
from vla.control.supervisor import Supervisor, Turn
from vla.evaluate.episodes import Case, Episode
from vla.evaluate.pilot import Pilot, PlanningPolicy, Prediction
from vla.evaluate.witness import Witness
from vla.evaluate.workers import Moment, Worker, WorkerCrash, Workers, ready
from vla.model.history import History, Recollection
from vla.types import Embodiment, Observation


class Flight:
    """One episode in the air: its worker, its pilot, its record so far."""

    def __init__(self, case: Case, worker: Worker, pacing: Pacing, control_dt_s: float, history: History | None = None):
        """Begin; history: the earlier frames that the policy reads."""
        self.case = case
        self.worker = worker
        self.pacing = pacing
        self.control_dt_s = control_dt_s
        self.witness = Witness(case, pacing.linger_steps)
        self.episode = self.witness.episode
        self.pilot: Pilot | None = None
        self.moment: Moment | None = None
        self.recollection = Recollection(history, control_hz=1.0) if history else None  # its seconds are steps
        worker.request("reset", case.world, case.seed, case.options, case.record)

    def land(self, moment: Moment) -> None:
        """Take what the worker reports."""
        if self.pilot is None:
            spoken = self.witness.begin(moment.infos[0])
            self.pilot = Pilot(instruction=spoken, stepping=self.case.stepping, pacing=self.pacing)
        else:
            for info in moment.infos:
                self.witness.step(info)
        self.episode.interventions = moment.interventions
        self.moment = moment
        if self.case.questions and not self.episode.asked:
            self._ask()

    def _ask(self) -> None:
        self.episode.asked.append(self.worker.ask("questions", self.case.seed, self.case.questions))

    @property
    def steered_by(self) -> Pilot:
        """The pilot, there once the episode has begun."""
        assert self.pilot is not None
        return self.pilot

    def hold(self) -> np.ndarray:
        """One action float32[1, A] that keeps the arm where it is."""
        assert self.moment is not None
        return self.steered_by.hold(self.moment.observation["agent_pos"])

    @property
    def info(self) -> dict[str, Any]:
        """The latest step's info."""
        assert self.moment is not None
        return self.moment.infos[-1]

    @property
    def over(self) -> bool:
        """Whether the episode has nothing more to show."""
        assert self.moment is not None
        return self.moment.over or self.witness.over

    def observation(self, text: str) -> Observation:
        """What the policy sees, with `text` as its instruction."""
        assert self.moment is not None
        seen = Observation.from_gym(self.case.control.show(self.moment.observation), text, time.monotonic())
        return self.recollection.see(seen, self.episode.steps) if self.recollection else seen

    def predict(self, done: float | None, progress: float | None) -> None:
        """Note what a chunk says about completion beside the truth."""
        subtask, true = self.steered_by.subtask, self.info["subtask"]
        assert subtask is not None
        self.episode.predictions.append(
            Prediction(
                step=self.episode.steps,
                subtask=subtask,
                done=done,
                progress=progress,
                true_subtask=true["text"],
                true_done=true["done"],
                true_progress=float(true["progress"]),
            )
        )

    def turn(self) -> Turn | None:
        """What a supervisor needs to answer this episode's questions, None where there are none to ask."""
        hierarchy = self.steered_by.hierarchy
        return Turn(hierarchy, self.observation(hierarchy.instruction), self.episode.steps) if hierarchy else None

    def judge_plans(self, said_before: int) -> None:
        """Compare the planner's new words with what is truly due."""
        for _, text in self.steered_by.plans[said_before:]:
            self.witness.judge_plan(text, self.episode.steps, self.info)
        if self.steered_by.ended:
            self.witness.end()

    def finish(self, keep: Callable[[Episode], bool]) -> Episode:
        """Close the record, with its frames if they were kept and `keep` wants them."""
        pilot = self.pilot
        plans, claims, ended = (pilot.plans, pilot.claims, pilot.ended) if pilot else ([], [], None)
        episode = self.witness.finish(plans, claims, ended, control_dt_s=self.control_dt_s)
        if episode.crash is None:
            if self.case.questions:
                self._ask()
            if self.case.record and keep(episode):
                episode.recording = self.worker.ask("frames")
        return episode


def _advance(flights: list[Flight], policy: PlanningPolicy, supervisor: Supervisor) -> None:
    """Plan, act and send the next actions for every flight that waits for them, in one batch each."""
    said = [len(flight.steered_by.plans) for flight in flights]
    supervisor.serve([turn for flight in flights if (turn := flight.turn())])
    for flight, before in zip(flights, said, strict=True):
        flight.judge_plans(before)
    movers = [(flight, text) for flight in flights if (text := flight.steered_by.subtask) is not None]
    if movers:
        observations = [flight.observation(text) for flight, text in movers]
        start = time.perf_counter()
        chunks = policy.act(observations)
        latency_s = time.perf_counter() - start
        for (flight, _), chunk in zip(movers, chunks, strict=True):
            flight.episode.latencies_s.append(latency_s)
            flight.predict(chunk.done, chunk.progress)
            flight.worker.request("step", flight.steered_by.take_chunk(chunk, flight.episode.steps))
    moving = {id(flight) for flight, _ in movers}
    for flight in flights:
        if id(flight) not in moving:
            flight.worker.request("step", flight.hold())


def run(
    cases: Iterable[Case],
    *,
    policy: PlanningPolicy,
    workers: Workers,
    pacing: Pacing,
    grammar: Grammar,
    on_episode: Callable[[Episode], None],
    on_step: Callable[[Episode], None] = lambda episode: None,
    keep: Callable[[Episode], bool] = lambda episode: True,
) -> None:
    """Run every case once, as many at a time as there are workers, and hand each finished episode over.

    `grammar` has the subtasks that plans may hold. `keep` is asked after a recorded episode if its frames are wanted.

    A crash of an environment ends its episode with the traceback in the record; errors of the policy are raised.
    """
    supervisor = Supervisor(ClausePlanner(grammar, PolicyPlanner(policy)), grammar, policy)
    pacing = within_reach(pacing, policy)
    control_dt_s, history = 1.0 / policy.embodiment.control_hz, getattr(policy, "history", None)
    waiting, idle = deque(cases), list(workers.all)
    flying: dict[int, Flight] = {}
    while waiting or flying:
        while waiting and idle:
            worker = idle.pop(0)
            flying[id(worker)] = Flight(waiting.popleft(), worker, pacing, control_dt_s, history)
        landed = []
        for worker in ready([flight.worker for flight in flying.values()]):
            flight = flying[id(worker)]
            try:
                moment = worker.answer()
                if moment.embodiment is not None:
                    policy.check(Embodiment.from_dict(moment.embodiment))
                flight.land(moment)
                over = flight.over
                episode = flight.finish(keep) if over else flight.episode
            except WorkerCrash as error:
                flight.episode.crash, over = str(error), True
                episode = flight.finish(keep)
            if over:
                del flying[id(worker)]
                idle.append(worker)
                on_episode(episode)
            else:
                landed.append(flight)
                on_step(episode)
        if landed:
            _advance(landed, policy, supervisor)


def single_latencies_s(policy: PlanningPolicy, observation: Observation, *, repeats: int) -> list[float]:
    """Time `repeats` chunks, one observation at a time and none like the one before, after three to warm up."""
    latencies = []
    for repeat in range(repeats + 3):
        images = {name: np.roll(image, repeat, axis=1) for name, image in observation.images.items()}
        observation = replace(observation, images=images)
        start = time.perf_counter()
        policy.act([observation])
        if repeat >= 3:
            latencies.append(time.perf_counter() - start)
    return latencies
