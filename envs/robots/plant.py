"""The tabletop between two control periods: physics step by step, servos that follow the latest command."""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from envs.tabletop import arm, scene
from envs.tabletop.env import TabletopEnv


class Plant:
    """One episode whose time goes on by physics steps, whatever is commanded and when.

    `time_s` has passed since its beginning; `success` stays once the instruction has been carried out.
    """

    def __init__(
        self,
        world: Mapping[str, Any] | TabletopEnv,
        seed: int,
        instruction: str | None,
        hz: float,
        kind: str | None = None,
    ):
        """Lay out a scene of `TabletopEnv(**world)`, or of one that is there, and let servos take 1 / hz [s] a command.

        instruction, kind: see the options of `TabletopEnv.reset`.
        """
        if not scene.CONTROL_HZ <= hz <= 1 / scene.TIMESTEP_S:
            raise ValueError(
                f"{hz} commands a second; the twin takes {scene.CONTROL_HZ} to {1 / scene.TIMESTEP_S:.0f}, "
                "from the rate of its tasks to that of its physics"
            )
        self._env = world if isinstance(world, TabletopEnv) else TabletopEnv(**world)
        _, self.info = self._env.reset(seed=seed, options={"instruction": instruction, "kind": kind})
        self._ramp_steps = max(1, round(1 / (hz * scene.TIMESTEP_S)))
        self._ramp: list[np.ndarray] = []  # servo targets of the coming steps
        self._steps = 0
        self.success, self.success_s = False, None

    @property
    def time_s(self) -> float:
        """How long it has been going on."""
        return self._steps * scene.TIMESTEP_S

    def command(self, action: np.ndarray) -> None:
        """Set joint targets float[6] [rad], gripper 0..1; the servos move there evenly, not faster than they can."""
        action = np.asarray(action, np.float64)
        if action.shape != (len(arm.JOINTS),) or not np.isfinite(action).all():
            raise ValueError(f"a command is {len(arm.JOINTS)} finite joint targets {arm.JOINTS}, got {action!r}")
        self._ramp = [*arm.servo_ramp(self._env.servo_target, action, self._ramp_steps, scene.TIMESTEP_S)]

    def step(self) -> None:
        """Let one physics step pass; without a new command the servos hold."""
        self._env.advance(self._ramp.pop(0) if self._ramp else self._env.servo_target)
        self._steps += 1
        self._env.check()
        if self._steps % scene.SUBSTEPS == 0:
            self.info = self._env.judge()
            if self.info["is_success"] and not self.success:
                self.success, self.success_s = True, self.time_s

    def joints(self) -> np.ndarray:
        """Return the measured joints float32[6] [rad], gripper 0..1."""
        return self._env.joints()

    def frames(self) -> dict[str, np.ndarray]:
        """Return a frame of each camera, uint8[H, W, 3]."""
        return self._env.frames()

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits, control rate and cameras as plain types."""
        return self._env.embodiment()

    def truth(self) -> dict[str, Any]:
        """Return what the simulator knows; `is_success` stays true once it was.

        `held` names what both fingers touch, `lifted_m` says how high the subtask's object is above the table, None
        where it has none. Raises UnstableError.
        """
        self._env.check()
        world, goal = self._env.expert_observation()
        lifted_m = float(world.position(goal.object)[2] - world.items[goal.object].half_height) if goal.object else None
        seen = {"held": world.held(), "lifted_m": lifted_m}
        return {**self.info, **seen, "is_success": self.success, "success_s": self.success_s}

    def blow_up(self) -> None:
        """Spoil the state as an unstable simulation does, to see what comes of it."""
        mujoco.set_mju_user_warning(lambda message: None)  # it would write a file in the present folder
        self._env.data.qpos[0] = np.nan

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()
