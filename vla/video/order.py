"""When each step of an instruction begins: steps keep their order and begin where something sets off."""

from bisect import bisect
from collections.abc import Iterator, Sequence

import numpy as np

from vla.video.events import PIXELS, STATE, Event
from vla.video.outcome import CARRIED
from vla.video.segments import Segment

BEGINS = {"set_off": 1.0, "gripper_opens": 0.4, "gripper_closes": 0.4, "pause": 0.3}  # kind -> how well a step begins
APART_S = 0.3  # between moments at which a step may begin
MOMENTS = 400  # at which a step may begin, at most; of more, evenly chosen ones
# Chosen on demonstrations of other seeds than those of `vla bench video`.
BEGUN = 1.5  # weight of a good beginning beside a step of which all is as it should be
GRASPED, NOT_GRASPED = 1.0, 0.5  # a carrying step has a grasp or lacks it; each grasp of another step
NOTHING_DONE = 0.5  # a step in which nothing ends
UNEVEN = 0.3  # times the logarithm of how many times longer, or shorter, a step is than the others
DONE = ("finish", "stop", "grasp", "release", "gripper_closes", "gripper_opens", "fumble", "stall")


def in_order(steps: Sequence[str], segments: Sequence[Segment], events: Sequence[Event]) -> list[tuple[float, float]]:
    """Return for each step when it begins, and how clearly it begins and ends there, 0..1.

    The best of all divisions in order, by where things set off, by grasps, which carrying steps have and others have
    not, and by how long steps last. Where there is no room for all of them, the last steps are left out.
    """
    signal = STATE if any(event.signal == STATE for event in events) else PIXELS
    told = [event for event in events if event.signal == signal]
    times_s, clear = _moments(segments, told)
    count = min(len(steps), len(times_s) - 1)
    starts = _best_starts(_fits(steps[:count], times_s, told), BEGUN * clear)
    clear[0] = clear[-1] = count / len(steps)
    sure = np.minimum(clear[starts], clear[np.append(starts[1:], len(times_s) - 1)])
    return [(float(times_s[start]), float(one)) for start, one in zip(starts, sure, strict=True)]


def _moments(segments: Sequence[Segment], events: Sequence[Event]) -> tuple[np.ndarray, np.ndarray]:
    """Return when steps may begin, float64[N] [s], and how well, float64[N] 0..1; the last is the end of all."""
    start_s, stop_s = segments[0].start_s, segments[-1].stop_s
    edges_s = np.array([segment.start_s for segment in segments])
    possible = [(BEGINS[event.kind], _at(event.time_s, edges_s)) for event in events if event.kind in BEGINS]
    possible += [(0.0, float(edge_s)) for edge_s in edges_s[1:]]
    times_s, clear = [start_s, stop_s], {start_s: 0.0, stop_s: 0.0}
    for well, time_s in sorted(possible, key=lambda moment: (-moment[0], moment[1])):
        place = bisect(times_s, time_s)
        if all(abs(time_s - other_s) >= APART_S for other_s in times_s[max(place - 1, 0) : place + 1]):
            times_s.insert(place, time_s)
            clear[time_s] = well
    few = [times_s[k] for k in np.unique(np.linspace(0, len(times_s) - 1, MOMENTS).round().astype(int))]
    return np.array(few), np.array([clear[time_s] for time_s in few])


def _at(time_s: float, edges_s: np.ndarray) -> float:
    """Return the edge that is near a time, or the time itself."""
    nearest_s = float(edges_s[np.abs(edges_s - time_s).argmin()])
    return nearest_s if abs(nearest_s - time_s) < APART_S else time_s


def _fits(steps: Sequence[str], times_s: np.ndarray, events: Sequence[Event]) -> Iterator[np.ndarray]:
    """Say of each step how well it goes with what happens from one moment until another, float64[N, N]."""
    grasped, done = _between(times_s, events, ("grasp",)), _between(times_s, events, DONE)
    lasts = np.maximum(times_s[None, :] - times_s[:, None], 1e-3)
    alike = -UNEVEN * np.abs(np.log(lasts * len(steps) / max(times_s[-1] - times_s[0], 1e-3)))
    alike -= NOTHING_DONE * (done == 0)
    carrying = np.where(grasped > 0, GRASPED, -GRASPED) * (grasped[0, -1] > 0)
    for step in steps:
        yield alike + (carrying if CARRIED.search(step) else -NOT_GRASPED * grasped)


def _between(times_s: np.ndarray, events: Sequence[Event], kinds: Sequence[str]) -> np.ndarray:
    """Count events of some kinds from one moment, past it, until another, int[N, N]; the last moment ends all."""
    when_s = np.sort([event.time_s for event in events if event.kind in kinds])
    before = np.searchsorted(when_s, times_s + 1e-6, side="right")
    before[0], before[-1] = 0, len(when_s)
    return before[None, :] - before[:, None]


def _best_starts(fits: Iterator[np.ndarray], begun: np.ndarray) -> np.ndarray:
    """Return the moment at which each step begins, int[K], for the highest sum of fits and beginnings."""
    places = np.arange(len(begun))
    later = places[:, None] < places[None, :]
    total, froms = np.where(places == 0, 0.0, -np.inf), []
    for fit in fits:
        ways = np.where(later, (total + begun * (places > 0))[:, None] + fit, -np.inf)
        froms.append(ways.argmax(axis=0))
        total = ways.max(axis=0)
    starts, place = np.zeros(len(froms), np.int64), len(begun) - 1
    for step in range(len(froms) - 1, -1, -1):
        place = starts[step] = froms[step][place]
    return starts
