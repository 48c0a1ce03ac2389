"""Environments in processes of their own: a crash there ends one episode, never the evaluation.

A worker answers four requests: reset, step (several actions at once), frames, questions. This module stays
light (no torch), because every worker imports it.
"""

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium
import numpy as np


class WorkerCrash(RuntimeError):
    """The environment raised, or its process died; the message carries the traceback."""

    def __init__(self, message: str, told: str | None = None, refuses: bool = False):
        """told: what was said for people to read; refuses: by a ValueError, about what was asked for."""
        super().__init__(message)
        self.told, self.died = told, False
        self.refusal = told if refuses else None


@dataclass(frozen=True)
class World:
    """Which environment to make, and how."""

    id: str  # gymnasium id, "module:Name-v0"
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Moment:
    """What a worker reports after a reset or some steps."""

    observation: dict[str, Any]  # {"pixels": {camera: uint8[H, W, 3]}, "agent_pos": float32[S]}
    infos: list[dict[str, Any]]  # one a step; after a reset one in all
    over: bool  # terminated or truncated
    embodiment: dict[str, Any] | None = None  # after a reset: the body, as plain data
    interventions: dict[str, int] | None = None  # of the guard so far, by rule; None without one


@dataclass
class Recording:
    """Every frame of the present episode, the reset's first."""

    pixels: list[dict[str, np.ndarray]]  # camera -> uint8[H, W, 3]
    states: list[np.ndarray]  # float32[S]
    actions: list[np.ndarray]  # float32[A]; one fewer than frames


class Host:
    """What lives inside the worker process: the present environment and the present episode."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.env: gymnasium.Env | None = None
        self.observation: dict[str, Any] = {}
        self.recording: Recording | None = None

    def _unwrapped(self) -> Any:
        assert self.env is not None, "reset comes first"
        return self.env.unwrapped

    def open(self, world: World) -> dict[str, Any]:
        """Make the environment unless it is there already; return its embodiment as plain data."""
        if self.world != world:
            self.close()
            self.env = gymnasium.make(world.id, **world.kwargs)
            self.world = world
        return self._unwrapped().embodiment()

    def reset(self, world: World, seed: int, options: dict[str, Any], record: bool) -> Moment:
        embodiment = self.open(world)
        assert self.env is not None
        self.observation, info = self.env.reset(seed=seed, options=options)
        self.recording = Recording([], [], []) if record else None
        self._record()
        return Moment(self.observation, [info], False, embodiment)

    def step(self, actions: np.ndarray) -> Moment:
        """Execute actions float32[N, A], fewer where the episode ends before."""
        assert self.env is not None and len(actions)
        infos, over = [], False
        for action in actions:
            self.observation, _, terminated, truncated, info = self.env.step(action)
            infos.append(info)
            if self.recording is not None:
                self.recording.actions.append(action)
            self._record()
            over = bool(terminated or truncated)
            if over:
                break
        return Moment(self.observation, infos, over)

    def _record(self) -> None:
        if self.recording is None:
            return
        assert self.env is not None
        pixels = dict(self.observation["pixels"])
        if self.env.render_mode == "rgb_array":
            pixels["render"] = np.asarray(self.env.render())
        self.recording.pixels.append(pixels)
        self.recording.states.append(np.asarray(self.observation["agent_pos"]))

    def frames(self) -> Recording:
        assert self.recording is not None, "the episode was not recorded"
        return self.recording

    def questions(self, seed: int, count: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Return the present observation and `count` questions about it with the scene's true answers."""
        return self.observation, self._unwrapped().questions(np.random.default_rng(seed), count)

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
        self.env, self.world = None, None


def _serve(connection: Connection, make_host: Callable[[], Host]) -> None:
    """Answer requests until the pipe closes; an exception is answered with its traceback."""
    host = make_host()
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            break
        try:
            connection.send((True, getattr(host, name)(*arguments)))
        except KeyboardInterrupt:
            break
        except Exception as error:  # the border of the process: whatever went wrong travels to the parent as words
            for_people = isinstance(error, ValueError | OSError) or type(error).__module__.startswith(("envs.", "vla."))
            told = str(error) if for_people else None
            connection.send((False, (traceback.format_exc(), told, isinstance(error, ValueError))))
            host = make_host()
    host.close()


class Worker:
    """One process with one environment, asked one thing at a time."""

    def __init__(self, make_host: Callable[[], Host] = Host) -> None:
        """Let `make_host`, called over there, make what answers: its methods are the requests."""
        self._make_host = make_host
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self._make_host), daemon=True)
        self.process.start()
        theirs.close()

    def request(self, name: str, *arguments: Any) -> None:
        """Send a request; a dead process shows when the answer is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((name, arguments))

    def answer(self) -> Any:
        """Wait for the answer; raise WorkerCrash (and start a fresh process if this one died)."""
        try:
            fine, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            self.connection.close()
            self._start()
            crash = WorkerCrash(f"the environment's process died with exit code {code}")
            crash.died = True
            raise crash from None
        if not fine:
            raise WorkerCrash(*value)
        return value

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send a request and wait for its answer."""
        self.request(name, *arguments)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.terminate()


def last_words(crash: str) -> str:
    """Return the line of a traceback that says what went wrong."""
    return crash.strip().rpartition("\n")[2]


class Workers:
    """Several workers, closed together when the `with` block ends."""

    def __init__(self, count: int, make_host: Callable[[], Host] = Host):
        if count < 1:
            raise ValueError(f"workers={count}: at least 1 is needed")
        self.all = [Worker(make_host) for _ in range(count)]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.close()


def ready(workers: list[Worker]) -> list[Worker]:
    """Wait until at least one worker has answered; return all that have."""
    connections = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in connections]
