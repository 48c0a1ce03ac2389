"""What a subtask asks for."""

from dataclasses import dataclass

KINDS = ("pick", "place", "stack", "push", "open", "close", "press")
SIDES = ("left", "right", "forward", "back")  # in the arm's frame: left = +y, forward = +x


@dataclass(frozen=True)
class Goal:
    """One subtask; names are like "red cube", the drawer and the button are named by the kind alone."""

    kind: str  # one of KINDS
    object: str | None = None  # what is moved: pick, place, stack, push
    target: str | None = None  # where it goes: place, stack, push (next to)
    side: str | None = None  # one of SIDES: push, where there is no target
