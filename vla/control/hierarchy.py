"""From one instruction to subtasks, one after the other: what to do now, when it is over, what to try again.

The planner says what comes next; a subtask is over when the completion output says so k times and, where the skill has
a question for it, the model's own answer agrees: at once, and again when the hand has had time to let go and the arm
has stepped back to its ready pose, where it hides nothing. What takes too long is looked at from there, tried again,
then given up, and the arm holds. Each attempt makes it likelier that it is accomplished and only looks as if it were
not, so the next one believes the completion output sooner, and the last one believes the first look. With `replan`,
everything is looked at once more in the end, and what has come undone is done again.

This is bookkeeping without clocks, models or threads: it says what it wants to know (`wants_plan`, `wants_checks`) and
is told. Steps are control steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vla.control.completion import Completion
from vla.control.grammar import Skill
from vla.model.prompts import ALL_FINISHED
from vla.types import READY

SWITCHES = ("completion", "timer")


@dataclass(frozen=True)
class Pacing:
    """How often the policy looks, and when a subtask is over; counts are control steps."""

    replan_steps: int = 3  # executed of each chunk before the next inference
    confirm_steps: int = 2  # the same while a "done" waits for agreement, so that it is confirmed soon
    k: int = 2  # agreeing predictions in a row that declare a subtask done
    threshold: float = 0.5  # of the done probability, at the first attempt; the n-th takes an n-th of it
    switch: str = "completion"  # or "timer": every subtask counts as done after `timer_steps`
    timer_steps: int = 60
    check: bool = True  # ask whether a subtask that was declared done is accomplished, where its skill has a question
    replan: bool = False  # check everything in the end, and do again what has come undone
    most_redone: int = 3  # subtasks done again in one run
    subtask_timeout_steps: int = 120  # then the planner is asked again
    refused_steps: int = 10  # from a plan that was refused to the next question, about another frame
    attempts: int = 3  # at a subtask, before giving up and holding still
    step_back: bool = False  # return to the ready pose after each attempt that leaves the hand empty
    settle_steps: int = 8  # before it steps back from what was declared done, which may be just about to be
    step_back_steps: int = 40  # that stepping back may take
    linger_steps: int = 10  # recorded after success, or after the policy says that all is done

    def __post_init__(self) -> None:
        if self.switch not in SWITCHES:
            raise ValueError(f"switch is {self.switch!r}; possible: {', '.join(SWITCHES)}")


def within_reach(pacing: Pacing, policy: object) -> Pacing:
    """Leave out of a pacing what a policy cannot do: without a ready pose it does not step back."""
    return replace(pacing, step_back=pacing.step_back and getattr(policy, "ready", None) is not None)


@dataclass(frozen=True)
class Note:
    """One thing that happened, for logs and reports."""

    step: int
    event: str  # plan, refused, done, not_done, timeout, undone, finished, gave_up
    text: str


class Hierarchy:
    """Steps through the subtasks of one instruction."""

    def __init__(self, instruction: str, pacing: Pacing) -> None:
        self.instruction = instruction
        self.pacing = pacing
        self.completion = Completion(k=pacing.k, threshold=pacing.threshold)
        self.skill: Skill | None = None  # what the controller does now
        self.finished: list[Skill] = []
        self.failed = ""  # the lesson for a planner that can choose, see ClausePlanner
        self.refused = ""
        self.ask_step = 0  # not before this one is the planner asked again
        self.ended: str | None = None  # "done" or "gave_up"
        self.seen: set[str] = set()  # things that have been in sight
        self.notes: list[Note] = []
        self._attempt, self._tried = 0, ""
        self._started_step = 0
        self._claimed_step: int | None = None  # when the present subtask was declared done, while it is checked
        self._leaving: str | None = None  # "settling" or "back" while the arm leaves what it has done alone
        self._leaving_since = 0
        self._is_back = False  # it has stepped back since the present subtask was declared done
        self._overdue = False  # the present subtask has taken too long; was it accomplished all the same?
        self._reviewing = False  # all was said to be done, and is looked at once more
        self._again: list[Skill] = []  # accomplished once, now to be done again before the planner is asked
        self._redone, self._redoing = 0, False

    @property
    def subtask(self) -> str | None:
        """The words that the controller gets now, None while there are none."""
        if self._leaving == "back":
            return READY
        return self.skill.text if self.skill else None

    @property
    def wants_plan(self) -> bool:
        """Whether the planner must speak before the controller can act."""
        return self.skill is None and self.ended is None and not self._reviewing and self._leaving is None

    @property
    def wants_checks(self) -> list[Skill]:
        """The skills of which to say whether the present frame shows them accomplished."""
        if self._leaving is not None:
            return []
        if self._claimed_step is not None and self.skill:
            return [self.skill]
        return self._lasting if self._reviewing else []

    def take_plan(self, plan: Skill | None, step: int) -> None:
        """Adopt the planner's next skill, None for "all is finished"; the same one again counts as another attempt."""
        self.refused = ""
        if plan is None:
            self._note(step, "plan", ALL_FINISHED)
            if self.pacing.replan and self._redone < self.pacing.most_redone and self._lasting:
                self._reviewing = True
            else:
                self._end("done", step)
            return
        self._note(step, "plan", plan.text)
        self._redoing = False
        self._begin(plan, step)

    def take_refusal(self, reason: str, step: int) -> None:
        """Note that the planner's words were not accepted; after as many as there are attempts, give up."""
        self._note(step, "refused", reason)
        self.refused, self.ask_step = reason, step + self.pacing.refused_steps
        self._count("")
        if self._attempt > self.pacing.attempts:
            self._end("gave_up", step)

    def take_prediction(self, done: float | None, step: int) -> bool:
        """Feed the completion output of one chunk; return whether the subtask was declared done by it."""
        if self._leaving is not None:
            self._leave_on(done, step)
            return False
        assert self.skill is not None
        timed = self.pacing.switch == "timer"
        passed = step - self._started_step
        claimed = passed >= self.pacing.timer_steps if timed else self.completion.update(done)
        if claimed:
            self._claimed_step = step
            if timed or not self._asks:
                self._leave("back" if timed else "settling", step)
        elif not timed and passed >= self.pacing.subtask_timeout_steps:
            self._note(step, "timeout", self.skill.text)
            self._look_back(self.skill, step)
        return claimed

    def take_checks(self, accomplished: Sequence[bool], step: int) -> None:
        """Take what was seen of each of `wants_checks`, in its order."""
        if self._claimed_step is not None:
            self._judge(accomplished[0], step)
            return
        self._reviewing = False
        undone = [skill for skill, yes in zip(self._lasting, accomplished, strict=True) if not yes]
        if not undone:
            self._end("done", step)
            return
        for skill in undone:
            self._note(step, "undone", skill.text)
        self._again, self._redone, self._redoing = undone[1:], self._redone + 1, True
        self._begin(undone[0], step)

    def _judge(self, accomplished: bool, step: int) -> None:
        """Take the answer about the subtask that was declared done; a "yes" must be said again from the ready pose."""
        assert self.skill is not None
        if not accomplished:
            self._note(step, "not_done", self.skill.text)
            if self._overdue:
                self._plan_again(self.skill, step)
            elif self._is_back:
                self._begin(self.skill, step)
            else:
                self._claimed_step = None
                self.completion.reset()
        elif self._is_back:
            self._complete(step)
        else:
            self._leave("settling", step)

    @property
    def _lasting(self) -> list[Skill]:
        """The finished skills that can be asked about and of which something must be left."""
        later = [self.finished[place + 1 :] for place in range(len(self.finished))]
        return [
            skill
            for skill, rest in zip(self.finished, later, strict=True)
            if skill.check and not any(other.replaces(skill) for other in rest)
        ]

    @property
    def _asks(self) -> bool:
        """Whether the present subtask is checked when it was declared done."""
        return bool(self.pacing.check and self.skill and self.skill.check) and self.pacing.switch == "completion"

    @property
    def _holds(self) -> bool:
        """Whether the present subtask ends with something in the hand, which must not step back."""
        return self.skill is not None and self.skill.holds

    def _look_back(self, skill: Skill, step: int) -> None:
        """Step back from what has taken too long and, where that can be asked, see if it is accomplished."""
        if not self._asks:
            self._plan_again(skill, step)
            return
        self._overdue, self._claimed_step = True, step
        if self.pacing.step_back and not skill.holds:
            self._leaving, self._leaving_since = "back", step

    def _plan_again(self, skill: Skill, step: int) -> None:
        """Let the planner say what to do about a skill that failed, from the ready pose."""
        self.failed, self.skill, self._claimed_step = skill.text, None, None
        if not self._is_back:
            self._leave("back", step)

    def _leave(self, how: str, step: int) -> None:
        """Begin to leave alone what was done or tried; what stays in the hand only settles there."""
        if self.pacing.step_back:
            self._leaving, self._leaving_since = "settling" if self._holds else how, step
        elif self.skill:
            self._complete(step)

    def _leave_on(self, done: float | None, step: int) -> None:
        """Settle, then step back until that is done or has taken too long; what nobody asks about is over then."""
        passed = step - self._leaving_since
        if self._leaving == "settling":
            if passed >= self.pacing.settle_steps:
                self._leaving, self._leaving_since = None if self._holds else "back", step
                if self._holds:
                    self._complete(step)
        elif passed >= self.pacing.step_back_steps or (done is not None and done >= self.pacing.threshold):
            self._leaving, self._is_back = None, True
            last = self._attempt >= self.pacing.attempts and not self._overdue
            if self.skill and (last or not self._asks):
                self._complete(step)

    def _begin(self, skill: Skill, step: int) -> None:
        """Start with a skill, or give up on it."""
        self._count(skill.text)
        if self._attempt > self.pacing.attempts:
            self._end("gave_up", step)
            return
        self.skill, self._started_step, self._claimed_step = skill, step, None
        self._is_back = self._overdue = False
        self.completion.threshold = self.pacing.threshold / self._attempt
        self.completion.reset()

    def _count(self, text: str) -> None:
        self._attempt = self._attempt + 1 if text == self._tried else 1
        self._tried = text

    def _complete(self, step: int) -> None:
        """Count the present subtask as accomplished."""
        assert self.skill is not None
        self._note(step if self._claimed_step is None else self._claimed_step, "done", self.skill.text)
        if not self._redoing:
            self.finished.append(self.skill)
        self._claimed_step = None
        self.failed, self.skill = "", None  # what is asked for again at once counts as another attempt
        if self._again:
            self._begin(self._again.pop(0), step)

    def _end(self, how: str, step: int) -> None:
        self.skill, self.ended, self._leaving = None, how, None
        self._note(step, "finished" if how == "done" else how, self.instruction)

    def _note(self, step: int, event: str, text: str) -> None:
        self.notes.append(Note(step, event, text))
