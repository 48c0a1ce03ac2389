"""How server and client say that something went wrong: a code for programs, words for people, never a traceback."""

import json

CODES = {
    "too_large": "a message was longer than the server reads; the connection was closed before it was read",
    "too_many_connections": "as many connections are open as the server holds; there is no connection",
    "unauthorized": "the token is missing or wrong; there is no connection",
    "malformed": "the bytes are not a message of the wire; the connection is closed",
    "bad_request": "the message does not fit the policy; the next one may",
    "superseded": "a newer request of the same connection came before this one was begun",
    "rate_limited": "more requests in a second than one connection may send",
    "policy_failed": "the policy raised an error or answered nonsense; its traceback is in the server's log",
    "out_of_memory": "the device had no room for the request, also after freeing what could be freed",
}


class RemoteError(RuntimeError):
    """The policy server gave no usable answer; nothing should move on its behalf.

    retry_in_s: how long the client will refuse to try again [s].
    """

    def __init__(self, message: str, retry_in_s: float = 0.0):
        """Say what happened."""
        super().__init__(message)
        self.retry_in_s = retry_in_s


class Refusal(RemoteError):
    """The server does not answer a request: `code` is one of CODES, the text says why and what to do."""

    def __init__(self, code: str, message: str, request: int | None = None):
        """request: the id of the request that is refused, None where it is unknown or was not given."""
        super().__init__(message)
        self.code = code
        self.request = request

    def to_text(self) -> str:
        """Return the text frame that says so; openpi's client raises whatever comes as text."""
        return json.dumps({"error": self.code, "message": str(self), "id": self.request})

    @classmethod
    def from_text(cls, text: str) -> "Refusal":
        """Read a text frame; what is not of our making becomes code "foreign" with the beginning of its text."""
        try:
            said = json.loads(text)
            return cls(str(said["error"]), str(said["message"]), said["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls("foreign", text[:500])


class ServerGone(RemoteError):
    """There is no connection to the server, or it broke."""


class DeadlineMissed(RemoteError):
    """The server did not answer in time."""


class WrongAnswer(RemoteError):
    """What came is not an answer to the question; the connection is given up."""


class StaleAnswer(RemoteError):
    """The answer belongs to an episode that is over."""
