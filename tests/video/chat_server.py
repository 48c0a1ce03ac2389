"""A chat endpoint on this machine that speaks OpenAI's protocol and says what a test tells it to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer(ThreadingHTTPServer):
    """Answers /v1/chat/completions with `replies` in turn (a number is an HTTP status), and keeps what was asked."""

    def __init__(self, replies: list[Any], pause_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.asked, self.headers_seen, self.pause_s = list(replies), [], [], pause_s

    @property
    def url(self) -> str:
        """Base address, as a config names it."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.server.headers_seen.append(dict(self.headers))
        reply = self.server.replies.pop(0)
        time.sleep(self.server.pause_s)
        status = reply if isinstance(reply, int) else 200
        answer: Any = {"error": {"message": "told to fail"}}
        if self.path.endswith("/embeddings") and status == 200:
            answer = {"data": [{"index": k, "embedding": reply(text)} for k, text in enumerate(body["input"])]}
            self.server.replies.insert(0, reply)
        elif status == 200:
            answer = {"choices": [{"message": {"role": "assistant", "content": reply}}]} if reply != {} else {}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(*replies: Any, pause_s: float = 0.0) -> Iterator[ChatServer]:
    """Serve as long as the block runs, thinking for so long about every answer."""
    server = ChatServer(list(replies), pause_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
