"""A policy that answers over the network, in place of a loaded checkpoint."""

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from vla.model.prompts import plan_prompt
from vla.serve.errors import DeadlineMissed, Refusal, ServerGone, StaleAnswer, WrongAnswer
from vla.serve.limits import Limits
from vla.serve.line import Line
from vla.types import ActionChunk, ContractError, Embodiment, Observation

TOKEN_VARIABLE = "VLA_TOKEN"
HASTY_S = 0.05  # that a patient client waits where it has asked more often than the server allows
GLIMPSE_PIXELS = 256  # the longest side that is believed


class RemotePolicy:
    """A policy (types.py) behind `vla serve`, with what planning needs; blocks, so call it off the control loop.

    A failure is raised at once, as one of the errors in `serve/errors.py`, and says in `retry_in_s` how long the
    server will be left alone; calls before that fail without touching the network. A new connection is a new epoch:
    `ActionChunk.extra` holds `epoch`, which differs from `self.epoch` once the chunk is out of date.

    Words have a connection of their own, from the first time that they are asked for on, so that a chunk never waits
    for them on this side: its deadline holds, and it is asked for again, while a planner still waits for its answer.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        body: Embodiment | None = None,
        deadline_s: float = 2.0,
        text_deadline_s: float = 20.0,
        patience_s: float = 0.0,
        open_s: float = 2.0,
    ):
        """Connect, and refuse a server whose policy was trained for another body than `body`, if that is given.

        url: such as ws://127.0.0.1:8000. token: null takes what the environment variable VLA_TOKEN holds.
        deadline_s, text_deadline_s: for a chunk, for generated text. open_s: for each part of making a connection.
        patience_s: for how long a call goes on trying where there is no server, or where it has asked too often; 0
        where a robot moves, more where an evaluation can wait for a restart.
        """
        self._deadline_s, self._text_deadline_s, self._patience_s = deadline_s, text_deadline_s, patience_s
        self._embodiment: Embodiment | None = None
        self._policy: object = None  # which one it is, as the server says
        self.glimpses: dict[str, np.ndarray] = {}  # what some of the cameras showed in training, see model/glimpses.py
        self.ready: np.ndarray | None = None  # float32[A], the pose that `types.READY` leads back to, if it knows one
        self.talks = False  # whether it answers in words too, and can plan
        self._episodes = 0
        settings: dict[str, Any] = {"token": token or os.environ.get(TOKEN_VARIABLE), "open_s": open_s}
        settings |= {"message_bytes": Limits().message_bytes, "meet": self._meet}
        self._line, self._lock = Line(url, **settings), threading.Lock()
        self._text_line, self._text_lock = Line(url, **settings), threading.Lock()
        self._patiently(self._line.open)
        if body is not None:
            try:
                self.check(body)
            except ContractError:
                self.close()
                raise

    def __enter__(self) -> "RemotePolicy":
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    @property
    def embodiment(self) -> Embodiment:
        """The body that the policy was trained on."""
        assert self._embodiment is not None
        return self._embodiment

    @property
    def epoch(self) -> int:
        """Grows with every new connection and every episode."""
        return self._line.connections + self._episodes

    def check(self, embodiment: Embodiment) -> None:
        """Refuse a body that differs from the one of training, naming each difference (ContractError)."""
        self.embodiment.refuse_other(embodiment)

    def new_episode(self) -> None:
        """Begin a new epoch, from any thread; an answer that is still awaited ends in StaleAnswer."""
        self._episodes += 1

    def act(
        self, observations: Sequence[Observation], given: np.ndarray | None = None, given_steps: int = 0
    ) -> list[ActionChunk]:
        """Answer each observation with a chunk, one after the other.

        given: float32[B, N, A] absolute targets, of which the first `given_steps` are decided, as in `VLAPolicy.act`;
        it may end with them.
        """
        chunks = []
        for index, observation in enumerate(observations):
            message = _message(observation, observation.instruction)
            if given is not None:
                message |= {"given": np.asarray(given[index], np.float32), "given_steps": given_steps}
            began_s = time.monotonic()
            with self._lock:
                answer = self._ask(self._line, message, self._deadline_s)
            extra = {"epoch": self.epoch, "round_trip_s": time.monotonic() - began_s}
            chunks.append(_chunk(answer, observation, len(self.embodiment.joints), extra))
        return chunks

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Answer one text prompt about each observation, one after the other."""
        return [
            self._words({**_message(observation, prompt), "mode": "generate", "max_tokens": max_tokens}, "text", str)
            for observation, prompt in zip(observations, prompts, strict=True)
        ]

    def next_subtask(
        self, observations: Sequence[Observation], finished: Sequence[Sequence[str]], failed: Sequence[str] = ()
    ) -> list[str]:
        """What to do next for each instruction, as `VLAPolicy.next_subtask` says it."""
        failed = failed or [""] * len(observations)
        asked = zip(observations, finished, failed, strict=True)
        return self.generate(observations, [plan_prompt(o.instruction, before, vain) for o, before, vain in asked])

    def unknown_words(self, text: str) -> list[str]:
        """The words of an instruction that the model was never taught."""
        return self._words({"mode": "unknown_words", "prompt": text}, "words", list)

    def close(self) -> None:
        """Close the connections, from any thread; calls that wait end in ServerGone."""
        for line in (self._line, self._text_line):
            line.hang_up()
        for line, lock in ((self._line, self._lock), (self._text_line, self._text_lock)):
            with lock:
                line.drop()

    def _words(self, message: dict[str, Any], key: str, kind: type) -> Any:
        with self._text_lock:
            answer = self._ask(self._text_line, message, self._text_deadline_s)
        if not isinstance(answer.get(key), kind):
            raise WrongAnswer(f"{self._line.url} answers without {key!r}")
        return answer[key]

    def _ask(self, line: Line, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        episodes = self._episodes
        answer = self._patiently(lambda: line.exchange(message, deadline_s))
        if episodes != self._episodes:
            raise StaleAnswer("the answer belongs to an episode that is over")
        return answer

    def _patiently(self, attempt: Any) -> Any:
        """Return what an attempt returns, repeated for `patience_s` where the server is not there or wants a pause."""
        end_s = time.monotonic() + self._patience_s
        while True:
            try:
                return attempt()
            except (ServerGone, DeadlineMissed, Refusal) as error:
                hasty = isinstance(error, Refusal) and error.code == "rate_limited"
                pause_s = HASTY_S if hasty else error.retry_in_s
                if (isinstance(error, Refusal) and not hasty) or time.monotonic() + pause_s >= end_s:
                    raise
                time.sleep(pause_s)

    def _meet(self, metadata: dict[str, Any]) -> None:
        """Take over what the first server says, and refuse another policy that comes back in its place."""
        embodiment, policy = _embodiment(metadata), metadata.get("policy")
        if self._embodiment is None:
            self.glimpses, self.ready = _glimpses(metadata, embodiment), _ready(metadata, embodiment)
            self.talks = "generate" in _modes(metadata)
            self._embodiment, self._policy = embodiment, policy
            return
        differences = self._embodiment.differences(embodiment)
        if policy != self._policy:
            differences.append(f"policy: {self._policy!r} before, {policy!r} now")
        if differences:
            listed = "\n  ".join(differences)
            raise ContractError(
                f"{self._line.url} came back with another policy, which moves nothing here:\n  {listed}\n"
                "Start again to use it."
            )


def _embodiment(metadata: dict[str, Any]) -> Embodiment:
    """Read the body that a server's policy was trained for."""
    told = metadata.get("embodiment")
    if not isinstance(told, dict):
        raise WrongAnswer("it does not say which body its policy moves")
    try:
        body = Embodiment.from_dict({key: told[key] for key in (field.name for field in fields(Embodiment))})
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswer(f"it describes a body that cannot be read: {error!r}") from error
    if body.hash() != metadata.get("embodiment_hash"):
        raise WrongAnswer("its embodiment does not have the hash that it says")
    return body


def _modes(metadata: dict[str, Any]) -> list[Any]:
    """Read what can be asked for; a server that does not say so answers with chunks."""
    told = metadata.get("modes", ["act"])
    if not isinstance(told, list):
        raise WrongAnswer("its modes must be a list of names")
    return told


def _glimpses(metadata: dict[str, Any], body: Embodiment) -> dict[str, np.ndarray]:
    """Read what cameras showed in training; other servers than ours do not say."""
    told = metadata.get("glimpses", {})
    if not isinstance(told, dict) or not all(name in body.cameras and _is_picture(one) for name, one in told.items()):
        raise WrongAnswer("its glimpses must be small pictures of its cameras, uint8[H, W, 3]")
    return told


def _ready(metadata: dict[str, Any], body: Embodiment) -> np.ndarray | None:
    """Read the pose that a policy can return to; other servers than ours do not say."""
    told = metadata.get("ready")
    if told is None:
        return None
    joints = len(body.joints)
    if not isinstance(told, np.ndarray) or told.shape != (joints,) or not np.isfinite(told).all():
        raise WrongAnswer(f"its ready pose must be {joints} finite values")
    return told.astype(np.float32)


def _is_picture(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        return False
    return min(value.shape[:2]) > 0 and max(value.shape[:2]) <= GLIMPSE_PIXELS


def _message(observation: Observation, prompt: str) -> dict[str, Any]:
    return {
        "images": dict(observation.images),
        "state": np.asarray(observation.state, np.float32),
        "prompt": prompt,
        "time_s": float(observation.time_s),
    }


def _chunk(answer: dict[str, Any], observation: Observation, joints: int, extra: dict[str, Any]) -> ActionChunk:
    """Read an answer, in whose numbers nothing is believed; raises WrongAnswer."""
    actions = answer.get("actions")
    if not isinstance(actions, np.ndarray) or actions.dtype != np.float32 or actions.ndim != 2:
        raise WrongAnswer("the answer has no actions float32[T, A]")
    if actions.shape[0] < 1 or actions.shape[1] != joints or not np.isfinite(actions).all():
        raise WrongAnswer(f"the actions must be finite float32[T, {joints}], got {list(actions.shape)}")
    dt_s = answer.get("dt_s")
    if not isinstance(dt_s, float) or not (math.isfinite(dt_s) and dt_s > 0):
        raise WrongAnswer(f"dt_s must be seconds above 0, got {dt_s!r}")
    heads = {key: answer.get(key) for key in ("confidence", "progress", "done")}
    wrong = {key: value for key, value in heads.items() if value is not None and not _is_share(value)}
    if wrong:
        raise WrongAnswer(f"what should lie in 0..1 does not: {str(wrong)[:200]}")
    timing = {key: answer.get(key) for key in ("server_timing", "policy_timing")}
    return ActionChunk(actions.copy(), dt_s, observation.time_s, **heads, extra={**extra, **timing})


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= 1
