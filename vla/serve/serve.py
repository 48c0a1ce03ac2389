"""`vla serve`: a checkpoint's action chunks over a websocket, until Ctrl-C."""

import asyncio
import hashlib
import logging
import signal
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vla.control.listener import bind
from vla.model.checkpoint import DEFAULT, FILES, load
from vla.result import write_result
from vla.serve.limits import Limits
from vla.serve.server import PolicyServer

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="serve")
def main(config: DictConfig) -> None:
    """Serve, then write how much was asked and how it was answered."""
    out = Path(HydraConfig.get().runtime.output_dir)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    token = None if settings["token"] is None else str(settings["token"])
    listener = bind(settings["host"], settings["port"], token)
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    checkpoint = Path(settings["checkpoint"] or DEFAULT)
    policy = load(checkpoint, device=settings["device"])
    if policy.history:
        raise ValueError(f"{checkpoint} reads earlier frames, and a message carries the present one: use vla deploy")
    limits = Limits(**settings["limits"])
    server = PolicyServer(policy, listener, token=token, limits=limits, fingerprint=fingerprint(checkpoint))

    started_s = time.monotonic()
    asyncio.run(_serve(server, checkpoint, settings["seconds"]))
    result = server.metrics.summary()
    seconds = time.monotonic() - started_s
    path = write_result(out, address=server.address, checkpoint=checkpoint, seconds=seconds, **result)
    print(f"\n{result['answers']} of {result['requests']} requests answered\n{path}")


def fingerprint(checkpoint: Path) -> str:
    """Return sixteen hexadecimal digits that change with any file of a checkpoint that the policy is made of."""
    digest = hashlib.sha256()
    for name in FILES:
        with (checkpoint / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


async def _serve(server: PolicyServer, checkpoint: Path, seconds: float | None) -> None:
    """Run the server until a signal or for some time."""
    loop = asyncio.get_running_loop()

    def ready() -> None:
        http = server.address.replace("ws://", "http://")
        print(f"serving {checkpoint} on {server.address}")
        print(f"health {http}/healthz, metrics {http}/metrics, end: Ctrl-C", flush=True)
        if seconds is not None:
            loop.call_later(seconds, server.stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.run(ready)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
