"""A real policy that can be held up or made to fail, so that a test decides when an answer comes."""

import threading
from collections.abc import Callable
from typing import Any

from tests.model.tiny import tiny_policy
from vla.model.policy import VLAPolicy
from vla.serve.server import PolicyServer

PATIENCE_S = 120.0  # for what must happen, on a slow machine; nothing waits for it to pass

Start = Callable[..., PolicyServer]


class GatedPolicy(VLAPolicy):
    """The tiny policy, whose `act` waits at a gate while it is shut, and can be told to fail."""

    def __init__(self) -> None:
        """Begin with the gate open."""
        policy = tiny_policy()
        super().__init__(policy.network, policy.processor)
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.failures: list[Exception] = []
        self.spoil: Callable[[Any], Any] = lambda chunks: chunks

    def act(self, observations: Any, given: Any = None, given_steps: int = 0) -> Any:
        """Wait, fail or answer."""
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)
        return self.spoil(super().act(observations, given, given_steps))

    def shut(self) -> None:
        """Let the next `act` wait, and forget those that came through."""
        while self.entered.acquire(blocking=False):
            pass
        self.gate.clear()

    def wait_for_a_call(self) -> None:
        """Wait until a call stands at the gate."""
        assert self.entered.acquire(timeout=PATIENCE_S)
