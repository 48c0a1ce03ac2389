"""Does the guard keep its promises whatever it is given, and what does a step of it cost?"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from vla.control.guard import Guard
from vla.control.severity import State
from vla.types import Embodiment

Collides = Callable[[np.ndarray], bool]
LIMITS = ("velocity", "acceleration", "jerk")
VIOLATIONS = ("position", *LIMITS, "nonfinite", "contact")
MOODS = ("edge", "leap", "leap", "wander", "cruise", "still")
FAULTS = ("estop", "alarm", "clock", "stall", "silence", "blindness")
MOOD_S, FAULT_S, FAULTS_EVERY_S = 0.3, 0.3, 4.0  # a fault ends in a hold, so it is rare; mean durations
CLEAN = 0.8  # of the moods have nothing wrong with their commands; in the others this much has:
SPOILED, BADLY_TIMED, MISSING, MISSED = 0.05, 0.02, 0.05, 0.05  # the last: just outside the range


def measure(
    *, seed: int, steps: int, rates: Sequence[float], body: Mapping[str, Any], collides: Collides, contacts: Collides
) -> dict[str, Any]:
    """Feed `steps` random ticks, good and bad, to guards at several rates; one result.json worth of values.

    `body` holds the limits of an embodiment, without rate and cameras. `collides` is what the guard asks, `contacts`
    judges its commands. A violation is a command that breaks a limit, as differences of commands tell, without any
    tolerance. `us_per_step` is the mean time that a step kept the processor busy, with every rule on, in all
    conditions of the fuzz; `used` says how much of each limit the commands needed.
    """
    if steps < len(rates):
        raise ValueError(f"steps={steps} is less than one for each of the rates {list(rates)}")
    embodiment = Embodiment.from_dict({**body, "control_hz": 10.0, "cameras": {}})
    share = -(-steps // len(rates))
    details = {}
    with tqdm(total=share * len(rates), desc="fuzz", unit="step", leave=False) as bar:
        for hz in map(float, rates):
            guard = Guard(embodiment, hz, collides, hardware=False)
            details[f"{hz:g}"] = fuzz(guard, share, np.random.default_rng([seed, round(hz)]), contacts, bar.update)
    every = list(details.values())
    return {
        "steps": sum(detail["steps"] for detail in every),
        "violations": dict(_total(detail["violations"] for detail in every)),
        "us_per_step": float(np.mean([detail["us"]["mean"] for detail in every])),
        "states": dict(_total(detail.pop("states") for detail in every)),
        "interventions": dict(_total(detail.pop("interventions") for detail in every)),
        "rates": details,
    }


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def fuzz(
    guard: Guard,
    steps: int,
    rng: np.random.Generator,
    contacts: Collides | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Feed random ticks to a guard and judge its commands; return counts, shares of the limits used, and cost."""
    mischief, state = Mischief(guard, rng, contacts), State.ENGAGING
    commands, seconds, states = [mischief.command], np.empty(steps), Counter[str]()
    for tick in range(steps):
        inputs = mischief.tick(state)
        begun_s = time.thread_time()
        command, status = guard.step(**inputs)
        seconds[tick] = time.thread_time() - begun_s
        if command is not None:
            mischief.command = command
        commands.append(mischief.command)
        state = status.state
        states[state.name] += 1
        progress(1)
    path = np.array(commands)
    used = shares_of_limits(path, guard.embodiment, guard.hz)
    low, high = np.array(guard.embodiment.position_min), np.array(guard.embodiment.position_max)
    moved = path[1:][(np.diff(path, axis=0) != 0).any(axis=1)]
    violations = {name: int((share > 1).any(axis=1).sum()) for name, share in used.items()}
    violations["position"] = int(((path < low) | (path > high)).any(axis=1).sum())
    violations["nonfinite"] = int((~np.isfinite(path)).any(axis=1).sum())
    violations["contact"] = sum(contacts(command) for command in moved) if contacts else 0
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "steps": steps,
        "violations": violations,
        "used": {name: float(share.max()) for name, share in used.items()},
        "us": {"mean": seconds.mean() * 1e6, "p50": p50 * 1e6, "p99": p99 * 1e6},
        "states": dict(states),
        "interventions": dict(guard.journal.counts),
    }


def shares_of_limits(commands: np.ndarray, embodiment: Embodiment, hz: float) -> dict[str, np.ndarray]:
    """Return, for each of LIMITS, how much of it the differences of commands float64[N, A] use, float64[N - 1, A].

    The first command is a pose at rest.
    """
    shares, difference = {}, np.diff(commands, axis=0)
    for power, name in enumerate(LIMITS, 1):
        shares[name] = np.abs(difference) * hz**power / np.array(getattr(embodiment, f"{name}_max"))
        difference = np.diff(difference, axis=0, prepend=0)
    return shares


class Mischief:
    """What a broken policy, a broken clock and a broken bus may hand to a guard, between stretches of fast motion.

    `command` is to be set to what the guard answered.
    """

    def __init__(self, guard: Guard, rng: np.random.Generator, collides: Collides | None = None):
        """Engage the guard at a random pose that is free."""
        self._guard, self._rng, self._collides = guard, rng, collides
        body = guard.embodiment
        self._low, self._high = np.array(body.position_min), np.array(body.position_max)
        self._step = np.array(body.velocity_max) / body.control_hz
        self._now_s, self._period_s = 1000.0, 1 / guard.hz
        self._mood, self._clean, self._fault, self._fault_ends_s = "still", True, "", 0.0
        self.command = self._goal = self._drift = self._engage()

    def tick(self, state: State) -> dict[str, Any]:
        """Return the arguments of the next `Guard.step`; `state` is what the last one ended in."""
        rng = self._rng
        self._now_s += self._period_s
        if state is State.IDLE:
            self._guard.engage(self.command, slow_approach=rng.random() < 0.5)
        self._change_fault(state)
        now_s, due_s = self._now_s, self._now_s - rng.uniform(0, 0.02)
        if self._fault == "clock":
            now_s = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e30, self._now_s - 1])
        if self._fault == "stall":
            now_s = self._now_s = self._now_s + rng.exponential(0.1)
        if self._goes_wrong(BADLY_TIMED):
            times = [None, np.nan, np.inf, -np.inf, self._now_s - 10, self._now_s + 10]
            due_s = times[rng.integers(len(times))]
        target = None if self._fault == "silence" or self._goes_wrong(MISSING) else self._target(state)
        measured: object = self.command + rng.normal(0, 0.002, len(self._low))
        if self._fault == "blindness":
            measured = self._garbage() if rng.random() < 0.5 else None
        return {"target": target, "measured": measured, "now_s": now_s, "due_s": due_s}

    def _engage(self) -> np.ndarray:
        """Engage the guard where it agrees to begin, and return that pose."""
        for _ in range(1000):
            pose = self._draw(self._low, self._high)
            try:
                self._guard.engage(pose)
            except ValueError:  # too close to something
                continue
            return pose
        raise ValueError(f"{self._guard.embodiment.name} collides everywhere; is `collides` meant for another arm?")

    def _draw(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return a random pose in a box, one that is free if that takes few draws."""
        for _ in range(20):
            pose = self._rng.uniform(low, high)
            if self._collides is None or not self._collides(pose):
                break
        return pose

    def _change_fault(self, state: State) -> None:
        """Let a fault begin now and then, and end what has lasted."""
        if self._fault and self._now_s > self._fault_ends_s:
            self._guard.clear("monitor")
            self._guard.acknowledge()
            self._fault = ""
        elif not self._fault and state < State.HOLD and self._rng.random() < self._period_s / FAULTS_EVERY_S:
            self._fault = str(self._rng.choice(FAULTS))
            self._fault_ends_s = self._now_s + self._rng.exponential(FAULT_S)
            if self._fault == "estop":
                self._guard.estop("fuzz")
            if self._fault == "alarm":
                worst = State(int(self._rng.integers(State.DEGRADED, State.ESTOP + 1)))
                self._guard.alarm("monitor", worst, "fuzz")

    def _target(self, state: State) -> object:
        """Return a command: in the mood's way, near the arm where the guard wants that, or spoiled."""
        rng, size = self._rng, len(self._low)
        if self._goes_wrong(SPOILED):
            return self._garbage()
        if state is State.ENGAGING or state >= State.HOLD:
            self._goal = self.command + rng.normal(0, 0.03, size)
        elif rng.random() < self._period_s / MOOD_S:
            self._change_mood()
        elif self._mood == "wander":
            self._goal = self._goal + rng.normal(0, 0.01, size)
        elif self._mood == "cruise":
            self._goal = self._goal + self._drift
        self._goal = np.clip(self._goal, self._low, self._high)
        return self._goal + rng.uniform(-0.5, 0.5) * self._step if self._goes_wrong(MISSED) else self._goal

    def _goes_wrong(self, share: float) -> bool:
        return not self._clean and self._rng.random() < share

    def _change_mood(self) -> None:
        """Leap as far as a command may, most often to where the arm is free, and decide how to go on from there."""
        self._mood, self._clean = str(self._rng.choice(MOODS)), self._rng.random() < CLEAN
        leap = self._rng.uniform(0, 2.9) * self._step
        if self._mood == "edge":
            self._goal = self._goal + np.where(self._rng.random(len(leap)) < 0.5, -leap, leap)
        elif self._mood != "still":
            near, far = np.maximum(self._goal - leap, self._low), np.minimum(self._goal + leap, self._high)
            self._goal = self._draw(near, far)
        self._drift = self._rng.uniform(-1.2, 1.2, len(leap)) * self._step * self._guard.embodiment.control_hz
        self._drift = self._drift * self._period_s

    def _garbage(self) -> object:
        """Return what is no command at all, or one in the wrong unit."""
        size, place = len(self._low), self._rng.integers(len(self._low))
        spoiled = self.command.copy()
        spoiled[place] = self._rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e300, 57.3 * (spoiled[place] + 1)])
        nonsense = [spoiled, spoiled, spoiled.astype(object), list(spoiled), np.zeros(size + 1), np.zeros((1, size))]
        nonsense += [np.array(["x"] * size), np.zeros(size, complex), np.ones(size, bool), np.array(0.0), "stop", {}]
        return nonsense[self._rng.integers(len(nonsense))]
