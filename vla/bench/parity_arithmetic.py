"""What others compute without a network, beside ours; what they said lies in a folder `golden`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from vla.control.plan import Plan
from vla.control.strategy import Ensemble
from vla.model.denoising_heads import Diffusion
from vla.model.fast import FastCodec
from vla.model.flow import time_waves
from vla.model.guidance import led, prefix_weights
from vla.model.normalization import MODES, Normalization
from vla.model.openvla import OpenVLAActions
from vla.model.token_heads import Autoregressive

Pairs = Iterator[tuple[str, Tensor, Tensor]]


def ensembling(golden: Path) -> Pairs:
    """Overlapping chunks, a new one each step, as the strategy `ensemble` joins them."""
    said = _said(golden / "lerobot.safetensors", "ensembling")
    strategy, ours = Ensemble(replan_steps=1, decay=0.01), []
    for step, chunk in enumerate(said["chunks"].numpy()):
        strategy.add(Plan(np.stack([chunk[0]] * 2), chunk, dt_s=1.0, begin_s=float(step)), now_s=float(step))
        ours.append(strategy.at(step + 1.0))
    yield "actions of overlapping chunks, exp(-0.01 i)", torch.from_numpy(np.array(ours)), said["actions"]


def normalisation(golden: Path) -> Pairs:
    """All modes, both ways; one of the joints never moved in the data."""
    said = _said(golden / "lerobot.safetensors", "normalisation")
    stats = {name.removeprefix("stats."): value for name, value in said.items() if name.startswith("stats.")}
    for mode in MODES:
        ours = Normalization(mode, stats)
        yield f"{mode}, normalised", ours.encode(said["values"]), said[f"encoded.{mode}"]
        yield f"{mode}, back", ours.decode(said["values"]), said[f"decoded.{mode}"]


def waves(golden: Path) -> Pairs:
    """The description of times that pi0 and SmolVLA read."""
    said = _said(golden / "lerobot.safetensors", "waves")
    yield "sines and cosines of time", time_waves(said["times"], said["described"].shape[1]), said["described"]


def guidance(golden: Path) -> Pairs:
    """Velocities led toward an older chunk whose first two of six steps are decided; lerobot knows one variant."""
    said = _said(golden / "lerobot.safetensors", "guidance")
    noisy, weights = said["noisy"], prefix_weights(torch.tensor([2]), 6, said["noisy"].shape[1])
    ours = [led(torch.tanh, noisy, float(time), said["older"], weights, "identity") for time in said["times"]]
    yield "velocities, the Jacobian taken as identity", torch.stack(ours), said["velocities"]


def diffusion(golden: Path) -> Pairs:
    """The way from noise to a chunk, where the noise that the network would say is a known function."""
    said = _said(golden / "lerobot.safetensors", "diffusion")
    count, (_, horizon, width) = len(said["betas"]), said["first"].shape
    head = _Known(AutoConfig.for_model("gpt2", n_embd=8), horizon, width, slice(0, 256), steps=count, hidden=8)
    noise, given = torch.cat([said["noise"], said["first"][None]]), torch.zeros_like(said["first"])
    chunk = head.denoise(noise, given[:, 0], given, torch.zeros_like(given[..., :1], dtype=torch.bool))
    yield "variances, cosine schedule", head.betas, said["betas"]
    yield f"chunk after {count} steps", chunk, said["chunk"]


class _Known(Diffusion):
    def told(self, noisy: Tensor, step: Tensor, readout: Tensor) -> Tensor:
        """The function that the script wrote into the golden file."""
        return torch.tanh(1.5 * noisy + step[:, None, None] / len(self.betas))


def openvla(golden: Path) -> Pairs:
    """Values to ids by the head `autoregressive`, and ids to actions by the statistics of a folder."""
    said = _said(golden / "published.safetensors", "openvla")
    actions = OpenVLAActions.read(golden / "openvla")
    rows, width = said["values"].shape
    ids = slice(actions.vocabulary - 256, actions.vocabulary)
    head = Autoregressive(AutoConfig.for_model("gpt2", n_embd=8), rows, width, ids)
    spelt = head.spell(said["values"][None])[0]
    yield "ids of values, edges of bins among them", spelt.view(rows, width), said["ids"]
    yield "values of ids", head.read(spelt)[0], said["decoded"]
    yield "actions of ids, by q01 and q99", actions.decode(said["ids"]), said["actions"]


def fast(golden: Path) -> Pairs:
    """Chunks to rounded coefficients, and the same back through merges that are fitted to them."""
    said = _said(golden / "published.safetensors", "fast")
    chunks = said["chunks"]
    codec = FastCodec(chunks.shape[1], chunks.shape[2], **FastCodec.fit(chunks, scale=10.0))
    yield "rounded cosine coefficients", codec.coefficients(chunks), said["coefficients"]
    yield "chunks from coefficients, through our byte pairs", codec.decode(codec.encode(chunks)), said["decoded"]


def _said(path: Path, part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {name.removeprefix(start): value for name, value in load_file(path).items() if name.startswith(start)}
