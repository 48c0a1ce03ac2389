"""Writes down what truly happens in one episode, control step by control step, however it is controlled."""

import math
from collections.abc import Sequence
from typing import Any

from vla.evaluate.episodes import Case, Episode, outcome


class Witness:
    """Keeps the record of one episode from what the environment says."""

    def __init__(self, case: Case, linger_steps: int):
        """Begin a record; the episode lingers for so many steps after success, or when the policy's side ended it."""
        self.case, self.episode = case, Episode(case)
        self.ended_step: int | None = None  # when the policy's side ended it
        self._linger_steps, self._subtask_index = linger_steps, 0

    def begin(self, info: dict[str, Any]) -> str:
        """Note the reset; return the words that the policy gets."""
        episode = self.episode
        episode.instruction, episode.spoken = info["instruction"], self.case.control.instruct(info)
        episode.kind, episode.subtasks = info["subtask"]["kind"], info["subtask"]["count"]
        self._watch(info)
        return episode.spoken

    def step(self, info: dict[str, Any]) -> None:
        """Note one control step."""
        self.episode.steps += 1
        self._watch(info)

    def judge_plan(self, text: str, step: int, info: dict[str, Any]) -> None:
        """Compare what the planner said about a step with what was truly due then."""
        success_step = self.episode.success_step
        due = "done" if success_step is not None and success_step <= step else info["subtask"]["text"]
        # The environment shows a finished subtask for some steps more, while the planner may already be ahead.
        self.episode.wrong_plans += text != due and not info["subtask"]["done"]

    def end(self) -> None:
        """Note that the policy's side says that all is over."""
        if self.ended_step is None:
            self.ended_step = self.episode.steps

    @property
    def over(self) -> bool:
        """Whether there is nothing more to see, as far as the case and what happened say."""
        episode = self.episode
        if episode.steps >= (self.case.max_steps or math.inf):
            return True
        if self.case.control.name == "swapped" and episode.swapped_success:
            return True
        if episode.success_step is not None and episode.steps >= episode.success_step + self._linger_steps:
            return True
        return self.ended_step is not None and episode.steps >= self.ended_step + self._linger_steps

    def finish(
        self,
        plans: Sequence[tuple[int, str]] = (),
        claims: Sequence[tuple[int, str]] = (),
        ended: str | None = None,
        *,
        control_dt_s: float,
    ) -> Episode:
        """Close the record with what the policy's side said: plans and claims as (step, subtask), and how it ended."""
        episode = self.episode
        episode.plans, episode.claims, episode.ended = list(plans), list(claims), ended
        if not self.case.stepping and episode.truths and episode.claims:
            # The controller got the operator's words; the truth names the same subtask in its own.
            episode.claims = [(step, episode.truths[0][1]) for step, _ in episode.claims]
        episode.seconds = episode.steps * control_dt_s
        episode.outcome = outcome(episode)
        return episode

    def _watch(self, info: dict[str, Any]) -> None:
        """Note the truth of one step."""
        episode, subtask = self.episode, info["subtask"]
        if info["is_success"] and not episode.success:
            episode.success, episode.success_step = True, episode.steps
        episode.swapped_success |= bool(info["swapped"]["is_success"])
        episode.touched |= bool(info["contacts"])
        progress = float(subtask["progress"])
        if subtask["index"] > self._subtask_index:
            self._subtask_index, episode.best_progress = subtask["index"], 0.0
        episode.best_progress, episode.last_progress = max(episode.best_progress, progress), progress
        if subtask["done"] and len(episode.truths) <= subtask["index"]:
            episode.truths.append((episode.steps, subtask["text"]))
            episode.finished_subtasks = len(episode.truths)
