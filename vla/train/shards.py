"""Data parallelism between the cores of one processor: each process runs its share of the batch on one core.

Small networks spend much of their time in operations too short to be split over cores, and threads of one interpreter
wait for each other between them. Weights live in shared memory; every step the other processes get their part of the
batch and hand back gradients, in an order that does not depend on who is faster.
"""

import ctypes
import signal
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.multiprocessing
from torch import Tensor, nn

from vla.model.network import Network
from vla.train.batch import Batch
from vla.train.memory import Loss, backward, statistics

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of glibc's malloc.h


class Worker(NamedTuple):
    """One of the other processes, as the first sees it."""

    process: Any
    pipe: Connection
    gradients: list[Tensor]  # in shared memory, one a parameter


class Shards:
    """Shares of a batch side by side.

    Each share computes `loss(network, part of the batch, step, number of the part)` with batch statistics of its own;
    all go on with their mean. Other processes end with `close`, or at the end of a `with` block.
    """

    def __init__(self, network: Network, count: int, loss: Loss, accumulate: int = 1) -> None:
        """Start `count - 1` processes of one core each, which need a `loss` that can be pickled; 1 runs all here.

        accumulate: pieces in which each runs its part, one after another.
        """
        self.network, self.count, self.loss, self.accumulate = network, count, loss, accumulate
        self.workers: list[Worker] = []
        if count > 1:
            torch.set_num_threads(1)  # also between the passes, where waking other cores costs more than it gains
            _keep_memory()
            network.share_memory()
            self.workers = [self._start(number) for number in range(1, count)]
            for worker in self.workers:
                _receive(worker)

    def _start(self, number: int) -> Worker:
        context = torch.multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # what each would load for seconds is loaded once, for all
        mine, theirs = context.Pipe()
        flat = torch.zeros(sum(parameter.numel() for parameter in self.network.parameters())).share_memory_()
        arguments = (theirs, self.network, flat, self.loss, number, self.count, self.accumulate)
        process = context.Process(target=_work, args=arguments, daemon=True, name=f"shard {number}")
        process.start()
        theirs.close()
        return Worker(process, mine, _views(flat, self.network))

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other processes."""
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(timeout=5)
            worker.process.kill()
        self.workers = []

    def backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Add the mean gradient of the parts' losses `total`; return the means of all losses.

        Raises ValueError when the batch is too small to give every core a part, RuntimeError when a process failed.
        """
        if len(batch.state) < self.count:
            raise ValueError(
                f"a batch of {len(batch.state)} cannot be split over {self.count} cores: "
                "raise batch_size= or set shards=1"
            )
        first, *others = batch.split(self.count)
        remembered = [buffer.numpy() for buffer in statistics(self.network)] if others else []
        for worker, part in zip(self.workers, others, strict=True):
            worker.pipe.send((_packed(part), remembered, step))
        results = [backward(self.network, self.loss, first, step, 0, self.accumulate, 1 / self.count)]
        if self.workers:
            results += self._gather()
        return {name: sum(result[name] for result in results) / self.count for name in results[0]}

    @torch.no_grad()
    def _gather(self) -> list[dict[str, float]]:
        """Wait for the others, in order; add up their gradients and take the mean of the batch statistics."""
        results, remembered = [], [statistics(self.network)]
        for worker in self.workers:
            losses, theirs = _receive(worker)
            results.append(losses)
            remembered.append([torch.from_numpy(value) for value in theirs])
            pairs = zip(self.network.parameters(), worker.gradients, strict=True)
            used = [(parameter.grad, gradient) for parameter, gradient in pairs if parameter.grad is not None]
            torch._foreach_add_([mine for mine, _ in used], [gradient for _, gradient in used])  # pyright: ignore
        for mine, *theirs in zip(*remembered, strict=True):
            mine.copy_(torch.stack([mine, *theirs]).mean(0))
        return results


def _keep_memory() -> None:
    """Ask glibc not to give freed memory back: getting it again page by page takes some percent of every step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_THRESHOLD, 2**30), (_ARENA_MAX, 1)):
            mallopt(option, value)


def _receive(worker: Worker) -> Any:
    try:
        return worker.pipe.recv()
    except EOFError:
        raise RuntimeError(f"{worker.process.name} ended unexpectedly, see above") from None


def _work(
    pipe: Connection, network: Network, flat: Tensor, loss: Loss, number: int, count: int, accumulate: int
) -> None:
    """Run the passes that come through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process' affair
    torch.set_num_threads(1)
    _keep_memory()
    for module in network.modules():  # weights stay shared, statistics become this process' own
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.clone())
    for parameter, gradient in zip(network.parameters(), _views(flat, network), strict=True):
        parameter.grad = gradient
    try:
        pipe.send("ready")
        while True:
            packed, remembered, step = pipe.recv()
            flat.zero_()
            for mine, shared in zip(statistics(network), remembered, strict=True):
                mine.copy_(torch.from_numpy(shared))
            losses = backward(network, loss, _unpacked(packed), step, number, accumulate, 1 / count)
            pipe.send((losses, [buffer.numpy() for buffer in statistics(network)]))
    except EOFError:
        return
    except Exception:
        traceback.print_exc()


def _views(flat: Tensor, network: nn.Module) -> list[Tensor]:
    """Cut a vector into tensors laid out like the parameters."""
    views, start = [], 0
    for parameter in network.parameters():
        views.append(flat.as_strided(parameter.shape, parameter.stride(), start))
        start += parameter.numel()
    return views


def _packed(part: Batch) -> dict[str, Any]:
    """Arrays instead of tensors: a pickled tensor carries all of the memory that it is a view of."""

    def pack(value: Any) -> Any:
        return value.numpy() if isinstance(value, Tensor) else value

    images = {name: pack(image) for name, image in part.images.items()}
    return {name: pack(value) for name, value in vars(part).items()} | {"images": images}


def _unpacked(packed: dict[str, Any]) -> Batch:
    def unpack(value: Any) -> Any:
        return torch.from_numpy(value) if hasattr(value, "dtype") else value

    tensors: dict[str, Any] = {name: unpack(value) for name, value in packed.items()}
    tensors["images"] = {name: unpack(image) for name, image in packed["images"].items()}
    return Batch(**tensors)
