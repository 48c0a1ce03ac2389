"""Whether it went wrong, when and how: suspicions from what was measured, each with its evidence, or none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.model.prompts import split_steps
from vla.video.colours import ROUND, SQUARE
from vla.video.events import arm_motion, stalls
from vla.video.grips import Grip, grips
from vla.video.source import Item
from vla.video.state import State
from vla.video.things import LEFT, STAYED, Place, colours_named, fates, pictures_of, shape_named, usual_picture
from vla.video.track import Track

FAILURE, SUCCESS, NONE, UNKNOWN = "failure", "success", "none", "unknown"  # NONE: nothing speaks for a failure
MEASURED, RECORDED = "measured", "recorded"  # sources of an outcome that no model gave
MODES = {
    "missed_grasp": "the gripper misses: it closes on nothing",
    "slip": "what was held slips out of the gripper and is dropped",
    "wrong_object": "the wrong object is taken",
    "blocked": "the arm is blocked: it pushes against what does not give way",
    "wrong_place": "it is put in the wrong place",  # this one and those below are only told by a model
    "collision": "the robot hits something that it should not touch",
    "unfinished": "the job is begun and not finished",
}
SUSPECTS = 3  # that are told
BLOCKED_S = 1.5  # an arm that stays behind its command for so long is blocked
BLOCKED_LEAST = 0.02  # behind its command by so much more than following explains, in seconds at reference speed
BLOCKED_SPEED = 0.05  # and slower than this, relative to its reference speed
BEFORE_S = 0.6  # things are looked for until so long before one is grasped
CARRIED = re.compile(
    r"\b(pick|grasp|grab|lift|take|put|place|stack|drop|set|bring|carry|insert)\b|\bmove\b.*\b(into|onto|in|on)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Suspect:
    """A moment at which something seems to have gone wrong."""

    time_s: float
    mode: str  # of MODES
    evidence: tuple[str, ...]  # for people, with the numbers
    put_right: bool = False  # what came later made it good
    stop_s: float | None = None  # until when, where it lasts

    @property
    def until_s(self) -> float:
        """The last moment of it."""
        return self.time_s if self.stop_s is None else self.stop_s


@dataclass(frozen=True)
class Outcome:
    """How it ended, as far as can be told; `suspects` come in the order of likelihood, those put right last."""

    label: str  # FAILURE, SUCCESS (only a model or the recording itself says so), NONE or UNKNOWN
    words: str  # for people
    suspects: tuple[Suspect, ...] = ()  # SUSPECTS at most
    source: str = MEASURED  # or RECORDED, or the model that decided
    problem: str = ""  # what kept a model from deciding
    confidence: float | None = None  # 0..1, by agreement; None where nothing tells
    first: str | None = None  # what a weaker model said, where a stronger one was asked

    @property
    def failure(self) -> Suspect | None:
        """The moment of failure, where there is one that nothing put right."""
        if self.label != FAILURE:
            return None
        return next((suspect for suspect in self.suspects if self.source != RECORDED or not suspect.put_right), None)


def judge(item: Item, tracks: Mapping[str, Track]) -> Outcome:
    """Judge by what the robot measured and, where the instruction names a colour, by what moved in the picture."""
    state = item.state
    if state is None or not state.finite or len(state.time_s) < 3:
        return Outcome(UNKNOWN, "no measured state tells of success or failure, and no model was asked")
    steps = split_steps(item.task)
    carried = [step for step in steps if CARRIED.search(step)]
    pushed = len(carried) < len(steps)  # and what is pushed may be pushed with closed jaws
    suspects = _of_grips(state, tracks, carried, pushed) if carried or not item.task else []
    suspects += _of_stalls(state)
    suspects.sort(key=lambda suspect: (suspect.put_right, suspect.time_s))
    return decided(suspects)


def decided(suspects: Sequence[Suspect]) -> Outcome:
    """Say what suspicions, the likeliest first, come to."""
    if not suspects:
        return Outcome(NONE, "nothing that was measured speaks for a failure")
    first = suspects[0]
    if first.put_right:
        words = f"{len(suspects)} mistakes were put right" if len(suspects) > 1 else "a mistake was put right"
        return Outcome(NONE, f"{words}; nothing else speaks for a failure", tuple(suspects[:SUSPECTS]))
    return Outcome(FAILURE, f"at {first.time_s:.2f} s {MODES[first.mode]}", tuple(suspects[:SUSPECTS]))


def as_recorded(outcome: Outcome, succeeded: bool | None) -> Outcome:
    """Take over what the recording itself says of its success; None where it says nothing.

    What speaks for a failure in spite of a recorded success stays, with both told.
    """
    if succeeded is None or (outcome.label == SUCCESS and succeeded):
        return outcome
    said = f"the recording says that it {'succeeded' if succeeded else 'failed'}"
    if outcome.label == FAILURE:
        return replace(outcome, words=f"{outcome.words}; {said}")
    if succeeded:
        return replace(outcome, label=SUCCESS, words=said, source=RECORDED)
    why = outcome.words if outcome.suspects else "nothing that was measured tells when or why"
    return replace(outcome, label=FAILURE, words=f"{said}; {why}", source=RECORDED)


def _of_grips(state: State, tracks: Mapping[str, Track], steps: Sequence[str], pushed: bool) -> list[Suspect]:
    """Suspect every closing that comes to nothing; good ones that follow put it right, one for each step to be done.

    Jaws that close once all that is to be carried has been carried have nothing to grasp: they open again at once, or
    push something.
    """
    found = [grip for grip in grips(state) if grip.still or not grip.empty]
    wrong = {number: _other_thing(grip, found, tracks, steps) for number, grip in enumerate(found) if grip.good}
    good = [number for number, other in wrong.items() if not other]
    needed = max(len(steps), 1)
    suspects = []
    for number, grip in enumerate(found):
        if number in good:
            continue
        tried_again = grip.fumbled and number + 1 < len(found)  # what comes of that is judged on its own
        all_carried = len(good) >= needed and (number < max(good) or grip.fumbled or (grip.empty and pushed))
        put_right = tried_again or all_carried
        suspects.append(replace(_suspect(grip, wrong.get(number, "")), put_right=put_right))
    return suspects


def _suspect(grip: Grip, other: str) -> Suspect:
    if other:
        return Suspect(grip.closed_s, "wrong_object", (f"{grip.name} takes something else: {other}",))
    if grip.lost_s is not None:
        words = f"{grip.name} closes from {100 * grip.opening:.0f} to {100 * grip.lost_to:.0f} % open while it holds"
        return Suspect(grip.lost_s, "slip", (words,))
    words = f"{grip.name} closes to {100 * grip.opening:.0f} % open while the arm stands: nothing is between the jaws"
    if grip.fumbled:
        words = f"{grip.name} closes and opens again at once"
    return Suspect(grip.closed_s, "missed_grasp", (words,))


def _other_thing(grip: Grip, every: Sequence[Grip], tracks: Mapping[str, Track], steps: Sequence[str]) -> str:
    """Say what left its place in a grip although the instruction names something else, "" where no picture tells."""
    named = [(colours_named(step) or [""])[0] for step in steps]
    if not named or "" in named:
        return ""
    track = min(tracks.values(), key=lambda track: float(np.abs(track.flow).mean()))  # the camera that stands still
    others = [other for other in every if other is not grip and not other.empty]
    begin_s = max([other.stop_s for other in others if other.stop_s <= grip.start_s], default=float(track.time_s[0]))
    end_s = min([other.start_s for other in others if other.start_s >= grip.stop_s], default=float(track.time_s[-1]))
    before = usual_picture(track, begin_s, max(grip.start_s - BEFORE_S, begin_s))
    fate = fates(before, pictures_of(track, begin_s, end_s), grip.closed_s, grip.stop_s if grip.opened else None)
    left = [place for place in fate if fate[place] == LEFT]
    meant = [place for place in fate if place.small and place.colour in named]
    if not any(place.colour in named for place in left):
        if left:
            return f"{left[0].colour} leaves its place, {named[0]} does not"
        all_stay = all(fate[place] == STAYED for place in meant) and {place.colour for place in meant}.issuperset(named)
        return f"{named[0]} stays in full sight" if all_stay else ""
    return _other_shape(shape_named(steps[0]), meant, fate) if len(steps) == 1 else ""


def _other_shape(shape: str, alike: Sequence[Place], fate: Mapping[Place, str]) -> str:
    """Say that of several things of the colour that was named one of another shape left, "" where it is not certain."""
    went, rest = ([place.squareness for place in alike if fate[place] == what] for what in (LEFT, STAYED))
    if len(went) != 1 or not rest:
        return ""
    if shape == "square" and went[0] < ROUND and max(rest) > SQUARE:
        return f"a round {alike[0].colour} thing leaves its place, a square one stays"
    if shape == "round" and went[0] > SQUARE and min(rest) < ROUND:
        return f"a square {alike[0].colour} thing leaves its place, a round one stays"
    return ""


def _of_stalls(state: State) -> list[Suspect]:
    """Suspect where the arm stays behind its command for long without getting on."""
    if state.command is None or not state.joints.shape[1]:
        return []
    motion = arm_motion(state)
    found = []
    for start, stop, most in stalls(motion, state, BLOCKED_LEAST):
        length_s = float(state.time_s[stop] - state.time_s[start])
        if length_s >= BLOCKED_S and float(motion.speed[start : stop + 1].mean()) < BLOCKED_SPEED:
            words = f"the arm stays behind its command for {length_s:.1f} s, by up to {most * motion.fast:.3g}"
            found.append(Suspect(float(state.time_s[start]), "blocked", (words,), stop_s=float(state.time_s[stop])))
    return found
