"""Video files of a dataset: encode frames, join files without re-encoding, decode the frames of given times."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np


@dataclass(frozen=True)
class Codec:
    """How frames are encoded; every second one is a key frame, so that random access decodes at most two."""

    encoder: str
    pixel_format: str
    options: dict[str, str]


# One thread, no reordering: the same frames give the same bytes. Slower presets save 40 %, blur and take 0.4 ms more.
_X264 = {"g": "2", "bf": "0", "crf": "20", "preset": "ultrafast", "threads": "1"}
CODECS = {
    "h264": Codec("libx264", "yuv420p", _X264),  # plays everywhere; colours at half resolution
    "h264_444": Codec("libx264", "yuv444p", _X264),  # colours at full resolution: small objects keep theirs
    "av1": Codec("libsvtav1", "yuv420p", {"g": "2", "crf": "23", "preset": "10", "svtav1-params": "lp=1"}),
}
CONTAINER = {"movflags": "faststart"}


class VideoEncoder:
    """Encode uint8[H, W, 3] RGB frames at a constant rate into one mp4 file as they come."""

    def __init__(self, path: Path, fps: int, height: int, width: int, codec: str = "h264") -> None:
        if codec not in CODECS:
            raise ValueError(f"video codec {codec!r} is unknown; choose one of {sorted(CODECS)}")
        chosen = CODECS[codec]
        if chosen.pixel_format == "yuv420p" and (height % 2 or width % 2):
            raise ValueError(f"a video of {height}x{width} is not possible in {codec}: both sides must be even")
        self.shape = (height, width, 3)
        self.frames = 0
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
        self._open = True
        self._time_base = Fraction(1, fps)
        self._container = av.open(str(path), "w", options=CONTAINER)
        stream: Any = self._container.add_stream(chosen.encoder, rate=fps, options=chosen.options)
        self._stream = stream
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, chosen.pixel_format

    def add(self, image: np.ndarray) -> None:
        """Append one frame."""
        if image.shape != self.shape or image.dtype != np.uint8:
            raise ValueError(f"frame is {image.dtype}{list(image.shape)}, this video takes uint8{list(self.shape)}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self.frames, self._time_base
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Write what is pending and the index of the file."""
        if self._open:
            self._open = False
            if self.frames:
                self._container.mux(self._stream.encode())
            self._container.close()


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut uint8[H, W, 3] about its centre to the shape of (height, width), then scale by area.

    This is the one way in which any frame reaches a model, in training and on the robot.
    """
    height, width = image.shape[:2]
    rows, columns = min(height, round(width * size[0] / size[1])), min(width, round(height * size[1] / size[0]))
    top, left = (height - rows) // 2, (width - columns) // 2
    image = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def describe(path: Path, fps: int) -> dict[str, object]:
    """Return the `info` entry of a video feature, read from its first file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        return {
            "video.height": codec.height,
            "video.width": codec.width,
            "video.codec": {"libdav1d": "av1", "libaom-av1": "av1"}.get(codec.name, codec.name),
            "video.pix_fmt": codec.pix_fmt,
            "video.fps": fps,
            "video.channels": 3,
            "video.is_depth_map": False,
            "is_depth_map": False,
            "has_audio": bool(container.streams.audio),
        }


def join(paths: Iterable[Path], lengths: Sequence[int], target: Path, fps: int) -> None:
    """Concatenate files of `VideoEncoder`, of `lengths` frames each, into `target` without re-encoding."""
    with av.open(str(target), "w", options=CONTAINER) as output:
        stream, first, start = None, None, 0
        for path, length in zip(paths, lengths, strict=True):
            with av.open(str(path)) as source:
                video: Any = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video, opaque=True)  # no encoder needed
                    first = video.codec_context.extradata
                if video.codec_context.extradata != first:
                    raise ValueError(
                        f"{path} was encoded with other settings than those before: they cannot share a file"
                    )
                offset, seen = round(Fraction(start, fps) / video.time_base), 0
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    output.mux(packet)
                    seen += 1
            if seen != length:
                raise ValueError(f"{path} holds {seen} frames, its episode has {length}: delete that episode")
            start += length


def header(path: Path) -> bytes | None:
    """Return the decoder header of a file; `join` takes files together that have the same one."""
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.extradata


class VideoReader:
    """Decode frames of one video file by their time; not for use from several threads."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} is named by the dataset but is not there: copy the dataset again")
        self.path = path
        self._container = av.open(str(path))
        self._stream: Any = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1

    def frames_at(self, times_s: np.ndarray, tolerance_s: float) -> np.ndarray:
        """Return uint8[N, H, W, 3] RGB of the frames nearest to ascending `times_s` [s], each within the tolerance."""
        times_s = np.asarray(times_s, dtype=np.float64)
        images = []
        for start, stop in _runs(times_s, gap_s=1.0):
            images += list(self._decode(times_s[start:stop], tolerance_s))
        return np.stack(images)

    def _decode(self, times_s: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
        """Seek to the key frame before the first time, decode forward, yield the frame nearest to each time."""
        base = float(self._stream.time_base)
        self._container.seek(max(int((times_s[0] - tolerance_s) / base), 0), stream=self._stream)
        previous, wanted = None, 0
        for frame in self._container.decode(self._stream):
            now_s = frame.pts * base
            while wanted < len(times_s) and now_s >= times_s[wanted] - 1e-9:
                yield self._pick(previous, (now_s, frame), times_s[wanted], tolerance_s)
                wanted += 1
            if wanted == len(times_s):
                return
            previous = (now_s, frame)
        for time_s in times_s[wanted:]:  # the last frame of the file may lie just before the time asked for
            yield self._pick(previous, previous, time_s, tolerance_s)

    def _pick(self, before: tuple | None, after: tuple | None, time_s: float, tolerance_s: float) -> np.ndarray:
        candidates = [candidate for candidate in (before, after) if candidate is not None]
        if not candidates:
            raise ValueError(f"{self.path} has no frame at {time_s:.4f} s: the file is cut off, copy it again")
        found_s, frame = min(candidates, key=lambda candidate: abs(candidate[0] - time_s))
        if abs(found_s - time_s) > tolerance_s:
            raise ValueError(
                f"{self.path} has no frame at {time_s:.4f} s, the nearest is at {found_s:.4f} s "
                f"(tolerance {tolerance_s:.4f} s): the file does not fit its dataset, copy it again"
            )
        return frame.to_ndarray(format="rgb24")

    def close(self) -> None:
        """Release the file."""
        self._container.close()


def _runs(times_s: np.ndarray, gap_s: float) -> Iterator[tuple[int, int]]:
    """Split ascending times into ranges without a gap over `gap_s`: a range is decoded in one go."""
    edges = [0, *(np.flatnonzero(np.diff(times_s) > gap_s) + 1), len(times_s)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield int(start), int(stop)
