"""`vla serve` as a process: killed, stopped and started again under a client that goes on asking."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.model.tiny import observation, tiny_config, tiny_policy
from tests.serve.gated import PATIENCE_S
from vla.cli import run
from vla.control.listener import bind
from vla.model import checkpoint
from vla.model.policy import VLAPolicy
from vla.serve.client import RemotePolicy
from vla.serve.errors import DeadlineMissed, RemoteError, ServerGone
from vla.serve.serve import fingerprint
from vla.serve.server import PolicyServer, in_background

START_S = 600.0  # for a process to import and load everything, on a slow machine
Process = subprocess.Popen[str]
Start = Callable[..., tuple[Process, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny policy."""
    policy = tiny_policy()
    made = tmp_path_factory.mktemp("checkpoints") / "tiny"
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(made, config, policy.network.state_dict(), policy.processor, {"steps": 3})
    return made


@pytest.fixture
def serve(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `vla serve` and return its process and address; what still runs in the end is killed."""
    processes: list[Process] = []

    def begin(port: int = 0) -> tuple[Process, str]:
        command = [sys.executable, "-m", "vla.cli", "serve", f"checkpoint={folder}", f"port={port}", "threads=1"]
        process = subprocess.Popen([*command, f"out={tmp_path}"], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()  # ends with the process, at the latest
        assert line.startswith(f"serving {folder} on ws://127.0.0.1:"), line
        return process, line.split()[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def first_answer(client: RemotePolicy, seed: int, end_s: float) -> np.ndarray:
    """Ask until there is an answer, as a control loop does; return the joint targets."""
    while True:
        try:
            return client.act([observation(seed)])[0].actions
        except RemoteError as error:
            assert time.monotonic() < end_s
            time.sleep(error.retry_in_s)


def test_a_client_survives_a_hung_server_and_kill_9(serve: Start, policy: VLAPolicy, folder: Path) -> None:
    process, address = serve()
    client = RemotePolicy(address, deadline_s=PATIENCE_S, open_s=PATIENCE_S)
    assert client.embodiment == policy.embodiment
    expected = [policy.act([observation(seed)])[0].actions for seed in range(4)]
    np.testing.assert_allclose(client.act([observation(0)])[0].actions, expected[0], atol=1e-4)

    process.send_signal(signal.SIGSTOP)
    client._deadline_s = 0.3
    large = {name: np.zeros((2000, 2000, 3), np.uint8) for name in ("front", "wrist")}  # more than the system buffers
    began_s = time.monotonic()
    with pytest.raises((DeadlineMissed, ServerGone)):
        client.act([observation(1, **large)])
    assert time.monotonic() - began_s < PATIENCE_S  # although nobody reads
    process.send_signal(signal.SIGCONT)
    client._deadline_s = PATIENCE_S
    np.testing.assert_allclose(first_answer(client, 1, time.monotonic() + START_S), expected[1], atol=1e-4)

    process.kill()  # -9
    process.wait()
    with pytest.raises(ServerGone):
        client.act([observation(2)])
    epoch = client.epoch
    again = bind("127.0.0.1", int(address.rpartition(":")[2]), None)
    with in_background(PolicyServer(policy, again, fingerprint=fingerprint(folder))):
        np.testing.assert_allclose(first_answer(client, 3, time.monotonic() + START_S), expected[3], atol=1e-4)
    assert client.epoch == epoch + 1
    client.close()


@pytest.mark.slow  # another process
def test_ctrl_c_ends_it_cleanly(serve: Start, tmp_path: Path) -> None:
    process, address = serve()
    with RemotePolicy(address, deadline_s=PATIENCE_S, open_s=PATIENCE_S) as client:
        client.act([observation(0)])
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=START_S)
        assert process.returncode == 0, output
        with pytest.raises(ServerGone):
            client.act([observation(2)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["requests"], result["answers"], result["errors"]) == (1, 1, {})
    assert result["address"] == address and result["latency_ms"]["p95"] > 0


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run `vla serve` in this process and return its exit code."""

    def run_it(*arguments: str) -> int:
        for name in ("VLA_DEBUG", "HYDRA_FULL_ERROR"):
            monkeypatch.setenv(name, "")
        return run(["serve", *arguments, f"out={tmp_path}"])

    return run_it


def test_a_port_that_is_taken_is_told_in_one_line(verb: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0, None) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert verb(f"port={port}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"vla serve: cannot serve on 127.0.0.1:{port} (") and "give another port=" in error


def test_an_address_that_others_reach_needs_a_token(
    verb: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLA_TOKEN", raising=False)
    assert verb("host=0.0.0.0", "port=0") == 1
    assert "set a token in VLA_TOKEN" in capsys.readouterr().err


def test_the_token_of_the_environment_is_not_written_to_out(
    verb: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_TOKEN", "sesame")
    with bind("127.0.0.1", 0, None) as taken:
        taken.listen()
        assert verb(f"port={taken.getsockname()[1]}") == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(b"sesame" in path.read_bytes() for path in files)


def test_the_fingerprint_changes_with_weights_and_statistics_and_not_with_the_card(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "README.md").write_text("card")
    assert fingerprint(folder) == before
    for name in ("model.safetensors", "processor.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + os.urandom(1) + b" ")
        assert fingerprint(folder) != before
        (folder / name).write_bytes(whole)
    assert fingerprint(folder) == before
