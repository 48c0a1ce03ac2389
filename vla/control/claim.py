"""One commander an arm: a lock file that the operating system lets go of when its holder dies, even by kill -9."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


class ClaimedError(RuntimeError):
    """Another process commands this robot; nothing has moved."""


@contextmanager
def claim(robot: str) -> Iterator[None]:
    """Be the only process of this machine that commands `robot`, a serial number or a port.

    Raises ClaimedError, which names the other process, while that lives.
    """
    path = Path(tempfile.gettempdir()) / f"vla-robot-{quote(robot, safe='')}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "another"
            raise ClaimedError(
                f"robot {robot!r} is commanded by process {other} already; stop that first, or both pull at the arm"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
