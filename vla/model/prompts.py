"""The few fixed phrases in which the model is asked, the same in training and on the robot."""

import re
from collections.abc import Sequence

JOINS = (", then ", " and then ", ", after that ")  # between the steps of an instruction
SEVERAL = re.compile(r"(?:\s*,(?:\s*and\b)?\s*|\s*\b(?:and then|then|after that)\b\s*)+")  # as people write them
IS_THERE = re.compile(r"is there an? (.+)")
NOT_VISIBLE = "not visible"  # the answer when asked to point at something that is not in sight
NAMES = ("dax", "wug", "blicket", "fep", "toma", "gazzer", "zup", "modi")  # made up, for what examples show
ALL_FINISHED = "done"  # the planner's answer when nothing remains


def split_steps(instruction: str) -> list[str]:
    """Cut an instruction where its words say that another step follows."""
    return [step for step in SEVERAL.split(instruction.strip(" .,;")) if step]


def point_prompt(thing: str) -> str:
    """Ask for the box of something."""
    return f"point to the {thing}"


def what_prompt(name: str) -> str:
    """Ask what a made-up name stands for."""
    return f"what is the {name}"


def plan_prompt(instruction: str, finished: Sequence[str], failed: str = "") -> str:
    """Ask for the next subtask of an instruction.

    finished: the subtasks that are done, oldest first; failed: one that was just tried in vain.
    """
    lesson = f" : failed {failed}" if failed else ""
    return f"{instruction} : after {finished[-1] if finished else 'nothing'}{lesson} : next"
