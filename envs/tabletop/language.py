"""The words of the tabletop world: goals to instructions and back.

Lower case, no punctuation but commas. Every template has training paraphrases here and held-out ones in splits.yaml;
the held-out ones use only words that training uses.
"""

import difflib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from envs.tabletop.goals import SIDES, Goal
from envs.tabletop.splits import HELDOUT_PAIRS, HELDOUT_PARAPHRASES, check_split

COLOURS: dict[str, tuple[float, float, float]] = {  # RGB 0..1
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.10, 0.25, 0.88),
    "yellow": (0.96, 0.88, 0.10),
    "orange": (0.98, 0.48, 0.04),
    "purple": (0.50, 0.12, 0.66),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
}
PICKABLE = ("cube", "cylinder")
CONTAINERS = ("bowl", "plate")
SHAPES = PICKABLE + CONTAINERS

# The first paraphrase is the canonical one.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "pick": (
        "pick up the {object}",
        "lift the {object}",
        "take the {object}",
        "grab the {object}",
        "pick the {object} up",
        "grasp the {object} and lift it",
    ),
    "place_in": (
        "put the {object} in the {target}",
        "place the {object} in the {target}",
        "drop the {object} into the {target}",
        "move the {object} into the {target}",
        "pick up the {object} and put it in the {target}",
        "take the {object} and drop it in the {target}",
    ),
    "place_on": (
        "put the {object} on the {target}",
        "place the {object} on the {target}",
        "set the {object} on the {target}",
        "move the {object} onto the {target}",
        "pick up the {object} and put it on the {target}",
        "take the {object} and set it on the {target}",
    ),
    "stack": (
        "stack the {object} on the {target}",
        "put the {object} on top of the {target}",
        "place the {object} on top of the {target}",
        "stack the {object} on top of the {target}",
        "pick up the {object} and stack it on the {target}",
        "set the {object} on top of the {target}",
        "put the {object} on the {target}",
    ),
    "push_side": (
        "push the {object} {side}",
        "slide the {object} {side}",
        "move the {object} {side}",
        "nudge the {object} {side}",
        "give the {object} a push {side}",
        "push the {object} over {side}",
    ),
    "push_next": (
        "push the {object} next to the {target}",
        "slide the {object} next to the {target}",
        "move the {object} next to the {target}",
        "push the {object} beside the {target}",
        "slide the {object} over to the {target}",
        "push the {object} up to the {target}",
    ),
    "open": (
        "open the drawer",
        "pull the drawer open",
        "pull open the drawer",
        "slide the drawer open",
        "pull the drawer out",
        "open up the drawer",
    ),
    "close": (
        "close the drawer",
        "shut the drawer",
        "push the drawer shut",
        "push the drawer in",
        "slide the drawer shut",
        "push the drawer closed",
    ),
    "press": (
        "press the button",
        "push the button",
        "hit the button",
        "press down on the button",
        "press the button down",
        "push the button down",
    ),
}
JOINS = (", then ", " and then ", ", after that ")
_JOIN = r"(?:\s*,(?: and\b)?\s*|\s*\b(?:and then|then|after that)\b\s*)+"
SIDE_WORDS = {"left": "to the left", "right": "to the right", "forward": "forward", "back": "back"}


def object_names(shapes: Sequence[str] = SHAPES, heldout: bool = False) -> list[str]:
    """Return all names such as "red cube" of these shapes: those of training, or the held-out ones."""
    names = [f"{colour} {shape}" for shape in shapes for colour in COLOURS]
    return [name for name in names if (name in HELDOUT_PAIRS) == heldout]


def template_of(goal: Goal) -> str:
    """Return the key of TEMPLATES that words this goal; a goal that no sentence can say is a ValueError."""
    if goal not in _TEMPLATE_OF:
        raise ValueError(
            f"{goal} cannot be said; possible: pick, place (on bowl or plate), stack (on cube or cylinder), push (a "
            f"side or a target) of a cube or cylinder, and open, close, press alone; colours: {', '.join(COLOURS)}"
        )
    return _TEMPLATE_OF[goal]


def canonical(goal: Goal) -> str:
    """Return the one standard sentence of a goal, such as "put the red cube in the blue bowl"."""
    return _fill(TEMPLATES[template_of(goal)][0], goal)


def phrase(goal: Goal, rng: np.random.Generator, split: str = "train") -> str:
    """Word a goal by a random paraphrase: a held-out one for the split heldout_paraphrases, else a training one."""
    held_out = check_split(split) == "heldout_paraphrases"
    choices = (HELDOUT_PARAPHRASES if held_out else TEMPLATES)[template_of(goal)]
    return _fill(choices[rng.integers(len(choices))], goal)


def instruction(goals: Sequence[Goal], rng: np.random.Generator, split: str = "train") -> str:
    """Word several goals as one instruction, in order."""
    texts = [phrase(goal, rng, split) for goal in goals]
    return texts[0] + "".join(JOINS[rng.integers(len(JOINS))] + text for text in texts[1:])


def words() -> list[str]:
    """Return every word that an instruction of this world may hold, sorted."""
    texts = [text for choices in (*TEMPLATES.values(), *HELDOUT_PARAPHRASES.values()) for text in choices]
    text = " ".join([*texts, *JOINS, *SIDE_WORDS.values(), *COLOURS, *SHAPES])
    return sorted(set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", text))))


def parse(text: str) -> list[Goal]:
    """Return the goals of an instruction in order; inverts `instruction` over every paraphrase.

    Case, final punctuation, repeated spaces and simple joins ("...; ...", "... and ...") do not matter. Raises
    ValueError naming the unknown words, the nearest known sentence and what is possible.
    """
    clean = " ".join(re.sub(r"[.!?;]", ",", text.lower()).split()).strip(", ")
    goals: list[Goal] = []
    for part in re.split(_JOIN, clean):
        goals += _goals_of(part)
    return goals


def _goals_of(part: str) -> list[Goal]:
    if goal := _GOAL_OF.get(part):
        return [goal]
    for join in re.finditer(" and ", part):
        left, right = _GOAL_OF.get(part[: join.start()]), _GOAL_OF.get(part[join.end() :])
        if left and right:
            return [left, right]
    raise ValueError(_refusal(part))


def _refusal(part: str) -> str:
    unknown = sorted(set(re.findall(r"[^\s,]+", part)) - set(words()))
    nearest = difflib.get_close_matches(part, _sentences_about(part), n=1, cutoff=0.0)[0]
    return (
        f"{part!r} is not an instruction of this world"
        + (f" (unknown words: {', '.join(unknown)})" if unknown else "")
        + f"; nearest: {nearest!r}. Possible: pick up X; put X in a bowl or on a plate; stack X on Y; push X to the"
        " left, to the right, forward, back or next to Y; open or close the drawer; press the button. X is a cube or a"
        f" cylinder; colours: {', '.join(COLOURS)}"
    )


def _sentences_about(text: str) -> list[str]:
    """Return every sentence about the objects that a text names, or about ordinary ones."""
    names = re.findall(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b", text)
    first = names[0] if names and names[0].split()[-1] in PICKABLE else "red cube"
    second = names[1] if len(names) > 1 else "blue bowl"
    return [text for text, goal in _GOAL_OF.items() if goal.object in ("", first) and goal.target in ("", second)]


def _fill(template: str, goal: Goal) -> str:
    return template.format(object=goal.object, target=goal.target, side=SIDE_WORDS.get(goal.side))


def _sayable() -> Iterator[tuple[Goal, str]]:
    """Yield every goal that has a sentence, with the key of its template."""
    movable, everything = [[f"{c} {s}" for s in shapes for c in COLOURS] for shapes in (PICKABLE, SHAPES)]
    yield from ((Goal(kind), kind) for kind in ("open", "close", "press"))
    on = {"bowl": "place_in", "plate": "place_on"}
    for thing in movable:
        yield Goal("pick", thing), "pick"
        yield from ((Goal("push", thing, side=side), "push_side") for side in SIDES)
        for target in everything:
            if target != thing:
                yield Goal("push", thing, target), "push_next"
                key = on.get(target.split()[-1], "stack")
                yield Goal("stack" if key == "stack" else "place", thing, target), key


_TEMPLATE_OF = dict(_sayable())
_GOAL_OF = {
    _fill(template, goal): goal
    for goal, key in _TEMPLATE_OF.items()
    for template in (*TEMPLATES[key], *HELDOUT_PARAPHRASES[key])
}
