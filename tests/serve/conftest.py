"""A tiny real policy behind the real server, in a thread of the test's process."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from tests.model.tiny import tiny_policy
from tests.serve.gated import GatedPolicy, Start
from vla.control.listener import bind
from vla.model.policy import VLAPolicy
from vla.serve.server import PolicyServer, in_background


@pytest.fixture(scope="session")
def policy() -> VLAPolicy:
    """The tiny policy itself, to compare with."""
    return tiny_policy()


@pytest.fixture
def gated() -> Iterator[GatedPolicy]:
    """A policy that can be held up; its gate is open in the end."""
    made = GatedPolicy()
    yield made
    made.gate.set()


@pytest.fixture
def start(policy: VLAPolicy) -> Iterator[Start]:
    """Start servers that end with the test: start(policy, port=0, token=None, limits=..., fingerprint=...)."""
    with ExitStack() as running:

        def begin(served: Any = policy, *, port: int = 0, token: str | None = None, **settings: Any) -> PolicyServer:
            server = PolicyServer(served, bind("127.0.0.1", port, token), token=token, **settings)
            return running.enter_context(in_background(server))

        yield begin


@pytest.fixture
def message() -> dict[str, Any]:
    """A request that the tiny policy can answer."""
    rng = np.random.default_rng(1)
    images = {name: rng.integers(0, 255, (64, 64, 3), np.uint8) for name in ("front", "wrist")}
    return {"images": images, "state": np.array([0.1, 0.2, 0.3], np.float32), "prompt": "pick up the red cube"}
