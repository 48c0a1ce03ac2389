"""A policy behind a websocket: openpi's wire, with caps, a token, typed refusals and latest-wins."""

import asyncio
import contextlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from vla.serve.errors import Refusal
from vla.serve.limits import Bucket, Limits
from vla.serve.metrics import CONTENT_TYPE, Metrics
from vla.serve.request import MODES, BadRequest, Request, read_request, request_id
from vla.serve.wire import WireError, pack, unpack
from vla.serve.worker import ServedPolicy, Worker

log = logging.getLogger(__name__)
quiet = logging.getLogger("vla.serve.handshakes")  # strangers' broken handshakes are counted, not told
quiet.setLevel(logging.CRITICAL)

STUCK_S = 30.0  # an inference that takes longer makes /healthz say so
OPEN_S, PING_S, CLOSE_S = 5.0, 20.0, 1.0  # for opening, between and for pings, for closing


class Session:
    """One connection: its newest request that waits, and what it may still send."""

    def __init__(self, connection: ServerConnection, limits: Limits):
        """Begin with nothing asked."""
        self.connection = connection
        self.bucket = Bucket(limits.requests_per_s, limits.burst, time.monotonic)
        self.arrived = asyncio.Event()
        self.previous: dict[str, float] = {}  # what the answer says about the one before, as openpi's does
        self._waiting: tuple[Request, float] | None = None
        self._taken_s = 0.0

    def put(self, request: Request, now_s: float) -> Request | None:
        """Let a request wait, and return the one that it supersedes, if any."""
        before, self._waiting = self._waiting, (request, now_s)
        self.arrived.set()
        return before[0] if before else None

    def take(self) -> Request:
        """Take the newest request."""
        assert self._waiting is not None
        request, self._taken_s = self._waiting
        self._waiting = None
        self.arrived.clear()
        return request

    def age_s(self) -> float:
        """Return how long ago the request that was taken last had arrived [s]."""
        return time.monotonic() - self._taken_s

    async def refuse(self, refusal: Refusal) -> None:
        """Say why a request is not answered."""
        await self.connection.send(refusal.to_text())


class PolicyServer:
    """Answers the requests of many connections with one policy; `run` serves until `stop`."""

    def __init__(
        self,
        policy: ServedPolicy,
        listener: socket.socket,
        *,
        token: str | None = None,
        limits: Limits | None = None,
        fingerprint: str = "",
    ):
        """Take a policy and a socket from `bind`; `fingerprint` tells this policy from others of the same body."""
        self.metrics = Metrics()
        self.limits = limits or Limits()
        host, number = listener.getsockname()[:2]
        self.address = f"ws://[{host}]:{number}" if ":" in host else f"ws://{host}:{number}"
        self._listener, self._token = listener, token
        self._worker = Worker(policy)
        self._body = policy.embodiment
        self._fingerprint = fingerprint
        self._admitted: set[ServerConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Warm the policy up, call `ready`, serve until `stop`."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._worker.warm_up()
            async with await self._open():
                ready()
                await self._stopping.wait()
        finally:
            self._worker.close()
            self._listener.close()

    def stop(self) -> None:
        """End `run`; may be called from any thread, and before it runs."""
        if self._loop is None:
            self._stopping.set()
        else:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _open(self) -> Server:
        try:
            return await serve(
                self._session,
                sock=self._listener,
                process_request=self._http,
                origins=[None],  # web pages have no business here
                compression=None,  # a bomb would grow a thousandfold
                max_size=self.limits.message_bytes,
                max_queue=2,
                open_timeout=OPEN_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=CLOSE_S,
                logger=quiet,
            )
        except OSError as error:
            raise OSError(f"cannot serve on {self.address} ({error.strerror}); give another port=") from error

    def metadata(self) -> dict[str, Any]:
        """Return the first message of every connection: what body the policy moves, and which policy it is."""
        joints = list(self._body.joints)
        own = {"state": joints, "action": joints, "action_horizon": self._worker.action_horizon}
        return {
            "embodiment": {**self._body.to_dict(), **own},
            "embodiment_hash": self._body.hash(),
            "policy": self._fingerprint,
            "modes": list(MODES),
            "glimpses": self._worker.glimpses,
            **({} if self._worker.ready is None else {"ready": self._worker.ready}),
        }

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer what is not a websocket, and refuse websockets without the token or beyond the cap."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            busy_s = self._worker.busy_s()
            if busy_s < STUCK_S:
                return connection.respond(HTTPStatus.OK, "OK\n")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"one inference has taken {busy_s:.0f} s\n")
        if not self._may_enter(request):
            self.metrics.error("unauthorized")
            return connection.respond(HTTPStatus.UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN\n")
        if path == "/metrics":
            response = connection.respond(HTTPStatus.OK, self.metrics.text())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        self._admitted = {admitted for admitted in self._admitted if admitted.state is not State.CLOSED}
        if len(self._admitted) >= self.limits.connections:
            self.metrics.error("too_many_connections")
            words = f"{self.limits.connections} connections are open, more are not taken\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, words)
        self._admitted.add(connection)
        return None

    def _may_enter(self, request: HttpRequest) -> bool:
        if not self._token:
            return True
        scheme, _, given = (request.headers.get("Authorization") or "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token.encode())
        return same and scheme.lower() in ("bearer", "api-key")  # the second: openpi's client

    async def _session(self, connection: ServerConnection) -> None:
        session = Session(connection, self.limits)
        self.metrics.connected(1)
        log.info("connection from %s", connection.remote_address)
        answering = asyncio.create_task(self._answer(session))
        try:
            await connection.send(pack(self.metadata()))
            async for message in connection:
                await self._receive(session, message)
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self.metrics.error("too_large")
            log.info("connection lost: %s", closed)
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            self._admitted.discard(connection)
            self.metrics.connected(-1)

    async def _receive(self, session: Session, data: str | bytes) -> None:
        """Read one message and let it wait for its turn, or refuse it."""
        now_s = time.monotonic()
        self.metrics.requested()
        number = None
        try:
            if not session.bucket.take():
                raise Refusal("rate_limited", f"at most {self.limits.requests_per_s:g} requests a second")
            if isinstance(data, str):
                raise WireError("requests are binary messages")
            message = unpack(data)
            number = request_id(message)
            request = read_request(message, self._body, self._worker.action_horizon, now_s)
            before = session.put(request, now_s)
            if before is not None:
                raise Refusal("superseded", "a newer request came before this one was begun", before.id)
        except WireError as error:
            self.metrics.error("malformed")
            await session.refuse(Refusal("malformed", str(error)))
            await session.connection.close(CloseCode.INVALID_DATA, "malformed message")
        except BadRequest as error:
            self.metrics.error("bad_request")
            await session.refuse(Refusal("bad_request", str(error), number))
        except Refusal as refusal:
            self.metrics.error(refusal.code)
            await session.refuse(refusal)
            if session.bucket.refused >= self.limits.refusals:
                await session.connection.close(CloseCode.POLICY_VIOLATION, "far too many requests")

    async def _answer(self, session: Session) -> None:
        """Answer a connection's newest request, again and again, until the connection ends."""
        try:
            while await session.arrived.wait():
                try:
                    await self._answer_one(session)
                except Refusal as refusal:
                    self.metrics.error(refusal.code)
                    await session.refuse(refusal)
        except ConnectionClosed:
            pass
        except Exception:
            log.exception("answering failed, the connection is closed")
            await session.connection.close(CloseCode.INTERNAL_ERROR, "the server failed")

    async def _answer_one(self, session: Session) -> None:
        request, said, inference_s = await self._worker.answer(session.take)
        infer_ms, wait_ms = inference_s * 1e3, (session.age_s() - inference_s) * 1e3
        timing = {"infer_ms": infer_ms, "wait_ms": wait_ms, **session.previous}
        number = {} if request.id is None else {"id": request.id}
        reply = {**said, **number, "server_timing": timing, "policy_timing": {"infer_ms": infer_ms}}
        await session.connection.send(pack(reply))
        total_s = session.age_s()
        session.previous = {"prev_total_ms": total_s * 1e3}
        self.metrics.answered(total_s, inference_s)


@contextlib.contextmanager
def in_background(server: PolicyServer) -> Iterator[PolicyServer]:
    """Run a server in a thread of its own while the context lasts; errors at the start are raised here."""
    ready, failures = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            asyncio.run(server.run(ready.set))
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="policy server", daemon=True)
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        yield server
    finally:
        server.stop()
        thread.join()
