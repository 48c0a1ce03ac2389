"""Keyframes, boundaries, quality flags and speed of the video analysis against simulator truth, beside rivals."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from vla.bench import failures, retrieval, selection, spoilt
from vla.bench.mishaps import Mishaps
from vla.bench.rivals import peract, random, scene_cuts, score, uniform
from vla.bench.sight import Sight
from vla.bench.truth import half, merged, truth
from vla.data.dataset import Episode, EpisodeDataset
from vla.video import timeline
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.decode import VideoClip
from vla.video.flag import NOTE
from vla.video.keyframes import all_events, boundaries, choose
from vla.video.quality import Checked, check
from vla.video.routing import RoutedWords
from vla.video.segments import MEASURED, Segment
from vla.video.source import Item, find
from vla.video.words import NoWords, Words

TOLERANCES_S = (0.25, 0.5, 1.0)
BUDGET, RECALL_S = 16, 0.3  # keyframes, and how near to a truth one must lie
OPEN = 0.2  # of the gripper, for PerAct's heuristic
SPEED_SIZE, SPEED_FPS = (640, 480), 30  # of the clip on which speed is measured


Label = tuple[str, str, float | None]  # (true, given, confidence); given is "" where no model named it


@dataclass(frozen=True)
class Scored:
    """One episode with its truth and what was found."""

    length_s: float
    truth: list[tuple[float, str]]  # (time, what), before merging
    boundaries: dict[str, list[float]]  # of ours with state and with pixels only, and of the rivals
    keyframes: dict[str, list[float]]
    labels: list[Label]  # of every frame
    alone: list[Label]  # the same without a stronger model; empty where there is none
    record: dict[str, Any]  # as vla analyze writes it
    spans: retrieval.Spans  # what is done in truth, and when
    shown: selection.Shown  # which true moments the frames chosen for a question show


def measure(
    *,
    seed: int,
    dataset: str | None,
    collect: Callable[..., Any],
    episodes: int,
    spoilt_episodes: int,
    speed_s: float,
    words: Words | None = None,
    stronger: Words | None = None,
    sure: float = 0.8,
    mishaps: Mishaps | None = None,
    failing_episodes: int = 0,
    sight: Sight | None = None,
) -> dict[str, Any]:
    """Score at most `episodes` episodes of the held half of a dataset, collected anew where none is given.

    collect is called with root and episodes, and must write columns as `vla collect` does. `spoilt_episodes` of them
    are spoilt in every way of `vla.bench.spoilt`. speed_s: length of the clip on which speed is measured.
    words: who names segments; None leaves label_accuracy out. stronger: names what `words` is less sure of than `sure`,
    and its gain is told. mishaps: records `failing_episodes` episodes in which
    things go wrong; None leaves failure_moment out. sight: asks what is to be seen; None leaves pope, pointing and
    degraded out.
    """
    rng = np.random.default_rng(seed)
    with _data(dataset, collect, 2 * episodes) as root, Decoder() as decoder:
        data = EpisodeDataset(root)
        pairs = [(i, e) for i, e in zip(find(root), data.episodes, strict=True) if half(e) == "held"]
        if not pairs:
            raise ValueError(f"{root} has no episode of the held half of instructions: give or collect more episodes")
        chosen = [pairs[k] for k in sorted(rng.permutation(len(pairs))[:episodes])]
        told = RoutedWords(words or NoWords(), stronger, sure) if stronger else words or NoWords()
        bar = tqdm(chosen, unit="episode", desc="score", leave=False)
        scored = [_examine(data, item, episode, decoder, told, rng) for item, episode in bar]
        quality = _quality(data, [item for item, _ in chosen[:spoilt_episodes]], decoder, rng)
        speed = _speed(data, speed_s)
        moments = _failure_moment(mishaps, failing_episodes, decoder) if mishaps and failing_episodes else None
    return {
        "episodes": len(scored),
        "hours": sum(episode.length_s for episode in scored) / 3600,
        **_summary(scored),
        "label_accuracy": _label_accuracy([pair for own in scored for pair in own.labels], sure) if words else None,
        "routing": _gain(scored) if stronger else None,
        "search": retrieval.recall([own.record for own in scored], [own.spans for own in scored]),
        "frames_for_questions": selection.score([own.shown for own in scored]),
        "failure_moment": moments,
        "quality": quality,
        **(sight.measure() if sight else {"pope": None, "pointing": None, "degraded": None}),
        **speed,
        "dataset": dataset or "collected",
    }


@contextmanager
def _data(dataset: str | None, collect: Callable[..., Any], episodes: int) -> Iterator[Path]:
    if dataset is not None:
        yield Path(dataset)
        return
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        collect(root=Path(folder) / "dataset", episodes=episodes)
        yield Path(folder) / "dataset"


def _failure_moment(mishaps: Mishaps, episodes: int, decoder: Decoder) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        mishaps.collect(Path(folder) / "dataset", episodes)
        return failures.score(failures.examine(Path(folder) / "dataset", decoder))


def _examine(
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
    found["peract"] = peract(state.joints, state.gripper[:, 0] > OPEN, data.fps)
    cuts = scene_cuts(next(iter(item.clips.values())))
    if cuts is not None:
        found["scenedetect"] = cuts
    chosen = {
        "state": [frame.time_s for frame in found_all.keyframes],
        "pixels": [frame.time_s for frame in choose(found_all.tracks, pixels, BUDGET)],
        "uniform": [float(moment) for moment in np.linspace(0, length_s, BUDGET)],
    }
    for track in [*found_all.tracks.values(), *(alone.tracks.values() if alone else ())]:
        track.thumbnails.unlink()
    true = data.column("subtask")[episode.start : episode.start + episode.length]
    return Scored(
        length_s,
        truth(data, episode),
        found,
        chosen,
        _labels(true, found_all.segments, data.fps),
        _labels(true, alone.segments, data.fps) if alone else [],
        timeline.document(found_all, fingerprint="", settings={}),
        retrieval.spans(true, data.fps),
        selection.shown(found_all, truth(data, episode)),
    )


def _labels(true: Sequence[str], segments: Sequence[Segment], fps: float) -> list[Label]:
    """Return what is done in every frame, what a model says of it, and how sure it is."""
    pairs: list[Label] = []
    for frame, label in enumerate(true):
        part = next((segment for segment in segments if frame / fps < segment.stop_s), segments[-1])
        pairs.append((label, part.label, part.confidence) if part.source != MEASURED else (label, "", None))
    return pairs


def _summary(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return F1 of all boundaries, keyframe recall and the ratio of found to true boundaries."""
    true = [merged(episode.truth) for episode in scored]
    names = [name for name in scored[0].boundaries]
    scores = {
        name: {str(t): score([episode.boundaries[name] for episode in scored], true, t) for t in TOLERANCES_S}
        for name in names
    }
    return {
        "true_boundaries": sum(map(len, true)),
        "boundary_f1": {name: {t: own["f1"] for t, own in scores[name].items()} for name in names},
        "count_ratio": {name: scores[name]["0.5"]["ratio"] for name in names},
        "keyframe_recall_at_16": {name: _recall(scored, name) for name in scored[0].keyframes},
        "keyframes": {
            name: float(np.mean([len(episode.keyframes[name]) for episode in scored])) for name in scored[0].keyframes
        },
    }


def _recall(scored: Sequence[Scored], name: str) -> float:
    """Return the share of true moments, none merged, with a keyframe within RECALL_S."""
    hits = [
        any(abs(true_s - time_s) <= RECALL_S + 1e-9 for time_s in episode.keyframes[name])
        for episode in scored
        for true_s, _ in episode.truth
    ]
    return float(np.mean(hits)) if hits else 0.0


def _label_accuracy(pairs: Sequence[Label], sure: float) -> dict[str, Any]:
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


def _gain(scored: Sequence[Scored]) -> dict[str, float]:
    """Return which share went to the stronger model, and what that adds to the share of frames named right."""
    counts = [episode.record["routing"] for episode in scored]
    right = [true == given for episode in scored for true, given, _ in episode.labels]
    alone = [true == given for episode in scored for true, given, _ in episode.alone]
    asked, routed = (sum(count[key] for count in counts) for key in ("asked", "routed"))
    accuracy = {"accuracy_alone": float(np.mean(alone)), "accuracy": float(np.mean(right))}
    return {"share": routed / max(asked, 1), **accuracy, "gain": accuracy["accuracy"] - accuracy["accuracy_alone"]}


def _quality(data: EpisodeDataset, items: Sequence[Item], decoder: Decoder, rng: np.random.Generator) -> dict[str, Any]:
    """Spoil each item in every way; return recall by fault, and false alarms on what was encoded again unspoilt."""
    hits: dict[str, list[bool]] = {name: [] for name in spoilt.FAULTS}
    alarms, seconds = [], 0.0
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        for item in tqdm(items, unit="episode", desc="spoil", leave=False):
            recording = spoilt.load(data, item)
            clean = _checked(spoilt.write(recording, Path(folder), "clean"), decoder)
            alarms += [f"{item.name}: {flag.words}" for flag in clean.flags if flag.severity != NOTE]
            seconds += len(recording) / recording.fps
            for name, (spoil, _) in spoilt.FAULTS.items():
                broken = spoilt.write(spoil(recording, rng), Path(folder), name)
                hits[name] += spoilt.noticed(name, _checked(broken, decoder), list(item.clips))
    every = [hit for own in hits.values() for hit in own]
    return {
        "recall": float(np.mean(every)) if every else None,
        "recall_by_fault": {name: float(np.mean(own)) for name, own in hits.items() if own},
        "faults": len(every),
        "false_alarms_per_hour": len(alarms) / (seconds / 3600) if seconds else None,
        "false_alarms": alarms,
        "hours": seconds / 3600,
    }


def _checked(item: Item, decoder: Decoder) -> Checked:
    tracks = {camera: decoder.track(clip) for camera, clip in item.clips.items()}
    for track in tracks.values():
        track.thumbnails.unlink()
    return check(item, tracks)


def _speed(data: EpisodeDataset, seconds: float) -> dict[str, float]:
    """Return how many times faster than real time a clip is analysed and merely decoded, and the most memory taken."""
    rows = np.arange(min(len(data), round(seconds * SPEED_FPS)))
    frames = np.stack([cv2.resize(image, SPEED_SIZE) for image in data.frames(next(iter(data.cameras)), rows)])
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder, Decoder() as decoder:
        path = Path(folder) / "speed.mp4"
        spoilt.encode(path, frames, rows, SPEED_FPS)
        decoder.track(VideoClip(path))  # the child process is running
        started_s = time.perf_counter()
        analyse(Item("speed", path, {"video": VideoClip(path)}), decoder, NoWords())
        analysed_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            decoded = sum(1 for _ in container.decode(video=0))
        decoded_s = time.perf_counter() - started_s
    assert decoded == len(rows)
    peak_kb = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    length_s = len(rows) / SPEED_FPS
    return {
        "speed_x_realtime": length_s / analysed_s,
        "decode_x_realtime": length_s / decoded_s,
        "peak_rss_mb": peak_kb / 1024,
    }
