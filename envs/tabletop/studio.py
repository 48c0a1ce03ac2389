"""The tabletop as people like to look at it: a large picture from the side with shadows, or a live window."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import mujoco
import mujoco.viewer
import numpy as np

from envs.tabletop import scene
from envs.tabletop.env import TabletopEnv

BACKDROP = (24, 32, 52)  # RGB behind the table
SHADOW_TEXELS = 2048


class WindowError(RuntimeError):
    """There is no window to show the scene in, or not any more."""


class StudioEnv(TabletopEnv):
    """Same world, same observations; `render` shows it to people.

    Args:
      render_mode: rgb_array for pictures, human for MuJoCo's own window (a display is needed).
      render_size: height and width of a picture [px].
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": scene.CONTROL_HZ}

    def __init__(self, render_mode: str | None = None, render_size: Sequence[int] = (480, 480), **tabletop: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode {render_mode!r} is not supported; possible: None, 'rgb_array', 'human'")
        if render_mode == "human" and sys.platform == "linux" and not _has_display():
            raise WindowError(
                "a window needs a display, but neither DISPLAY nor WAYLAND_DISPLAY is set: leave view out"
            )
        super().__init__(**tabletop)
        self.render_mode = render_mode
        self.render_size = (int(render_size[0]), int(render_size[1]))
        self._camera = mujoco.MjvCamera()
        self._camera.lookat = (0.18, 0.0, 0.035)
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.66, 150.0, -40.0
        self._studio: mujoco.Renderer | None = None
        self._window: Any = None
        self._shown_s = 0.0  # monotonic time of the window's last update

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw a new scene, see TabletopEnv."""
        answer = super().reset(seed=seed, options=options)
        self._show()
        return answer

    def step(self, action: np.ndarray):
        """Move to joint targets float32[6] over one control period; with a window, in real time."""
        answer = super().step(action)
        self._show()
        return answer

    def render(self) -> np.ndarray | None:
        """Return the scene from the side with shadows, uint8[H, W, 3]; None unless render_mode is rgb_array.

        The table keeps the texture of the first scene: closing a context between scenes breaks the other one's frames.
        """
        if self.render_mode != "rgb_array":
            return None
        if self._studio is None:
            self._studio = self._make_studio()
        self._studio.update_scene(self.data, self._camera)
        self._studio.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        image = self._studio.render()
        image[(image == 0).all(axis=-1)] = BACKDROP  # nothing in the scene is perfectly black
        return image

    def _make_studio(self) -> mujoco.Renderer:
        height, width = self.render_size
        quality, size = self.model.vis.quality, self.model.vis.global_
        before = quality.shadowsize, size.offheight, size.offwidth
        quality.shadowsize, size.offheight, size.offwidth = SHADOW_TEXELS, height, width
        studio = mujoco.Renderer(self.model, height, width)
        quality.shadowsize, size.offheight, size.offwidth = before
        return studio

    def _show(self) -> None:
        """Update the window, not faster than real time."""
        if self.render_mode != "human":
            return
        if self._window is None:
            try:
                show = mujoco.viewer.launch_passive
                self._window = show(self.model, self.data, show_left_ui=False, show_right_ui=False)
            except Exception as error:  # whatever the window system says
                raise WindowError(f"no window can be opened ({error}): without a display leave view out") from error
            own = self._window.cam  # the visitor may turn it afterwards
            own.lookat[:], own.distance = self._camera.lookat, self._camera.distance
            own.azimuth, own.elevation = self._camera.azimuth, self._camera.elevation
        if not self._window.is_running():
            raise WindowError("the window was closed")
        time.sleep(max(0.0, self._shown_s + 1 / scene.CONTROL_HZ - time.monotonic()))
        self._window.sync()
        self._shown_s = time.monotonic()

    def close(self) -> None:
        """Free the OpenGL contexts and the window."""
        super().close()
        if self._studio is not None:
            self._studio.close()
            self._studio = None
        if self._window is not None:
            self._window.close()
            self._window = None


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


gymnasium.register(
    id="tabletop/Studio-v0",
    entry_point="envs.tabletop.studio:StudioEnv",
    max_episode_steps=750,
    kwargs={"kinds": ["pick", "place", "stack", "push", "open", "close", "press"]},
)
