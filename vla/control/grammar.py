"""The closed grammar of skills: only its sentences ever reach the controller, whoever the planner is.

A planner may be a small network, a large one behind an endpoint, or text that somebody else wrote into an image. What
it says is data: it is matched against these sentences, and anything else is refused with a reason.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from vla.control.words import tidy


class PlanRefusedError(ValueError):
    """The planner asked for something that may not be carried out; the message says why."""


@dataclass(frozen=True)
class Skill:
    """One thing that the controller is able to do."""

    text: str  # the words that the controller gets
    name: str  # key in the grammar
    things: tuple[str, ...] = ()  # named in the text; they must be in sight; the first one is what it moves
    check: str = ""  # question about a frame, where there is one, whose answer says if it is accomplished:
    answer: str = "yes"  # then this is among its words
    holds: bool = False  # whether it ends with something in the hand
    undoes: str = ""  # the name of the skill whose result it takes back

    def replaces(self, earlier: "Skill") -> bool:
        """Say whether nothing need be left of an earlier skill: this one takes it back, or moves what it named."""
        return self.undoes == earlier.name or (bool(self.things) and self.things[0] in earlier.things)


class Grammar:
    """All sentences of a set of skills."""

    def __init__(
        self,
        skills: Mapping[str, Mapping[str, Any]],
        slots: Mapping[str, Sequence[Sequence[str]]],
        things: Sequence[str],
    ) -> None:
        """Spell every sentence out.

        skills: name -> {say: sentence with {slots}, also: other wordings of it, check: question with the same slots, if
        any, answer: the word in its answer that says that it is accomplished, or which word for which filling of a
        slot, yes where it is left out, holds: true where it ends with something in the hand, undoes: name of the skill
        whose result it takes back}; slots: name -> lists of words of which one each is said, as [[red, blue], [cube]];
        things: those that name what must be seen.
        """
        values = {slot: [" ".join(words) for words in product(*lists)] for slot, lists in slots.items()}
        self._skills: dict[str, Skill] = {}  # by every wording
        for name, skill in skills.items():
            if skill.get("undoes", name) not in skills:
                raise ValueError(f"skill {name} undoes {skill['undoes']!r}; possible: {', '.join(skills)}")
            names = re.findall(r"{(\w+)}", skill["say"])
            if unknown := sorted(set(names) - set(values)):
                raise ValueError(f"skill {name} has the slots {unknown}; possible: {', '.join(values)}")
            others = " ".join((skill.get("check", ""), *skill.get("also", ())))
            if unsaid := sorted(set(re.findall(r"{(\w+)}", others)) - set(names)):
                raise ValueError(f"skill {name} has the slots {unsaid} in check or also; say has {', '.join(names)}")
            for words in product(*(values[slot] for slot in names)):
                filled = dict(zip(names, words, strict=True))
                named = tuple(filled[slot] for slot in names if slot in things)
                if len(set(named)) == len(named):  # nothing goes onto itself
                    text = skill["say"].format(**filled)
                    check, answer = skill.get("check", "").format(**filled), _answer(skill, filled.values())
                    one = Skill(text, name, named, check, answer, skill.get("holds", False), skill.get("undoes", ""))
                    for wording in (skill["say"], *skill.get("also", ())):
                        self._skills.setdefault(wording.format(**filled), one)
        self.things = sorted({thing for skill in self for thing in skill.things})
        self._sentences = [skill.text for skill in self]
        if not self._skills:
            raise ValueError("a grammar needs at least one skill")

    def parse(self, text: str) -> Skill:
        """Return the skill that a sentence names; case, spaces and what follows the last word do not matter.

        Raises PlanRefusedError naming the nearest sentence.
        """
        clean = tidy(text)
        if clean not in self._skills:
            raise PlanRefusedError(f"{text[:200]!r} is not a skill; the nearest is {self._nearest(clean[:200])!r}")
        return self._skills[clean]

    def reads(self, text: str) -> bool:
        """Say whether `parse` knows a sentence."""
        return tidy(text) in self._skills

    def _nearest(self, text: str) -> str:
        """Return, of the sentences that share most words with a text, the one with most letters in order."""
        words = set(text.split())
        shared = {sentence: len(words.intersection(sentence.split())) for sentence in self._sentences}
        most = max(shared.values())
        close = [sentence for sentence, count in shared.items() if count == most]
        if not most:  # then one of each skill will do
            close = list({skill.name: skill.text for skill in self}.values())
        return difflib.get_close_matches(text, close, n=1, cutoff=0.0)[0]

    def __iter__(self):
        return iter(dict.fromkeys(self._skills.values()))


def _answer(skill: Mapping[str, Any], said: Collection[str]) -> str:
    """Return the word that says that a skill is accomplished, when its slots are filled with what is said."""
    answer = skill.get("answer", "yes")
    if isinstance(answer, str):
        return answer
    fitting = [word for filling, word in answer.items() if filling in said]
    if len(fitting) != 1:
        raise ValueError(f"answer must have one word for {', '.join(said)}; it has some for {', '.join(answer)}")
    return fitting[0]


def admit(skill: Skill, sees: Callable[[str], bool]) -> Skill:
    """Return the skill if all that it names is in sight, else raise PlanRefusedError."""
    hidden = [thing for thing in skill.things if not sees(thing)]
    if hidden:
        raise PlanRefusedError(f"{skill.text!r} names what no camera sees: {', '.join(hidden)}")
    return skill
