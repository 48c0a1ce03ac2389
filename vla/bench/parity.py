"""Do our parts say what those that others wrote say, to 1e-5, where weights and inputs are the same?

Live beside `transformers` where it has the part; where the others are no part of the installation, beside what they
said, kept in the folder `golden`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import __version__

from vla.bench import parity_arithmetic, parity_connectors, parity_fusion, parity_networks

GOLDEN = Path(__file__).with_name("golden")
TOLERANCE = 1e-5  # of numbers; ids and counts must be the same
Pairs = Iterator[tuple[str, Tensor, Tensor]]  # what is compared, ours, theirs


def measure(*, seed: int, golden: str | None = None, threads: int = 2) -> dict[str, Any]:
    """Compare everything; `ok` says whether all of it agrees.

    golden: a folder that tests/bench/golden/write_*.py wrote, the shipped one where it is left out.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    sources = references(Path(golden) if golden else GOLDEN)
    rows = []
    for name, pairs in tqdm(sources, unit="reference", leave=False):
        with torch.no_grad():
            rows += [row(name, quantity, ours, theirs) for quantity, ours, theirs in pairs()]
    for line in rows:
        print(f"{'ok  ' if line['ok'] else 'OFF '} {line['max_abs_diff']:.1e}  {line['reference']}: {line['quantity']}")
    return {"rows": rows, "compared": len(rows), "ok": all(line["ok"] for line in rows)}


def references(golden: Path) -> Sequence[tuple[str, Callable[[], Pairs]]]:
    """Return name and comparison of everything that there is to compare with."""
    transformers = f"transformers {__version__} "
    arithmetic = parity_arithmetic
    return [
        (f"{transformers}PI0ForConditionalGeneration", parity_networks.pi0_of_transformers),
        ("lerobot 0.6.1 PI0Policy", partial(parity_networks.pi0_of_lerobot, golden / "lerobot-pi0")),
        ("lerobot 0.6.1 SmolVLAPolicy", partial(parity_networks.smolvla_of_lerobot, golden / "lerobot-smolvla")),
        (
            "lerobot 0.6.1 SmolVLAPolicy, attention_mode self_attn",
            partial(parity_networks.smolvla_of_lerobot, golden / "lerobot-smolvla-joint"),
        ),
        ("lerobot 0.6.1 ACTTemporalEnsembler", partial(arithmetic.ensembling, golden)),
        ("lerobot 0.6.1 NormalizerProcessorStep", partial(arithmetic.normalisation, golden)),
        ("lerobot 0.6.1 create_sinusoidal_pos_embedding", partial(arithmetic.waves, golden)),
        ("lerobot 0.6.1 RTCProcessor", partial(arithmetic.guidance, golden)),
        ("diffusers 0.35.2 DDPMScheduler", partial(arithmetic.diffusion, golden)),
        ("OpenVLA, as published", partial(arithmetic.openvla, golden)),
        ("FAST, as published", partial(arithmetic.fast, golden)),
        (f"{transformers}InternVLModel", parity_connectors.internvl),
        (f"{transformers}Blip2Model", parity_connectors.blip2),
        (f"{transformers}InstructBlipQFormerModel", parity_connectors.instructblip),
        (f"{transformers}Idefics2PerceiverResampler", parity_connectors.perceiver),
        (f"{transformers}get_anyres_image_grid_shape", parity_connectors.llava_next),
        (f"{transformers}IdeficsGatedCrossAttentionLayer", parity_fusion.idefics),
    ]


def row(reference: str, quantity: str, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """Compare two tensors of one shape; a shape that differs, or a number that is none, is never ok."""
    tolerance = TOLERANCE if theirs.is_floating_point() else 0.0
    difference = float("inf")
    if ours.shape == theirs.shape:
        difference = float((ours.double() - theirs.double()).abs().max())
    return {
        "reference": reference,
        "quantity": quantity,
        "max_abs_diff": difference,
        "tolerance": tolerance,
        "ok": difference <= tolerance,
    }
