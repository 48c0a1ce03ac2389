"""A policy, near or behind a server, that answers late, wrongly or not at all."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from vla.control.faults.schedule import Fault, Faults, Kind
from vla.control.inference import Answer, Controller, Inference, Request
from vla.types import ActionChunk, ContractError, Embodiment, Observation

DEADLINE_S = 2.0  # after which a client gives up on a server
RESENT_S = 0.3  # later is what comes after a packet that was lost
ASTRAY = 0.06  # [rad], to one side and the other; twice that at once is more than an arm can do in a tick
FAR = 1.0  # [rad], from where the arm is


class ServerFaultError(ConnectionError):
    """The policy server failed on purpose, in the words of the client."""


class FaultyPolicy:
    """Another policy, heard through faults of "policy" and "server" that change what it says."""

    def __init__(self, policy: Controller, faults: Faults):
        """Take the policy and what will be wrong with it; it continues given steps if the policy does."""
        self._policy, self._faults = policy, faults
        self._said: ActionChunk | None = None

        @wraps(policy.act)  # so that it has the signature of the policy
        def act(observations: Sequence[Observation], *given: Any, **more: Any) -> list[ActionChunk]:
            return self._act(observations, *given, **more)

        self.act = act

    @property
    def embodiment(self) -> Embodiment:
        """The body of the policy; a wrong server has one for another arm."""
        body, fault = self._policy.embodiment, self._faults.of("server")
        wrong = fault is not None and fault.kind is Kind.WRONG
        return replace(body, name=f"another {body.name}", control_hz=2 * body.control_hz) if wrong else body

    def check(self, body: Embodiment) -> None:
        """Refuse another body."""
        told = self.embodiment
        check = getattr(self._policy, "check", None)
        if check is not None and told == self._policy.embodiment:
            check(body)
        elif differences := told.differences(body):
            raise ContractError("the policy was trained for another body:\n  " + "\n  ".join(differences))

    @property
    def glimpses(self) -> Mapping[str, np.ndarray]:
        """What the policy saw in training, if it tells."""
        return getattr(self._policy, "glimpses", {})

    @property
    def ready(self) -> np.ndarray | None:
        """The pose that it can return to, if it knows one."""
        return getattr(self._policy, "ready", None)

    def __getattr__(self, name: str) -> Any:
        """Be in all else as the policy is, such as in `guide` and `unknown_words`: what it lacks this lacks too."""
        if name.startswith("_"):  # of this object, while it is not yet made
            raise AttributeError(name)
        return getattr(self._policy, name)

    def _act(self, observations: Sequence[Observation], *given: Any, **more: Any) -> list[ActionChunk]:
        fault = self._faults.of("server")
        if fault is not None:
            self._fail(fault)
        fault = self._faults.of("policy")
        if fault is not None and (fault.kind is Kind.OFF or self._strikes(fault)):
            raise MemoryError("no room on the device (injected)")
        if fault is not None and fault.kind is Kind.STUCK and self._said is not None:
            return [self._said]
        chunks = self._policy.act(observations, *given, **more)
        self._said = chunks[0]
        return chunks if fault is None else [_spoiled(chunk, fault, self._faults.rng) for chunk in chunks]

    def _fail(self, fault: Fault) -> None:
        if fault.kind is Kind.OFF:
            raise ServerFaultError("ServerGone: there is no connection (injected)")
        if fault.kind is Kind.GARBAGE:
            raise ServerFaultError("WrongAnswer: the bytes are not a message of the wire (injected)")
        if fault.kind is Kind.WRONG:
            raise ServerFaultError("ContractError: it came back with another policy (injected)")

    def _strikes(self, fault: Fault) -> bool:
        return fault.kind is Kind.INTERMITTENT and self._faults.drops(fault)


def _spoiled(chunk: ActionChunk, fault: Fault, rng: np.random.Generator) -> Any:
    actions = np.array(chunk.actions)
    if fault.how == "nan":
        actions[rng.integers(actions.shape[0]), rng.integers(actions.shape[1])] = rng.choice([np.nan, np.inf, -np.inf])
    elif fault.how == "shape":
        actions = actions[:, :-1]
    elif fault.how == "object":
        return {"actions": actions.tolist()}
    elif fault.how == "degrees":
        actions[:, :-1] = np.degrees(actions[:, :-1])
    elif fault.how == "permuted":
        actions = actions[:, ::-1]
    elif fault.how == "alternating":
        actions[:, 0] += rng.choice([-ASTRAY, ASTRAY])
    elif fault.how == "far":
        actions[:, 0] += FAR
    return replace(chunk, actions=actions)


class FaultyInference:
    """Another inference, whose answers faults of "policy" and "server" hold back, or keep for good."""

    def __init__(self, inference: Inference, faults: Faults):
        """Take the inference and what will be wrong with it."""
        self._inference, self._faults = inference, faults
        self._held: deque[tuple[float, Answer]] = deque()  # when it may be heard, the answer
        self.counts: Counter[str] = inference.counts

    def ask(self, request: Request) -> None:
        """Ask."""
        self._inference.ask(request)

    def answers(self) -> list[Answer]:
        """Return what has been answered and is not held back, in order."""
        now_s = self._faults.clock.now()
        for answer in self._inference.answers():
            self._held.append(self._on_the_way(answer, now_s))
        heard = []
        while self._held and self._held[0][0] <= now_s + 1e-9:
            heard.append(self._held.popleft()[1])
        return heard

    def waiting_s(self) -> float:
        """Return for how long there has been no answer to the oldest question, 0 if there is none."""
        if self._held:
            return max(self._faults.clock.now() - self._held[0][1].request.asked_s, 1e-9)
        return self._inference.waiting_s()

    def close(self) -> None:
        """Close the inference."""
        self._held.clear()
        self._inference.close()

    def _on_the_way(self, answer: Answer, now_s: float) -> tuple[float, Answer]:
        """Return when something is heard after a question, and what."""
        server, policy = self._faults.of("server"), self._faults.of("policy")
        if server is not None and server.kind is Kind.STUCK:
            missed = f"DeadlineMissed: no answer within {DEADLINE_S} s (injected)"
            return answer.request.asked_s + DEADLINE_S, Answer(answer.request, None, missed)
        late_s = sum(fault.amount for fault in (server, policy) if fault and fault.kind in (Kind.SLOW, Kind.DELAYED))
        if server is not None and server.kind is Kind.INTERMITTENT and self._faults.drops(server):
            late_s += RESENT_S
        return now_s + late_s, answer
