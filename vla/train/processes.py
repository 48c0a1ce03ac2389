"""Data parallelism between processes that torchrun started, on one machine or many; each runs its share of a batch.

`ddp` gives every process all weights. `fsdp` gives it a part of every weight, its average and its moments; weights come
together layer by layer while they are needed (FSDP2, after Zhao et al. 2023, arXiv:2304.11277). accelerate forms the
group and does DDP; sharding is that of torch, since accelerate's own needs a GPU and tests are to run what GPUs run.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from vla.model.network import Network
from vla.train.batch import Batch
from vla.train.memory import Loss, backward, statistics, transformer_layers

try:
    from accelerate import Accelerator  # pyright: ignore[reportMissingImports]
    from accelerate.utils import (  # pyright: ignore[reportMissingImports]
        DistributedDataParallelKwargs,
        InitProcessGroupKwargs,
    )
except ImportError:  # the extra "cluster"
    Accelerator = DistributedDataParallelKwargs = InitProcessGroupKwargs = None

PATIENCE = timedelta(days=1)  # while the first collects and decodes; torchrun ends all where one fails
T = TypeVar("T")


class Peers:
    """This process, number `number` of `count`, and its `device`; alone where torchrun did not start it."""

    def __init__(self, device: str | None = None) -> None:
        """Join the others; device: cpu, cuda, or None for a GPU where there is one."""
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
        wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.number, self.device, self.accelerator = 0, torch.device(wanted), None
        if self.count == 1:
            return
        if Accelerator is None or DistributedDataParallelKwargs is None or InitProcessGroupKwargs is None:
            raise ValueError('several processes need the package accelerate: pip install "vla-stack[cluster]"')
        if wanted not in ("cpu", "cuda"):
            raise ValueError(f"device={wanted}: every process of torchrun takes its own; possible: cpu, cuda")
        # Pretrained encoders may have layers that nothing here needs, such as a pooler.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        handlers = [ddp, InitProcessGroupKwargs(timeout=PATIENCE)]
        self.accelerator = Accelerator(cpu=wanted == "cpu", mixed_precision="no", kwargs_handlers=handlers)
        self.number, self.device = self.accelerator.process_index, self.accelerator.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.number == 0

    def agreed(self, value: T) -> T:
        """Return what the first process gave."""
        if self.count == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def leave(self) -> None:
        """End the group when all have come here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()


class Replicas:
    """A network in every process; used like `Shards`, with this process' share of the batch.

    `plain` is the network as it would be in one process, in the first one, to put a checkpoint together.
    """

    def __init__(self, peers: Peers, network: Network, loss: Loss, accumulate: int, parallel: str) -> None:
        """Prepare before there is an optimizer, since sharding exchanges the parameters; parallel: ddp or fsdp."""
        assert peers.accelerator is not None
        if parallel not in ("ddp", "fsdp"):
            raise ValueError(f"parallel={parallel} is not known, possible: ddp, fsdp")
        torch.manual_seed(torch.initial_seed() + peers.number)  # no two drop out alike
        self.peers, self.network, self.accumulate = peers, network, accumulate
        self.plain = deepcopy(network) if parallel == "fsdp" and peers.first else network
        self.step: nn.Module = _Step(network, loss)
        if parallel == "fsdp":
            _shard(self.step, peers)
        else:
            self.step = peers.accelerator.prepare_model(self.step)

    def __enter__(self) -> "Replicas":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Leave the mean gradient of all shares in every process, this one's being `batch`; return the mean losses."""
        losses = backward(
            self.network, self._loss, batch, step, self.peers.number, self.accumulate, 1.0, self._unfinished
        )
        for buffer in statistics(self.network):
            self._mean(buffer)
        values = self._mean(torch.tensor(list(losses.values()), dtype=torch.float64, device=self.peers.device))
        return dict(zip(losses, values.tolist(), strict=True))

    def _loss(self, network: Network, part: Batch, step: int, number: int) -> dict[str, Tensor]:
        return self.step(part, step, number)

    @contextmanager
    def _unfinished(self) -> Iterator[None]:
        """Keep gradients to this process."""
        if isinstance(self.step, FSDPModule):
            self.step.set_requires_gradient_sync(False)
            yield
            self.step.set_requires_gradient_sync(True)
        else:
            with self.step.no_sync():  # pyright: ignore[reportCallIssue]
                yield

    def _mean(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor.div_(self.peers.count)


class _Step(nn.Module):
    """All of a pass in one `forward`, where DDP and FSDP look for the weights that it uses."""

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, part: Batch, step: int, number: int) -> dict[str, Tensor]:
        return self.loss(self.network, part, step, number)


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors together of which every process holds a part; all must call it."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def _shard(step: nn.Module, peers: Peers) -> None:
    mesh = init_device_mesh(peers.device.type, (peers.count,))
    for parameter in step.parameters():  # convolutions may be laid out by channels, which cannot be cut
        parameter.data = parameter.data.contiguous()
    for module in (*transformer_layers(step), step):
        sharded = fully_shard(module, mesh=mesh)
        if peers.device.type == "cpu":
            sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no mean
