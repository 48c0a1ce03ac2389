"""A camera or stream, live: every frame is measured, a model looks at keyframes, and nothing waits for the model.

Two queues of one stand between three threads, and in both the latest wins: frames from the source to the measures,
keyframes from the measures to the model. What was dropped is counted, and every answer carries the time of its frame
in the source and its age when it came.
"""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vla.video.chat import NoReply, UnreachableError
from vla.video.decode import ClipError, Facts, Frame, Limits
from vla.video.latest import Latest
from vla.video.live_child import LiveClip
from vla.video.objects import Detector
from vla.video.track import jpeg
from vla.video.veil import Veil
from vla.video.watcher import Watcher

PICTURES, LOG = "keyframes", "live.jsonl"  # what is written while it runs
QUESTION = "What is happening?"
STALE_S = 5.0  # an answer that is older is told as late
REMEMBERED = 1000  # moments that are in the result, the latest; LOG has all
MEASURED = 10_000  # frames whose cost is in the result, and answers whose age is, the latest
END_S = 10.0  # the model may think on for so long when the source has ended

Look = Callable[[np.ndarray, float, Sequence[str], str], str]  # (picture, time, why, question) -> answer


@dataclass(frozen=True)
class Arrival:
    """A frame, its number in the source and when it came, on the monotonic clock."""

    number: int
    frame: Frame
    came_s: float


@dataclass(frozen=True)
class Moment:
    """A keyframe with what was said about it; times in the source, ages since the frame came [s]."""

    frame: int
    time_s: float
    why: tuple[str, ...]
    picture: str
    answer: str = ""
    problem: str = ""
    age_s: float | None = None  # of the answer; None where none came
    late: bool = False


class Live:
    """Follows one source to its end, in memory that does not grow; use it once."""

    def __init__(
        self,
        clip: LiveClip,
        out: Path,
        limits: Limits,
        *,
        look: Look | None,
        question: str,
        veil: Veil | None,
        detector: Detector | None = None,
        blur_written: bool,
    ) -> None:
        """look: asks a model; None asks nobody. detector: finds things on every frame; None finds coloured ones.

        veil: hides places in what the model is shown and, if `blur_written`, in what is written.
        """
        self.clip, self.out, self.limits = clip, out, limits
        self._detector = detector
        self._look, self._question, self._veil, self._blur_written = look, question, veil, blur_written
        self._frames: Latest[Arrival] = Latest()
        self._keyframes: Latest[tuple[Moment, Arrival]] = Latest()
        self._stop, self._failed = threading.Event(), None
        self._moments: deque[Moment] = deque(maxlen=REMEMBERED)
        self._ages_s: deque[float] = deque(maxlen=MEASURED)
        self._counts: Counter[str] = Counter()
        self._lock, self._over = threading.Lock(), False
        self._cost_s: deque[float] = deque(maxlen=MEASURED)

    def run(self, seconds: float | None, tell: Callable[[Moment], None]) -> dict[str, Any]:
        """Follow until the source ends, for `seconds` at most, or until Ctrl-C; return what is in the result.

        `tell` hears every keyframe when it was answered, or at once where nobody is asked.
        """
        (self.out / PICTURES).mkdir(parents=True, exist_ok=True)
        reader = threading.Thread(target=self._guarded, args=(self._read, self._frames), daemon=True)
        thinker = threading.Thread(target=self._guarded, args=(self._think, self._frames), daemon=True)
        began_s, interrupted = time.monotonic(), False
        with (self.out / LOG).open("w", encoding="utf-8") as log:
            self._tell = partial(self._note, log, tell)
            for thread in (reader, thinker):
                thread.start()
            try:
                self._watch(None if seconds is None else began_s + seconds)
            except KeyboardInterrupt:
                interrupted = True
            self._stop.set()
            self._keyframes.close()
            thinker.join(END_S)
            with self._lock:
                self._over = True  # what comes now is too late
        if self._failed is not None:
            raise self._failed
        return self._summary(time.monotonic() - began_s) | {"interrupted": interrupted}

    def _guarded(self, work: Callable[[], None], ends: Latest[Any]) -> None:
        """Run a thread's work; what goes wrong ends the whole."""
        try:
            work()
        except Exception as error:
            self._failed = self._failed or error
            ends.close()

    def _read(self) -> None:
        try:
            for number, frame in enumerate(self.clip.frames(self.limits, Facts())):
                self._frames.put(Arrival(number, frame, time.monotonic()))
                if self._stop.is_set():
                    return
        except ClipError:
            if not self._stop.is_set():  # what befalls a source that nobody follows any more spoils no result
                raise
        self._frames.close()

    def _watch(self, until_s: float | None) -> None:
        watcher = Watcher(self._detector)
        while (arrival := self._frames.take(until_s)) is not None and self._failed is None:
            began_s = time.monotonic()
            why = watcher.reasons(arrival.frame.time_s, arrival.frame.image)
            if why:
                picture = f"{PICTURES}/{arrival.number:06d}.jpg"
                self._keep(Moment(arrival.number, arrival.frame.time_s, tuple(why), picture), arrival)
            self._cost_s.append(time.monotonic() - began_s)
            if until_s is not None and time.monotonic() >= until_s:
                return

    def _keep(self, moment: Moment, arrival: Arrival) -> None:
        if self._look is None:
            self._picture(moment, arrival.frame.image)
            self._tell(moment)
        else:
            self._keyframes.put((moment, arrival))

    def _think(self) -> None:
        """Ask about keyframes; who was reached once may be away for a while, who never was is at another address."""
        reached = False
        while self._look is not None and (taken := self._keyframes.take()) is not None:
            moment, arrival = taken
            shown = self._picture(moment, arrival.frame.image)
            try:
                moment = replace(moment, answer=self._look(shown, moment.time_s, moment.why, self._question))
                reached = True
            except (NoReply, UnreachableError) as error:
                reached = reached or isinstance(error, NoReply)
                if not reached:
                    raise
                moment = replace(moment, problem=f"not answered: {error}")
            age_s = time.monotonic() - arrival.came_s
            self._tell(replace(moment, age_s=age_s, late=age_s > STALE_S))

    def _picture(self, moment: Moment, image: np.ndarray) -> np.ndarray:
        """Write the picture of a keyframe; return what a model may be shown."""
        shown = image if self._veil is None else self._veil(image)
        (self.out / moment.picture).write_bytes(jpeg(shown if self._blur_written else image))
        return shown

    def _note(self, log: TextIO, tell: Callable[[Moment], None], moment: Moment) -> None:
        with self._lock:
            if self._over:
                return
            self._moments.append(moment)
            said = {"answers": bool(moment.answer), "unanswered": bool(moment.problem), "late": moment.late}
            self._counts.update(said, moments=1)
            if moment.answer and moment.age_s is not None:
                self._ages_s.append(moment.age_s)
            log.write(json.dumps(asdict(moment)) + "\n")
            log.flush()
            tell(moment)

    def _summary(self, lasted_s: float) -> dict[str, Any]:
        if not self._cost_s:
            raise ClipError(f"{self.clip.name} gave no picture: is it on, is it the right one?")
        return {
            "source": self.clip.name,
            "seconds": lasted_s,
            "frames": self._frames.put_count,
            "frames_dropped": self._frames.dropped,
            "frame_ms": _percentiles([1000 * cost_s for cost_s in self._cost_s]),
            "keyframes": self._counts["moments"] if self._look is None else self._keyframes.put_count,
            "keyframes_dropped": self._keyframes.dropped,
            **{name: self._counts[name] for name in ("answers", "unanswered", "late")},
            "age_s": _percentiles(self._ages_s),
            "moments": [asdict(moment) for moment in self._moments],
        }


def told(moment: Moment) -> str:
    """Return a moment as a line for people."""
    words = moment.answer or moment.problem or "; ".join(moment.why)
    age = "" if moment.age_s is None else f", {moment.age_s:.1f} s ago{' (late)' if moment.late else ''}"
    return f"{moment.time_s:9.2f} s{age}: {words}"


def _percentiles(several: Iterable[float]) -> dict[str, float] | None:
    values = list(several)
    if not values:
        return None
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "max": max(values)}
