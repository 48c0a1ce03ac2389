"""Spoil recordings in every way that the quality check of videos should notice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vla.data.dataset import EpisodeDataset
from vla.video.decode import VideoClip
from vla.video.events import arm_motion
from vla.video.quality import Checked
from vla.video.source import Item
from vla.video.state import State

X264 = {"crf": "20", "preset": "ultrafast", "g": "2", "bf": "0", "threads": "1"}


@dataclass(frozen=True)
class Recording:
    """Frames of the cameras and the rows of the state, before encoding; all cameras have the same frames."""

    frames: dict[str, np.ndarray]  # camera -> uint8[N, H, W, 3] RGB
    pts: np.ndarray  # int64[N] times of the frames in frame periods
    state: State
    fps: int
    spoil_file: Callable[[bytes], bytes] = lambda content: content

    def __len__(self) -> int:
        return len(self.pts)


Fault = Callable[[Recording, np.random.Generator], Recording]


def encode(path: Path, frames: np.ndarray, pts: np.ndarray, fps: int) -> None:
    """Write H.264 in full colour with one frame at each time of `pts`."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=X264)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for image, time in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write(recording: Recording, folder: Path, name: str) -> Item:
    """Encode a recording into `folder` and return it as an item."""
    clips = {}
    for camera, frames in recording.frames.items():
        path = folder / f"{name}-{camera}.mp4"
        encode(path, frames, recording.pts, recording.fps)
        path.write_bytes(recording.spoil_file(path.read_bytes()))
        clips[camera] = VideoClip(path)
    rows, fps = len(recording.state.time_s), float(recording.fps)
    return Item(name, folder, clips, rows=rows, fps=fps, state=recording.state)


def moving_span(recording: Recording, rng: np.random.Generator, frames: int) -> slice:
    """Draw so many frames in a row during which the arm moves, and just before and after too."""
    speed = np.interp(recording.pts / recording.fps, recording.state.time_s, arm_motion(recording.state).speed)
    slowest = [speed[start - 2 : start + frames + 2].min() for start in range(3, len(speed) - frames - 2)]
    starts = 3 + np.flatnonzero(np.array(slowest) > 0.25)
    if not len(starts):
        starts = 3 + np.argsort(slowest)[-1:]
    start = int(rng.choice(starts))
    return slice(start, start + frames)


def _any_span(recording: Recording, rng: np.random.Generator, seconds: float) -> slice:
    frames = max(2, round(seconds * recording.fps))
    start = int(rng.integers(1, len(recording) - frames - 1))
    return slice(start, start + frames)


def _painted(recording: Recording, span: slice, paint: Callable[[np.ndarray], np.ndarray]) -> Recording:
    """Change the frames of a span, in all cameras."""
    frames = {camera: images.copy() for camera, images in recording.frames.items()}
    for images in frames.values():
        images[span] = np.stack([paint(image) for image in images[span]])
    return replace(recording, frames=frames)


def _selected(recording: Recording, order: np.ndarray, pts: np.ndarray) -> Recording:
    """Take frames in another order, at other times; the state stays."""
    frames = {camera: images[order] for camera, images in recording.frames.items()}
    return replace(recording, frames=frames, pts=pts)


def _state_of(recording: Recording, joints: np.ndarray) -> Recording:
    return replace(recording, state=replace(recording.state, joints=joints))


def freeze(recording: Recording, rng: np.random.Generator) -> Recording:
    """Hold one picture for 0.5 s while the arm moves."""
    span = moving_span(recording, rng, max(3, round(0.5 * recording.fps)))
    order = np.arange(len(recording))
    order[span] = span.start - 1
    return _selected(recording, order, recording.pts)


def duplicate(recording: Recording, rng: np.random.Generator) -> Recording:
    """Show one picture twice in place of the next, while the arm moves."""
    span = moving_span(recording, rng, 1)
    order = np.arange(len(recording))
    order[span] = span.start - 1
    return _selected(recording, order, recording.pts)


def black(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose the picture for 0.3 s."""
    return _painted(recording, _any_span(recording, rng, 0.3), np.zeros_like)


def white(recording: Recording, rng: np.random.Generator) -> Recording:
    """Blind the camera for 0.3 s."""
    return _painted(recording, _any_span(recording, rng, 0.3), lambda image: np.full_like(image, 255))


def blank(recording: Recording, rng: np.random.Generator) -> Recording:
    """Show one shade for 0.3 s."""
    shade = rng.integers(60, 200, 3)
    return _painted(recording, _any_span(recording, rng, 0.3), lambda image: np.full_like(image, shade))


def blur(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose focus for 0.6 s: a Gaussian of 1 % of the width."""
    sigma = 0.01 * next(iter(recording.frames.values())).shape[2]
    return _painted(
        recording, _any_span(recording, rng, 0.6), lambda image: cv2.GaussianBlur(image, (0, 0), max(sigma, 1.5))
    )


def drop(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose three frames; the others keep their times."""
    start = int(rng.integers(2, len(recording) - 5))
    kept = np.delete(np.arange(len(recording)), slice(start, start + 3))
    return _selected(recording, kept, recording.pts[kept])


def drop_and_restamp(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose three frames and number the others as if nothing had happened."""
    dropped = drop(recording, rng)
    return replace(dropped, pts=np.arange(len(dropped)))


def gap(recording: Recording, rng: np.random.Generator) -> Recording:
    """Stop the clock of the camera for 0.4 s."""
    pts = recording.pts.copy()
    pts[int(rng.integers(2, len(pts) - 2)) :] += round(0.4 * recording.fps)
    return replace(recording, pts=pts)


def shorten(recording: Recording, rng: np.random.Generator) -> Recording:
    """End the video five frames early."""
    kept = np.arange(len(recording) - 5)
    return _selected(recording, kept, recording.pts[kept])


def lag(recording: Recording, rng: np.random.Generator) -> Recording:
    """Deliver every picture 0.3 s late."""
    late = round(0.3 * recording.fps)
    return _selected(recording, np.maximum(np.arange(len(recording)) - late, 0), recording.pts)


def leap(recording: Recording, rng: np.random.Generator) -> Recording:
    """Misread the joints in one row."""
    joints = recording.state.joints.copy()
    joints[int(rng.integers(2, len(joints) - 2))] += 0.3 * (recording.state.joint_high - recording.state.joint_low)
    return _state_of(recording, joints)


def not_a_number(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose one joint for one row."""
    joints = recording.state.joints.copy()
    joints[int(rng.integers(len(joints))), 0] = np.nan
    return _state_of(recording, joints)


def lose_rows(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose five rows of the table in the middle."""
    start = int(rng.integers(2, len(recording.state.time_s) - 7))
    rows = np.delete(np.arange(len(recording.state.time_s)), slice(start, start + 5))
    state = recording.state
    return replace(
        recording,
        state=replace(
            state,
            time_s=state.time_s[rows],
            joints=state.joints[rows],
            gripper=state.gripper[rows],
            command=None if state.command is None else state.command[rows],
        ),
    )


def hold_state(recording: Recording, rng: np.random.Generator) -> Recording:
    """Repeat one row of the table for 1 s while the arm moves."""
    span = moving_span(recording, rng, round(1.0 * recording.fps))
    joints, gripper = recording.state.joints.copy(), recording.state.gripper.copy()
    joints[span], gripper[span] = joints[span.start - 1], gripper[span.start - 1]
    return replace(recording, state=replace(recording.state, joints=joints, gripper=gripper))


def idle_end(recording: Recording, rng: np.random.Generator) -> Recording:
    """Go on recording for 4 s after everything is over."""
    return _stand(recording, len(recording) - 1)


def idle_start(recording: Recording, rng: np.random.Generator) -> Recording:
    """Begin recording 4 s early."""
    return _stand(recording, 0)


def _stand(recording: Recording, where: int) -> Recording:
    order = np.insert(np.arange(len(recording)), where, np.full(4 * recording.fps, where))
    state = recording.state
    times = np.arange(len(order)) / recording.fps
    changed = replace(
        state,
        time_s=times,
        joints=state.joints[order],
        gripper=state.gripper[order],
        command=None if state.command is None else state.command[order],
    )
    return replace(_selected(recording, order, np.arange(len(order))), state=changed)


def truncate(recording: Recording, rng: np.random.Generator) -> Recording:
    """Copy only two thirds of the file."""
    return replace(recording, spoil_file=lambda content: content[: 2 * len(content) // 3])


def overwrite(recording: Recording, rng: np.random.Generator) -> Recording:
    """Lose a tenth of the file in its middle to zeros."""

    def spoil(content: bytes) -> bytes:
        start, size = len(content) // 2, len(content) // 10
        return content[:start] + bytes(size) + content[start + size :]

    return replace(recording, spoil_file=spoil)


def tremble(recording: Recording, rng: np.random.Generator) -> Recording:
    """Shake the arm all the time."""
    state = recording.state
    noise = rng.normal(size=state.joints.shape) * 0.02 * (state.joint_high - state.joint_low)
    return _state_of(recording, state.joints + noise)


FAULTS: dict[str, tuple[Fault, frozenset[str]]] = {  # name -> how, and the flags of which one must be raised
    fault.__name__: (fault, frozenset(codes))
    for fault, codes in (
        (freeze, {"frozen"}),
        (duplicate, {"duplicated"}),
        (black, {"black"}),
        (white, {"white"}),
        (blank, {"blank"}),
        (blur, {"blurred"}),
        (drop, {"gap"}),
        (drop_and_restamp, {"length"}),
        (gap, {"gap"}),
        (shorten, {"length"}),
        (lag, {"lag"}),
        (leap, {"state_jump"}),
        (not_a_number, {"not_finite"}),
        (lose_rows, {"row_gap"}),
        (hold_state, {"state_frozen"}),
        (idle_end, {"idle_end"}),
        (idle_start, {"idle_start"}),
        (truncate, {"cut_off", "damaged"}),
        (overwrite, {"damaged", "cut_off"}),
    )
}
STATE_FAULTS = ("leap", "not_a_number", "lose_rows", "hold_state")  # one flag for the item, not one for each camera


def noticed(name: str, checked: Checked, cameras: list[str]) -> list[bool]:
    """Say for each camera, or once for the state, whether the fault was flagged."""
    codes = FAULTS[name][1]
    if name in STATE_FAULTS or name.startswith("idle"):
        return [any(flag.code in codes for flag in checked.flags)]
    return [any(flag.code in codes and flag.camera == camera for flag in checked.flags) for camera in cameras]


def load(dataset: EpisodeDataset, item: Item) -> Recording:
    """Decode an episode."""
    assert item.episode is not None and item.state is not None
    episode = dataset.episodes[item.episode]
    rows = np.arange(episode.start, episode.start + episode.length)
    frames = {camera: dataset.frames(camera, rows) for camera in item.clips}
    return Recording(frames, np.arange(episode.length), item.state, dataset.fps)
