"""Questions about a video: what has to do with them, what was measured about them, and answers that cite frames."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vla.video.events import STATE, Event
from vla.video.outcome import MODES, Outcome
from vla.video.segments import Segment
from vla.video.track import Track

NOT_VISIBLE = "not visible"
CITED = 3  # moments that a measured answer cites
AROUND_S = 0.5  # a frame has to do with what happens so close to it
SEGMENT_WEIGHT = 0.5  # of a matching label beside a matching event
MEASURED = "events"  # the source of an answer that no model gave
SAID = {  # kind of event or failure -> what people call it
    "grasp": "grasp grab pick pick-up take lift hold grip seize catch",
    "release": "release drop let go put place set down open",
    "gripper_closes": "close shut",
    "gripper_opens": "open",
    "fumble": "fumble miss fail",
    "stall": "block stuck jam collide collision hit push stall press",
    "effort_step": "touch contact hit collide",
    "stop": "stop rest halt finish end stand",
    "finish": "finish end withdraw retreat complete",
    "set_off": "start begin move leave",
    "pause": "pause wait hesitate stop",
    "missed_grasp": "miss fail failure wrong mistake grasp",
    "slip": "slip drop fall lose lost fail failure wrong mistake",
    "wrong_object": "wrong mistake fail failure confuse mix",
    "blocked": "block stuck jam fail failure wrong collide",
}
_PASSED_OVER = re.compile(r"^(wh\w+|how|is|are|was|were|does|do|did|the|an?|it|of|to|at|in|on)$")  # say nothing


@dataclass(frozen=True)
class Answer:
    """What was answered, and by which frames."""

    question: str
    answer: str  # NOT_VISIBLE where the frames do not tell
    times_s: tuple[float, ...]  # of the frames that it rests on
    frames: tuple[int, ...]  # their numbers in the first camera
    source: str  # MEASURED, or the model that answered
    looked_at_s: tuple[float, ...] = ()  # frames that the model was shown
    problem: str = ""  # what kept a model from answering, or what was not checked
    confidence: float | None = None  # 0..1, by agreement; None where nothing tells
    first: str | None = None  # what a weaker model said, where a stronger one was asked


def cite(question: str, answer: str, times_s: Sequence[float], track: Track, source: str, **more) -> Answer:
    """Make an answer that rests on the frames of a camera nearest to some times."""
    samples = sorted({track.nearest_sample(time_s) for time_s in times_s})
    frames = tuple(int(track.sample[k]) for k in samples)
    return Answer(question, answer, tuple(float(track.time_s[frame]) for frame in frames), frames, source, **more)


def relevance(
    question: str,
    time_s: np.ndarray,
    events: Sequence[Event],
    outcome: Outcome,
    segments: Sequence[Segment],
    similar: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> np.ndarray:
    """Return float64[N]: how much each time has to do with a question, by the words for what was measured around it.

    similar: takes texts and returns how close each is to the question, 0..1; instead of common words.
    """
    moments = _moments(events, outcome)
    texts = [f"{kind.replace('_', ' ')}: {words}" for _, kind, words in moments] + [part.label for part in segments]
    if similar is not None:
        weights = np.asarray(similar(texts), np.float64) if texts else np.zeros(0)
    else:
        asked = _stems(question)
        weights = np.array(
            [len(asked & _stems(SAID.get(kind, ""))) for _, kind, _ in moments]
            + [SEGMENT_WEIGHT * len(asked & _stems(part.label)) for part in segments],
            np.float64,
        )
    total = np.zeros(len(time_s))
    for (moment_s, _, _), weight in zip(moments, weights, strict=False):
        total = np.maximum(total, weight * np.exp(-(((time_s - moment_s) / AROUND_S) ** 2)))
    inside = np.zeros(len(time_s))
    for part, weight in zip(segments, weights[len(moments) :], strict=True):
        here = (time_s >= part.start_s) & (time_s <= part.stop_s)
        inside[here] = np.maximum(inside[here], weight)
    return total + inside


def measured_answer(question: str, events: Sequence[Event], outcome: Outcome, track: Track) -> Answer:
    """Answer with the measured moments that the question's words speak of; the things that it names are not checked."""
    asked = _stems(question)
    moments = _moments(events, outcome)
    matching = [len(asked & _stems(SAID.get(kind, ""))) for _, kind, _ in moments]
    most = max(matching, default=0)
    best = [moment for moment, match in zip(moments, matching, strict=True) if match == most > 0]
    best = sorted(best)[:CITED]
    if not best:
        return Answer(question, NOT_VISIBLE, (), (), MEASURED, problem="no measured event has to do with the question")
    words = "; ".join(f"at {moment_s:.2f} s: {what}" for moment_s, _, what in best)
    problem = "told by measured events alone; which thing it happens to needs a model (vlm=)"
    return cite(question, words, [moment_s for moment_s, _, _ in best], track, MEASURED, problem=problem)


def _moments(events: Sequence[Event], outcome: Outcome) -> list[tuple[float, str, str]]:
    """Return (time, kind, words) of what can be spoken of: events of the state, or of pixels without one; failures."""
    signals = {event.signal for event in events}
    told = [event for event in events if event.signal == STATE or STATE not in signals]
    found = [(event.time_s, event.kind, event.words) for event in told]
    return found + [(suspect.time_s, suspect.mode, MODES[suspect.mode]) for suspect in outcome.suspects]


def _stems(text: str) -> set[str]:
    """Return the words of a text without endings, those that say nothing left out."""
    return {_stem(word) for word in re.findall(r"[a-z]+", text.lower()) if not _PASSED_OVER.match(word)}


def _stem(word: str) -> str:
    """Cut common English endings: dropped, dropping, drops -> drop."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word
