"""Few frames that tell what happened: events of all signals are added up in time, the strongest moments are kept."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla.video.appearance import from_looks
from vla.video.events import PIXELS, STATE, Event, from_movement, from_state
from vla.video.motion import peaks
from vla.video.state import State
from vla.video.track import Track

BUDGET = 24
KERNEL_S = 0.25  # an event counts exp(-(dt / KERNEL_S)^2) at a distance of dt
EDGE_S = 0.35  # what happens so close to the first and last frame is told by them
BOUNDARY, BOUNDARY_APART_S = 0.85, 0.8  # least score of a boundary, and how far apart boundaries lie
KEYFRAME, KEYFRAME_APART_S = 0.1, 0.3  # the same of a keyframe
GAP_S = 1.5  # a longer stretch without a keyframe gets the frame that looks least like its two ends
TOLD_S = 0.4  # events so close to a keyframe are its reasons
# Fitted to boundary F1 on our own demonstrations, with one half of the instructions; `vla bench video` uses the other.
WEIGHTS = {
    STATE: {
        "grasp": 2.0,
        "release": 1.3,
        "finish": 1.0,
        "set_off": 0.9,
        "stop": 0.85,
        "effort_step": 0.6,
        "fumble": 0.6,
        "pause": 0.5,
        "stall": 0.3,
        "gripper_closes": 0.3,
        "gripper_opens": 0.3,
        "turn": 0.05,
    },
    PIXELS: {"finish": 1.3, "stop": 1.0, "dip": 1.0, "set_off": 0.9, "novelty": 0.45, "subgoal": 0.35, "turn": 0.05},
}
BESIDE_STATE = 0.2  # of a weight of pixels where there is a state


Weights = dict[tuple[str, str], float]  # (signal, kind) -> weight


@dataclass(frozen=True)
class Keyframe:
    """A frame to look at, and why."""

    frame: int  # number in the first camera
    time_s: float
    score: float
    why: tuple[str, ...]  # for people, the weightiest reason first
    kinds: tuple[str, ...]  # of the same events


def all_events(tracks: Mapping[str, Track], state: State | None) -> list[Event]:
    """Return the events of every signal that there is, in the order of time."""
    found = from_movement(tracks) + [event for camera, track in tracks.items() for event in from_looks(camera, track)]
    found += from_state(state) if state is not None and state.finite else []
    return sorted(found, key=lambda event: (event.time_s, event.signal, event.kind, event.words))


def scores(events: Sequence[Event], time_s: np.ndarray) -> np.ndarray:
    """Return float64[N]: how much happens at each time; of several events of a kind the nearest counts."""
    total = np.zeros(len(time_s))
    weights = weights_among(events)
    for key, weight in weights.items():
        nearest = np.zeros(len(time_s))
        for event in events:
            if event.key == key:
                around = slice(*np.searchsorted(time_s, [event.time_s - 3 * KERNEL_S, event.time_s + 3 * KERNEL_S]))
                kernel = np.exp(-(((time_s[around] - event.time_s) / KERNEL_S) ** 2))
                nearest[around] = np.maximum(nearest[around], event.strength * kernel)
        total += weight * nearest
    return total


def boundaries(
    events: Sequence[Event], time_s: np.ndarray, without: Collection[str] = (), only: Collection[str] = ()
) -> list[float]:
    """Return the times at which one thing ends and another begins, without the first and the last moment.

    Events of the kinds `without` do not count, or `only` those of some kinds: "set_off" alone tells where the next
    task begins after a rest, all others tell where something was done.
    """
    counted = [event for event in events if event.kind not in without and (not only or event.kind in only)]
    return [float(time_s[k]) for k in _inner_peaks(scores(counted, time_s), time_s, BOUNDARY, BOUNDARY_APART_S)]


def choose(tracks: Mapping[str, Track], events: Sequence[Event], budget: int = BUDGET) -> list[Keyframe]:
    """Choose at most `budget` keyframes in the order of time: the first, the last, and the strongest moments between.

    Long stretches in which nothing is found get the frame that looks least like their ends, while the budget lasts.
    """
    if budget < 2:
        raise ValueError(f"a budget of {budget} keyframes is not possible: the first and the last frame need 2")
    lead = next(iter(tracks.values()))
    time_s = lead.time_s[lead.sample]
    total = scores(events, time_s)
    strongest = _inner_peaks(total, time_s, KEYFRAME, KEYFRAME_APART_S)
    strongest = strongest[np.argsort(-total[strongest], kind="stable")][: budget - 2]
    chosen = sorted({0, len(time_s) - 1, *map(int, strongest)})
    chosen = _fill_gaps(chosen, lead, time_s, budget)
    weights = weights_among(events)
    return [
        _keyframe(sample, lead, float(total[sample]), near(events, float(time_s[sample]), weights)) for sample in chosen
    ]


def weights_among(events: Sequence[Event]) -> Weights:
    """Say how much an event of each kind counts beside the others: pixels count less where there is a state."""
    signals = {event.signal for event in events}
    share = {STATE: 1.0, PIXELS: BESIDE_STATE if STATE in signals else 1.0}
    return {
        (signal, kind): share[signal] * weight
        for signal, table in WEIGHTS.items()
        if signal in signals
        for kind, weight in table.items()
    }


def near(events: Sequence[Event], time_s: float, weights: Weights) -> list[Event]:
    """Return the events that tell of a moment, the weightiest first."""
    found = [event for event in events if abs(event.time_s - time_s) <= TOLD_S + 1e-6 and weights.get(event.key)]
    return sorted(found, key=lambda event: -weights[event.key] * event.strength)


def _inner_peaks(total: np.ndarray, time_s: np.ndarray, least: float, apart_s: float) -> np.ndarray:
    """Return peaks of the score, those near the ends left out before they can suppress others."""
    if not len(time_s):
        return np.zeros(0, np.int64)
    inner = (time_s >= time_s[0] + EDGE_S - 1e-6) & (time_s <= time_s[-1] - EDGE_S + 1e-6)
    return peaks(np.where(inner, total, -np.inf), time_s, least, apart_s)


def _fill_gaps(chosen: list[int], lead: Track, time_s: np.ndarray, budget: int) -> list[int]:
    while len(chosen) < budget:
        gaps = np.diff(time_s[chosen])
        if not len(gaps) or gaps.max() <= GAP_S:
            break
        first, last = chosen[int(gaps.argmax())], chosen[int(gaps.argmax()) + 1]
        looks = lead.looks[first : last + 1].astype(np.float32)
        unlike = np.minimum(*(np.linalg.norm(looks - looks[end], axis=1) for end in (0, -1)))
        middle = np.minimum(time_s[first : last + 1] - time_s[first], time_s[last] - time_s[first : last + 1])
        unlike[middle < GAP_S / 4] = -1.0
        chosen = sorted([*chosen, first + int(unlike.argmax())])
    return chosen


def _keyframe(sample: int, lead: Track, score: float, told: Sequence[Event]) -> Keyframe:
    ends = {0: "first frame", len(lead.sample) - 1: "last frame"}
    why = ([ends[sample]] if sample in ends else []) + [event.words for event in told]
    kinds = ([ends[sample].replace(" ", "_")] if sample in ends else []) + [event.kind for event in told]
    why = why or ["nothing else is told for a long time; it looks least like the keyframes around it"]
    return Keyframe(
        frame=int(lead.sample[sample]),
        time_s=float(lead.time_s[lead.sample[sample]]),
        score=round(score, 6),
        why=tuple(dict.fromkeys(why)),
        kinds=tuple(dict.fromkeys(kinds or ["fill"])),
    )
