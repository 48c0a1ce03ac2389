"""One item from its first frame to its segments: decode once, check, find events, choose keyframes, cut, name."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from vla.video.child import Decoder
from vla.video.decode import ClipError
from vla.video.events import Event
from vla.video.flag import ERROR, Flag
from vla.video.keyframes import BUDGET, Keyframe, all_events, choose
from vla.video.quality import Checked, check
from vla.video.segments import Segment, cut, merged
from vla.video.source import Item
from vla.video.track import Track
from vla.video.words import Story, Words


@dataclass(frozen=True)
class Analysis:
    """Everything that is known about an item; without any track nothing could be read, and the flags say why."""

    item: Item
    tracks: dict[str, Track]  # camera -> what it showed, of those that can be read; the first one leads
    events: list[Event]
    keyframes: list[Keyframe]
    segments: list[Segment]
    checked: Checked

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
    progress: Callable[[str, float], None] = lambda camera, time_s: None,
) -> Analysis:
    """Analyse one item; a camera that cannot be read is flagged, and the others serve.

    cameras: which to use, by default all; ValueError where an item has none of them. `progress` hears the camera and
    the time of its latest frame [s].
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
    checked = check(item, tracks)
    checked = Checked(unreadable + checked.flags, checked.figures, checked.lags)
    events = all_events(tracks, item.state)
    lead = next(iter(tracks.values()))
    segments = cut(events, lead.time_s[lead.sample])
    segments = merged(words.name(Story(item, tracks, events, segments)))
    return Analysis(item, tracks, events, choose(tracks, events, budget), segments, checked)
