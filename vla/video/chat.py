"""Questions to a model, and endpoints that speak OpenAI's protocol: vLLM, llama.cpp, Ollama, or a company's."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

Read = TypeVar("Read")
Ask = Callable[[str, Sequence[str], float], str]  # text, images (data addresses), temperature -> answer
VARIED = 0.7  # temperature at which several answers are drawn
SILENCE = "no reply came"  # how a problem is told that another run may not have
AGAIN = (408, 409, 429)  # answers that a second try may change, beside 5xx


class EndpointError(ValueError):
    """The endpoint cannot be used at all; the message says what to change."""


class UnreachableError(EndpointError):
    """Nobody answers at the address now: it is wrong, or the network or the server is down."""


class NoReply(Exception):
    """This one question was not answered; the next one may be."""


class SilenceError(NoReply):
    """Nothing came back for this question, which says nothing about it: asked later, it may be answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{SILENCE} ({reason})")


class Endpoint:
    """Posts JSON to paths below `url`; the key comes from the environment variable, if one is needed."""

    def __init__(self, url: str, *, key_variable: str, timeout_s: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"url={url!r} is no address; give for example http://localhost:8000/v1")
        self.url, self._key_variable, self._timeout_s = url.rstrip("/"), key_variable, timeout_s
        self.place = place_of(self.url)
        key = os.environ.get(key_variable, "")
        self._client = httpx2.Client(timeout=timeout_s, headers={"Authorization": f"Bearer {key}"} if key else {})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer; NoReply where another try may help, EndpointError where none will."""
        where = f"{self.place}/{path}"
        try:
            response = self._client.post(f"{self.url}/{path}", json=body)
        except httpx2.TimeoutException as error:
            raise SilenceError(f"no answer within {self._timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise UnreachableError(f"{where} cannot be reached ({error}): is it running, is url right?") from error
        if response.status_code in AGAIN or response.status_code >= 500:
            raise SilenceError(f"the endpoint answered {response.status_code}")
        if response.status_code >= 400:
            raise EndpointError(
                f"{where} refuses with {response.status_code}: {response.text[:300]!r}; check url, model and the key "
                f"in the environment variable {self._key_variable}"
            )
        try:
            return response.json()
        except ValueError as error:
            raise NoReply("the endpoint's answer is not JSON") from error


def place_of(url: str) -> str:
    """Return an address without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class ChatEndpoint:
    """A model at `url`/chat/completions."""

    def __init__(self, url: str, model: str, *, key_variable: str, timeout_s: float, max_tokens: int) -> None:
        self._endpoint = Endpoint(url, key_variable=key_variable, timeout_s=timeout_s)
        self._model, self._max_tokens = model, max_tokens
        self.identity = f"{model}, at {self._endpoint.place}"  # a name says little: "default"

    def __call__(self, text: str, images: Sequence[str], temperature: float) -> str:
        """Return the answer to a text and images (data addresses); NoReply where there is none."""
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": image}} for image in images]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": temperature,
            "max_tokens": self._max_tokens,
        }
        try:
            answer = self._endpoint.post("chat/completions", body)["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise NoReply(f"the endpoint answered without a message ({error!r})") from error
        if not isinstance(answer, str) or not answer.strip():
            raise NoReply("the endpoint's message is empty")
        return answer


class Chat:
    """Asks a model one question at a time, and again where no answer came, or `samples` times for their agreement."""

    def __init__(self, ask: Ask, samples: int = 1) -> None:
        if samples < 1:
            raise ValueError(f"samples={samples} answers nothing: give 1, or more, whose agreement is the confidence")
        self._ask, self.samples = ask, samples

    def ask_for(self, text: str, images: Sequence[str], read: Callable[[str], Read]) -> list[Read]:
        """Return what `read` makes of the answers, `samples` at most; NoReply where there is none.

        A single one is the likeliest, and asked for once more where it is none; several are drawn at VARIED.
        """
        replies: list[Read] = []
        problem = NoReply("")
        for _ in range(max(self.samples, 2)):
            try:
                replies.append(read(self.ask(text, images, 0.0 if self.samples == 1 else VARIED)))
            except NoReply as error:
                problem = error
            if len(replies) == self.samples:
                break
        if not replies:
            raise problem
        return replies

    def agreed(self, replies: Sequence[Read], same: Callable[[Read, Read], bool]) -> tuple[Read, float | None]:
        """Return the reply that most others are the same as, and their share of all samples; None for a single one."""
        votes = [sum(same(reply, other) for other in replies) for reply in replies]
        best = max(range(len(replies)), key=lambda number: (votes[number], -number))
        return replies[best], None if self.samples == 1 else votes[best] / self.samples

    def ask(self, text: str, images: Sequence[str] = (), temperature: float = 0.0) -> str:
        """Return the answer to a text and images (data addresses); NoReply where there is none."""
        return self._ask(text, images, temperature)


def read_object(reply: str) -> dict[str, Any]:
    """Take the JSON object out of a reply, since models like to talk around it, or to fence it; NoReply without one.

    All its numbers are floats; one without end, or that is none (NaN), is no JSON.
    """
    start, stop = reply.find("{"), reply.rfind("}") + 1
    try:
        value = json.loads(reply[start:stop], parse_int=float, parse_constant=_refuse) if start >= 0 else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NoReply(f"the reply is no JSON object: {reply[:80]!r}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def read_text(value: Any, most: int) -> str:
    """Return a model's text as one printable line of at most `most` characters, "" where it is none."""
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:most]
