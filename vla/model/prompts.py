"""The few fixed phrases in which the model is asked, the same in training and on the robot."""

import re
from collections.abc import Sequence

JOINS = (", then ", " and then ", ", after that ")  # between the steps of an instruction
SEVERAL = re.compile(r",|\bthen\b|\bafter that\b")  # what joins them, as people write it
ALL_FINISHED = "done"  # the planner's answer when nothing remains


def has_several_steps(instruction: str) -> bool:
    """Whether an instruction asks for one thing after another, so that a planner has to split it."""
    return bool(SEVERAL.search(instruction))


def plan_prompt(instruction: str, finished: Sequence[str], failed: str = "") -> str:
    """Ask for the next subtask of an instruction.

    finished: the subtasks that are done, oldest first; failed: one that was just tried in vain.
    """
    lesson = f" : failed {failed}" if failed else ""
    return f"{instruction} : after {finished[-1] if finished else 'nothing'}{lesson} : next"
