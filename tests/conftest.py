"""What all tests share."""

import os
import sys

if sys.platform == "linux":  # render without a display; before anything imports mujoco
    os.environ.setdefault("MUJOCO_GL", "egl")
