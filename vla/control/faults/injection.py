"""Puts faults between the parts of a control loop; without any, the parts are as they were."""

from collections.abc import Iterable, Mapping
from typing import Any

from vla.control.clock import Clock
from vla.control.faults.clock import FaultyClock
from vla.control.faults.disk import FaultyDisk
from vla.control.faults.policy import FaultyInference, FaultyPolicy
from vla.control.faults.robot import FaultyRobot
from vla.control.faults.schedule import Fault, Faults
from vla.control.inference import Controller, Inference
from vla.control.logbook import Disk
from vla.control.robot import Robot


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
        """Take the true parts; raises ValueError for a fault that is not possible, or any on hardware."""
        self.faults = Faults(faults, clock, hardware, seed)
        self.robot: Robot = FaultyRobot(robot, self.faults) if self.faults else robot
        self.policy: Controller = FaultyPolicy(policy, self.faults) if self.faults else policy
        self.clock: Clock = FaultyClock(clock, self.faults) if self.faults else clock
        self.disk: Disk | None = FaultyDisk(self.faults) if self.faults else None

    def inference(self, inference: Inference) -> Inference:
        """Return an inference that the faults reach."""
        return FaultyInference(inference, self.faults) if self.faults else inference
