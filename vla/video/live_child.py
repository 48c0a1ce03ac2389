"""A child process in which a live source is decoded, limited in memory: what breaks it does not break what follows it.

It is `python -m vla.video.live_child FD`. There is no limit on its processor time, as a camera may run for days.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from vla.video.child import limit_memory, start
from vla.video.decode import ClipError, Facts, Frame, Limits
from vla.video.stream import CONNECT_S

START_S = 30.0  # until the child runs


class LiveClip(Protocol):
    """Gives frames when they come."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Yield frames; ClipError where the source fails."""
        ...


@dataclass(frozen=True)
class ChildClip:
    """A live source whose frames come from a child process; it is ended with the generator of its frames."""

    clip: LiveClip

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.clip.name

    def frames(self, limits: Limits, facts: Facts) -> Iterator[Frame]:
        """Yield frames; ClipError where the source fails or passes a limit, or says nothing for `stall_s`."""
        process, pipe = start("vla.video.live_child")
        waits_s = START_S + CONNECT_S + limits.stall_s
        try:
            pipe.send((self.clip, limits))
            while True:
                if not pipe.poll(waits_s):
                    raise ClipError(f"{self.name}: no new frame for {waits_s:g} s: is it still on?")
                kind, value = pipe.recv()
                if kind == "frame":
                    waits_s = limits.stall_s
                    yield value
                elif kind == "end":
                    vars(facts).update(vars(value))
                    return
                else:
                    raise {"refused": ClipError, "fault": RuntimeError}[kind](value)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            number = -process.wait()
            why = signal.Signals(number).name if number > 0 else f"exit code {-number}"
            raise ClipError(
                f"{self.name}: the decoder broke ({why}): the source is damaged or needs more than "
                f"{limits.memory_mb} MB; try another format, or raise the limit memory_mb"
            ) from None
        finally:
            process.kill()
            process.wait()
            pipe.close()


def _serve(pipe: Connection) -> None:
    """Send the frames of one source, until it ends or the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    clip, limits = pipe.recv()
    limit_memory(limits.memory_mb)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    facts = Facts()
    try:
        for frame in clip.frames(limits, facts):
            pipe.send(("frame", frame))
        told = "end", facts
    except ClipError as error:
        told = "refused", str(error)
    except MemoryError:
        told = "refused", f"{clip.name} needs more than {limits.memory_mb} MB to decode: raise the limit memory_mb"
    except BrokenPipeError:
        return
    except Exception:
        told = "fault", f"decoding {clip.name} failed:\n{traceback.format_exc()}"
    with suppress(BrokenPipeError):
        pipe.send(told)


def _end_with(pipe: Connection) -> None:
    """End this process when the other side is gone, which a source that says nothing would not notice."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
