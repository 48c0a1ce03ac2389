"""What all tests share."""

import gc
import logging
import multiprocessing
import os
import sys

import pytest
from hypothesis import settings

from vla.cli import missing_libraries

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core; before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if sys.platform == "linux":  # render without a display; before anything imports mujoco
    os.environ.setdefault("MUJOCO_GL", "egl")


gc.disable()  # until all is imported: what lives to the end anyway is not looked through again and again
# The same examples in every run, so that a failure is the change's own; HYPOTHESIS_PROFILE=search looks for more.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure() -> None:
    """End at once with what to install, rather than with an import error in every file."""
    if missing := missing_libraries():
        pytest.exit(missing, returncode=1)
    multiprocessing.set_forkserver_preload(["vla.train.train", "vla.evaluate.realtime"])  # once, not in every process


def pytest_collection_finish() -> None:
    """Collect garbage from here on, among what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Take away the handlers that a verb has set up in a test: what they write to is closed after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, since tests that start servers and robots wait a part of their time."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core waits for another at the end."""
    items.sort(key=lambda item: item.path.parent.name not in ("train", "evaluate", "bench", "tests"))
