"""What the policy answered: judged first, and only what can be carried out is heard by steering and executor."""

from vla.control.executor import Executor
from vla.control.guard import Guard
from vla.control.inference import Answer, Inference
from vla.control.logbook import Log
from vla.control.plan import leap, refusal
from vla.control.severity import State
from vla.control.steering import Steering
from vla.control.vigil import Vigil
from vla.types import ActionChunk


class Answers:
    """Hands the policy's chunks on; `progress` and `done` are what the newest one says that answers the present words.

    A chunk that is refused counts for nothing: it does not move the arm, and what it says of completion is not heard.
    """

    def __init__(
        self, inference: Inference, executor: Executor, steering: Steering, guard: Guard, vigil: Vigil, logbook: Log
    ):
        """Take who answers, who listens, and who is told what is wrong."""
        self._inference, self._executor, self._steering = inference, executor, steering
        self._guard, self._vigil, self._logbook = guard, vigil, logbook
        self.forget()

    def forget(self) -> None:
        """Know nothing of completion: the words are others now."""
        self.progress: float | None = None
        self.done: float | None = None

    def listen(self, text: str | None, now_s: float) -> None:
        """Take what has been answered; `text` is what the controller is asked for now."""
        for answer in self._inference.answers():
            broken, leaps = answer.error, ""
            if answer.chunk is not None:
                broken = refusal(answer.chunk, self._guard.embodiment)
                leaps = "" if broken else self._leap(answer, answer.chunk, text)
                self._take(answer, answer.chunk, text, broken or leaps, now_s)
            wrong = broken or leaps
            self._vigil.report("policy", State.DEGRADED if wrong else None, wrong)
            if wrong:  # a leap is refused, and no more; anything else is an error of the policy
                self._logbook.event(now_s, "policy" if broken else "refused", reason=wrong)

    def _leap(self, answer: Answer, chunk: ActionChunk, text: str | None) -> str:
        """Say where a chunk that would be followed leaps; how far away it begins a slow approach takes care of."""
        if answer.request.observation.instruction != text:
            return ""
        halted = self._executor.halted
        start = chunk.actions[0] if halted and self._guard.slow_approach else answer.request.observation.state
        return leap(chunk, start, self._guard.embodiment, halted)

    def _take(self, answer: Answer, chunk: ActionChunk, text: str | None, wrong: str, now_s: float) -> None:
        """Let a chunk be heard and followed unless something is wrong with it, and log what became of it."""
        question, asked = answer.request.question, answer.request.observation.instruction
        if wrong:
            self._executor.counts["refused"] += 1
        else:
            self._steering.hear(chunk, asked)
            if asked != text:
                self._executor.counts["other_words"] += 1
                return
            self.progress, self.done = chunk.progress, chunk.done
            wrong = self._executor.take(chunk, question, now_s)
        said = {"text": asked, "progress": chunk.progress, "done": chunk.done, "dropped": wrong}
        self._logbook.chunk(now_s, chunk.actions, frame_s=question.frame_s, given=question.given_steps, **said)
