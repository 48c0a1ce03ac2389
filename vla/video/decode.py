"""Decode once, in order, with true times: video files, lists of image files, images inside a dataset's tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

SIDE = 256  # longer side at which everything after this file sees a frame [px]
CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "ivf", "gif", "mxf")  # ffmpeg's names
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_DAMAGED_KEPT = 1000  # times of damaged frames that are remembered, and undecodable packets that are borne
_LATE_FRAMES = 2  # a file may end by this many frames before the duration that it promises


class ClipError(ValueError):
    """A clip cannot be read; the message says what was given, what is possible and what to do."""


@dataclass(frozen=True)
class Limits:
    """What one clip may cost; whatever passes a limit is refused with its numbers, never cut silently."""

    file_gb: float = 16.0
    pixels: int = 4096 * 2304  # of one frame: 4K passes, 8K does not
    duration_s: float = 6 * 3600.0
    frames: int = 1_500_000
    streams: int = 16
    memory_mb: int = 1024  # of the decoding process, on top of what it has when it starts
    cpu_s: int = 4 * 3600  # of the decoding process, for one clip
    stall_s: float = 60.0  # without a new frame


@dataclass
class Facts:
    """What reading a clip brought to light; complete when its last frame was read."""

    codec: str = ""
    width: int = 0  # upright, as stored in the file [px]
    height: int = 0
    rotation_deg: int = 0  # counter-clockwise turn by which the frames were set upright: 0, 90, 180 or 270
    declared_s: float | None = None  # duration that the file promises [s]
    video_streams: int = 1  # in the file; the first is read
    damaged_s: list[float] = field(default_factory=list)  # times at which something could not be decoded whole
    cut_off: bool = False  # the file ends before the duration that it promises


@dataclass(frozen=True)
class Frame:
    """One picture and the time of its exposure."""

    time_s: float  # since the clip's zero; from the file's time stamps, never from a frame's number
    image: np.ndarray  # uint8[h, w, 3] RGB, upright, its longer side SIDE or shorter


@dataclass(frozen=True)
class VideoClip:
    """A video file, or the part of it from `start_s` until before `stop_s` in the file's own time [s].

    Frame times count from `zero_s` of the file, by default from its first frame.
    """

    path: Path
    start_s: float | None = None
    stop_s: float | None = None
    zero_s: float | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path)

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Decode in one pass and yield every frame; damaged stretches are noted in `facts`, an unreadable file raises.

        The file is opened as a plain file of a known container, so that a playlist cannot lead to other places.
        """
        _check_file(self.path, limits)
        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
        try:
            container = av.open(f"file:{self.path}", options=options)
        except av.error.FFmpegError as error:
            raise ClipError(
                f"{self.path} is not a video that can be read ({error.strerror}): it is damaged, incomplete or of "
                f"another kind; possible are {', '.join(VIDEO_SUFFIXES)}. Copy it again or convert it with ffmpeg"
            ) from error
        with container:
            stream = self._stream(container, limits, facts)
            if self.start_s is not None:
                base = float(stream.time_base)
                container.seek(max(int(self.start_s / base), 0), stream=stream)
            upright, zero_s, last_s, count = Upright(limits, facts, self.path), self.zero_s, 0.0, 0
            for frame in decoded(container, stream, facts, self.path):
                file_s = _file_time(frame, self.path)
                if self.stop_s is not None and file_s >= self.stop_s:
                    break
                if self.start_s is not None and file_s < self.start_s:
                    continue
                zero_s = file_s if zero_s is None else zero_s
                last_s, count = file_s - zero_s, count + 1
                _check_extent(self.path, limits, count, last_s)
                if frame.is_corrupt and len(facts.damaged_s) < _DAMAGED_KEPT:
                    facts.damaged_s.append(last_s)
                yield Frame(last_s, upright(frame))
            if not count:
                raise ClipError(f"{self.path} gives no picture{self._place}: it is damaged or cut off, copy it again")
            rate = float(stream.average_rate or 0) or 1.0
            promised_s = facts.declared_s if self.start_s is None and self.stop_s is None else None
            facts.cut_off = promised_s is not None and last_s < promised_s - (1 + _LATE_FRAMES) / rate - 0.01

    @property
    def _place(self) -> str:
        return "" if self.start_s is None else f" from {self.start_s:.2f} s on"

    def _stream(self, container: Any, limits: Limits, facts: Facts) -> Any:
        """Choose the first stream of moving pictures and refuse what is over a limit, by the file's header."""
        if len(container.streams) > limits.streams:
            raise ClipError(
                f"{self.path} has {len(container.streams)} streams, at most {limits.streams} are taken: "
                "keep the video with ffmpeg -i FILE -map 0:v:0 -c copy NEW"
            )
        covers = av.stream.Disposition.attached_pic
        videos = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not videos:
            kinds = sorted({stream.type for stream in container.streams}) or ["no stream"]
            raise ClipError(f"{self.path} holds no video, only {', '.join(kinds)}: give a file with pictures")
        stream = videos[0]
        context = stream.codec_context
        if context is None:
            raise ClipError(f"{self.path} has a codec that this installation cannot decode: convert it to H.264 or AV1")
        _check_pixels(self.path, limits, context.width, context.height)
        context.thread_count = 1
        context.options = {"max_pixels": str(limits.pixels)}
        duration = stream.duration and float(stream.duration * stream.time_base)
        duration = duration or (container.duration and container.duration / av.time_base)
        if duration and self.stop_s is None:
            _check_extent(self.path, limits, 0, duration)
        facts.codec = {"libdav1d": "av1", "libaom-av1": "av1"}.get(context.name, context.name)
        facts.declared_s, facts.video_streams = duration or None, len(videos)
        return stream


@dataclass(frozen=True)
class ImageClip:
    """Image files in the order of time, `fps` of them a second."""

    paths: tuple[Path, ...]
    fps: float

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.paths[0]} ({len(self.paths)} images)"

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Read every image; one that cannot be read raises and is named."""
        for number, path in enumerate(self.paths):
            _check_file(path, limits)
            _check_extent(path, limits, number + 1, number / self.fps)
            yield Frame(number / self.fps, _picture(path, str(path), limits, facts))


@dataclass(frozen=True)
class TableClip:
    """Images of feature `key` inside a dataset's parquet files, of the frames `start` until before `stop`."""

    root: Path
    key: str
    start: int
    stop: int
    fps: float

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.root}, {self.key}"

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Read the images of the rows one after the other."""
        _check_extent(self.root, limits, self.stop - self.start, (self.stop - self.start) / self.fps)
        rows = [("index", ">=", self.start), ("index", "<", self.stop)]
        paths = sorted(self.root.glob("data/*/[!.]*.parquet"))
        for number, value in enumerate(pq.read_table(paths, columns=[self.key], filters=rows)[self.key]):
            where = f"{self.name}, frame {self.start + number}"
            data = (value.as_py() or {}).get("bytes")
            if not data:
                raise ClipError(f"{where}: the table holds no image bytes; embed the images or convert them to video")
            yield Frame(number / self.fps, _picture(BytesIO(data), where, limits, facts))


Clip = VideoClip | ImageClip | TableClip


class Upright:
    """Turn decoded frames into small upright pictures of one size, the size of the first."""

    def __init__(self, limits: Limits, facts: Facts, path: Path) -> None:
        self.limits, self.facts, self.path = limits, facts, path
        self._scale = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        _check_pixels(self.path, self.limits, frame.width, frame.height)
        if self._size is None:
            turns = round(frame.rotation / 90) % 4
            sides = (frame.width, frame.height)
            self.facts.rotation_deg = 90 * turns
            self.facts.width, self.facts.height = sides[::-1] if turns % 2 else sides
            self._size = small(*sides)
        width, height = self._size
        scaled = self._scale.reformat(frame, width, height, format="gbrp", interpolation="AREA", threads=1)
        green, blue, red = map(_plane, scaled.planes)  # apart they are scaled in half of the time
        return np.ascontiguousarray(np.rot90(cv2.merge([red, green, blue]), self.facts.rotation_deg // 90))


def _plane(plane: Any) -> np.ndarray:
    """Return one colour of a decoded picture, uint8[h, w], as a view of its memory."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def small(width: int, height: int) -> tuple[int, int]:
    """Return (width, height) with the longer side at most SIDE and the same proportions, never larger than given."""
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def decoded(container: Any, stream: Any, facts: Facts, path: Path) -> Iterator[Any]:
    """Yield decoded frames; packets that cannot be decoded are noted with their time, too many of them raise."""
    packets, failures = container.demux(stream), 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:  # the file ends in the middle of something
            facts.cut_off = True
            return
        try:
            yield from packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            failures += 1
            if failures >= _DAMAGED_KEPT:
                raise ClipError(
                    f"{path}: {failures} packets cannot be decoded ({error.strerror}): the file is damaged, "
                    "copy it again"
                ) from error
            facts.damaged_s.append(float((packet.pts or packet.dts or 0) * stream.time_base))


def _file_time(frame: Any, path: Path) -> float:
    if frame.pts is None:
        raise ClipError(f"{path} has frames without time stamps: write them anew with ffmpeg -fflags +genpts -i FILE")
    return float(frame.pts * frame.time_base)


def _picture(source: Any, where: str, limits: Limits, facts: Facts) -> np.ndarray:
    """Read one image, turned as its EXIF tag says, to uint8[h, w, 3] RGB of small size."""
    try:
        with Image.open(source, formats=_IMAGE_FORMATS) as image:
            _check_pixels(where, limits, *image.size)
            upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            facts.codec = str(image.format).lower()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(f"{where} is not a whole image of {', '.join(_IMAGE_FORMATS)}: {error}") from error
    facts.height, facts.width = upright.shape[:2]
    return cv2.resize(upright, small(facts.width, facts.height), interpolation=cv2.INTER_AREA)


def _check_file(path: Path, limits: Limits) -> None:
    if not path.is_file():
        raise ClipError(f"{path} is not a file: give the path of a video, an image, a folder or a dataset")
    size = path.stat().st_size
    if not size:
        raise ClipError(f"{path} is empty (0 bytes): the recording or the copy did not finish, copy it again")
    if size > limits.file_gb * 2**30:
        raise ClipError(
            f"{path} has {size / 2**30:.1f} GiB, at most {limits.file_gb:g} are taken: cut it with "
            "ffmpeg -i FILE -ss START -t SECONDS -c copy PART, or raise the limit file_gb"
        )


def _check_pixels(where: Path | str, limits: Limits, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ClipError(f"{where} has pictures of {width}x{height} pixels: the file is damaged, copy it again")
    if width * height > limits.pixels:
        raise ClipError(
            f"{where} has pictures of {width}x{height} = {width * height / 1e6:.1f} megapixels, at most "
            f"{limits.pixels / 1e6:.1f} are taken: scale it with ffmpeg -vf scale=1920:-2, or raise the limit pixels"
        )


def _check_extent(where: Path, limits: Limits, frames: int, duration_s: float) -> None:
    if duration_s > limits.duration_s or frames > limits.frames:
        raise ClipError(
            f"{where} has {duration_s:.0f} s or more ({frames} frames so far), at most {limits.duration_s:.0f} s and "
            f"{limits.frames} frames are taken: cut it with ffmpeg -i FILE -ss START -t SECONDS -c copy PART, or "
            "raise the limits duration_s and frames"
        )
