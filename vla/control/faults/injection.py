"""Puts faults between the parts of a control loop; without any, the parts are as they were."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vla.control.clock import Clock
from vla.control.faults.clock import FaultyClock
from vla.control.faults.disk import FaultyDisk
from vla.control.faults.planner import FaultyPlanner
from vla.control.faults.policy import FaultyInference, FaultyPolicy
from vla.control.faults.robot import FaultyRobot
from vla.control.faults.schedule import Fault, Faults, misfit
from vla.control.inference import Controller, Inference
from vla.control.logbook import Disk
from vla.control.robot import Robot
from vla.control.steering import Steering
from vla.control.stepping import Stepping


class Injection:
    """The parts to build a loop of; only the loop's `clock` deceives, `faults.clock` is true."""

    def __init__(
        self,
        faults: Iterable[Fault | Mapping[str, Any]],
        robot: Robot,
        policy: Controller,
        clock: Clock,
        hardware: bool = True,
        seed: int = 0,
    ):
        """Take the true parts; raises ValueError for a fault that is not possible with them, or any on hardware."""
        self.faults = Faults(faults, clock, hardware, seed)
        for fault in self.faults:
            if wrong := misfit(fault, list(robot.cameras), robot.embodiment()["joints"]):
                raise ValueError(wrong)
        self.robot: Robot = FaultyRobot(robot, self.faults) if self.faults else robot
        self.policy: Controller = FaultyPolicy(policy, self.faults) if self.faults else policy
        self.clock: Clock = FaultyClock(clock, self.faults) if self.faults else clock
        self.disk: Disk | None = FaultyDisk(self.faults) if self.faults else None

    def inference(self, inference: Inference) -> Inference:
        """Return an inference that the faults reach."""
        return FaultyInference(inference, self.faults) if self.faults else inference

    def steering(self, steering: Steering, wait: Callable[[float], object] | None = None) -> Steering:
        """Return a steering whose planner the faults reach; raises ValueError where there is one for no planner.

        wait: waits so many seconds in the planner's thread, by default on the true clock.
        """
        if not any(fault.name == "planner" for fault in self.faults):
            return steering
        if not isinstance(steering, Stepping):
            raise ValueError("a fault of the planner needs one that is asked; possible: planner=policy, planner=chat")
        if steering.plain(words := steering.hierarchy.instruction):
            raise ValueError(f"the planner is not asked about “{words}”; give an instruction of several steps")
        planner = steering.supervisor.planner
        steering.supervisor.planner = FaultyPlanner(planner, self.faults, wait or self._sleep)
        return steering

    def _sleep(self, seconds: float) -> None:
        self.faults.clock.sleep_until(self.faults.clock.now() + seconds)
