"""How much faster than real time a video is analysed without a model, and in how much memory."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from vla.bench.spoilt import encode
from vla.data.dataset import EpisodeDataset
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.decode import VideoClip
from vla.video.source import Item
from vla.video.words import NoWords

SIZE, FPS = (640, 480), 30  # of the clip
_PEAK_KB = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # in a small process: what begins another counts as that one's until it runs


def measure(data: EpisodeDataset, seconds: float) -> dict[str, float]:
    """Return times of real time for analysing and for merely decoding a clip, and the most memory that a process took.

    By processor, the time of all threads and of the decoding process counts: what one core would reach alone. Memory is
    that of `vla analyze`.
    """
    rows = np.arange(min(len(data), round(seconds * FPS)))
    frames = np.stack([cv2.resize(image, SIZE) for image in data.frames(next(iter(data.cameras)), rows)])
    length_s = len(rows) / FPS
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        path = Path(folder) / "speed.mp4"
        encode(path, frames, rows, FPS)
        once_s, _ = _analysed(path, 1)
        twice_s, took_s = _analysed(path, 2)  # the child process is running, everything is in memory
        started_s = time.perf_counter()
        _decode(path)
        decoded_s = time.perf_counter() - started_s
        return {
            "speed_x_realtime": length_s / took_s,
            "speed_x_processor": length_s / max(twice_s - once_s, 1e-9),
            "decode_x_realtime": length_s / decoded_s,
            "peak_rss_mb": _peak_mb(path, Path(folder) / "analyzed"),
        }


def _analysed(path: Path, times: int) -> tuple[float, float]:
    """Analyse a clip so many times; return the processor time of it all and what the last took by the clock [s]."""
    before_s, took_s = _processor_s(), 0.0
    with Decoder() as decoder:
        for _ in range(times):
            started_s = time.perf_counter()
            analyse(Item("speed", path, {"video": VideoClip(path)}), decoder, NoWords())
            took_s = time.perf_counter() - started_s
    return _processor_s() - before_s, took_s


def _processor_s() -> float:
    """Return the processor time of this process and of those that it has waited for [s]."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in usage)


def _decode(path: Path) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def _peak_mb(path: Path, out: Path) -> float:
    """Return the most memory that the verb, or its decoding process, takes for a video [MB]."""
    verb = [sys.executable, "-m", "vla.cli", "analyze", f"path={path}", f"out={out}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", _PEAK_KB, *verb]
    return int(subprocess.run(words, env=environment, check=True, capture_output=True).stdout) / 1024
