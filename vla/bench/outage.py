"""What a moving robot does while its policy server is gone: killed by -9 in the middle of a motion, started again.

The server is a process of its own, the robot the simulated twin in wall-clock time, the loop that of `vla deploy`.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import trange

from vla.bench.guard import shares_of_limits
from vla.control.deploy import deploy
from vla.control.listener import bind
from vla.control.robot import Measurement, Robot
from vla.control.severity import State
from vla.control.steering import Verbatim
from vla.control.strategy import Strategy
from vla.model.checkpoint import DEFAULT, load
from vla.serve.client import RemotePolicy
from vla.serve.serve import fingerprint
from vla.serve.server import PolicyServer
from vla.types import Embodiment, Observation

HOLD_S = 0.1  # after the last due action, within which the arm must be held
BACK_S = 2.0  # after the server is back, within which the policy must be followed again
MOVING_S = 0.2  # before the kill, in which the commands must have changed
START_S = 600.0  # for a process to begin
RESTART_S = 2.0  # that starting a server again may take of a run


@dataclass(frozen=True)
class Outages:
    """How often the server is killed, and on what robot."""

    count: int
    twin: Callable[..., Robot]  # called with seed= and instruction=
    collides: Callable[[np.ndarray], bool]
    strategy: Callable[[], Strategy]
    instruction: str
    hz: float
    checkpoint: str | None = None
    after_s: tuple[float, float] = (0.8, 2.0)  # since the first frame, the range of the kill
    gone_s: float = 2.5  # longer than a chunk lasts


@dataclass
class Course:
    """What happened in one run, in seconds of the monotonic clock."""

    killed_s: float
    back_s: float
    log: Sequence[Mapping[str, Any]]  # the lines of events.jsonl
    ticks: Sequence[Mapping[str, Any]]  # the lines of stops/, the seconds before each stop
    commands: list[tuple[float, np.ndarray]] = field(default_factory=list)


def measure(outages: Outages, seed: int) -> dict[str, Any]:
    """Kill the server once in each of `count` scenes; what was right, and how soon. Rows say which outage was not."""
    rows = []
    with closing(Server(Path(outages.checkpoint or DEFAULT))) as server:
        for number in trange(outages.count, desc="outages", unit="kill", leave=False):
            course, body = _fly(outages, server, seed + number)
            rows.append({"seed": seed + number, **judge(course, body, outages.hz)})
    keys = ("hold_after_due_ms", "back_after_ms")
    times = {key: [row[key] for row in rows if row[key] is not None] for key in keys}
    return {
        "kills": len(rows),
        "right": sum(not row["wrong"] for row in rows),
        **{key: {"p50": float(np.median(one)), "max": max(one)} if one else None for key, one in times.items()},
        "rows": rows,
    }


def judge(course: Course, body: Embodiment, hz: float) -> dict[str, Any]:
    """Say when the arm was held and when it went on, and what of that was wrong."""
    states = [(line["time_s"], line["state"]) for line in course.log if line["event"] == "state"]
    held_s = next((time_s for time_s, state in states if time_s > course.killed_s and state == State.HOLD.name), None)
    past = [tick["due_s"] for tick in course.ticks if tick["target"] is not None and tick["due_s"] < (held_s or 0.0)]
    due_s = max(past) + 1 / hz if past else None  # a target is for the end of its tick
    normal_s = next((time_s for time_s, state in states if time_s > course.back_s and state == State.NORMAL.name), None)
    commands = np.array([command for _, command in course.commands])
    shares = shares_of_limits(np.concatenate([commands[:1], commands]), body, hz)
    limits = max(float(share.max()) for share in shares.values())
    before = [command for time_s, command in course.commands if 0 <= course.killed_s - time_s <= MOVING_S]
    wrong = []
    if not before or not np.ptp(before, axis=0).any():
        wrong.append("nothing moved when the server was killed")
    if held_s is None or due_s is None or held_s - due_s > HOLD_S:
        wrong.append(f"not in HOLD within {HOLD_S} s of the last due action")
    if normal_s is None or normal_s - course.back_s > BACK_S:
        wrong.append(f"not back in NORMAL within {BACK_S} s")
    if limits > 1 + 1e-9:
        wrong.append(f"used {limits:.3g} of a limit")
    return {
        "hold_after_due_ms": None if held_s is None or due_s is None else 1e3 * (held_s - due_s),
        "back_after_ms": None if normal_s is None else 1e3 * (normal_s - course.back_s),
        "limits_used": limits,
        "wrong": wrong,
    }


class Server:
    """`vla serve` in a process that can be killed, and started again on the same port."""

    def __init__(self, checkpoint: Path):
        """Start it; the process that later ones are forked from has imported everything."""
        self._checkpoint, self._port = checkpoint, 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self.start()

    def start(self) -> float:
        """Start it and return when it listened [s]."""
        mine, its = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(its, self._checkpoint, self._port), daemon=True)
        self._process.start()
        if not mine.poll(START_S):
            raise TimeoutError(f"the policy server did not start within {START_S:g} s")
        self.address = mine.recv()
        self._port = int(self.address.rpartition(":")[2])
        return time.monotonic()

    def kill(self) -> float:
        """Kill it by -9 and return when [s]."""
        killed_s = time.monotonic()
        os.kill(self._process.pid or 0, signal.SIGKILL)
        self._process.join()
        return killed_s

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _serve(ready: Connection, checkpoint: Path, port: int) -> None:
    torch.set_num_threads(1)
    server = PolicyServer(load(checkpoint), bind("127.0.0.1", port, None), fingerprint=fingerprint(checkpoint))
    asyncio.run(server.run(lambda: ready.send(server.address)))


def _fly(outages: Outages, server: Server, seed: int) -> tuple[Course, Embodiment]:
    """Run once, with the server killed on the way."""
    after_s, first = float(np.random.default_rng(seed).uniform(*outages.after_s)), First()
    times: dict[str, float] = {}

    def sabotage() -> None:
        if first.seen.wait(START_S):
            time.sleep(after_s)
            times["killed_s"] = server.kill()
            time.sleep(outages.gone_s)
            times["back_s"] = server.start()

    saboteur = threading.Thread(target=sabotage, name="sabotage", daemon=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(outages.twin(seed=seed, instruction=outages.instruction)) as robot,
        RemotePolicy(server.address, open_s=START_S) as policy,
    ):
        observed = Observed(robot)
        saboteur.start()
        deploy(
            observed,
            policy,
            instruction=outages.instruction,
            seconds=after_s + outages.gone_s + RESTART_S + BACK_S,
            out=Path(folder),
            strategy=outages.strategy(),
            hz=outages.hz,
            latency_s=0.0,
            guard={"collides": outages.collides, "hardware": False},
            steering=first,
        )
        saboteur.join()
        body = Embodiment.from_dict(robot.embodiment())
        log, *stops = (
            _lines(path) for path in [Path(folder, "events.jsonl"), *sorted(Path(folder, "stops").iterdir())]
        )
    ticks = [tick for stop in stops for tick in stop]
    return Course(log=log, ticks=ticks, commands=observed.commands, **times), body


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class First(Verbatim):
    """The operator's words; `seen` is set when the loop has looked at its first frame."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self.seen = threading.Event()

    def look(self, observation: Observation) -> str | None:
        """Return the instruction."""
        self.seen.set()
        return super().look(observation)


class Observed:
    """A robot whose commands are written down with their times."""

    def __init__(self, robot: Robot):
        """Take the robot."""
        self._robot, self.cameras = robot, robot.cameras
        self.commands: list[tuple[float, np.ndarray]] = []

    def embodiment(self) -> dict[str, Any]:
        """Return what the robot says."""
        return self._robot.embodiment()

    def read_joints(self) -> Measurement | None:
        """Return what the robot says."""
        return self._robot.read_joints()

    def send_action(self, action: np.ndarray) -> None:
        """Write down, then send."""
        self.commands.append((time.monotonic(), action.copy()))
        self._robot.send_action(action)

    def truth(self) -> dict[str, Any] | None:
        """Return what the robot says."""
        return self._robot.truth()

    def close(self) -> None:
        """Close the robot."""
        self._robot.close()
