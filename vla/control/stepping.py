"""A hierarchy beside a control loop: the planner thinks in a thread of its own, the loop asks what to do now.

The hierarchy belongs to that thread while it thinks, and to the loop otherwise, so that nothing needs a lock: a subtask
whose accomplishment is being checked goes on meanwhile, and while the next one is being planned the arm holds.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from math import inf
from typing import Any

from vla.control.grammar import Grammar
from vla.control.hierarchy import Hierarchy, Note, Pacing, within_reach
from vla.control.planner import ChatPlanner, ClausePlanner, PolicyPlanner
from vla.control.steering import Steering, Verbatim
from vla.control.supervisor import Supervisor, Turn
from vla.control.words import UnknownWords
from vla.types import ActionChunk, Observation

PATIENCE_S = 5.0  # for which a subtask that is being checked goes on
REASON_CHARACTERS = 200  # of a refusal are shown
AGAIN_S = 1.0  # from an answer that could not be had to the next question

logger = logging.getLogger(__name__)


class Stepping:
    """Steers a loop (see `Steering`) through the subtasks of one instruction; other words start it anew, at once."""

    def __init__(
        self,
        supervisor: Supervisor,
        instruction: str,
        pacing: Pacing,
        control_hz: float,
        thread: Executor | None = None,
        plain: Callable[[str], bool] = lambda instruction: False,
        reads_any: bool = False,
    ) -> None:
        """Prepare.

        control_hz: control steps a second, in which the pacing counts. thread: where to think, one of its own. plain:
        says which instructions go to the controller as they are. reads_any: whether the planner reads words that the
        policy does not know, so that only the subtasks must be known.
        """
        self.hierarchy = Hierarchy(instruction, pacing)
        self.reads_any = reads_any
        self.supervisor, self._control_hz, self.plain = supervisor, control_hz, plain
        self._own_thread = thread is None
        self._thread = thread or ThreadPoolExecutor(1, "planner")
        self._thinking: Future[None] | None = None
        self._meanwhile: str | None = None  # the subtask while the planner thinks
        self._asked_s, self._not_before_s, self._seen_s = 0.0, -inf, 0.0
        self._unasked = ""  # why the planner could not be asked the last time
        self._began_s: float | None = None
        self._once_more = False
        self.tell: Callable[[Note], object] = lambda note: None  # is told what happens, from the loop
        self._told = 0

    def look(self, observation: Observation) -> str | None:
        """Take note of the newest observation; return the subtask, None while there is none."""
        if self._began_s is None:
            self._began_s = observation.time_s
        self._seen_s = observation.time_s
        changed = observation.instruction != self.hierarchy.instruction
        if changed:
            self._abandon()
        elif self._busy():
            return self._meanwhile if observation.time_s <= self._asked_s + PATIENCE_S else None
        self._pass_on()
        again, self._once_more = self._once_more and self.hierarchy.ended is not None, False
        if changed or again:
            self.hierarchy, self._told = Hierarchy(observation.instruction, self.hierarchy.pacing), 0
        if self.plain(observation.instruction):
            return observation.instruction
        hierarchy = self.hierarchy
        due = hierarchy.wants_plan and self._step(observation.time_s) >= hierarchy.ask_step
        if (due or hierarchy.wants_checks) and observation.time_s >= self._not_before_s:
            self._meanwhile, self._asked_s = hierarchy.subtask, observation.time_s
            self._thinking = self._thread.submit(
                self.supervisor.serve, [Turn(hierarchy, observation, self._step(observation.time_s))]
            )
            return self._meanwhile
        return hierarchy.subtask

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Take note of what a chunk says about the completion of a subtask, if that is still the present one."""
        if not self._busy() and text == self.hierarchy.subtask:
            done = 0.0 if chunk.done is None else chunk.done  # a server may leave it out; time runs out then
            self.hierarchy.take_prediction(done, self._step(chunk.time_s))

    @property
    def why_idle(self) -> str:
        """Why there is no subtask: what the planner does, or how it ended."""
        if self._thinking is not None:  # the hierarchy is the planner's until it has answered
            return f"the planner has been thinking for {self._seen_s - self._asked_s:.1f} s"
        hierarchy = self.hierarchy
        if hierarchy.ended == "done":
            return "all that was asked for is done"
        refused = f"the planner has named nothing that can be done: {hierarchy.refused[:REASON_CHARACTERS]}"
        if hierarchy.ended:
            last = refused if hierarchy.refused else f"“{hierarchy.failed}” did not succeed" if hierarchy.failed else ""
            return f"it was given up after {hierarchy.pacing.attempts} attempts{last and f'; {last}'}"
        if self._unasked:
            return f"the planner cannot be asked: {self._unasked}"
        return refused if hierarchy.refused else "the planner has not said yet what comes next"

    def once_more(self) -> None:
        """Carry out the same words again if they are over; from any thread, before the words are given."""
        self._once_more = True

    def close(self) -> None:
        """End the planner's thread; what it still thinks is of no use."""
        self._pass_on()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _pass_on(self) -> None:
        notes = self.hierarchy.notes
        for note in notes[self._told :]:
            self.tell(note)
        self._told = len(notes)

    def _abandon(self) -> None:
        """Leave a thread that thinks about words that are not wanted any more, with its hierarchy, to end by itself."""
        if self._thinking is not None and not self._thinking.done() and self._own_thread:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = ThreadPoolExecutor(1, "planner")
        self._thinking, self._not_before_s, self._unasked = None, -inf, ""

    def _busy(self) -> bool:
        """Whether the planner thinks; what it failed at counts as a refusal, unless nobody was there to ask.

        Errors that say when to try again (`retry_in_s` > 0, see serve/errors.py) are such: a server comes back.
        """
        if self._thinking is None or not self._thinking.done():
            return self._thinking is not None
        error, self._thinking = self._thinking.exception(), None
        self._unasked = ""
        if error is not None:
            self._not_before_s = self._asked_s + AGAIN_S
            if getattr(error, "retry_in_s", 0.0) > 0:
                self._unasked = str(error)
                logger.warning("the planner cannot be asked: %s", error)
                return False
            logger.error("the planner failed", exc_info=error)
            self.hierarchy.take_refusal(f"{type(error).__name__}: {error}", self._step(self._asked_s))
        return False

    def _step(self, time_s: float) -> int:
        return round((time_s - (self._began_s if self._began_s is not None else time_s)) * self._control_hz)


def by_policy(*, policy: Any, grammar: Grammar, instruction: str, pacing: Pacing, control_hz: float) -> Steering:
    """Let the policy plan for itself; raises ValueError where it does not plan in words.

    An instruction of one step that the grammar reads goes to the controller as it is.
    """
    _must(policy, "planner=policy", "next_subtask", "generate")
    planner = ClausePlanner(grammar, PolicyPlanner(policy))
    supervisor = Supervisor(planner, grammar, policy, getattr(policy, "unknown_words", None))
    return Stepping(supervisor, instruction, within_reach(pacing, policy), control_hz, plain=planner.needs_none)


def by_chat(
    *,
    policy: Any,
    grammar: Grammar,
    instruction: str,
    pacing: Pacing,
    control_hz: float,
    url: str,
    model: str,
    timeout_s: float,
) -> Steering:
    """Let an endpoint plan (see ChatPlanner), whatever the words; the policy says what is in sight and accomplished."""
    _must(policy, "planner=chat", "generate")
    examples = list({skill.name: skill.text for skill in grammar}.values())
    planner = ChatPlanner(url, model, examples, token=os.environ.get("VLA_CHAT_TOKEN"), timeout_s=timeout_s)
    supervisor = Supervisor(planner, grammar, policy, getattr(policy, "unknown_words", None))
    return Stepping(supervisor, instruction, within_reach(pacing, policy), control_hz, reads_any=True)


def without_planner(**_: Any) -> Steering:
    """Hand every instruction on as it is."""
    return Verbatim()


def who_reads(steering: Steering, policy: object) -> UnknownWords | None:
    """Return what asks for unknown words in an instruction, None where the policy is not the one to read it."""
    elsewhere = isinstance(steering, Stepping) and steering.reads_any
    return None if elsewhere else getattr(policy, "unknown_words", None)


def _must(policy: Any, what: str, *methods: str) -> None:
    missing = [method for method in methods if not callable(getattr(policy, method, None))]
    lacks = f"{type(policy).__name__} has no {', '.join(missing)}" if missing else ""
    if not getattr(policy, "talks", True):
        lacks = "its server answers with chunks only"
    if lacks:
        raise ValueError(f"{what} needs a policy that answers in words, {lacks}; possible: planner=none")
