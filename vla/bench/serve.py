"""What the policy server adds to a round trip, beside the same bytes over a bare websocket and over bare TCP."""

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import websockets.asyncio.server
import websockets.sync.client
from tqdm import trange

from vla.bench import outage
from vla.bench.outage import Outages
from vla.control.listener import bind
from vla.serve.client import RemotePolicy
from vla.serve.limits import Limits
from vla.serve.server import PolicyServer
from vla.serve.wire import pack
from vla.types import ActionChunk, Camera, Embodiment, Observation

CONTROL_HZ, JOINTS = 10.0, 6
START_S = 600.0  # for a process to begin
SLOWEST_S = 30.0  # for one answer
HEADER_BYTES = 4  # that say how long a message over TCP is


def measure(
    *, seed: int, calls: int, cameras: int, size: int, action_horizon: int, outages: Outages | None = None
) -> dict[str, Any]:
    """Time `calls` round trips of each way, in turn, between two processes; one result.json worth of values.

    ours: `RemotePolicy.act` with `PolicyServer`, whose policy answers at once with the state that it was sent, so that
    what is timed is packing, checking, sending, scheduling and reading. websocket, tcp: the same request bytes there
    and as many bytes as an answer has back, which nobody looks into; a ratio of 1 would mean that ours is free.
    """
    if calls < 20:
        raise ValueError(f"calls={calls} is too few for a 95th percentile; give at least 20")
    body = _body(cameras, size)
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (size, size, 3), np.uint8) for name in body.cameras}
    state = rng.uniform(-1, 1, JOINTS).astype(np.float32)
    observation = Observation(images, state, "put the red cube in the blue bowl", 0.0)
    request = pack({"images": images, "state": state, "prompt": observation.instruction, "time_s": 0.0, "id": 1})
    answer = _answer_bytes(action_horizon)
    with ExitStack() as stack:
        address = stack.enter_context(_process(_serve_policy, cameras, size, action_horizon))
        policy = stack.enter_context(RemotePolicy(address, deadline_s=SLOWEST_S, open_s=START_S))
        ways: dict[str, Callable[[], object]] = {
            "ours": lambda: policy.act([observation]),
            "websocket": stack.enter_context(_websocket(request, answer)),
            "tcp": stack.enter_context(_tcp(request, answer)),
        }
        seconds = _timed(ways, calls)
    result = {name: _percentiles_ms(values) for name, values in seconds.items()}
    ratios = {
        name: {key: result["ours"][key] / result[name][key] for key in ("p50", "p95")} for name in ("websocket", "tcp")
    }
    return {
        "round_trip_ms": result,
        "ratio_to": ratios,
        "request_bytes": len(request),
        "answer_bytes": answer,
        "cameras": cameras,
        "size": size,
        "action_horizon": action_horizon,
        "calls": calls,
        **({"outages": outage.measure(outages, seed)} if outages and outages.count else {}),
    }


class StillPolicy:
    """Asks every joint to stay where it is: the cheapest policy that answers what it was sent."""

    def __init__(self, embodiment: Embodiment, action_horizon: int):
        """Take the body that is to be held, and how many steps to hold it."""
        self.embodiment = embodiment
        self._action_horizon = action_horizon

    def act(
        self, observations: Sequence[Observation], given: np.ndarray | None = None, given_steps: int = 0
    ) -> list[ActionChunk]:
        """Repeat each state."""
        return [
            ActionChunk(np.tile(o.state, (self._action_horizon, 1)), 1 / CONTROL_HZ, o.time_s, 1.0, 0.5, 0.0)
            for o in observations
        ]

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Say nothing."""
        return ["" for _ in observations]

    def unknown_words(self, text: str) -> list[str]:
        """Know every word, since none matters."""
        return []


def _body(cameras: int, size: int) -> Embodiment:
    ones = (1.0,) * JOINTS
    return Embodiment(
        name="bench",
        joints=tuple(f"joint {index}" for index in range(JOINTS)),
        position_min=(-1.0,) * JOINTS,
        position_max=ones,
        velocity_max=ones,
        acceleration_max=ones,
        jerk_max=ones,
        control_hz=CONTROL_HZ,
        cameras={f"camera {index}": Camera(size, size) for index in range(cameras)},
    )


def _answer_bytes(action_horizon: int) -> int:
    """Return how long an answer of ours is."""
    timing = {"infer_ms": 0.1, "wait_ms": 0.1, "prev_total_ms": 0.1}
    heads = {"dt_s": 0.1, "time_s": 0.0, "confidence": 1.0, "progress": 0.5, "done": 0.0, "id": 1000}
    actions = np.zeros((action_horizon, JOINTS), np.float32)
    return len(pack({"actions": actions, **heads, "server_timing": timing, "policy_timing": {"infer_ms": 0.1}}))


def _timed(ways: dict[str, Callable[[], object]], calls: int) -> dict[str, np.ndarray]:
    """Return float64[calls] of each way [s], called in turn so that all meet the same machine."""
    seconds = {name: np.empty(calls) for name in ways}
    for call in trange(-10, calls, desc="round trips", unit="call", leave=False):  # the first ones warm up
        for name, ask in ways.items():
            start = time.perf_counter()
            ask()
            if call >= 0:
                seconds[name][call] = time.perf_counter() - start
    return seconds


def _percentiles_ms(seconds: np.ndarray) -> dict[str, float]:
    return dict(zip(("p50", "p95", "p99"), (np.percentile(seconds, [50, 95, 99]) * 1e3).tolist(), strict=True))


@contextmanager
def _process(serve: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Run a server in a process of its own while the context lasts, and return what it says when it is ready."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=serve, args=(its, *arguments), daemon=True)
    process.start()
    try:
        if not mine.poll(START_S):
            raise TimeoutError(f"a server of the bench did not start within {START_S:g} s")
        yield mine.recv()
    finally:
        process.terminate()
        process.join()


def _serve_policy(ready: Connection, cameras: int, size: int, action_horizon: int) -> None:
    policy = StillPolicy(_body(cameras, size), action_horizon)
    limits = Limits(requests_per_s=1e9, burst=10**9, message_bytes=2**30)
    server = PolicyServer(policy, bind("127.0.0.1", 0, None), limits=limits)
    asyncio.run(server.run(lambda: ready.send(server.address)))


@contextmanager
def _websocket(request: bytes, answer: int) -> Iterator[Callable[[], object]]:
    """Return a round trip over a websocket whose server answers every message with the same bytes."""
    with (
        _process(_serve_websocket, answer) as port,
        websockets.sync.client.connect(
            f"ws://127.0.0.1:{port}", compression=None, proxy=None, open_timeout=START_S
        ) as connection,
    ):

        def ask() -> object:
            connection.send(request)
            return connection.recv(SLOWEST_S)

        yield ask


def _serve_websocket(ready: Connection, answer: int) -> None:
    said = bytes(answer)

    async def talk(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for _ in connection:
            await connection.send(said)

    async def serve() -> None:
        async with websockets.asyncio.server.serve(talk, "127.0.0.1", 0, compression=None, max_size=2**30) as server:
            ready.send(next(iter(server.sockets)).getsockname()[1])
            await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def _tcp(request: bytes, answer: int) -> Iterator[Callable[[], object]]:
    """Return a round trip over a TCP connection whose server answers every message with the same bytes."""
    with _process(_serve_tcp, answer) as port, socket.create_connection(("127.0.0.1", port), START_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = len(request).to_bytes(HEADER_BYTES, "big") + request
        room = memoryview(bytearray(answer))

        def ask() -> object:
            connection.sendall(message)
            return _fill(connection, room)

        yield ask


def _serve_tcp(ready: Connection, answer: int) -> None:
    said = bytes(answer)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready.send(server.getsockname()[1])
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        header, room = memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray())
        while _fill(connection, header):
            length = int.from_bytes(header, "big")
            room = room if len(room) == length else memoryview(bytearray(length))
            _fill(connection, room)
            connection.sendall(said)


def _fill(connection: socket.socket, room: memoryview) -> bool:
    """Read as many bytes as there is room for; False if the other side has closed."""
    filled = 0
    while filled < len(room):
        count = connection.recv_into(room[filled:])
        if count == 0:
            return False
        filled += count
    return True
