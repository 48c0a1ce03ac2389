"""Chunks that show what becomes of them, and a stretch of virtual time in which an executor gets them late."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from drive import ARM

from vla.control.executor import Executor, Question
from vla.control.strategy import Strategy
from vla.types import ActionChunk

DT_S = 0.1
TICK_S = 0.02
STEPS = 16


def clock_chunk(frame_s: float, steps: int = STEPS) -> ActionChunk:
    """Return a chunk whose targets are the times at which they are due."""
    due_s = frame_s + DT_S * np.arange(1, steps + 1)
    return ActionChunk(np.stack([due_s, due_s], axis=1), DT_S, frame_s)


def restless_chunk(rng: np.random.Generator, question: Question) -> ActionChunk:
    """Return a random walk of the lift from where the arm is that keeps the given steps, as a policy may answer."""
    start = np.zeros(2) if question.lead is None else question.lead[1]
    actions = np.clip(start + np.cumsum(rng.uniform(-0.15, 0.15, (STEPS, 2)), axis=0), -1.5, 1.5)
    if len(given := question.given):
        actions += given[-1] - actions[len(given) - 1]
        actions[: len(given)] = given
    return ActionChunk(actions, DT_S, question.frame_s)


def play(
    strategy: Strategy,
    think: Callable[[Question], ActionChunk],
    delays_s: Sequence[float],
    seconds: float = 4.0,
) -> tuple[Executor, list[tuple[float, np.ndarray | None]]]:
    """Let an executor run with answers that take these delays in turn; return it and its targets by time."""
    executor = Executor(strategy, ARM)
    executor.halt(0.0, np.zeros(2))
    turn, pending = 0, deque[tuple[float, Question, ActionChunk]]()
    path = []
    for tick in range(1, round(seconds / TICK_S)):
        now_s = tick * TICK_S
        while pending and now_s >= pending[0][0] - 1e-9:
            _, question, chunk = pending.popleft()
            executor.take(chunk, question, now_s)
        asked_s = pending[-1][1].frame_s if pending else None
        if question := executor.ask(now_s, asked_s):
            pending.append((now_s + delays_s[turn % len(delays_s)], question, think(question)))
            turn += 1
        if executor.halted:
            executor.resume(now_s)
        path.append((now_s, executor.target(now_s)))
    return executor, path
