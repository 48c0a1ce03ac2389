"""The one thread that runs the policy, so that the event loop always has time for pings, health and refusals."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from vla.serve.errors import Refusal
from vla.serve.request import Request, describe
from vla.types import ActionChunk, Embodiment, Observation

log = logging.getLogger(__name__)


class ServedPolicy(Protocol):
    """A policy (types.py) that also continues decided targets, and knows which words it was not taught."""

    @property
    def embodiment(self) -> Embodiment:
        """The body that it was trained for."""
        ...

    def act(
        self, observations: Sequence[Observation], given: np.ndarray | None = None, given_steps: int = 0
    ) -> list[ActionChunk]:
        """Answer each observation with a chunk whose first `given_steps` of `given` float32[B, T, A] are decided."""
        ...

    def generate(self, observations: Sequence[Observation], prompts: Sequence[str], max_tokens: int = 24) -> list[str]:
        """Answer one text prompt about each observation."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """List the words of `text` that are not in the vocabulary."""
        ...


class Worker:
    """Runs the policy for one connection at a time, in the order in which they asked."""

    def __init__(self, policy: ServedPolicy):
        """Take the policy; it is called from no other thread."""
        self.policy = policy
        self.action_horizon = 0  # steps of a chunk, known after `warm_up`
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._turn = asyncio.Lock()  # first come, first served
        self._began_s: float | None = None

    @property
    def glimpses(self) -> dict[str, np.ndarray]:
        """What some of the cameras showed in training, where the policy tells; uint8[H, W, 3] each."""
        return {name: np.ascontiguousarray(one) for name, one in getattr(self.policy, "glimpses", {}).items()}

    @property
    def ready(self) -> np.ndarray | None:
        """The pose that the policy can return to when told `types.READY`, float32[A], where it knows one."""
        ready = getattr(self.policy, "ready", None)
        return None if ready is None else np.asarray(ready, np.float32)

    async def warm_up(self) -> None:
        """Answer a made-up observation, which loads what is loaded on the first call, and note the action horizon."""
        observation = _blank(self.policy.embodiment)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            chunks = await loop.run_in_executor(self._thread, self.policy.act, [observation])
            self.action_horizon = len(chunks[0].actions)

    async def answer(self, take: Callable[[], Request]) -> tuple[Request, dict[str, Any], float]:
        """Wait for a turn, `take` the newest request, and return it with its answer and the seconds of inference.

        Raises Refusal, which names the request.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            request = take()
            said, seconds = await loop.run_in_executor(self._thread, self._run, request)
        return request, said, seconds

    def busy_s(self) -> float:
        """Return for how long the present inference has been running [s], 0 if there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def close(self) -> None:
        """Take no more requests."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, request: Request) -> tuple[dict[str, Any], float]:
        self._began_s = began_s = time.monotonic()
        try:
            try:
                said = self._ask(request)
            except torch.OutOfMemoryError:
                log.warning("out of memory, trying once more with what can be freed")
                torch.cuda.empty_cache()
                said = self._ask(request)
            return said, time.monotonic() - began_s
        except torch.OutOfMemoryError as error:
            log.exception("request %s found no memory", request.id)
            raise Refusal("out_of_memory", "no memory for this request; try again", request.id) from error
        except ValueError as error:  # worded for whoever asked
            raise Refusal("bad_request", str(error), request.id) from error
        except Exception as error:
            log.exception("the policy failed at request %s", request.id)
            what = f"the policy raised {type(error).__name__}; the server's log says where"
            raise Refusal("policy_failed", what, request.id) from error
        finally:
            self._began_s = None

    def _ask(self, request: Request) -> dict[str, Any]:
        if request.observation is None:
            return {"words": self.policy.unknown_words(request.prompt)}
        if request.mode == "generate":
            return {"text": self.policy.generate([request.observation], [request.prompt], request.max_tokens)[0]}
        chunk = self.policy.act([request.observation], self._whole(request.given), request.given_steps)[0]
        if not np.isfinite(chunk.actions).all():
            raise FloatingPointError("the chunk holds numbers that are not finite")
        return describe(chunk)

    def _whole(self, given: np.ndarray | None) -> np.ndarray | None:
        """Return decided targets float32[N, A] as long as a chunk, float32[1, T, A]; nobody reads what is added."""
        if given is None:
            return None
        return np.pad(given, ((0, self.action_horizon - len(given)), (0, 0)), mode="edge")[None]


def _blank(body: Embodiment) -> Observation:
    """Make an observation of the right shapes, black, at rest in the middle of the range."""
    images = {name: np.zeros((camera.height, camera.width, 3), np.uint8) for name, camera in body.cameras.items()}
    middle = (np.array(body.position_min, np.float32) + np.array(body.position_max, np.float32)) / 2
    return Observation(images, middle, "", time.monotonic())
