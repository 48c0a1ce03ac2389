"""The few fixed phrases in which the model is asked, the same in training and on the robot."""

from collections.abc import Sequence

JOINS = (", then ", " and then ", ", after that ")  # between the steps of an instruction
ALL_FINISHED = "done"  # the planner's answer when nothing remains


def plan_prompt(instruction: str, finished: Sequence[str], failed: str = "") -> str:
    """Ask for the next subtask of an instruction.

    finished: the subtasks that are done, oldest first; failed: one that was just tried in vain.
    """
    lesson = f" : failed {failed}" if failed else ""
    return f"{instruction} : after {finished[-1] if finished else 'nothing'}{lesson} : next"
