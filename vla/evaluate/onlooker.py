"""Looks on while the loop carries out one episode: the truth beside it, frames for a video, how smoothly it goes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla.control.completion import Completion
from vla.control.executor import Executor
from vla.control.hierarchy import Hierarchy
from vla.control.logbook import Moment, Tick
from vla.control.severity import State
from vla.control.steering import Steering
from vla.control.summary import Summary
from vla.evaluate.controls import Control
from vla.evaluate.episodes import LoopRecord
from vla.evaluate.pilot import PlanningPolicy, Prediction
from vla.evaluate.witness import Witness
from vla.evaluate.workers import Recording
from vla.types import ActionChunk, Embodiment, Observation


class Onlooker:
    """A log of the loop (see `Log`) that ends the run by `when_over` when the episode has nothing more to show.

    `fault` says what the policy got wrong, empty if nothing: that is no failed episode but an error.
    """

    def __init__(
        self, witness: Witness, infos: Sequence[dict[str, Any]], executor: Executor, hz: float, max_steps: float
    ):
        """Take the growing list of what the environment says, and after how many control steps it ends the episode."""
        self.recording = Recording([], [], []) if witness.case.record else None
        self.fault = ""
        self.when_over: Callable[[], None] = lambda: None
        self._witness, self._infos, self._executor = witness, infos, executor
        self._period_s, self._max_steps = 1 / hz, max_steps
        self._targets: list[np.ndarray | None] = []
        self._seams: list[int] = []  # ticks at which a motion begins or ends
        self._new_chunk, self._idle, self._moved, self._idle_ticks = False, True, False, 0

    def event(self, now_s: float, event: str, **what: Any) -> None:
        """Remember the first fault of the policy."""
        if event == "policy":
            self.fault = self.fault or f"at {now_s:.3f} s: {what['reason']}"

    def chunk(self, now_s: float, actions: np.ndarray, **what: Any) -> None:
        """Remember that a chunk came in, unless it was dropped."""
        self._new_chunk |= not what["dropped"]

    def tick(self, tick: Tick) -> None:
        """Note what the environment has said since the last tick, and the target."""
        idle = self._executor.idle(tick.due_s + self._period_s)
        if self._new_chunk or (idle and not self._idle):
            self._seams.append(len(self._targets))
        self._new_chunk, self._idle, self._moved = False, idle, self._moved or not idle
        self._idle_ticks += self._moved and idle
        self._targets.append(tick.target)
        for info in self._infos[self._witness.episode.steps + 1 :]:
            self._witness.step(info)
        if self._witness.over or self._witness.episode.steps >= self._max_steps:
            self.when_over()

    def frame(self, moment: Moment, command: np.ndarray) -> None:
        """Keep a frame of an episode that is to be recorded."""
        if self.recording is None:
            return
        if self.recording.pixels:
            self.recording.actions.append(command)
        self.recording.pixels.append(dict(moment.observation.images))
        self.recording.states.append(moment.joints)

    def dump(self, state: State) -> None:
        """Dump nothing: the same seed gives the same run again."""

    def record(self, summary: Summary) -> LoopRecord:
        """Return what the loop did."""
        return LoopRecord(
            ticks=summary.ticks,
            missed=summary.missed,
            idle_ticks=self._idle_ticks,
            states=dict(summary.states),
            chunks=dict(self._executor.counts),
            velocity_jumps=self._velocity_jumps(),
        )

    def _velocity_jumps(self) -> list[float]:
        """Return how far the speed of the targets changed from one tick to the next, the largest at each seam.

        A tick's speed is the way from the target before to its own; a seam shows in its tick, the one before or after.
        """
        known = next((target for target in self._targets if target is not None), None)
        if known is None:
            return []
        path = np.array([np.full_like(known, np.nan) if target is None else target for target in self._targets])
        speeds = np.diff(path, axis=0) / self._period_s
        jumps = np.abs(np.diff(speeds, axis=0)).max(axis=1, initial=0.0)  # [i] lies between ticks i + 1 and i + 2
        around = [jumps[max(seam - 2, 0) : seam] for seam in self._seams]
        return [round(float(np.nanmax(near)), 5) for near in around if np.isfinite(near).any()]


class Hearing:
    """Steers as another steering does, and notes what the policy says about completion beside the truth of that frame.

    Steps count the frames that are spoken of, which with a slow policy are some steps back.
    """

    def __init__(
        self,
        steering: Steering,
        witness: Witness,
        infos: Sequence[dict[str, Any]],
        completion: Completion,
        control_hz: float,
        hierarchy: Hierarchy | None = None,
    ):
        """completion: what declares the instruction as a whole done, where no hierarchy does."""
        self.claims: list[tuple[int, str]] = []  # (step, instruction), at most one
        self._steering, self._witness, self._infos = steering, witness, infos
        self._completion, self._control_hz, self._hierarchy = completion, control_hz, hierarchy

    def look(self, observation: Observation) -> str | None:
        """Return what the other steering says, and note when it has ended the episode."""
        text = self._steering.look(observation)
        if text is None and self._hierarchy and self._hierarchy.ended:
            self._witness.end()
        return text

    @property
    def why_idle(self) -> str:
        """Return what the other steering says."""
        return self._steering.why_idle

    def close(self) -> None:
        """Close the other steering."""
        self._steering.close()

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Note what a chunk says."""
        step = min(int(chunk.time_s * self._control_hz + 1e-6), len(self._infos) - 1)
        truth = self._infos[step]["subtask"]
        self._witness.episode.predictions.append(
            Prediction(
                step=step,
                subtask=text,
                done=chunk.done,
                progress=chunk.progress,
                true_subtask=truth["text"],
                true_done=truth["done"],
                true_progress=float(truth["progress"]),
            )
        )
        if chunk.done is not None and self._completion.update(chunk.done) and not self.claims:
            self.claims.append((step, text))
        self._steering.hear(chunk, text)


class Controlled:
    """A policy that gets what a control lets through; with `mute` no words at all, whatever the loop says."""

    def __init__(self, policy: PlanningPolicy, control: Control, mute: bool):
        """Take the policy as it is."""
        self._policy, self._control, self._mute = policy, control, mute

    @property
    def embodiment(self) -> Embodiment:
        """The body that the policy was trained for."""
        return self._policy.embodiment

    def act(
        self, observations: Sequence[Observation], given: np.ndarray | None = None, given_steps: int = 0
    ) -> list[ActionChunk]:
        """Answer each observation with a chunk; given steps are handed on to a policy that takes them."""
        shown = [self._show(observation) for observation in observations]
        prefix: dict[str, Any] = {} if given is None else {"given": given, "given_steps": given_steps}
        return self._policy.act(shown, **prefix)

    def _show(self, observation: Observation) -> Observation:
        seen = self._control.show({"pixels": observation.images, "agent_pos": observation.state})
        return Observation.from_gym(seen, "" if self._mute else observation.instruction, observation.time_s)
