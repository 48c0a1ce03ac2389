"""One episode with its truth, what the analysis finds in it and what rivals find; and all of them added up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vla.bench import retrieval, selection
from vla.bench.rivals import every, peract, random, scene_cuts, score, uniform
from vla.bench.truth import merged, truth
from vla.data.dataset import Episode, EpisodeDataset
from vla.video import timeline
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.keyframes import all_events, boundaries, choose
from vla.video.outcome import FAILURE
from vla.video.routing import RoutedWords
from vla.video.segments import MEASURED, Segment
from vla.video.source import Item
from vla.video.words import Words

TOLERANCES_S = (0.25, 0.5, 1.0)
BUDGET, RECALL_S = 16, 0.3  # keyframes, and how near to a truth one must lie
OPEN = 0.2  # of the gripper, for PerAct's heuristic
PERIOD_S = 1.5  # of the rival that knows nothing of an episode: the usual time between truths in the other half
OURS, RIVALS = ("state", "pixels"), ("uniform", "random", "every", "peract")

Label = tuple[str, str, float | None]  # (true, given, confidence); given is "" where no model named it


@dataclass(frozen=True)
class Scored:
    """One episode with its truth and what was found, in plain JSON types."""

    length_s: float
    truth: list[tuple[float, str]]  # (time, what), before merging
    boundaries: dict[str, list[float]]  # of ours with state and with pixels only, and of the rivals
    keyframes: dict[str, list[float]]
    labels: list[Label]  # of every frame
    alone: list[Label]  # the same without a stronger model; empty where there is none
    record: dict[str, Any]  # as vla analyze writes it
    spans: retrieval.Spans  # what is done in truth, and when
    shown: selection.Shown  # which true moments the frames chosen for a question show
    disturbed: bool  # whether mistakes were put in, and put right

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def examine(
    data: EpisodeDataset, item: Item, episode: Episode, decoder: Decoder, words: Words, rng: np.random.Generator
) -> Scored:
    """Find everything in an episode with its state and without, and let the rivals do so."""
    state = item.state
    if state is None or not state.gripper.shape[1]:
        raise ValueError(f"{item.name} has no gripper in its state; the bench needs a dataset of our own")
    found_all = analyse(item, decoder, words, budget=BUDGET)
    alone = analyse(item, decoder, words.first, budget=BUDGET) if isinstance(words, RoutedWords) else None
    lead = next(iter(found_all.tracks.values()))
    time_s, pixels = lead.time_s[lead.sample], all_events(found_all.tracks, None)
    found = {"state": boundaries(found_all.events, time_s), "pixels": boundaries(pixels, time_s)}
    count, length_s = len(found["state"]), (episode.length - 1) / data.fps
    found["uniform"], found["random"] = uniform(length_s, count), random(length_s, count, rng)
    found["every"] = every(length_s, PERIOD_S)
    found["peract"] = peract(state.joints, state.gripper[:, 0] > OPEN, data.fps)
    cuts = scene_cuts(next(iter(item.clips.values())))
    if cuts is not None:
        found["scenedetect"] = cuts
    chosen = {
        "state": [frame.time_s for frame in found_all.keyframes],
        "pixels": [frame.time_s for frame in choose(found_all.tracks, pixels, BUDGET)],
        "uniform": [float(moment) for moment in np.linspace(0, length_s, BUDGET)],
    }
    shown = selection.shown(found_all, truth(data, episode))
    for track in [*found_all.tracks.values(), *(alone.tracks.values() if alone else ())]:
        track.thumbnails.unlink()
    rows = slice(episode.start, episode.start + episode.length)
    true = [str(label) for label in data.column("subtask")[rows]]
    perturbed = "perturbed" in data.features and bool(np.any(data.column("perturbed")[rows]))
    return Scored(
        length_s=length_s,
        truth=truth(data, episode),
        boundaries={name: [float(moment) for moment in moments] for name, moments in found.items()},
        keyframes=chosen,
        labels=_labels(true, found_all.segments, data.fps),
        alone=_labels(true, alone.segments, data.fps) if alone else [],
        record=timeline.document(found_all, fingerprint="", settings={}),
        spans=retrieval.spans(true, data.fps),
        shown=shown,
        disturbed=perturbed,
    )


def _labels(true: Sequence[str], segments: Sequence[Segment], fps: float) -> list[Label]:
    """Return what is done in every frame, what a model says of it, and how sure it is."""
    pairs: list[Label] = []
    for frame, label in enumerate(true):
        part = next((segment for segment in segments if frame / fps < segment.stop_s), segments[-1])
        pairs.append((label, part.label, part.confidence) if part.source != MEASURED else (label, "", None))
    return pairs


def summary(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return F1 of all boundaries beside the rivals', keyframe recall and the ratio of found to true boundaries."""
    several = [episode for episode in scored if len(episode.spans) > 1]
    f1, counts = _f1(scored), _counts(scored)
    return {
        "true_boundaries": sum(len(merged(episode.truth)) for episode in scored),
        "boundary_f1": f1,
        "boundary_f1_of_several_steps": _f1(several) if several else None,
        "against_best_rival": {str(tolerance_s): _against(f1, str(tolerance_s)) for tolerance_s in TOLERANCES_S},
        "count_ratio": counts,
        "keyframe_recall_at_16": {name: _recall(scored, name) for name in scored[0].keyframes},
        "keyframes": {
            name: float(np.mean([len(episode.keyframes[name]) for episode in scored])) for name in scored[0].keyframes
        },
        "false_failures": {
            "undisturbed": _called_failures([episode for episode in scored if not episode.disturbed]),
            "disturbed": _called_failures([episode for episode in scored if episode.disturbed]),
        },
    }


def _f1(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Return F1 by who found the boundaries and by tolerance."""
    true = [merged(episode.truth) for episode in scored]
    return {
        name: {str(t): score([episode.boundaries[name] for episode in scored], true, t)["f1"] for t in TOLERANCES_S}
        for name in scored[0].boundaries
    }


def _against(f1: dict[str, dict[str, float]], tolerance: str) -> dict[str, Any]:
    """Say how many times better than the best rival each of ours is, and how many times better anything could be."""
    name = max(RIVALS, key=lambda rival: f1[rival][tolerance])
    best = max(f1[name][tolerance], 1e-9)
    ratios = {own: f1[own][tolerance] / best for own in OURS}
    return {"rival": name, "f1": f1[name][tolerance], **ratios, "most_possible": 1 / best}


def _counts(scored: Sequence[Scored]) -> dict[str, float]:
    true = [merged(episode.truth) for episode in scored]
    return {
        name: score([episode.boundaries[name] for episode in scored], true, 0.5)["ratio"]
        for name in scored[0].boundaries
    }


def _recall(scored: Sequence[Scored], name: str) -> float:
    """Return the share of true moments, none merged, with a keyframe within RECALL_S."""
    hits = [
        any(abs(true_s - time_s) <= RECALL_S + 1e-9 for time_s in episode.keyframes[name])
        for episode in scored
        for true_s, _ in episode.truth
    ]
    return float(np.mean(hits)) if hits else 0.0


def _called_failures(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return how many of these episodes, which all succeeded, are called failures."""
    called = [episode.record["outcome"]["label"] == FAILURE for episode in scored]
    return {"share": float(np.mean(called)) if called else None, "episodes": len(called)}


def label_accuracy(pairs: Sequence[Label], sure: float) -> dict[str, Any]:
    """Return the share of frames with exactly the true subtask: of all, of those named, by confidence, by verb."""
    right = np.array([true == given for true, given, _ in pairs])
    verbs, known = np.array([true.split()[0] for true, _, _ in pairs]), np.array([bool(given) for _, given, _ in pairs])
    told = np.array([confidence is not None for _, _, confidence in pairs])
    certain = np.array([confidence is not None and confidence >= sure for _, _, confidence in pairs])
    return {
        "all": float(right.mean()),
        "named": _mean(right[known]),
        "share_named": float(known.mean()),
        "sure": _mean(right[certain]),
        "unsure": _mean(right[told & ~certain]),
        "share_unsure": float((told & ~certain).mean()),
        "by_verb": {str(verb): _mean(right[verbs == verb]) for verb in np.unique(verbs)},
    }


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None


def gain(scored: Sequence[Scored]) -> dict[str, float]:
    """Return which share went to the stronger model, and what that adds to the share of frames named right."""
    counts = [episode.record["routing"] for episode in scored]
    right = [true == given for episode in scored for true, given, _ in episode.labels]
    alone = [true == given for episode in scored for true, given, _ in episode.alone]
    asked, routed = (sum(count[key] for count in counts) for key in ("asked", "routed"))
    accuracy = {"accuracy_alone": float(np.mean(alone)), "accuracy": float(np.mean(right))}
    return {"share": routed / max(asked, 1), **accuracy, "gain": accuracy["accuracy"] - accuracy["accuracy_alone"]}
