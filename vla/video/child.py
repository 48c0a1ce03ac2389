"""A child process in which clips are decoded, limited in memory and time: what breaks it breaks one clip.

It is `python -m vla.video.child FD`, which loads nothing but the decoder, whatever program asks for it.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from vla.video.decode import Clip, ClipError, Limits
from vla.video.track import Track, watch


class Decoder:
    """Measure clips in one limited child process that serves until a clip breaks it; use it in a `with` block.

    Thumbnails lie in `folder`, by default a temporary one that is gone with the block.
    """

    def __init__(self, limits: Limits | None = None, folder: Path | None = None) -> None:
        self.limits = limits or Limits()
        self._temporary = Path(tempfile.mkdtemp(prefix="vla-video-")) if folder is None else None
        self.folder = folder or self._temporary
        self._numbers, self._process, self._pipe = count(), None, None

    def track(self, clip: Clip, progress: Callable[[float], None] = lambda time_s: None) -> Track:
        """Watch a clip and return its track; `progress` hears the time of the latest frame [s].

        Raises ClipError where the clip cannot be read or passes a limit, OSError where thumbnails cannot be written.
        """
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        pipe = self._started()
        pipe.send((clip, self.folder / f"thumbnails-{next(self._numbers):06d}.jpgs"))
        while True:
            if not pipe.poll(self.limits.stall_s):
                self._stop()
                raise ClipError(
                    f"{clip.name}: no new frame for {self.limits.stall_s:g} s, decoding was stopped: the file is "
                    "damaged or the machine is busy; try again, or raise the limit stall_s"
                )
            try:
                kind, value = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise ClipError(f"{clip.name}: {self._why_dead()}") from None
            if kind == "beat":
                progress(value)
            elif kind == "track":
                return value
            else:
                raise {"refused": ClipError, "disk": OSError, "fault": RuntimeError}[kind](value)

    def _started(self) -> Connection:
        """Return the pipe to the child, which is started when there is none."""
        if self._pipe is None:
            self._process, self._pipe = start("vla.video.child")
            self._pipe.send(self.limits)
        return self._pipe

    def _why_dead(self) -> str:
        """Say what ended the child, and forget it."""
        process: Any = self._process
        number = -process.wait()
        self._stop()
        if number == signal.SIGXCPU:
            return f"decoding took more than {self.limits.cpu_s} s of processor time: cut it, or raise the limit cpu_s"
        return (
            f"the decoder broke ({signal.Signals(number).name if number > 0 else f'exit code {-number}'}): the file "
            f"is damaged or needs more than {self.limits.memory_mb} MB; convert it, or raise the limit memory_mb"
        )

    def _stop(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
        self._process = self._pipe = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def start(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a module as a process of its own, which is given the number of its end of a pipe; return it and ours."""
    pipe, other = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(other.fileno())],
        pass_fds=[other.fileno()],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    other.close()
    return process, pipe


def _serve(pipe: Connection) -> None:
    """Answer clips with tracks until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    limits = pipe.recv()
    limit_memory(limits.memory_mb)
    while True:
        try:
            clip, thumbnails = pipe.recv()
        except EOFError:
            return
        _limit_time(limits.cpu_s)
        pipe.send(_answer(clip, limits, thumbnails, lambda time_s: pipe.send(("beat", time_s))))


def _answer(clip: Clip, limits: Limits, thumbnails: Path, beat: Callable[[float], None]) -> tuple[str, Any]:
    try:
        return "track", watch(clip, limits, thumbnails, beat)
    except ClipError as error:
        return "refused", str(error)
    except MemoryError:
        return "refused", (
            f"{clip.name} needs more than {limits.memory_mb} MB to decode: scale it with ffmpeg -vf scale=1920:-2, "
            "or raise the limit memory_mb"
        )
    except BrokenPipeError:  # the parent is gone
        sys.exit(0)
    except OSError as error:
        return "disk", f"{error}: make room on the disk of {thumbnails.parent} or choose another folder"
    except Exception:
        return "fault", f"decoding {clip.name} failed:\n{traceback.format_exc()}"


def limit_memory(megabytes: int) -> None:
    """Cap the address space at what is in use now and so much more; no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the system does not enforce the cap
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        cap = used + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))


def _limit_time(seconds: int) -> None:
    """Let the process be killed after so many more seconds of processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
