"""Whether the SO-101 would touch itself or the table, or leave its workspace, at given joint positions.

Unlike in the simulated world, where for speed only the jaws and the gripper's body collide, here every part of the arm
does. Nothing loose is here: touching objects is what the arm is for.
"""

from collections.abc import Sequence

import mujoco
import numpy as np

from envs.tabletop import arm

TOUCHING_BY_DESIGN = (("arm_base", "shoulder"),)  # beside parent and child, which MuJoCo leaves out by itself


class Collision:
    """A `collides(q) -> bool` for the guard: a copy of the arm above its table, moved to where it is asked about."""

    def __init__(
        self,
        margin_m: float = 0.0025,
        workspace_min: Sequence[float] = (-0.15, -0.42, 0.0),
        workspace_max: Sequence[float] = (0.50, 0.42, 0.50),
    ):
        """Build the arm.

        Args:
          margin_m: what is closer than this collides, be it parts of the arm, the table or the end of the workspace
            [m]. The forearm passes the shoulder at 3 mm, so that is too much.
          workspace_min, workspace_max: corners of the box that the tip must stay in, in the frame of the arm [m].
        """
        spec = mujoco.MjSpec.from_file(str(arm.MJCF))
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
        for geom in spec.geoms:
            geom.contype = geom.conaffinity = 1
            geom.margin = margin_m  # MuJoCo reports pairs closer than the sum of their margins, or the larger of them
        for first, second in TOUCHING_BY_DESIGN:
            spec.add_exclude(bodyname1=first, bodyname2=second)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._qpos = arm.joint_addresses(self._model)
        self._tip = self._data.site(arm.TIP_SITE).xpos
        self._margin_m = margin_m
        self._lowest = [low + margin_m for low in workspace_min]
        self._highest = [high - margin_m for high in workspace_max]

    def __call__(self, q: np.ndarray) -> bool:
        """Say whether the arm collides or leaves the workspace at joint positions float[6] [rad], gripper 0..1."""
        self._data.qpos[self._qpos] = arm.from_state(q)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        if self._data.ncon and self._data.contact.dist.min() < self._margin_m:
            return True
        tip = self._tip.tolist()
        return not all(low <= value <= high for low, value, high in zip(self._lowest, tip, self._highest, strict=True))
