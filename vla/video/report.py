"""The page of one analysed item: its frames, and what was found, on one time axis; a click goes to that moment."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import cv2
import numpy as np

from vla.page import render_page
from vla.video.analysis import Analysis
from vla.video.events import arm_motion, movement
from vla.video.outcome import MODES
from vla.video.track import Track

SHOWN_EVERY_S, SHOWN_MOST = 0.5, 100  # frames that can be looked at beside the keyframes
POINTS = 500  # of a signal's line, at most
WIDTH, LEFT, RIGHT = 1000.0, 96.0, 992.0  # of the time axis [px]
LANE = 46.0  # height of a signal [px]
AROUND_S, TILES, TILE = 1.0, 9, 208  # the failure card: so long before and after, so many frames, of so many pixels
CITED = 6  # frames that are shown with an answer
COLOURS = ("#2f6fed", "#159a55", "#c77d0a", "#a855f7", "#0ea5b7", "#d6457f", "#6b7f2a", "#8b5e3c")


@dataclass(frozen=True)
class Signal:
    """A line over time."""

    name: str
    time_s: np.ndarray  # float64[N]
    value: np.ndarray  # float64[N], shown between 0 and `most`
    most: float


def signals(analysis: Analysis) -> list[Signal]:
    """Return the lines worth seeing: how fast picture and arm move, how far grippers are open."""
    moved = movement(analysis.tracks)
    found = [Signal("picture moves", moved.time_s, moved.speed, 1.5)]
    state = analysis.item.state
    if state is not None and state.finite and len(state.time_s) > 2:
        if state.joints.shape[1]:
            found.append(Signal("arm moves", state.time_s, arm_motion(state).speed, 1.5))
        for column, name in enumerate(state.gripper_names):
            low, high = state.gripper_low[column], state.gripper_high[column]
            opening = (state.gripper[:, column] - low) / max(high - low, 1e-9)
            found.append(Signal(name.removesuffix(".pos") + " open", state.time_s, opening, 1.0))
    return found


def render(record: Mapping[str, Any], analysis: Analysis) -> str:
    """Return the page of an item that could be read, one file that loads nothing and runs only its own script."""
    length_s = max(analysis.duration_s, 1e-3)

    def x(time_s: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(max(time_s / length_s, 0.0), 1.0), 2)

    lanes = [(signal.name, _line(signal, x)) for signal in signals(analysis)]
    labels = list(dict.fromkeys(segment["label"] for segment in record["segments"]))
    script = script_text("item.js")
    return render_page(
        record["source"]["name"],
        template("item.html"),
        policy=content_policy(script),
        r=record,
        frames=_frames(record, analysis.tracks),
        length_s=length_s,
        x=x,
        lanes=lanes,
        lane=LANE,
        width=WIDTH,
        left=LEFT,
        right=RIGHT,
        ticks=_ticks(length_s),
        around=_around(record["outcome"]["moment_s"], analysis),
        cited=[[_seen(time_s, analysis) for time_s in answer["times_s"][:CITED]] for answer in record["answers"]],
        modes=MODES,
        colours={label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)},
        script=script,
    )


def template(name: str) -> str:
    """Return the text of a template beside this file."""
    return resources.files("vla.video").joinpath("pages", name).read_text(encoding="utf-8")


script_text = cache(template)


def content_policy(script: str) -> str:
    """Allow pictures inside the page, its style and this very script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def little(jpeg: bytes, side: int) -> str:
    """Return a JPEG made smaller, as an address that holds it."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "a JPEG of our own can be decoded"
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return data_uri(cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[1].tobytes())


def _frames(record: Mapping[str, Any], tracks: Mapping[str, Track]) -> list[dict[str, Any]]:
    """Return the frames of the page in order: time, whether it is a keyframe and why, a picture of every camera."""
    length_s = next(iter(record["source"]["cameras"].values()))["duration_s"]
    step_s = max(SHOWN_EVERY_S, length_s / SHOWN_MOST)
    keyframes = {keyframe["time_s"]: keyframe for keyframe in record["keyframes"]}
    other = [
        time_s for time_s in np.arange(0, length_s, step_s) if min(abs(time_s - k) for k in keyframes) > step_s / 2
    ]
    return [
        {
            "time_s": time_s,
            "keyframe": keyframes.get(time_s),
            "pictures": {
                camera: data_uri(track.thumbnail(track.nearest_sample(time_s))) for camera, track in tracks.items()
            },
        }
        for time_s in sorted([*keyframes, *map(float, other)])
    ]


def _around(moment_s: float | None, analysis: Analysis) -> list[dict[str, Any]]:
    """Return the frames of the failure card: before, at and after the moment; none without a failure."""
    if moment_s is None:
        return []
    times_s = np.clip(moment_s + np.linspace(-AROUND_S, AROUND_S, TILES), 0, analysis.duration_s)
    seen = [_seen(float(time_s), analysis) for time_s in times_s]
    return list({tile["time_s"]: tile for tile in seen}.values())


def _seen(time_s: float, analysis: Analysis) -> dict[str, Any]:
    """Return the frame of the first camera nearest to a time, small."""
    lead = next(iter(analysis.tracks.values()))
    sample = lead.nearest_sample(time_s)
    return {"time_s": float(lead.time_s[lead.sample[sample]]), "picture": little(lead.thumbnail(sample), TILE)}


def _line(signal: Signal, x: Any) -> str:
    """Return the points of a polyline in a lane of height LANE; of many values the highest of each stretch is kept."""
    if not len(signal.time_s):
        return ""
    stretch = -(-len(signal.value) // POINTS)
    starts = np.arange(0, len(signal.value), stretch)
    highest = np.maximum.reduceat(np.nan_to_num(signal.value), starts)
    heights = (LANE - 6) * (1 - np.clip(highest / signal.most, 0, 1)) + 3
    return " ".join(f"{x(signal.time_s[k])},{y:.1f}" for k, y in zip(starts, heights, strict=True))


def _ticks(length_s: float) -> list[tuple[float, str]]:
    """Return about ten round times of the axis, with their words."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
    step_s = next((step for step in steps if length_s / step <= 12), steps[-1])
    times_s = np.arange(0, length_s + 1e-9, step_s)
    if step_s < 60:
        return [(float(t), f"{t:g} s" if step_s >= 1 else f"{t:.1f} s") for t in times_s]
    return [(float(t), f"{int(t) // 3600}:{int(t) // 60 % 60:02d}:{int(t) % 60:02d}") for t in times_s]
