"""One item from first frame to outcome: decode once, check, find events, choose keyframes, cut, name, judge, answer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from vla.video.answer import Answer, relevance
from vla.video.child import Decoder
from vla.video.decode import ClipError
from vla.video.events import Event
from vla.video.flag import ERROR, Flag
from vla.video.keyframes import BUDGET, Keyframe, all_events, choose
from vla.video.objects import Detector
from vla.video.outcome import UNKNOWN, Outcome, as_recorded, judge
from vla.video.quality import Checked, check
from vla.video.reading import Reader, Text, flags, hidden, read_tracks
from vla.video.routing import Routing
from vla.video.segments import Segment, cut, merged
from vla.video.select import bolt
from vla.video.source import Item
from vla.video.track import Track, followed
from vla.video.veil import TEXT, Veil, veiled
from vla.video.words import Story, Words

ASKED = 20  # frames that a question is asked about, the first and the last among them
UNREAD = Outcome(UNKNOWN, "nothing can be seen")
Similar = Callable[[str, Sequence[str]], np.ndarray]  # a question and texts -> how close each is, 0..1


class FrameEncoder(Protocol):
    """Turns frames and sentences into vectors of length 1, near each other where one is true of the other."""

    @property
    def identity(self) -> str:
        """Vectors of another identity are not comparable."""
        ...

    def frames(self, tracks: Mapping[str, Track], times_s: Sequence[float]) -> np.ndarray:
        """Return float32[N, E] of the frames at these times, float32[0, E] where a camera is missing."""
        ...

    def sentence(self, text: str) -> np.ndarray | None:
        """Return float32[E], None for words that mean nothing to it."""
        ...


@dataclass(frozen=True)
class Analysis:
    """Everything that is known about an item; without any track nothing could be read, and the flags say why."""

    item: Item
    tracks: dict[str, Track]  # camera -> what it showed, of those that can be read; the first one leads
    events: list[Event]
    keyframes: list[Keyframe]
    segments: list[Segment]
    checked: Checked
    outcome: Outcome = UNREAD
    answers: tuple[Answer, ...] = ()
    texts: tuple[Text, ...] = ()
    routing: Routing = field(default_factory=Routing)
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # [keyframes, E], if encoded

    @property
    def duration_s(self) -> float:
        """Time of the last frame of the leading camera [s]."""
        return float(next(iter(self.tracks.values())).time_s[-1]) if self.tracks else 0.0


def analyse(
    item: Item,
    decoder: Decoder,
    words: Words,
    *,
    cameras: Collection[str] = (),
    budget: int = BUDGET,
    questions: Sequence[str] = (),
    similar: Similar | None = None,
    reader: Reader | None = None,
    veil: Veil | None = None,
    detector: Detector | None = None,
    encoder: FrameEncoder | None = None,
    progress: Callable[[str, float], None] = lambda camera, time_s: None,
) -> Analysis:
    """Analyse one item; a camera that cannot be read is flagged, and the others serve.

    cameras: which to use, by default all; ValueError where an item has none of them. questions: to be answered, from
    frames chosen by `similar`, or by common words where it is None. reader: reads the text in the keyframes. veil:
    hides places in whatever `words` are shown; of text that it hides only when and where it was is kept. `progress`
    hears the camera and the time of its latest frame [s]. detector: names things, in place of their colours. encoder:
    makes vectors of the keyframes.
    """
    wanted = {name: clip for name, clip in item.clips.items() if not cameras or name in cameras}
    if not wanted:
        raise ValueError(f"{item.name} has no camera of {sorted(cameras)}; possible: {', '.join(item.clips)}")
    tracks, unreadable = {}, []
    for camera, clip in wanted.items():
        try:
            tracks[camera] = decoder.track(clip, lambda time_s, camera=camera: progress(camera, time_s))
        except ClipError as error:
            unreadable.append(Flag("unreadable", ERROR, camera, 0.0, 0.0, str(error)))
    if not tracks:
        return Analysis(item, {}, [], [], [], Checked(unreadable, {}, {}))
    if detector is not None:
        tracks = {camera: followed(track, detector) for camera, track in tracks.items()}
    checked = check(item, tracks)
    checked = Checked(unreadable + checked.flags, checked.figures, checked.lags)
    events = all_events(tracks, item.state)
    lead = next(iter(tracks.values()))
    segments = cut(events, lead.time_s[lead.sample])
    keyframes = choose(tracks, events, budget)
    texts = read_tracks(reader, tracks, [keyframe.time_s for keyframe in keyframes]) if reader else []
    told = texts
    if veil is not None and TEXT in veil.kinds:  # what it says is in no record, page or index, and goes to no model
        told, texts = [], hidden(texts)
    checked = Checked(checked.flags + flags(texts), checked.figures, checked.lags)
    story = Story(item, veiled(tracks, veil), events, segments, judge(item, tracks), told)
    named = words.name(story)
    story = replace(story, segments=merged(named))
    story = replace(story, outcome=as_recorded(words.judge(story), item.succeeded))
    answers = tuple(words.answer(story, question, frames_for(question, story, similar)) for question in questions)
    found: dict[str, Any] = {"outcome": story.outcome, "answers": answers, "texts": tuple(texts)}
    found["routing"] = Routing.of([*named, story.outcome, *answers])
    if encoder is not None:
        found["vectors"] = encoder.frames(story.tracks, [keyframe.time_s for keyframe in keyframes])
    return Analysis(item, tracks, events, keyframes, list(story.segments), checked, **found)


def frames_for(question: str, story: Story, similar: Similar | None = None, frames: int = ASKED) -> list[float]:
    """Return the times of at most `frames` frames to look at for a question: first, last, and the most relevant."""
    lead = next(iter(story.tracks.values()))
    time_s = lead.time_s[lead.sample]
    scores = relevance(
        question,
        time_s,
        story.events,
        story.outcome,
        story.segments,
        None if similar is None else lambda texts: similar(question, texts),
    )
    chosen = {0, len(time_s) - 1, *bolt(scores, max(frames - 2, 1))}
    return [float(time_s[k]) for k in sorted(chosen)]
