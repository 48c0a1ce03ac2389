"""What to do with several chunks that speak about the same moment: the choices of `strategy=`.

A strategy holds plans (plan.py) in one line of time. `wants` says whether a frame should go to the policy, `given`
which of the coming targets are decided already, `add` takes a plan, and `at` tells the target for a time.
"""

from math import exp, floor, inf
from typing import Protocol

import numpy as np

from vla.control.plan import ROUNDING_S, Plan


class Strategy(Protocol):
    """How chunks become one motion."""

    @property
    def end_s(self) -> float:
        """Until when there are plans; minus infinity without any."""
        ...

    def wants(self, frame_s: float, delay_s: float = 0.0, asked_s: float | None = None) -> bool:
        """Say whether the policy should see the frame of this time; its answer is expected `delay_s` later.

        `asked_s` is the time of the latest frame that it has not answered yet, None without any.
        """
        ...

    def given(self, frame_s: float, dt_s: float, delay_s: float) -> tuple[np.ndarray, int]:
        """Return the first steps float64[N, A] of a chunk for a frame, and how many are decided before it can arrive.

        More than these are there for a policy that is led by what older chunks foresaw.
        """
        ...

    def add(self, plan: Plan, now_s: float) -> None:
        """Take a new plan, of which the part before now is over."""
        ...

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the target float64[A] for a time, None if there is none."""
        ...

    def clear(self) -> None:
        """Forget all plans."""
        ...


class Sequential:
    """Execute some steps of a chunk, look, wait for the answer, go on: what evaluation in lockstep does."""

    def __init__(self, replan_steps: int = 3, patience_s: float = 1.0):
        """Execute `replan_steps` of each chunk, and stay at the last one for `patience_s` until the next chunk."""
        self.replan_steps, self._patience_s = _positive(replan_steps), patience_s
        self.clear()

    @property
    def end_s(self) -> float:
        """When the last step is reached that is to be executed."""
        return self._plan.end_s if self._plan else -inf

    def wants(self, frame_s: float, delay_s: float = 0.0, asked_s: float | None = None) -> bool:
        """Look after the last step."""
        return asked_s is None and frame_s >= self.end_s - ROUNDING_S

    def given(self, frame_s: float, dt_s: float, delay_s: float) -> tuple[np.ndarray, int]:
        """Give nothing: nothing is executed while the policy thinks."""
        return np.empty((0, 0)), 0

    def add(self, plan: Plan, now_s: float) -> None:
        """Replace what was there."""
        self._plan = plan.first(self.replan_steps)

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the target of the present chunk, its last one while waiting."""
        if self._plan is None or t_s > self._plan.end_s + self._patience_s:
            return None
        return self._plan.at(min(t_s, self._plan.end_s))

    def clear(self) -> None:
        """Forget the plan."""
        self._plan: Plan | None = None


class Ensemble:
    """Average all chunks that speak about a moment, older ones counting a little more (ACT, Zhao et al. 2023)."""

    def __init__(self, replan_steps: int = 1, decay: float = 0.01):
        """Look every `replan_steps`, weigh the i-th oldest chunk by exp(-decay * i)."""
        self.replan_steps, self._decay = _positive(replan_steps), decay
        self.clear()

    @property
    def end_s(self) -> float:
        """When the longest plan ends."""
        return max((plan.end_s for plan in self._plans), default=-inf)

    def wants(self, frame_s: float, delay_s: float = 0.0, asked_s: float | None = None) -> bool:
        """Look some steps after the newest plan began, sooner if it would end before the answer."""
        return not self._plans or _is_due(self._plans[-1], self.replan_steps, frame_s, delay_s, asked_s)

    def given(self, frame_s: float, dt_s: float, delay_s: float) -> tuple[np.ndarray, int]:
        """Give nothing: every chunk is an opinion of its own."""
        return np.empty((0, 0)), 0

    def add(self, plan: Plan, now_s: float) -> None:
        """Count the plan among the others."""
        self._plans = [*(old for old in self._plans if old.end_s >= now_s), plan]

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the weighted mean of all plans that reach so far."""
        targets = [target for plan in self._plans if (target := plan.at(t_s)) is not None]
        if not targets:
            return None
        return np.average(targets, axis=0, weights=[exp(-self._decay * index) for index in range(len(targets))])

    def clear(self) -> None:
        """Forget all plans."""
        self._plans: list[Plan] = []


class Overlap:
    """Go over from the old chunk to the new one little by little."""

    def __init__(self, replan_steps: int = 3, blend_steps: int = 2):
        """Look every `replan_steps`; the new chunk's weight grows from 0 to 1 within `blend_steps` of its arrival."""
        self.replan_steps, self._blend_steps = _positive(replan_steps), _positive(blend_steps)
        self.clear()

    @property
    def end_s(self) -> float:
        """When the newest plan ends."""
        return self._fades[-1].plan.end_s if self._fades else -inf

    def wants(self, frame_s: float, delay_s: float = 0.0, asked_s: float | None = None) -> bool:
        """Look some steps after the newest plan began, sooner if it would end before the answer."""
        return not self._fades or _is_due(self._fades[-1].plan, self.replan_steps, frame_s, delay_s, asked_s)

    def given(self, frame_s: float, dt_s: float, delay_s: float) -> tuple[np.ndarray, int]:
        """Give nothing."""
        return np.empty((0, 0)), 0

    def add(self, plan: Plan, now_s: float) -> None:
        """Fade the plan in; it is there at once where there was none."""
        alone = now_s > self.end_s
        fade = _Fade(plan, now_s, 0.0 if alone else self._blend_steps * plan.dt_s)
        seen = [index for index, old in enumerate(self._fades) if old.weight(now_s) == 1]
        self._fades = [fade] if alone else [*self._fades[max(seen, default=0) :], fade]

    def at(self, t_s: float) -> np.ndarray | None:
        """Return the target on the way from the old plans to the new one; an old one that has ended stays there."""
        if not self._fades or t_s > self.end_s + ROUNDING_S:
            return None
        mixed = None
        for fade in self._fades:
            target = fade.plan.at(min(max(t_s, fade.plan.begin_s), fade.plan.end_s))
            weight = fade.weight(t_s)
            mixed = target if mixed is None or target is None else (1 - weight) * mixed + weight * target
        return mixed

    def clear(self) -> None:
        """Forget all plans."""
        self._fades: list[_Fade] = []


class RealTime(Overlap):
    """Real-time chunking (Black et al. 2025): the policy continues the steps that are executed while it thinks.

    For heads that take leading steps as given (`VLAPolicy.act(given=...)`), the variant with a hard prefix that was
    trained in (Black et al. 2025b). The new chunk then begins with those very targets, and nothing has to be blended.
    A policy is only shown as many steps as in training: `max_given_steps` of its recipe. Where the delay is longer, the
    policy does not know what is executed between those and its answer; the answer is blended in as by `Overlap`.

    With `guidance`, which flow heads can do without such training, the policy is led by all that the older chunk
    foresaw (Black et al. 2025, model/guidance.py).
    """

    def __init__(
        self, replan_steps: int = 3, max_given_steps: int = 4, blend_steps: int = 1, guidance: str | None = None
    ):
        """Look every `replan_steps`; `blend_steps` as in Overlap, for what the delay was longer than foreseen."""
        super().__init__(replan_steps, blend_steps)
        self._max_given_steps, self.guidance = _positive(max_given_steps), guidance

    def given(self, frame_s: float, dt_s: float, delay_s: float) -> tuple[np.ndarray, int]:
        """Give the steps up to the one during which the answer comes, as many of them as the policy knows of."""
        left = floor((self.end_s - frame_s) / dt_s + ROUNDING_S) if self._fades else 0
        decided = min(floor(delay_s / dt_s + ROUNDING_S) + 1, left)
        decided = decided if self.guidance else min(decided, self._max_given_steps)
        targets = [self.at(frame_s + (step + 1) * dt_s) for step in range(left if self.guidance else decided)]
        known = [target for target in targets if target is not None]
        return (np.array(known), min(decided, len(known))) if known else (np.empty((0, 0)), 0)


class _Fade:
    """A plan whose weight grows smoothly from 0 to 1, with no slope at both ends."""

    def __init__(self, plan: Plan, begin_s: float, length_s: float):
        self.plan, self._begin_s, self._length_s = plan, begin_s, length_s

    def weight(self, t_s: float) -> float:
        if t_s >= self._begin_s + self._length_s:
            return 1.0
        if t_s <= self._begin_s:
            return 0.0
        share = (t_s - self._begin_s) / self._length_s
        return share * share * (3 - 2 * share)


def _is_due(plan: Plan, steps: int, frame_s: float, delay_s: float, asked_s: float | None) -> bool:
    """Say whether some steps have passed since a plan began, or it would end before the answer to a later frame.

    While an answer is on its way, another frame is due only where waiting for that answer would leave a gap after it.
    """
    spare_s = max(plan.end_s - plan.begin_s - delay_s - plan.dt_s, 0.0)  # from a frame to the next, at most
    if asked_s is None:
        return frame_s >= plan.begin_s + min(steps * plan.dt_s, spare_s) - ROUNDING_S
    return spare_s < delay_s and frame_s >= asked_s + spare_s / 2 - ROUNDING_S


def _positive(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"{steps} steps; at least 1 is needed")
    return steps
