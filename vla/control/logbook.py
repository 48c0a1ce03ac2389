"""The record of a run: a LeRobot episode, a log of events, and the last seconds before every stop.

The loop only puts things down; a thread of its own writes and encodes. Every event is on its way to the disk when it
has happened, a dump is there whole or not at all, and the episode joins the dataset as when collecting: by one rename.
"""

import json
import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np

from vla.control.severity import State
from vla.data import schema
from vla.data.recorder import EpisodeRecorder
from vla.data.writer import DatasetWriter
from vla.types import Embodiment, Observation

logger = logging.getLogger(__name__)

CAMERA = "observation.images."
FRAMES = 32  # may wait to be encoded; beyond that they are dropped and counted
EVENTS = 1000  # are kept for the result
WORDS = 200  # characters of what is neither numbers nor text
DUMPS = 100  # stops of one run that are dumped
ROOM_BYTES = 128 * 2**20  # that are left on the disk when recording ends by itself; two episodes need less
NUMBER = re.compile(r"\d+(\.\d+)?")
LOOK_EVERY = 50  # frames, at how much room there is


class Tick(NamedTuple):
    """What one tick read and sent."""

    due_s: float  # monotonic clock
    late_s: float  # began so long after it was due
    joints: np.ndarray | None  # float32[A], measured
    target: np.ndarray | None  # float64[A], of the executor
    command: np.ndarray | None  # float64[A], of the guard, as sent
    state: State  # of the guard


class Moment(NamedTuple):
    """One frame of the episode, without the action that follows it."""

    observation: Observation  # its instruction is what the controller was asked for
    joints: np.ndarray
    since_s: float  # the beginning of the run
    state: State
    task: str = ""  # the operator's words then; empty: those that the run began with
    intervention: bool = False  # whether the operator moved the arm


class Log(Protocol):
    """What a loop tells as it goes; see Logbook."""

    def event(self, now_s: float, event: str, **what: Any) -> None:
        """Take note of what happened at a time of the loop's clock."""
        ...

    def chunk(self, now_s: float, actions: np.ndarray, **what: Any) -> None:
        """Take note of a chunk float[T, A]; `what` has frame_s, given, and why it was dropped, among others."""
        ...

    def tick(self, tick: Tick) -> None:
        """Take note of a tick, when all in it is done."""
        ...

    def frame(self, moment: Moment, command: np.ndarray) -> None:
        """Take note of a frame and of the latest command float[A] before it."""
        ...

    def dump(self, state: State) -> None:
        """Take note of a stop."""
        ...


class Disk:
    """What the logbook asks of the disk."""

    def run(self, job: Callable[[], object]) -> None:
        """Do something that writes; raises OSError."""
        job()

    def free_bytes(self, folder: Path) -> int:
        """Return how much more can be written."""
        return shutil.disk_usage(folder).free


class Logbook:
    """Writes dataset/, events.jsonl and stops/ in `folder`. `fault` says why recording ended early, if it did.

    `events` are the latest, `dropped_frames` those that the disk or the encoder was too slow for. With `patient` the
    loop waits for the encoder instead, which is right where time is virtual. Frames count while `recording`.
    """

    def __init__(
        self,
        folder: Path,
        embodiment: Embodiment,
        instruction: str,
        hz: float,
        keep_s: float = 5.0,
        patient: bool = False,
        disk: Disk | None = None,
        also: Log | None = None,
        dataset: DatasetWriter | None = None,
        blanks: Mapping[str, Any] | None = None,
    ):
        """Open the dataset, of which this run becomes the next episode; dumps hold the last `keep_s` at `hz` ticks.

        also: another log that is told the same, in the thread that writes. dataset: one that is open, and stays so.
        blanks: values of its columns that are known when the episode has ended, see `close`.
        """
        self.folder, self.fault, self.dropped_frames, self.recording = folder, "", 0, True
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._also = also
        self._said: tuple[str, set[str]] = ("", set())  # the latest event, its reasons in a row without numbers
        self._instruction, self._patient, self._disk = instruction, patient, disk or Disk()
        self._ticks: deque[Tick] = deque(maxlen=max(1, round(keep_s * hz)))
        self._dumps, self._dumped_before = 0, len(list((folder / "stops").glob("*.jsonl")))
        self._moment: Moment | None = None
        self._room = threading.Semaphore(FRAMES)
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "events.jsonl").open("a")
        self._blanks, self._opened = dict(blanks or {}), dataset is None
        self._writer = dataset or open_dataset(folder, embodiment)
        self._recorder: EpisodeRecorder | None = self._writer.record()
        self.episode_index = self._recorder.episode_index
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="logbook", daemon=True)
        self._thread.start()

    def event(self, now_s: float, event: str, **what: Any) -> None:
        """Write down what happened at a time of the loop's clock; a reason that is repeated but for its numbers is not.

        A policy that is not there fails in the same words at every tick, or in two ways by turns.
        """
        words = NUMBER.sub("", str(what.get("reason", "")))
        if event != self._said[0]:
            self._said = event, set()
        if words and words in self._said[1]:
            return
        self._said[1].add(words)
        entry = {"time_s": round(now_s, 6), "event": event, **what}
        self.events.append(entry)
        self._jobs.put(lambda: self._write_event({**entry, "wall": time.strftime("%Y-%m-%dT%H:%M:%S%z")}))
        self._tell(lambda log: log.event(now_s, event, **what))

    def chunk(self, now_s: float, actions: np.ndarray, **what: Any) -> None:
        """Write down a chunk float[T, A], or whatever came in the place of one; it goes to the log only."""
        entry = {"time_s": round(now_s, 6), "event": "chunk", **what}
        numbers = isinstance(actions, np.ndarray) and actions.dtype.kind in "fiu"
        self._jobs.put(lambda: self._write_event({**entry, "actions": np.round(actions, 5) if numbers else actions}))
        self._tell(lambda log: log.chunk(now_s, actions, **what))

    def tick(self, tick: Tick) -> None:
        """Keep a tick for as long as a dump reaches back."""
        self._ticks.append(tick)
        self._tell(lambda log: log.tick(tick))

    def frame(self, moment: Moment, command: np.ndarray) -> None:
        """Add a frame to the episode; `command` float[A], the latest one, is the action of the frame before it."""
        before, self._moment = self._moment, moment if self.recording else None
        if before is None or self.fault:
            return
        if not self._room.acquire(blocking=self._patient):
            self.dropped_frames += 1
            return
        self._jobs.put(lambda: self._add(before, command))
        self._tell(lambda log: log.frame(before, command))

    def dump(self, state: State) -> None:
        """Write down the last seconds, in stops/NUMBER-STATE.jsonl; numbers go on from run to run in a folder."""
        self._dumps += 1
        if self._dumps <= DUMPS:
            ticks, name = list(self._ticks), f"{self._dumped_before + self._dumps:03d}-{state.name}.jsonl"
            self._jobs.put(lambda: self._write_dump(name, ticks))

    @property
    def frames(self) -> int:
        """How many frames the episode has so far."""
        return self._recorder.length if self._recorder is not None else 0

    def close(
        self,
        extra: dict[str, int | float | str],
        keep: bool = True,
        columns: Callable[[int], Mapping[str, Sequence]] | None = None,
    ) -> None:
        """Finish the episode with columns of its own and let go of the dataset; waits for the disk.

        keep: whether the episode is saved. columns: makes the values of all its frames, so many, for what was blank.
        """
        self._jobs.put(None)
        self._thread.join()
        recorder = self._recorder
        if recorder is not None and recorder.length and keep:
            if columns is not None:
                recorder.fill(columns(recorder.length))
            self._guarded(lambda: self._disk.run(lambda: recorder.save(extra=extra)))
        elif recorder is not None:
            recorder.discard()
        if self._opened:
            self._guarded(self._writer.close)
        self._lines.close()

    def _tell(self, what: Callable[[Log], object]) -> None:
        """Have the other log told, if there is one."""
        if self._also is not None:
            log = self._also
            self._jobs.put(lambda: self._told(log, what))

    def _told(self, log: Log, what: Callable[[Log], object]) -> None:
        """Tell the other log; one that fails is told nothing more, and the recording goes on."""
        try:
            if self._also is not None:
                what(log)
        except Exception as error:  # the border to a library that draws
            self._also = None
            logger.error("the other log failed: %s", error)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._guarded(job)

    def _guarded(self, job: Callable[[], object]) -> None:
        """Do something with the disk; one that fails ends the recording, not the control, nor the jobs after it."""
        try:
            job()
        except Exception as error:  # the top of a thread: what it does not catch nobody hears of
            plain = isinstance(error, OSError) and str(error)
            words = plain or f"{type(error).__name__}: {error}"
            if not self.fault:  # a full disk fails at every event
                logger.error("the recording has ended: %s", words, exc_info=not plain)
            self.fault = self.fault or words
            recorder, self._recorder = self._recorder, None
            if recorder is not None:
                with suppress(Exception):  # an encoder may be what is broken
                    recorder.discard()

    def _write_event(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, default=_plain) + "\n"
        self._disk.run(lambda: (self._lines.write(line), self._lines.flush()))

    def _write_dump(self, name: str, ticks: list[Tick]) -> None:
        lines = [json.dumps(tick._asdict() | {"state": tick.state.name}, default=_plain) for tick in ticks]
        text = "\n".join(lines) + "\n"
        self._disk.run(lambda: schema.write_whole(self.folder / "stops" / name, lambda path: path.write_text(text)))

    def _add(self, moment: Moment, command: np.ndarray) -> None:
        self._room.release()
        if self._recorder is None or self.fault:
            return
        if self._recorder.length % LOOK_EVERY == 0 and self._disk.free_bytes(self.folder) < ROOM_BYTES:
            self.fault = (
                f"less than {ROOM_BYTES >> 20} MiB are free in {self.folder}; recording ended, it is kept so far"
            )
            return
        images = {CAMERA + name: image for name, image in moment.observation.images.items()}
        task, subtask = moment.task or self._instruction, moment.observation.instruction
        if self._blanks:  # to be learnt from: where nobody was asked for a part of it, it is all of it
            subtask = subtask or task
        row = {"observation.state": moment.joints, "action": command, "subtask": subtask}
        row |= {"guard": int(moment.state), "since_s": moment.since_s, "intervention": moment.intervention}
        row |= self._blanks
        recorder = self._recorder
        self._disk.run(lambda: recorder.add(images | row, task=task))


def open_dataset(folder: Path, embodiment: Embodiment) -> DatasetWriter:
    """Open the dataset of the runs in a folder."""
    metadata = {"embodiment": embodiment.to_dict()}
    rate, name = round(embodiment.control_hz), embodiment.name
    return DatasetWriter(folder / "dataset", rate, features(embodiment), robot_type=name, metadata=metadata)


def features(embodiment: Embodiment) -> schema.Features:
    """Features of a recorded run; `action` is the command that was sent, `guard` the number of the guard's state.

    `intervention` says of a frame that the operator moved the arm, not a policy.
    """
    found: schema.Features = {}
    for name, camera in embodiment.cameras.items():
        shape = [camera.height, camera.width, 3]
        found[CAMERA + name] = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
    names = [f"{joint}.pos" for joint in embodiment.joints]
    for key in ("observation.state", "action"):
        found[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
    single = {"subtask": "string", "guard": "int64", "since_s": "float64", "intervention": "bool"}
    return found | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in single.items()}


def _plain(value: Any) -> Any:
    """Return what JSON can hold; of what a broken policy or driver may say, the words for it."""
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "fiubU":
        return value.tolist()
    return repr(value)[:WORDS]
