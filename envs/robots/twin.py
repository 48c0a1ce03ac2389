"""The tabletop as a robot: in wall-clock time in a process of its own, or in whatever time a clock tells.

A process, not a thread: physics and software rendering would share the interpreter's lock with the control loop, and
two OpenGL contexts in one process break each other's frames when one is closed.
"""

import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from envs.robots.mailbox import Mailbox
from envs.robots.plant import Plant
from envs.robots.robot import Frame, Measurement
from envs.tabletop import arm, scene

SLIP_S = 0.05  # further than this the physics does not run after the clock
START_S = 120.0  # that the process may take to lay out a scene
ANSWER_S = 10.0


class TwinError(OSError):
    """The simulated robot is gone."""


class Twin:
    """A simulated SO-101 over its table, whose physics goes on whether it is commanded or not.

    If this machine cannot simulate as fast as time passes, the world stands still for a moment rather than run after
    the clock; `slipped_s` in `truth()` says for how long in all.
    """

    def __init__(
        self,
        hz: float,
        seed: int = 0,
        instruction: str | None = None,
        camera_hz: float = 30.0,
        image_size: Mapping[str, Sequence[int]] | None = None,
        **world: Any,
    ):
        """Lay out a scene and let time pass.

        Args:
          hz: commands a second.
          instruction: which scene it is for, and what `is_success` judges; None draws one.
          camera_hz: frames of each camera a second.
          image_size: camera -> (height, width) [px], of the cameras that there are.
          world: more arguments of `TabletopEnv`.
        """
        sizes = {name: (int(height), int(width)) for name, (height, width) in (image_size or {}).items()}
        world |= {"cameras": list(sizes), "image_size": sizes}
        joints = (np.float32, len(arm.JOINTS))
        self._state = Mailbox([("time_s", np.float64), ("joints", *joints)])
        self._command = Mailbox([("action", np.float64, len(arm.JOINTS))])
        frames = {
            name: Mailbox([("time_s", np.float64), ("image", np.uint8, (*size, 3))]) for name, size in sizes.items()
        }
        self.cameras = {name: TwinCamera(mailbox) for name, mailbox in frames.items()}
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._state, self._command, frames, camera_hz, (world, seed, instruction, hz))
        self._process = context.Process(target=_live, args=arguments, name="twin", daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._embodiment: dict[str, Any] = self._answer(START_S)
        except BaseException:
            self.close()
            raise

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits, control rate and cameras as plain types."""
        return self._embodiment

    def read_joints(self) -> Measurement | None:
        """Return the newest measurement."""
        newest = self._state.get()
        return Measurement(newest[1]["joints"], float(newest[1]["time_s"])) if newest else None

    def send_action(self, action: np.ndarray) -> None:
        """Set joint targets float64[6] [rad], gripper 0..1, to be reached within one control period."""
        if not self._process.is_alive():
            raise TwinError(f"the simulated robot's process ended with code {self._process.exitcode}")
        self._command.put(action=action)

    def truth(self) -> dict[str, Any]:
        """Return what the simulator knows."""
        try:
            self._pipe.send("truth")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise TwinError("the simulated robot's process has ended") from error
        return self._answer(ANSWER_S)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=ANSWER_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self, seconds: float) -> Any:
        """Wait for an answer; what went wrong over there is raised here."""
        try:
            if not self._pipe.poll(seconds):
                raise TwinError(f"the simulated robot has not answered for {seconds} s")
            fine, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise TwinError(f"the simulated robot's process ended with code {self._process.exitcode}") from None
        if not fine:
            kind, words = value
            raise ValueError(words) if kind == "ValueError" else TwinError(f"the simulated robot failed: {words}")
        return value


class TwinCamera:
    """A camera of the other process."""

    def __init__(self, mailbox: Mailbox):
        """Read the frames of a mailbox."""
        self._mailbox, self._number = mailbox, 0
        self._frame: Frame | None = None

    def latest(self) -> Frame | None:
        """Return the newest frame."""
        if newest := self._mailbox.get(after=self._number):
            self._number, record = newest
            self._frame = Frame(record["image"], float(record["time_s"]))
        return self._frame


def _live(
    pipe: Connection,
    state: Mailbox,
    command: Mailbox,
    frames: Mapping[str, Mailbox],
    camera_hz: float,
    plant_arguments: tuple,
) -> None:
    """Be the simulated robot until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the loop decides what Ctrl-C does
    try:
        plant = Plant(*plant_arguments)
        if frames:
            plant.frames()  # the renderer is made with the first frame
        pipe.send((True, plant.embodiment()))
        _run(plant, pipe, state, command, frames, 1 / camera_hz)
        plant.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # the border of the process: what went wrong travels to the parent as words
        words = str(error) if isinstance(error, ValueError) else traceback.format_exc()
        pipe.send((False, (type(error).__name__, words)))


def _run(
    plant: Plant, pipe: Connection, state: Mailbox, command: Mailbox, frames: Mapping[str, Mailbox], period_s: float
) -> None:
    """Keep physics and cameras at the pace of the clock; EOFError when the parent has closed the pipe."""
    began_s, slipped_s, followed, exposures = time.monotonic(), 0.0, 0, 0
    state.put(time_s=began_s, joints=plant.joints())
    while True:
        if pipe.poll():
            pipe.recv()
            pipe.send((True, {**plant.truth(), "slipped_s": slipped_s}))
        if newest := command.get(after=followed):
            followed, record = newest
            plant.command(record["action"])
        now_s = time.monotonic()
        behind_s = now_s - began_s - plant.time_s
        if behind_s > SLIP_S:
            began_s, slipped_s, behind_s = began_s + behind_s, slipped_s + behind_s, 0.0
        if plant.time_s >= exposures * period_s:
            exposures = next_exposure(exposures, plant.time_s, period_s)
            for name, image in plant.frames().items() if frames else ():
                frames[name].put(time_s=now_s, image=image)
        elif behind_s >= scene.TIMESTEP_S:
            plant.step()
            state.put(time_s=now_s, joints=plant.joints())
        else:
            time.sleep(scene.TIMESTEP_S - behind_s)


def next_exposure(exposures: int, time_s: float, period_s: float) -> int:
    """Return which exposure comes next after number `exposures` at `time_s`; what is over already is left out.

    Always a later one, also where rounding puts the time just before the exposure that it is the time of.
    """
    return max(exposures, int(time_s / period_s)) + 1


class SteppedTwin:
    """The same robot in the time of a clock: physics catches up with it whenever the robot is asked or told something.

    For virtual time: the same commands at the same times give the same run.
    """

    def __init__(
        self,
        now: Callable[[], float],
        hz: float,
        seed: int = 0,
        instruction: str | None = None,
        camera_hz: float = 30.0,
        image_size: Mapping[str, Sequence[int]] | None = None,
        **world: Any,
    ):
        """Take what tells the time [s], else as Twin."""
        sizes = {name: (int(height), int(width)) for name, (height, width) in (image_size or {}).items()}
        self._plant = Plant(world | {"cameras": list(sizes), "image_size": sizes}, seed, instruction, hz)
        self._now, self._began_s, self._period_s = now, now(), 1 / camera_hz
        self.cameras = {name: SteppedCamera(name, self._frames) for name in sizes}
        self._seen: dict[str, Frame] = {}

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

    def truth(self) -> dict[str, Any]:
        """Return what the simulator knows."""
        self._catch_up()
        return {**self._plant.truth(), "slipped_s": 0.0}

    def blow_up(self) -> None:
        """Let the simulation become unstable, to see what comes of it."""
        self._plant.blow_up()

    def close(self) -> None:
        """Free the renderer."""
        self._plant.close()

    def _catch_up(self) -> None:
        target_s = self._now() - self._began_s + scene.TIMESTEP_S * 1e-3  # rounding does not cost a step
        while self._plant.time_s + scene.TIMESTEP_S <= target_s:
            self._plant.step()

    def _frames(self) -> dict[str, Frame]:
        """Expose all cameras anew if their period is over; a frame that nobody asks for is not rendered."""
        self._catch_up()
        now_s = self._now()
        if not self._seen or now_s >= next(iter(self._seen.values())).time_s + self._period_s - 1e-9:
            self._seen = {name: Frame(image, now_s) for name, image in self._plant.frames().items()}
        return self._seen


class SteppedCamera:
    """A camera of the stepped twin."""

    def __init__(self, name: str, frames: Callable[[], dict[str, Frame]]):
        """Take what exposes all cameras when it is time."""
        self._name, self._frames = name, frames

    def latest(self) -> Frame:
        """Return the newest frame."""
        return self._frames()[self._name]
