"""Several processes train as one does, and each number of them goes on where another stopped."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import SMALL, run
from tests.train.peer import LORA, train
from vla.train.processes import Peers

ROOT = Path(__file__).parents[2]


def two_processes(*jobs):
    """Run the jobs of `peer.py` in two processes, told by the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.peer", *jobs]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three steps alone; the same in two processes; and from one process to two and back."""
    base = tmp_path_factory.mktemp("processes")
    folders = {name: base / name for name in ("alone", "ddp", "fsdp", "two", "adapted", "lora")}
    for folder in folders.values():
        folder.mkdir()
    alone = Peers("cpu")
    train(folders["two"], alone, "", 0, 1)
    train(folders["alone"], alone, "", 0, 3)
    train(folders["adapted"], alone, "", 0, 2, LORA)
    two_processes(
        f"ddp:0:3:{folders['ddp']}",
        f"fsdp:0:2:{folders['fsdp']}",
        f"fsdp:1:2:{folders['two']}",
        f"fsdp:0:2:{folders['lora']}:lora",
    )
    shutil.copytree(folders["two"], base / "shards")
    train(folders["two"], alone, "", 2, 3)
    train(folders["fsdp"], alone, "", 2, 3)
    return base


@pytest.mark.slow
@pytest.mark.parametrize("name, like", [("ddp", "alone"), ("fsdp", "alone"), ("two", "alone"), ("lora", "adapted")])
def test_any_number_of_processes_takes_the_steps_of_one(trained, name, like):
    mine, theirs = (load_file(trained / folder / "average.safetensors") for folder in (name, like))
    assert_alike(mine, theirs)
    told = [json.loads((trained / folder / "told.json").read_text())[-1] for folder in (name, like)]
    assert told[0] == pytest.approx(told[1], rel=1e-3)  # the loss and the norm of the gradient, which Adam hides


def test_two_processes_take_the_steps_of_one_process(tmp_path):
    """The quick one of these: DDP alone, two steps, each process with half of the batch."""
    for name in ("alone", "ddp"):
        (tmp_path / name).mkdir()
    train(tmp_path / "alone", Peers("cpu"), "", 0, 2)
    two_processes(f"ddp:0:2:{tmp_path / 'ddp'}")
    mine, theirs = (load_file(tmp_path / name / "average.safetensors") for name in ("ddp", "alone"))
    assert_alike(mine, theirs)
    told = [json.loads((tmp_path / name / "told.json").read_text()) for name in ("ddp", "alone")]
    assert np.array(told[0]) == pytest.approx(np.array(told[1]), rel=1e-3)  # losses and norms of gradients


def assert_alike(mine, theirs):
    """Nearly all values agree; Adam takes large steps where gradients are 0 but for rounding, as of key biases."""
    assert mine.keys() == theirs.keys() and len(mine) > 40
    far = torch.cat([((mine[name] - theirs[name]).abs() > 3e-4).flatten() for name in theirs])
    assert far.float().mean() < 0.01


@pytest.mark.slow
def test_shards_are_files_without_pickle_that_hold_half_of_the_weights_each(trained):
    files = sorted((trained / "shards/training_state").iterdir())
    assert {file.suffix for file in files} == {".safetensors", ".json"} and len(files) == 3
    sizes = [file.stat().st_size for file in files if file.suffix == ".safetensors"]
    assert max(sizes) < 0.6 * sum(sizes)


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_and_hands_over_to_it_and_back(demonstrations, tmp_path):
    """Two processes are two parts of a batch, as are two pieces: random numbers, and so losses, are the same."""
    small = ["steps=6", "save_every=3", "warmup_steps=2", "store=float32", "precision=float32"]
    small += [f"frames={tmp_path / 'frames'}"]
    alone = run(demonstrations, tmp_path / "alone", *small, "accumulate=2")
    out = tmp_path / "together"
    torchrun(demonstrations, out, *small, "parallel=fsdp", "leg_minutes=0")
    assert len(list((out / "training_state").glob("*.safetensors"))) == 2
    assert run(demonstrations, out, *small, "accumulate=2", "leg_minutes=0")["steps"] == 2
    torchrun(demonstrations, out, *small, "parallel=ddp", "leg_minutes=0")
    torchrun(demonstrations, out, *small, "parallel=fsdp", "checkpointing=true")
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == 6 and result["complete"]
    assert result["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    mine, theirs = (load_file(folder / "checkpoints/last/model.safetensors") for folder in (out, tmp_path / "alone"))
    assert_alike(mine, theirs)


def torchrun(dataset, out, *overrides):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vla.cli"]
    command += ["train", f"dataset={dataset.root}", f"out={out}", *SMALL, *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
