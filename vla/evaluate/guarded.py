"""The guard between a policy and a simulated arm whose world waits for it: what `vla eval` and `vla demo` fly through.

Light as `workers.py` is (no torch), because every worker imports it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vla.control.guard import Guard
from vla.evaluate.workers import Host, Moment, World
from vla.types import Embodiment

Collides = Callable[[np.ndarray], bool]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guarding:
    """How the guard of an evaluation is made."""

    collides: Callable[[], Collides] | None  # makes what the guard asks
    hz: float = 50.0  # ticks a second
    mode: str = "on"  # or "off"
    engage_tol: float = 0.1  # how far from the measured pose the first command may be [rad]

    def guard(self, body: Embodiment, collides: Collides | None) -> Guard:
        """Make the guard of a simulated body, to be engaged."""
        return Guard(body, self.hz, collides=collides, mode=self.mode, hardware=False, engage_tol=self.engage_tol)

    def host(self) -> Callable[[], Host]:
        """Return what makes a worker's host, in lockstep; raises ValueError for a mode that there is not."""
        if self.mode == "on":
            return partial(GuardedHost, self)
        if self.mode != "off":
            raise ValueError(f"guard.mode={self.mode!r}; possible: on, off")
        logger.warning("the guard is off, no limit is kept")
        return Host


class GuardedHost(Host):
    """A worker whose arm gets no command that has not passed the guard; its time is that of the simulation."""

    def __init__(self, guarding: Guarding):
        """Take how the guard of each episode is made."""
        super().__init__()
        self._guarding, self._collides = guarding, guarding.collides and guarding.collides()
        self._guard: Guard | None = None
        self._ticks = 0

    def open(self, world: World) -> dict[str, Any]:
        """Make the environment, and have its commands pass through here."""
        opened = world != self.world
        body = super().open(world)
        if opened:
            unwrapped = self._unwrapped()
            if not hasattr(unwrapped, "send_through"):
                raise ValueError(
                    f"{world.id} takes commands for whole control periods only (it has no send_through), so the guard "
                    "cannot stand in between; guard.mode=off flies without"
                )
            unwrapped.send_through(self._pass, self._guarding.hz)
        return body

    def reset(self, world: World, seed: int, options: dict[str, Any], record: bool) -> Moment:
        """Begin an episode with a new guard, engaged at the pose where the arm is."""
        moment = super().reset(world, seed, options, record)
        assert moment.embodiment is not None
        self._guard, self._ticks = self._guarding.guard(Embodiment.from_dict(moment.embodiment), self._collides), 0
        self._guard.engage(moment.observation["agent_pos"])
        return moment

    def step(self, actions: np.ndarray) -> Moment:
        """Execute actions float32[N, A] as far as the guard lets them, and tell how often it stepped in so far."""
        moment = super().step(actions)
        assert self._guard is not None
        return replace(moment, interventions=dict(self._guard.journal.counts))

    def _pass(self, target: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return what the guard makes of one tick's joint targets float[A]."""
        assert self._guard is not None, "reset comes first"
        self._ticks += 1
        now_s = self._ticks / self._guarding.hz
        command, _ = self._guard.step(target, measured, now_s, due_s=now_s)
        assert command is not None, "the guard was engaged at the reset"
        return command
