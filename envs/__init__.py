"""The world: MuJoCo scenes and robots behind gymnasium. Importing it registers the ids; never imports vla."""

import os
import sys

from gymnasium.envs.registration import register

if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported first
# Mesa's software rasteriser without threads of its own: as fast for small images, and a forked worker does not hang
os.environ.setdefault("LP_NUM_THREADS", "0")

_STEPS = 150  # time limit of one subtask in control steps
_SINGLE = {
    "Pick": ["pick"],
    "Place": ["place"],
    "Stack": ["stack"],
    "Push": ["push"],
    "OpenDrawer": ["open"],
    "CloseDrawer": ["close"],
    "PressButton": ["press"],
    "Mixed": ["pick", "place", "stack", "push", "open", "close", "press"],
}

for _name, _kinds in _SINGLE.items():
    register(
        id=f"tabletop/{_name}-v0",
        entry_point="envs.tabletop.env:TabletopEnv",
        max_episode_steps=_STEPS,
        kwargs={"kinds": _kinds},
    )
register(
    id="tabletop/LongHorizon-v0",
    entry_point="envs.tabletop.env:TabletopEnv",
    max_episode_steps=5 * _STEPS,
    kwargs={"kinds": _SINGLE["Mixed"], "subtasks": (2, 5)},
)
_NO_ROLL = [kind for kind in _SINGLE["Mixed"] if kind != "open"]
for _name, _most, _more in (("Mixed", 1, {}), ("LongHorizon", 5, {"subtasks": (2, 5)})):
    register(
        id=f"tabletop/StiffWrist{_name}-v0",
        entry_point="envs.tabletop.stiff_wrist:StiffWristEnv",
        max_episode_steps=_most * _STEPS,
        kwargs={"kinds": _NO_ROLL, **_more},
    )
