"""What the controller is asked for at each moment: the operator's words, or a planner's subtasks."""

from typing import Protocol

from vla.types import ActionChunk, Observation


class Steering(Protocol):
    """Says which text goes to the controller. Called from the loop, so that it must answer at once.

    A planner that needs longer thinks elsewhere and answers from what it knows until then.
    """

    def look(self, observation: Observation) -> str | None:
        """Take note of the newest observation (its instruction is the operator's); return the text, None to hold."""
        ...

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Take note of what the controller answered to a text: how far it is, whether it is done.

        Only chunks come here that can be carried out; `progress` and `done` are numbers 0..1 or None.
        """
        ...

    @property
    def why_idle(self) -> str:
        """Why the last `look` gave no text, for who looks on."""
        ...

    def close(self) -> None:
        """Think no more."""
        ...


class Verbatim:
    """Hands the operator's instruction on as it is."""

    def look(self, observation: Observation) -> str | None:
        """Return the instruction."""
        return observation.instruction

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Nothing depends on it."""

    @property
    def why_idle(self) -> str:
        """There always is a text."""
        return ""

    def close(self) -> None:
        """There is nothing to end."""
