"""What one of several processes does in the tests: trains a tiny network and writes down what came of it."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.model.tiny import tiny_policy
from tests.train.test_memory import EXACT, WEIGHTS, uneven
from vla.model.adapters import merged
from vla.train.memory import backward
from vla.train.objective import Objective
from vla.train.optimizer import Average, build_optimizer
from vla.train.processes import Peers, Replicas, gathered
from vla.train.snapshot import load_snapshot, save_snapshot
from vla.train.stages import prepare

PIECES = 4  # of a batch, in all processes together
LORA = {"parts": ["vision", "language"], "rank": 2, "alpha": 4}
DATA = [uneven(tiny_policy(), step, size=8) for step in range(3)]


def train(out, peers, parallel, start, stop, lora=None):
    """Train from the state in `out`, if there is one, up to step `stop`; leave all that came of it there."""
    policy = tiny_policy()
    network = policy.network.eval()  # so that nothing drops out
    prepare(network, {}, lora)
    objective, replicas = Objective(policy.processor, EXACT, WEIGHTS, 0, False), None
    if peers.count > 1:
        replicas = Replicas(peers, network, objective, PIECES // peers.count, parallel)
    optimizer, average, told = build_optimizer(network, 1e-2, 0.1), Average(network, 0.5), []
    assert (load_snapshot(out, network, average, optimizer) or {"step": 0}) == {"step": start}
    for step in range(start, stop):
        optimizer.zero_grad()
        if replicas:
            parts = replicas.backward(DATA[step].split(peers.count)[peers.number], step)
        else:
            parts = backward(network, objective, DATA[step], step, 0, PIECES, 1.0)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        average.update(network, step)
        told.append((parts["total"], float(gathered({"norm": norm})["norm"])))
    save_snapshot(out, network, average, optimizer, {"step": stop})
    weights = gathered(average.weights)
    if peers.first:
        weights = merged(replicas.plain if replicas else network, weights)
        save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, out / "average.safetensors")
        (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    together = Peers("cpu")
    for job in sys.argv[1:]:
        parallel, start, stop, folder, *lora = job.split(":")
        train(Path(folder), together, parallel, int(start), int(stop), LORA if lora else None)
    together.leave()
