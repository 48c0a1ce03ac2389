"""The episodes of a recording session, as the operator orders them: wait, record, judge, and on to the next one."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from vla.control.clock import Clock
from vla.control.cockpit import Cockpit
from vla.control.logbook import Logbook
from vla.control.loop import Loop
from vla.control.operator import Snapshot
from vla.control.steering import Steering
from vla.types import ActionChunk, Observation

VERDICTS = ("success", "failure", "discard")
DONE_FRAMES = 5  # at the end of a success, in which the task is done: about as long as a hand takes to say so


class Takes:
    """Operates whichever episode is the present one (see `operator.Operated`); tells the page how far it is.

    `phase` is "reset" between episodes, "waiting" for the operator, "recording", "judging" when the time or the disk
    has ended an episode, and "over" when the operator has; `verdict` is then one of VERDICTS, else empty.
    """

    def __init__(self, episodes: int, saved: int, seconds: float, clock: Clock, by_hand: bool):
        """Take how many episodes there are to be, how many there are, and how long one may last.

        by_hand: there is no policy, so that the operator drives from the start on.
        """
        self.phase, self.verdict, self.saved, self.discarded, self.dropped = "reset", "", saved, 0, 0
        self._episodes, self._seconds, self._clock, self._by_hand = episodes, seconds, clock, by_hand
        self._lock, self._began_s, self._lasted_s = threading.Lock(), 0.0, 0.0
        self._parts: tuple[Cockpit, Loop, Logbook] | None = None

    def begin(self, cockpit: Cockpit, loop: Loop, logbook: Logbook) -> None:
        """Wait for the operator to start the next episode."""
        logbook.recording, self._lasted_s = False, 0.0
        self._parts, self.verdict, self.phase = (cockpit, loop, logbook), "", "waiting"

    def end(self, saved: int, dropped: int, kept: bool) -> None:
        """Take note of what became of the present episode, and of the frames that the disk was too slow for."""
        self.dropped += dropped
        self.discarded += self.verdict == "discard" or not kept
        self.phase, self.saved = "reset", saved

    def watch(self) -> None:
        """Look, in the loop's thread, whether time or disk end the episode."""
        if self._parts is None:
            return
        _, loop, logbook = self._parts
        with self._lock:
            if logbook.fault and not logbook.frames and self.phase != "over":
                self.phase = "over"
                loop.stop("nothing can be recorded")
            if self.phase == "recording":
                self._lasted_s = self._clock.now() - self._began_s
                if logbook.fault or self._lasted_s >= self._seconds:
                    self.phase, logbook.recording = "judging", False

    def take(self, what: str) -> str:
        """Start an episode, or end it as success, as failure or by discarding it; return why not."""
        with self._lock:
            if self._parts is None or self.phase in ("reset", "over"):
                return "wait for the next episode"
            cockpit, loop, logbook = self._parts
            if what == "start":
                if self.phase != "waiting":
                    return "it is being recorded already"
                if self._by_hand and (why_not := cockpit.takeover(True)):
                    return why_not
                self.phase, self._began_s, logbook.recording = "recording", self._clock.now(), True
            elif what not in VERDICTS:
                return f"{what[:40]!r} is not known; possible: start, {', '.join(VERDICTS)}"
            elif self.phase == "waiting":
                return "no episode has been started"
            else:
                self.phase, self.verdict, logbook.recording = "over", what, False
                loop.stop(what)
        return ""

    def snapshot(self) -> Snapshot | None:
        """Return the present moment, None before there is one."""
        snapshot = self._parts[0].snapshot() if self._parts else None
        if snapshot is None or self._parts is None:
            return None
        take: dict[str, Any] = {"phase": self.phase, "saved": self.saved, "of": self._episodes}
        take |= {
            "lasted_s": round(self._lasted_s, 1),
            "longest_s": self._seconds if isfinite(self._seconds) else None,
            "discarded": self.discarded,
        }
        return replace(snapshot, take=take | {"fault": self._parts[2].fault})

    def estop(self, reason: str) -> None:
        """Brake and hold, latched; the episode goes on, so that it can be cleared."""
        if self._parts:
            self._parts[0].estop(reason)

    def clear(self) -> None:
        """Acknowledge what happened, and engage anew where the arm is."""
        if self._parts:
            self._parts[0].clear()

    def instruct(self, text: str) -> str:
        """Say that the words are given when the session begins."""
        return "a session has one instruction; the same folder takes other words with the next vla record"

    def takeover(self, on: bool) -> str:
        """Let the operator move the joints instead of the policy, or give them back; return why not."""
        return self._parts[0].takeover(on) if self._parts else ""

    def jog(self, joint: int, by: float) -> None:
        """Move the target of one joint; only under takeover."""
        if self._parts:
            self._parts[0].jog(joint, by)


class Gate:
    """Steers only while an episode is recorded, and not at all without a policy."""

    def __init__(self, takes: Takes, inner: Steering | None):
        """Take what steers then, None where the operator drives by hand."""
        self._takes, self._inner = takes, inner

    def look(self, observation: Observation) -> str | None:
        """Return the words for the policy, None while it waits."""
        self._takes.watch()
        if self._inner is None or self._takes.phase != "recording":
            return None
        return self._inner.look(observation)

    def hear(self, chunk: ActionChunk, text: str) -> None:
        """Pass on what the policy says."""
        if self._inner is not None:
            self._inner.hear(chunk, text)

    @property
    def why_idle(self) -> str:
        """What the arm waits for."""
        if self._takes.phase == "waiting":
            return "the episode has not been started"
        if self._takes.phase == "judging":
            return "the episode is over: say how it went"
        return self._inner.why_idle if self._inner is not None else "nobody drives: take over"

    def close(self) -> None:
        """Think no more."""
        if self._inner is not None:
            self._inner.close()


def labels(frames: int, success: bool) -> dict[str, Sequence]:
    """Return progress 0..1 and whether the task is done, for all frames of an episode.

    Nobody has said how far it was at each frame: progress is even, up to the frames that are done.
    """
    undone = max(frames - DONE_FRAMES, 1) if success else frames
    progress = np.minimum(np.arange(frames) / undone, 1.0) if success else np.zeros(frames)
    return {"progress": progress.astype(np.float32).tolist(), "done": (np.arange(frames) >= undone).tolist()}
