"""Data parallelism between the cores of one processor: each thread runs its share of the batch on one core.

Small networks spend much of their time in operations too short to be split over cores. Splitting the batch instead
keeps every core busy. Weights and their gradients are shared; batch statistics are each thread's own.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from vla.model.network import Network
from vla.train.batches import Batch


class Shards:
    """Replicas of a network that share its parameters, a thread for each."""

    def __init__(self, network: Network, count: int) -> None:
        """Make `count` threads of one core each; with count 1 everything runs as usual."""
        parameters = {id(parameter): parameter for parameter in network.parameters()}
        self.networks = [network, *(copy.deepcopy(network, dict(parameters)) for _ in range(count - 1))]
        self.pool = None
        if count > 1:
            torch.set_num_threads(1)  # also between the passes, where waking other cores costs more than it gains
            self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, batch: Batch, loss: Callable[[Network, Batch, int], dict[str, Tensor]]) -> dict[str, float]:
        """Add the mean gradient of `loss(network, part of the batch, number of the part)["total"]`; return all means.

        Raises ValueError when the batch is too small to give every core a part.
        """
        count = len(self.networks)
        if len(batch.state) < count:
            raise ValueError(
                f"a batch of {len(batch.state)} cannot be split over {count} cores: raise batch_size= or set shards=1"
            )
        parts = batch.split(count)

        def run(number: int) -> dict[str, float]:
            losses = loss(self.networks[number], parts[number], number)
            (losses["total"] / count).backward()
            return {name: float(value.detach()) for name, value in losses.items()}

        if self.pool is None:
            return run(0)
        results = list(self.pool.map(run, range(count)))
        self._share_statistics()
        return {name: sum(result[name] for result in results) / count for name in results[0]}

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Give every replica the mean of the batch statistics."""
        for buffers in zip(*(network.buffers() for network in self.networks), strict=True):
            if buffers[0].is_floating_point():
                mean = torch.stack(buffers).mean(0)
                for buffer in buffers:
                    buffer.copy_(mean)
