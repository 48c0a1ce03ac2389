"""Cameras and streams, and files that are played as if they were one: frames come when they come."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from vla.video.decode import ClipError, Facts, Frame, Limits, Upright, VideoClip, decoded

SCHEMES = ("rtsp", "rtsps", "tcp", "udp", "http", "https")
PROTOCOLS = "rtsp,rtp,srtp,tcp,udp,tls,http,https"  # none that opens a file, so that a playlist cannot lead to one
FORMATS = "rtsp,mpegts,matroska,mov,flv,mpjpeg,mjpeg,h264,hevc"
LIVE = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}  # begin with the present
CONNECT_S = 15.0  # until a source answers
DEVICE = "/dev/video"


def is_stream(path: str) -> bool:
    """Say whether a path names a camera (its number, or a device) or a stream (an address)."""
    return path.isdigit() or path.startswith(DEVICE) or path.partition("://")[0] in SCHEMES


@dataclass(frozen=True)
class StreamClip:
    """A camera's number or device, or the address of a stream; its times count from its first frame.

    They never go back: a source that begins anew, and counts anew, goes on where it was.
    """

    address: str

    @property
    def name(self) -> str:
        """What messages call it, without a password."""
        scheme, mark, rest = self.address.partition("://")
        return scheme + mark + rest.rpartition("@")[2]

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Yield frames until the source ends; ClipError where it cannot be opened or says nothing for `stall_s`."""
        source = f"{DEVICE}{self.address}" if self.address.isdigit() else self.address
        device = source.startswith(DEVICE)
        options = {} if device else {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
        options |= LIVE
        if source.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # without lost packets
        try:
            waits = None if device else (CONNECT_S, limits.stall_s)
            container = av.open(source, format="v4l2" if device else None, options=options, timeout=waits)
        except (av.error.FFmpegError, ValueError) as error:
            reason = error.strerror if isinstance(error, av.error.FFmpegError) else error  # str() tells the password
            raise ClipError(
                f"{self.name} cannot be opened ({reason}): is it on, is the address right? Possible are a camera's "
                f"number or device ({DEVICE}0) and {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
            ) from None
        with container:
            if not container.streams.video:
                raise ClipError(f"{self.name} sends no video: give a source with pictures")
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(limits.pixels)}
            upright, zero_s, last_s = Upright(limits, facts, Path(self.name)), None, 0.0
            for frame in decoded(container, stream, facts, Path(self.name)):
                now_s = time.monotonic() if frame.pts is None else float(frame.pts * frame.time_base)
                zero_s = now_s if zero_s is None else min(zero_s, now_s - last_s)
                last_s = now_s - zero_s
                yield Frame(last_s, upright(frame))


@dataclass(frozen=True)
class PacedClip:
    """A file played at the speed at which it was recorded, as a camera would give it."""

    clip: VideoClip

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.clip.name

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Yield every frame at its time."""
        began_s = None
        for frame in self.clip.frames(limits, facts):
            began_s = time.monotonic() - frame.time_s if began_s is None else began_s
            time.sleep(max(0.0, began_s + frame.time_s - time.monotonic()))
            yield frame
