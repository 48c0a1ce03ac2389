"""An episode of a registered tabletop as a robot: what evaluation in lockstep steps through, for a loop."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from envs.robots.plant import Plant
from envs.robots.robot import Frame, Measurement
from envs.robots.twin import SteppedCamera, Twin
from envs.tabletop import scene
from envs.tabletop.env import TabletopEnv, UnstableError


class Trial:
    """A robot in the time of a clock: physics catches up with it whenever the robot is asked or told something.

    The same seed and options lay out the same scene as the environment's own reset. `infos` holds what the environment
    would have said: one after the reset, and one for each control step that has passed.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        now: Callable[[], float],
        hz: float,
        seed: int,
        options: Mapping[str, Any],
        camera_hz: float = 30.0,
    ):
        """Begin an episode.

        Args:
          env: made of a tabletop's id; remains its maker's to close.
          now: tells the time [s].
          hz: commands a second.
          seed, options: as for the environment's reset.
          camera_hz: frames of each camera a second, exposed on time whether somebody looks or not.
        """
        world = env.unwrapped
        if not isinstance(world, TabletopEnv):
            raise TypeError(f"{world} cannot be stepped between control periods; a TabletopEnv can")
        self._plant = Plant(world, seed, options.get("instruction"), hz, options.get("kind"))
        self._now, self._began_s, self._period_s = now, now(), 1 / camera_hz
        self.cameras = {name: SteppedCamera(name, self._latest) for name in world.sizes}
        self.infos = [self._plant.info]
        self._exposures = 0
        self._expose()

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits, control rate and cameras as plain types."""
        return self._plant.embodiment()

    def read_joints(self) -> Measurement:
        """Return the measurement of this moment."""
        self._catch_up()
        return Measurement(self._plant.joints(), self._now())

    def send_action(self, action: np.ndarray) -> None:
        """Set joint targets float64[6] [rad], gripper 0..1, to be reached within one control period."""
        self._catch_up()
        self._plant.command(action)

    def observe(self) -> dict[str, Any]:
        """Return the latest frames and the measured joints as the environment would, {"pixels", "agent_pos"}."""
        pixels = {name: frame.image for name, frame in self._latest().items()}
        return {"pixels": pixels, "agent_pos": self._plant.joints()}

    def truth(self) -> dict[str, Any]:
        """Return what the simulator knows; `is_success` stays true once it was."""
        self._catch_up()
        return self._plant.truth()

    def close(self) -> None:
        """Let go of the environment."""
        self.cameras = {}

    def _latest(self) -> dict[str, Frame]:
        self._catch_up()
        return self._frames

    def _catch_up(self) -> None:
        """Let physics pass up to now, and expose frames and judge control steps on the way."""
        target_s = self._now() - self._began_s + scene.TIMESTEP_S * 1e-3  # rounding does not cost a step
        while self._plant.time_s + scene.TIMESTEP_S <= target_s:
            self._step()
            if self._plant.info is not self.infos[-1]:
                self.infos.append(self._plant.info)
            if self._plant.time_s >= self._exposures * self._period_s - scene.TIMESTEP_S * 1e-3:
                self._expose()

    def _step(self) -> None:
        """Let one physics step pass; a world that is none any more ends the episode, whoever asked."""
        try:
            self._plant.step()
        except UnstableError as error:  # as an OSError a loop would take it for its bus, and wait
            raise RuntimeError(str(error)) from error

    def _expose(self) -> None:
        self._exposures += 1
        time_s = self._began_s + self._plant.time_s
        images = self._plant.frames() if self.cameras else {}
        self._frames = {name: Frame(image, time_s) for name, image in images.items()}


def wall_clock_twin(
    env_id: str, kwargs: Mapping[str, Any], seed: int, options: Mapping[str, Any], hz: float, camera_hz: float = 30.0
) -> Twin:
    """Return the twin, in a process of its own, of the scene that a registered tabletop lays out for a seed.

    env_id, kwargs: as for `gymnasium.make`; image_size must be among kwargs. seed, options: as for its reset.
    """
    world: dict[str, Any] = {**gymnasium.spec(env_id.rpartition(":")[2]).kwargs, **kwargs}
    if kind := options.get("kind"):
        world["kinds"] = [kind]
    sizes = world.pop("image_size")
    return Twin(hz, seed, options.get("instruction"), camera_hz, sizes, **world)
