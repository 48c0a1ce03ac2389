"""A run as a recording for the Rerun viewer: cameras, joints, what the policy said, guard and events on one time axis.

Needs `pip install vla-stack[viz]`; look at it with `rerun run.rrd`.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vla.control.logbook import Moment, Tick
from vla.control.severity import State
from vla.types import Embodiment

JPEG_QUALITY = 80
NAMED = ("measured", "target", "command")  # joint positions of a tick


class RerunLog:
    """A log (logbook.py) that is written to one file; times count from its first entry."""

    def __init__(self, path: Path, embodiment: Embodiment):
        """Begin the file; ValueError where the viewer's library is not installed."""
        try:
            rerun = import_module("rerun")
        except ImportError as error:
            wanted = "rrd=true writes for the Rerun viewer: pip install 'vla-stack[viz]', or rrd=false"
            raise ValueError(wanted) from error
        self._rerun, self._began_s = rerun, None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._recording = rerun.RecordingStream("vla deploy")
        self._recording.save(path)
        for name in NAMED:
            self._recording.log(f"joints/{name}", rerun.SeriesLines(names=list(embodiment.joints)), static=True)

    def event(self, now_s: float, event: str, **what: Any) -> None:
        """Write a line of text."""
        self._at(now_s)
        said = what.get("state") or what.get("text") or what.get("rule") or ""
        reasons = what.get("reason") or "; ".join(what.get("reasons", ()))
        words = " ".join(part for part in (event, said, reasons) if part)
        grave = what.get("state") in (State.HOLD.name, State.STOP1.name, State.ESTOP.name)
        level = self._rerun.TextLogLevel.WARN if grave else self._rerun.TextLogLevel.INFO
        self._recording.log("events", self._rerun.TextLog(words, level=level))

    def chunk(self, now_s: float, actions: np.ndarray, **what: Any) -> None:
        """Write what the policy said about progress and done."""
        self._at(now_s)
        for name in ("progress", "done"):
            if what.get(name) is not None:
                self._scalars(f"policy/{name}", [what[name]])

    def tick(self, tick: Tick) -> None:
        """Write joints, how late the tick was, and the state of the guard."""
        self._at(tick.due_s)
        for name, joints in zip(NAMED, (tick.joints, tick.target, tick.command), strict=True):
            if joints is not None:
                self._scalars(f"joints/{name}", joints)
        self._scalars("loop/late_ms", [1e3 * tick.late_s])
        self._scalars("guard/state", [int(tick.state)])

    def frame(self, moment: Moment, command: np.ndarray) -> None:
        """Write the pictures."""
        self._at(moment.observation.time_s)
        for name, image in moment.observation.images.items():
            self._recording.log(f"cameras/{name}", self._rerun.Image(image).compress(jpeg_quality=JPEG_QUALITY))

    def dump(self, state: State) -> None:
        """Nothing more: every tick is there."""

    def close(self) -> None:
        """Finish the file."""
        self._recording.disconnect()

    def _at(self, time_s: float) -> None:
        self._began_s = time_s if self._began_s is None else self._began_s
        self._recording.set_time("run", duration=time_s - self._began_s)

    def _scalars(self, path: str, values: Any) -> None:
        self._recording.log(path, self._rerun.Scalars(np.asarray(values, np.float64)))
