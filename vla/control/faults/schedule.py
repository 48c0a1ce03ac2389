"""Which part fails in which way at what time, in PX4's words (docs.px4.io, "System Failure Injection")."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from math import inf
from typing import Any

import numpy as np

from vla.control.clock import Clock


class Kind(StrEnum):
    """How a part fails."""

    OK = "ok"  # it does not: ends what was injected before
    OFF = "off"  # nothing comes
    STUCK = "stuck"  # the same again and again
    GARBAGE = "garbage"  # what comes cannot be read
    WRONG = "wrong"  # it can be read, and is not true
    SLOW = "slow"  # everything takes longer
    DELAYED = "delayed"  # everything comes later
    INTERMITTENT = "intermittent"  # now and then nothing comes


PLAIN: dict[Kind, tuple[str, ...]] = dict.fromkeys(Kind, ("",))
POSSIBLE: dict[str, dict[Kind, tuple[str, ...]]] = {  # part -> kind -> the words for `how`, the first by default
    "camera": {
        **PLAIN,
        Kind.GARBAGE: ("dark", "bright", "shape"),
        Kind.WRONG: ("turned", "swapped", "mirrored", "bgr"),
    },
    "policy": {
        **PLAIN,
        Kind.GARBAGE: ("nan", "shape", "object"),
        Kind.WRONG: ("degrees", "permuted", "alternating", "far"),
    },
    "planner": {**PLAIN, Kind.WRONG: ("unseen", "sign")},
    "server": PLAIN,
    "bus": {**PLAIN, Kind.WRONG: ("wrap", "blocked", "servo", "latched")},
    "clock": {kind: ("",) for kind in (Kind.OK, Kind.WRONG, Kind.SLOW, Kind.DELAYED, Kind.INTERMITTENT)},
    "disk": {kind: ("",) for kind in (Kind.OK, Kind.OFF, Kind.WRONG, Kind.SLOW, Kind.INTERMITTENT)},
}
AMOUNT = {Kind.SLOW: 0.3, Kind.DELAYED: 0.3, Kind.INTERMITTENT: 0.3}  # by default


@dataclass(frozen=True)
class Fault:
    """One part that fails in one way for a while.

    `name` is a part of POSSIBLE; a camera of several is "camera.NAME". Times count from the beginning of the run [s].
    `amount` is seconds, for `intermittent` the share 0..1 that is lost, for a blocked joint its number from 1 on.
    """

    name: str
    kind: Kind
    at_s: float = 0.0
    for_s: float = inf
    how: str = ""
    amount: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be injected, and fill in what is by default."""
        if self.kind is False:  # type: ignore[comparison-overlap]
            raise ValueError("kind false: YAML reads a bare off so, write 'off' with the quotes")
        part = self.name.partition(".")[0]
        if part not in POSSIBLE:
            raise ValueError(f"no fault can be injected into {self.name!r}; possible: {', '.join(POSSIBLE)}")
        if part != self.name and part != "camera":
            raise ValueError(f"no fault can be injected into {self.name!r}: there is one {part} only, write {part!r}")
        kinds = POSSIBLE[part]
        if self.kind not in kinds:
            raise ValueError(f"{part} knows no fault {str(self.kind)!r}; possible: {', '.join(kinds)}")
        kind = Kind(self.kind)
        if self.how not in ("", *kinds[kind]):
            raise ValueError(f"{part} {kind} knows no {self.how!r}; possible: {', '.join(kinds[kind])}")
        if (part, kind) == ("disk", Kind.SLOW) and self.for_s == inf:
            raise ValueError("a disk that is slow for ever would never let go of the recording; give for_s")
        if self.at_s < 0 or self.for_s <= 0 or self.amount < 0:
            raise ValueError(f"{self}: at_s and amount cannot be negative, for_s must be positive")
        if kind is Kind.INTERMITTENT and self.amount > 1:
            raise ValueError(f"{self.name} {kind}: amount={self.amount:g} is the share that is lost, 0..1")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "how", self.how or kinds[kind][0])
        object.__setattr__(self, "amount", self.amount or AMOUNT.get(kind, 1.0))


def misfit(fault: Fault, cameras: Sequence[str], joints: Sequence[str]) -> str:
    """Say what of a robot with these cameras and joints a fault would look for in vain; empty if all is there."""
    part, _, camera = fault.name.partition(".")
    if part == "camera" and (not cameras or (fault.name != part and camera not in cameras)):
        possible = ["camera", *(f"camera.{name}" for name in cameras)] if cameras else ["none, it has no cameras"]
        return f"this robot has no {fault.name!r}; possible: {', '.join(possible)}"
    if fault.how == "swapped" and len(cameras) < 2:
        return f"this robot has only one camera, {cameras[0]!r}, to swap with none"
    if fault.how == "blocked" and fault.amount not in range(1, len(joints) + 1):
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(joints, 1))
        return f"amount={fault.amount:g} is no joint that could be blocked; possible: {numbered}"
    return ""


class Faults:
    """All faults of a run, by the time of a clock; the same seed drops the same frames and replies."""

    def __init__(self, faults: Iterable[Fault | Mapping[str, Any]], clock: Clock, hardware: bool = True, seed: int = 0):
        """Take what will fail; raises ValueError where something could be hurt by that."""
        self._faults = [fault if isinstance(fault, Fault) else _read(fault) for fault in faults]
        if self._faults and hardware:
            raise ValueError("faults are injected in simulation only, and this robot is real; leave faults empty")
        self.clock, self.rng = clock, np.random.default_rng(seed)
        self.began_s = clock.now()

    def __bool__(self) -> bool:
        """Say whether anything is to fail at all."""
        return bool(self._faults)

    def __iter__(self):
        return iter(self._faults)

    def inject(self, name: str, kind: str, **what: Any) -> None:
        """Let something fail from now on; `ok` ends what was injected into it."""
        self._faults.append(Fault(name, Kind(kind), at_s=self.now_s, **what))

    @property
    def now_s(self) -> float:
        """Seconds since the beginning of the run."""
        return self.clock.now() - self.began_s

    def of(self, name: str) -> Fault | None:
        """Return what is wrong with a part now, the latest fault that has begun, None if it is well."""
        now_s, part = self.now_s, name.partition(".")[0]
        found = None
        for fault in self._faults:
            if fault.name in (name, part) and fault.at_s <= now_s + 1e-9 < fault.at_s + fault.for_s:
                found = None if fault.kind is Kind.OK else fault
        return found

    def drops(self, fault: Fault) -> bool:
        """Draw whether an intermittent fault strikes."""
        return bool(self.rng.random() < fault.amount)


def _read(words: Mapping[str, Any]) -> Fault:
    """Make a fault of the keys of a config."""
    keys = [field.name for field in fields(Fault)]
    if not isinstance(words, Mapping) or not {"name", "kind"} <= words.keys() <= set(keys):
        raise ValueError(
            f"{words!r} is no fault; write {{name: .., kind: ..}}, possible beside those: {', '.join(keys[2:])}"
        )
    return Fault(**words)
