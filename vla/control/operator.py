"""The operator's page: what the robot sees and does, live in a browser, with a box for words and a stop button.

One websocket carries the state of the loop and the pictures out, and what the operator does in. The page is served on
loopback only unless a token is set; a page of another site cannot connect, since its origin is not ours.

Out, as text: {"state", "reasons", "joints", "command", ...}, see `Snapshot`. Out, as bytes: one byte with the number of
the camera, then a JPEG. In, as text: {"do": "stop" | "clear" | "instruct" | "takeover" | "jog" | "take", ...}, see
`_obey`.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, urlsplit

import cv2
import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

PERIOD_S = 0.1  # between two updates of the page
MESSAGE_BYTES = 4096  # of what a page may send at once
INSTRUCTION_CHARACTERS = 300
JOG_MAX = 0.2  # [rad], gripper [1], that one message may ask for
QUALITY = 80  # of the JPEGs
PAGES = 8  # that may be open at once
MAY_LOAD = (  # nothing from anywhere else
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; connect-src 'self'; "
    "frame-ancestors 'none'"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the page shows of one moment."""

    state: str  # of the guard
    reasons: Sequence[str]
    joints: Sequence[float | None]  # measured [rad], gripper 0..1, None where nothing comes
    command: Sequence[float | None]  # as sent, the joints where nothing is
    instruction: str
    subtask: str = ""
    finished: Sequence[str] = ()
    progress: float | None = None
    done: float | None = None
    takeover: bool = False
    age_s: float = 0.0  # of the newest tick: a loop that is stuck is not what its last state says
    ticks: int = 0
    missed: int = 0
    interventions: Mapping[str, int] = field(default_factory=dict)
    take: Mapping[str, Any] | None = None  # the episode that is being recorded, see `takes.Takes`
    images: Mapping[str, np.ndarray] = field(default_factory=dict)  # camera -> uint8[H, W, 3] RGB

    def to_json(self) -> str:
        """Everything but the pictures."""
        plain = {key: value for key, value in self.__dict__.items() if key != "images"}
        return json.dumps({**plain, "reasons": list(self.reasons), "interventions": dict(self.interventions)})


class Operated(Protocol):
    """What an operator can do to a loop; all of it may be called from any thread."""

    def snapshot(self) -> Snapshot | None:
        """Return the present moment, None before there is one."""
        ...

    def estop(self, reason: str) -> None:
        """Brake and hold, latched."""
        ...

    def clear(self) -> None:
        """Acknowledge what happened, and engage anew where the arm is."""
        ...

    def instruct(self, text: str) -> str:
        """Carry out other words from now on; return why not, empty if it does."""
        ...

    def takeover(self, on: bool) -> str:
        """Let the operator move the joints instead of the policy, or give them back; return why not."""
        ...

    def jog(self, joint: int, by: float) -> None:
        """Move the target of one joint by so much [rad], gripper [1]; only under takeover."""
        ...

    def take(self, what: str) -> str:
        """Start an episode, or end it as success, as failure or by discarding it; return why not."""
        ...


@dataclass(frozen=True)
class Door:
    """Who may come in."""

    host: str
    token: str | None

    def refusal(self, request: Request) -> str:
        """Return why a request is turned away, empty if it is not."""
        named = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != named:
            return "pages of another site may not operate the robot"
        if self.token is None:
            try:
                local = ipaddress.ip_address(urlsplit(f"//{named}").hostname or "").is_loopback
            except ValueError:
                local = urlsplit(f"//{named}").hostname == "localhost"
            return "" if local else "this page answers on this machine only"
        given = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
        return "" if hmac.compare_digest(given.encode(), self.token.encode()) else "add ?token=... to the address"


class OperatorPage:
    """Serves the page of one loop from a thread of its own; a context manager."""

    def __init__(
        self, loop: Operated, joints: Sequence[str], cameras: Sequence[str], listener: socket.socket, token: str | None
    ) -> None:
        """Take the loop to operate and a bound socket (see `listen`); joints and cameras in the order of snapshots."""
        self._loop, self._listener = loop, listener
        host, port = listener.getsockname()[:2]
        self._door, self._cameras = Door(host, token), list(cameras)
        named = f"[{host}]" if ":" in host else host
        self.address = f"http://{named}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
        facts = {"joints": list(joints), "cameras": self._cameras}
        page = resources.files("vla.control").joinpath("operator.html").read_text()
        self._page = page.replace("/*FACTS*/", json.dumps(facts).replace("<", "\\u003c")).encode()
        self._pages: set[ServerConnection] = set()
        self._answers: set[asyncio.Task] = set()  # to instructions
        self._instructing: set[ServerConnection] = set()  # pages whose words are being looked at
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="operator page", daemon=True)

    def __enter__(self) -> "OperatorPage":
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.call_soon_threadsafe(self._end.set)
        self._thread.join(5)
        self._listener.close()

    async def _run(self) -> None:
        self._runner = asyncio.get_running_loop()
        settings = {"process_request": self._http, "max_size": MESSAGE_BYTES, "compression": None}
        async with serve(self._session, sock=self._listener, **settings):
            self._ready.set()
            show = asyncio.create_task(self._show())
            await self._end.wait()
            show.cancel()

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket, and turn away who may not come in."""
        if refusal := self._door.refusal(request):
            return connection.respond(HTTPStatus.FORBIDDEN, f"{refusal}\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            full = len(self._pages) >= PAGES
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open\n") if full else None
        if urlsplit(request.path).path != "/":
            return connection.respond(HTTPStatus.NOT_FOUND, "there is one page only: /\n")
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(self._page)),
                "Content-Security-Policy": MAY_LOAD,
                "Cache-Control": "no-store",
            }
        )
        return Response(HTTPStatus.OK, "OK", headers, self._page)

    async def _session(self, connection: ServerConnection) -> None:
        self._pages.add(connection)
        try:
            async for message in connection:
                if _instructs(message):
                    answer = asyncio.create_task(self._instruct(connection, message))
                    self._answers.add(answer)  # else nobody holds it
                    answer.add_done_callback(self._answers.discard)
                else:
                    await self._refuse(connection, self._obey(message))
        except ConnectionClosed:
            pass
        finally:
            self._pages.discard(connection)
            if not self._pages:  # nobody holds the keys any more
                self._loop.takeover(False)

    async def _instruct(self, connection: ServerConnection, message: str | bytes) -> None:
        """Hand words on in a thread: a policy behind a network takes its time to read them, a stop must not wait."""
        if connection in self._instructing:
            await self._refuse(connection, "the words before are still being read")
            return
        self._instructing.add(connection)
        try:
            await self._refuse(connection, await asyncio.to_thread(self._obey, message))
        finally:
            self._instructing.discard(connection)

    @staticmethod
    async def _refuse(connection: ServerConnection, reply: str) -> None:
        if reply:
            with suppress(ConnectionClosed):
                await connection.send(json.dumps({"refused": reply}))

    def _obey(self, message: str | bytes) -> str:
        """Do what a page asks for; return why not."""
        try:
            asked: Any = json.loads(message)
            what = asked["do"]
            if what == "stop":
                self._loop.estop("the operator's page")
            elif what == "clear":
                self._loop.clear()
            elif what == "instruct":
                text = " ".join(str(asked["text"]).split())
                return self._loop.instruct(text[:INSTRUCTION_CHARACTERS]) if text else "there are no words"
            elif what == "takeover":
                return self._loop.takeover(bool(asked["on"]))
            elif what == "take":
                return self._loop.take(str(asked["what"]))
            elif what == "jog":
                joint, by = int(asked["joint"]), float(asked["by"])
                if not math.isfinite(by) or joint < 0:
                    return f"joint {joint} cannot move by {by}"
                self._loop.jog(joint, max(-JOG_MAX, min(JOG_MAX, by)))
            else:
                return f"{str(what)[:40]!r} is not known; possible: stop, clear, instruct, takeover, jog, take"
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            return f"not understood: {type(error).__name__}"
        return ""

    async def _show(self) -> None:
        """Send the newest moment to every page; one that reads slowly misses some."""
        sending: dict[ServerConnection, asyncio.Task] = {}
        while True:
            await asyncio.sleep(PERIOD_S)
            free = [page for page in self._pages if page not in sending or sending[page].done()]
            sending = {page: task for page, task in sending.items() if page in self._pages}
            snapshot = self._loop.snapshot() if free else None
            if snapshot is None:
                continue
            text, pictures = await asyncio.to_thread(self._encode, snapshot)
            for page in free:
                sending[page] = asyncio.create_task(self._send(page, text, pictures))

    def _encode(self, snapshot: Snapshot) -> tuple[str, list[bytes]]:
        pictures = []
        for number, name in enumerate(self._cameras):
            if (image := snapshot.images.get(name)) is not None:
                bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
                encoded, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                pictures += [bytes([number]) + jpeg.tobytes()] if encoded else []
        return snapshot.to_json(), pictures

    @staticmethod
    async def _send(page: ServerConnection, text: str, pictures: list[bytes]) -> None:
        try:
            await page.send(text)
            for picture in pictures:
                await page.send(picture)
        except ConnectionClosed:
            pass


def _instructs(message: str | bytes) -> bool:
    """Say whether a message holds words for the policy; a stop never counts as that, whatever else it holds."""
    try:
        told = json.loads(message)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("do") == "instruct"
