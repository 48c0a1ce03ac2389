"""What all tests share."""

import os
import sys

import pytest

from vla.cli import missing_libraries

if sys.platform == "linux":  # render without a display; before anything imports mujoco
    os.environ.setdefault("MUJOCO_GL", "egl")


def pytest_configure() -> None:
    """End at once with what to install, rather than with an import error in every file."""
    if missing := missing_libraries():
        pytest.exit(missing, returncode=1)
