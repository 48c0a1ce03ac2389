"""A connection to a policy server that is made when it is needed and given up at the first doubt."""

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from vla.serve.errors import DeadlineMissed, Refusal, ServerGone, WrongAnswer
from vla.serve.wire import WireError, pack, unpack

CLOSE_S = 0.2  # a server that does not say goodbye is not waited for


class Backoff:
    """How long to leave a server alone after each failure in a row: doubling, with jitter, up to a limit."""

    def __init__(self, first_s: float = 0.05, most_s: float = 1.0, rng: random.Random | None = None):
        """Take the first and the longest pause [s]."""
        self._first_s, self._most_s = first_s, most_s
        self._rng = rng or random.Random()
        self.failures = 0

    def pause_s(self) -> float:
        """Count a failure, and return for how long to wait now."""
        longest_s = min(self._first_s * 2 ** min(self.failures, 30), self._most_s)
        self.failures += 1
        return longest_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0


class Line:
    """Asks one question at a time. Not for several threads at once, except `hang_up`."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        open_s: float,
        message_bytes: int,
        meet: Callable[[dict[str, Any]], None],
        backoff: Backoff | None = None,
    ):
        """`meet` is called with the metadata of every new connection, and raises if it is not welcome."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a policy server; write ws://HOST:PORT")
        self.url = url
        self._address = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._open_s, self._message_bytes, self._meet = open_s, message_bytes, meet
        self._backoff = backoff or Backoff()
        self._not_before_s = -float("inf")
        self._connection: ClientConnection | None = None
        self._stack = ExitStack()
        self._last_id = 0
        self._hung_up = False
        self.connections = 0  # that were made so far

    def exchange(self, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send a message, and return the answer to it, after a new connection if there is none.

        Raises Refusal as the server says it, ServerGone, DeadlineMissed or WrongAnswer; after the last three the
        connection is dropped, so that a late answer cannot be taken for that of another question.
        """
        end_s = time.monotonic() + deadline_s
        connection = self.open()
        self._last_id += 1
        try:
            _limit_sending(connection, deadline_s)
            connection.send(pack({**message, "id": self._last_id}))
            while True:
                answer = self._read(connection.recv(end_s - time.monotonic()))
                if answer is not None:
                    return answer
        except TimeoutError as error:
            pause_s = self._failed()
            raise DeadlineMissed(f"{self.url} did not answer within {deadline_s:g} s", pause_s) from error
        except (ConnectionClosed, OSError) as error:
            raise ServerGone(f"{self.url} broke the connection: {error}", self._failed()) from error
        except (WireError, WrongAnswer) as error:
            raise WrongAnswer(f"{self.url} sent what is no answer: {error}", self._failed()) from error

    def open(self) -> ClientConnection:
        """Return the connection, a new one if there is none; raises ServerGone while the server is left alone."""
        if self._hung_up:
            raise ServerGone(f"the connection to {self.url} was closed on this side")
        if self._connection is not None:
            return self._connection
        pause_s = self._not_before_s - time.monotonic()
        if pause_s > 0:
            raise ServerGone(f"{self.url} is not there; next try in {pause_s:.2f} s", pause_s)
        try:
            self._connection = self._dial()
            metadata = self._connection.recv(self._open_s)
            if isinstance(metadata, str):
                raise WrongAnswer(f"it greets with the text {metadata[:80]!r}")
            self._meet(unpack(metadata))
        except InvalidStatus as error:
            words = bytes(error.response.body or b"").decode(errors="replace").strip()[:300]
            message, pause_s = f"{self.url} refuses the connection: {words or error}", self._failed()
            if error.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise Refusal("unauthorized", message) from error
            raise ServerGone(message, pause_s) from error
        except (ConnectionClosed, InvalidHandshake, OSError, EOFError) as error:
            raise ServerGone(f"no connection to {self.url}: {error}", self._failed()) from error
        except (WireError, WrongAnswer) as error:
            raise WrongAnswer(f"{self.url} is no policy server of this kind: {error}", self._failed()) from error
        except ValueError:  # `meet` does not want it
            self._failed()
            raise
        self._backoff.reset()
        self.connections += 1
        return self._connection

    def hang_up(self) -> None:
        """End it for good, from any thread; a question in the air ends in ServerGone."""
        self._hung_up = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the connection without waiting for the other side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        self._stack.close()

    def _dial(self) -> ClientConnection:
        """Open a websocket; everything about it ends with `_stack`."""
        sock = socket.create_connection(self._address, timeout=self._open_s)
        self._stack.callback(sock.close)
        sock.settimeout(None)  # else Python waits for that timeout when it sends, and not for the one of the socket
        dialled = connect(
            self.url,
            sock=sock,
            additional_headers=self._headers,
            compression=None,
            proxy=None,  # robots and their servers share a network
            open_timeout=self._open_s,
            close_timeout=CLOSE_S,
            max_size=self._message_bytes,
        )
        return self._stack.enter_context(dialled)

    def _failed(self) -> float:
        """Drop the connection, and return for how long the server is left alone [s]."""
        self.drop()
        pause_s = self._backoff.pause_s()
        self._not_before_s = time.monotonic() + pause_s
        return pause_s

    def _read(self, data: str | bytes) -> dict[str, Any] | None:
        """Return an answer, None if it answers an earlier question."""
        if isinstance(data, str):
            refusal = Refusal.from_text(data)
            if refusal.request in (None, self._last_id):
                raise refusal
            return None
        answer = unpack(data)
        number = answer.get("id")
        if type(number) is not int or number > self._last_id:
            raise WrongAnswer(f"it answers question {number!r}, the last one was {self._last_id}")
        return answer if number == self._last_id else None


def _limit_sending(connection: ClientConnection, seconds: float) -> None:
    """Let the system give up on a server that does not read; `recv` takes a timeout, `send` does not."""
    whole, part = divmod(seconds, 1.0)
    limit = struct.pack("@ll", int(whole), int(part * 1e6))
    with contextlib.suppress(OSError):  # closed meanwhile, as `send` will say in better words
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
