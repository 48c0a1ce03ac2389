"""A headless Chromium, driven through its DevTools protocol: opens a page, clicks, types, looks."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from itertools import count

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One tab; a context manager."""

    def __init__(self, url, size=(1400, 1000)):
        self._url, self._size, self._numbers = url, size, count(1)

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        flags += [f"--user-data-dir={self._folder.name}", f"--window-size={self._size[0]},{self._size[1]}"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        port = next(m[1] for line in self._process.stderr if (m := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self._socket = connect(tab["webSocketDebuggerUrl"], max_size=None, compression=None)
        self.call("Page.enable")
        self.call("Page.navigate", url=self._url)
        self.wait("document.readyState === 'complete'")
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        self._folder.cleanup()

    def call(self, method, **params):
        """Send one command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def read(self, expression):
        """Return the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, seconds=60.0):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.read(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def click(self, selector):
        """Press the left mouse button in the middle of an element, scrolled to if it is out of sight."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.read(f"{element}.scrollIntoViewIfNeeded()")
        where = self.read(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def press(self, key):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 and kind == "keyDown" else ""
            )

    def type(self, text):
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path):
        """Save what the tab shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
