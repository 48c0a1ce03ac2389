"""Answers what hierarchies want to know: the next subtask, if the grammar admits it, and if one is accomplished."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vla.control.grammar import Grammar, PlanRefusedError, admit
from vla.control.hierarchy import Hierarchy
from vla.control.planner import Planner, PlannerError, PlanRequest
from vla.control.views import Eyes, views
from vla.control.words import UnknownWords, WordsRefusedError, admit_words
from vla.model.prompts import ALL_FINISHED, point_prompt
from vla.types import Observation

ROUNDS = 4  # of questions before the arm moves on: a check may end a subtask, which asks for a plan
CHECK_TOKENS, POINT_TOKENS = 4, 8


@dataclass(frozen=True)
class Turn:
    """One hierarchy that may want to know something, and what is in front of it."""

    hierarchy: Hierarchy
    observation: Observation
    step: int


class Supervisor:
    """Planner, grammar and eyes together; serves many hierarchies in one batch."""

    def __init__(
        self, planner: Planner, grammar: Grammar, eyes: Eyes, unknown_words: UnknownWords | None = None
    ) -> None:
        """unknown_words: asks the controller, which must know the words of each subtask; None lets all pass."""
        self.planner, self.grammar, self.eyes, self.unknown_words = planner, grammar, eyes, unknown_words

    def serve(self, turns: Sequence[Turn]) -> None:
        """Ask and answer until every hierarchy has something to do, has ended, or was refused for now."""
        for _ in range(ROUNDS):
            checks = [turn for turn in turns if turn.hierarchy.wants_checks]
            plans = [t for t in turns if t.hierarchy.wants_plan and t.step >= t.hierarchy.ask_step]
            if not checks and not plans:
                return
            self._check(checks)
            self._plan(plans)

    def _check(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            seen, skills = views(turn.observation), turn.hierarchy.wants_checks
            said = iter(self._ask([(view, skill.check) for skill in skills for view in seen], CHECK_TOKENS))
            agreeing = [sum(skill.answer in next(said).split() for _ in seen) for skill in skills]
            turn.hierarchy.take_checks([2 * count > len(seen) for count in agreeing], turn.step)

    def _plan(self, turns: Sequence[Turn]) -> None:
        if not turns:
            return
        try:
            texts = self.planner.next_subtasks([_request(turn) for turn in turns])
        except PlannerError as error:
            for turn in turns:
                turn.hierarchy.take_refusal(str(error), turn.step)
            return
        for turn, text in zip(turns, texts, strict=True):
            if text.strip() == ALL_FINISHED:
                turn.hierarchy.take_plan(None, turn.step)
                continue
            try:
                skill = self.grammar.parse(text)
                admit_words(skill.text, self.unknown_words)
                self._look_for(skill.things, turn)
                turn.hierarchy.take_plan(admit(skill, turn.hierarchy.seen.__contains__), turn.step)
            except (PlanRefusedError, WordsRefusedError) as error:
                turn.hierarchy.take_refusal(str(error), turn.step)

    def _look_for(self, things: Sequence[str], turn: Turn) -> None:
        """Look for things, and for all that the operator names; what is found has been seen from then on.

        So that what an arm hides now may still be named. What is there is found almost always; the shipped model also
        finds a tenth of what is not there, so for it this stops much, but not all. The grammar does not depend on it.
        """
        hierarchy = turn.hierarchy
        named = [thing for thing in self.grammar.things if thing in hierarchy.instruction]
        wanted = [thing for thing in dict.fromkeys([*things, *named]) if thing not in hierarchy.seen]
        plain, *moved = views(turn.observation)
        sure = self._sightings([(plain, thing) for thing in wanted])
        missing = [thing for thing, seen in zip(wanted, sure, strict=True) if not seen]
        again = self._sightings([(view, thing) for thing in missing for view in moved])
        doubted = (again[first : first + len(moved)] for first in range(0, len(again), len(moved)))
        missed = {thing for thing, seen in zip(missing, doubted, strict=True) if 2 * sum(seen) < len(moved)}
        hierarchy.seen |= set(wanted) - missed

    def _sightings(self, looks: Sequence[tuple[Observation, str]]) -> list[bool]:
        """Say of each observation and thing whether it is in sight: pointed at, or said to be there."""
        boxes = self._ask([(view, point_prompt(thing)) for view, thing in looks], POINT_TOKENS)
        answers = self._ask([(view, f"is there {_article(thing)} {thing}") for view, thing in looks], CHECK_TOKENS)
        told = zip(boxes, answers, strict=True)
        return [box.startswith("<box") or answer.strip() == "yes" for box, answer in told]

    def _ask(self, asked: Sequence[tuple[Observation, str]], max_tokens: int) -> list[str]:
        if not asked:
            return []
        observations, questions = zip(*asked, strict=True)
        return self.eyes.generate(observations, questions, max_tokens)


def _request(turn: Turn) -> PlanRequest:
    hierarchy = turn.hierarchy
    return PlanRequest(
        observation=replace(turn.observation, instruction=hierarchy.instruction),
        finished=tuple(skill.text for skill in hierarchy.finished),
        failed=hierarchy.failed,
        refused=hierarchy.refused,
    )


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"
