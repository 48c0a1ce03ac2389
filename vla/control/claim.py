"""One commander an arm: a lock file that the operating system lets go of when its holder dies, even by kill -9."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

FOLDERS = (Path("/run/lock"), Path("/tmp"))


class ClaimedError(RuntimeError):
    """Another process commands this robot; nothing has moved."""


@contextmanager
def claim(robot: str) -> Iterator[None]:
    """Be the only process of this machine that commands `robot`, a serial number or a port.

    Raises ClaimedError, which names the other process, while that lives.
    """
    real = os.path.realpath(robot) if os.path.exists(robot) else robot  # a port may have several names
    path = _folder() / f"vla-robot-{quote(real, safe='')}.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError as error:
        raise ClaimedError(
            f"robot {robot!r} cannot be claimed: {path} belongs to another user; let it go first"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "another"
            raise ClaimedError(
                f"robot {robot!r} is commanded by process {other} already; stop that first, or both pull at the arm"
            ) from None
        with suppress(PermissionError):  # the file is another user's; only the name for the message is lost
            path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        os.close(descriptor)


def _folder() -> Path:
    """Where all processes of this machine look; the folder for temporary files may differ between them."""
    return next((folder for folder in FOLDERS if os.access(folder, os.W_OK)), Path(tempfile.gettempdir()))
