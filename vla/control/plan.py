"""A chunk laid out in time: where the joints should be at any moment until its last step."""

from copy import copy
from numbers import Real

import numpy as np
from scipy.interpolate import PchipInterpolator

from vla.control.admission import FARTHEST_LEAP
from vla.types import ActionChunk, Embodiment

FARTHEST_TOGETHER = FARTHEST_LEAP / 2  # the same on average over all joints
ROUNDING_S = 1e-6  # times closer than this are the same


class Plan:
    """Leads through the steps of a chunk, step k being reached k + 1 periods after it began.

    Between the steps it is smooth and monotone (Fritsch and Carlson 1980), so that it leaves no range that two
    neighbouring steps span, and a joint that is told to rest does.
    """

    def __init__(self, lead: np.ndarray, actions: np.ndarray, dt_s: float, begin_s: float):
        """Lay out a chunk from `begin_s` on.

        lead: float[2, A], the targets one period before the beginning and there; equal where it begins from rest.
        actions: float[T, A] joint targets [rad], gripper 0..1.
        """
        self.dt_s, self.begin_s, self._steps = dt_s, begin_s, len(actions)
        knots = np.concatenate([lead, actions]).astype(np.float64)
        self._path = PchipInterpolator(np.arange(-1, len(actions) + 1), knots, axis=0)

    @property
    def end_s(self) -> float:
        """When the last step is reached."""
        return self.begin_s + self._steps * self.dt_s

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the target float64[A] for a time, None before the beginning and after the end."""
        if not self.begin_s - ROUNDING_S <= t_s <= self.end_s + ROUNDING_S:
            return None
        return self._path(min(max((t_s - self.begin_s) / self.dt_s, 0.0), self._steps))

    def first(self, steps: int) -> "Plan":
        """Return the plan up to the end of so many steps."""
        shorter = copy(self)
        shorter._steps = min(steps, self._steps)
        return shorter


def refusal(chunk: ActionChunk, embodiment: Embodiment) -> str:
    """Say why a chunk cannot be carried out, whatever the reason; empty if it can be.

    Whether its targets are wise is the guard's to judge, step by step.
    """
    actions = chunk.actions
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
        return f"its actions are {type(actions).__name__}, they must be an array of numbers"
    if actions.ndim != 2 or not len(actions) or actions.shape[1] != len(embodiment.joints):
        return f"its actions have shape {actions.shape}, they must be [steps, {len(embodiment.joints)}]"
    if not np.isfinite(actions).all():
        return "its actions hold numbers that are not finite"
    if not isinstance(chunk.dt_s, int | float) or not 0 < chunk.dt_s < np.inf:
        return f"its period is {chunk.dt_s!r}, it must be positive seconds"
    for what, share in (("progress", chunk.progress), ("done", chunk.done)):
        if share is not None and not (isinstance(share, Real) and 0 <= share <= 1):
            return f"its {what} is {share!r:.40}, it must be a number 0..1"
    return ""


def leap(chunk: ActionChunk, start: np.ndarray, embodiment: Embodiment, engaging: bool) -> str:
    """Say where a chunk that begins at `start` float[A] jumps as no arm can; empty if it does not.

    That is a wrong unit or order of joints: followed within the limits, it would still go to a wrong place. A joint may
    be asked for FARTHEST_LEAP times its speed, since targets go ahead of joints, all of them together for less: chunks
    of the shipped policy ask for half their speed on average at most, such in a wrong order for twice as much. While
    engaging, the first step must be one that the arm can make; only the gripper may be asked for more.
    """
    ways = np.abs(np.diff(np.concatenate([start[None], chunk.actions]), axis=0))
    shares = ways / (FARTHEST_LEAP * np.array(embodiment.velocity_max) * chunk.dt_s)
    if engaging:
        shares[0, :-1] *= FARTHEST_LEAP
    if shares.max() > 1:
        step, joint = np.unravel_index(shares.argmax(), shares.shape)
        return (
            f"its step {step} moves {embodiment.joints[joint]} by {ways[step, joint]:.3g}, which no arm can do at once"
        )
    together = (ways / (np.array(embodiment.velocity_max) * chunk.dt_s)).mean(axis=1)
    if together.max() > FARTHEST_TOGETHER:
        fast = f"at {together.max():.1f} times their speed on average"
        return (
            f"its step {together.argmax()} moves the joints {fast}, which no arm can do; are they in the right order?"
        )
    return ""
