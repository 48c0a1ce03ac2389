"""SmolVLA's shape in lerobot's hands and in ours: how long a chunk takes, and a step of training.

B batch, T action horizon, A joints.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vla.bench.lerobot_peer import ACTION, batch_of, build_smolvla
from vla.bench.speed_shape import Inputs, Shape, draw
from vla.bench.turns import flops_per_s, peak_growth, seconds_each
from vla.model import lerobot_weights
from vla.model.flow_vla import SmolVLA
from vla.model.network import Network
from vla.model.onednn import AVAILABLE, by_onednn, product
from vla.model.vocabulary import ACTION_BINS, LOCATIONS
from vla.train.optimizer import build_optimizer

TOLERANCE = 1e-5  # of float32, to the largest number that lerobot says; gradients and losses likewise
HALF = 2e-2  # of bfloat16, in which either side rounds in another order
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-10  # as lerobot has it for SmolVLA
CLIP = 10.0


def measure_inference(shape: Shape, rounds: int, precisions: Sequence[str], device: str) -> dict[str, Any]:
    """Time one chunk of one observation, from pixels to numbers, of three networks in turn.

    For every precision {lerobot_ms: SmolVLA as lerobot runs it; same_weights{ms, ratio, max_abs_diff, tolerance, ok}:
    our SmolVLA with its weights, ratio how many times faster, and how far its chunk is from lerobot's for the same
    noise, relative to its largest number; parallel{ms, ratio}: our `Network` with the same vision encoder and language
    model and the head that says all steps in one pass}. flops{lerobot, parallel} of a chunk; limit_ms{lerobot,
    parallel}: the time of these at `matmul_gflops_per_s`, the best rate of a float32 product here, and what it was by
    torch's own choice, `torch_matmul_gflops_per_s`; parameters of each.
    """
    theirs = build_smolvla(shape, device).eval()
    ours = _ours(theirs, shape).to(device)
    parallel = _parallel(shape).to(device).eval()
    seen = draw(shape, 1, device)
    whole = {name: value for name, value in batch_of(shape, seen).items() if name != ACTION}
    chunks: dict[str, Callable[[], Tensor]] = {
        "lerobot": lambda: theirs.predict_action_chunk(dict(whole), noise=seen.noise),
        "same_weights": lambda: _chunk(ours, shape, seen, whole),
        "parallel": lambda: _parallel_chunk(parallel, seen),
    }
    flops = {name: _flops(chunks[name]) for name in ("lerobot", "parallel")}
    by_onednn(parallel)
    result: dict[str, Any] = {name: _inference(chunks, rounds, name, device) for name in precisions}
    rate = flops_per_s(torch.matmul, device, 0.5)
    best = max(rate, flops_per_s(product, device, 0.5)) if AVAILABLE and device == "cpu" else rate
    return {
        **result,
        "flops": flops,
        "limit_ms": {name: count / best * 1e3 for name, count in flops.items()},
        "matmul_gflops_per_s": best / 1e9,
        "torch_matmul_gflops_per_s": rate / 1e9,
        "parameters": {"lerobot": _count(theirs), "same_weights": _count(ours), "parallel": _count(parallel)},
        "rounds": rounds,
    }


def measure_training(shape: Shape, rounds: int, batch: int, precisions: Sequence[str], device: str) -> dict[str, Any]:
    """Time a step of training the expert (forward, backward, clipping, AdamW) on one batch, in turn.

    For every precision {samples_per_s, lerobot_samples_per_s, ratio; peak_bytes, lerobot_peak_bytes: of weights,
    gradients, optimizer and the most that a step took beside them, None where the system does not tell, memory_ratio;
    loss, lerobot_loss, gradient, lerobot_gradient: norm of all gradients, for the same weights, input, noise and time;
    max_relative_diff of both, tolerance, ok}. parameters: {trained, lerobot_trained, all}. flops_per_sample as lerobot
    does it, limit_samples_per_s of these at the best rate of a float32 product.
    """
    theirs = build_smolvla(shape, device).train()
    ours = _ours(theirs, shape).to(device)
    ours.learn_expert()
    seen = draw(shape, batch, device)
    whole = batch_of(shape, seen)
    losses: dict[str, Callable[[], Tensor]] = {
        "lerobot": lambda: theirs.forward(dict(whole), noise=seen.noise, time=seen.time)[0],
        "ours": lambda: _loss(ours, shape, seen, whole),
    }
    networks: dict[str, nn.Module] = {"lerobot": theirs, "ours": ours}
    agree = {name: _agreement(losses, networks, name, device) for name in precisions}
    with FlopCounterMode(display=False) as counter:
        losses["lerobot"]().backward()
    theirs.zero_grad(set_to_none=True)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "lerobot": theirs.config.get_optimizer_preset().build(theirs.get_optim_params()),
        "ours": build_optimizer(ours, LEARNING_RATE, WEIGHT_DECAY),
    }
    result = {}
    for precision in precisions:
        steps = {
            name: _step(losses[name], networks[name], optimizers[name], precision, device)
            for name in ("lerobot", "ours")
        }
        taken = seconds_each(steps, rounds, f"training {precision}")
        held = {name: _held(networks[name], optimizers[name]) for name in steps}
        grown = {name: [peak_growth(step, device) for _ in range(2)][-1] for name, step in steps.items()}
        peak = {name: None if grown[name] is None else held[name] + (grown[name] or 0) for name in steps}
        known = peak["ours"] is not None and peak["lerobot"] is not None
        result[precision] = {
            "samples_per_s": batch / taken["ours"],
            "lerobot_samples_per_s": batch / taken["lerobot"],
            "ratio": taken["lerobot"] / taken["ours"],
            "peak_bytes": peak["ours"],
            "lerobot_peak_bytes": peak["lerobot"],
            "step_bytes": grown["ours"],
            "lerobot_step_bytes": grown["lerobot"],
            "memory_ratio": (peak["ours"] or 0) / (peak["lerobot"] or 1) if known else None,
            **agree[precision],
        }
    flops = counter.get_total_flops() / batch
    rate = flops_per_s(product if AVAILABLE and device == "cpu" else torch.matmul, device, 0.5)
    return {
        **result,
        "flops_per_sample": flops,
        "limit_samples_per_s": rate / flops,
        "parameters": {"trained": _count(ours, True), "lerobot_trained": _count(theirs, True), "all": _count(ours)},
        "batch": batch,
        "rounds": rounds,
    }


def _ours(theirs: Any, shape: Shape) -> SmolVLA:
    """Build ours with lerobot's weights."""
    weights = {name: value.detach().cpu() for name, value in theirs.state_dict().items()}
    return lerobot_weights.smolvla(weights, shape.vlm(shape.vlm_layers), shape.joint_every, shape.action_horizon)


def _parallel(shape: Shape) -> Network:
    """Build the network of `vla train` around the same vision encoder and language model, with random weights."""
    return Network(
        vision=None,
        language=None,
        cameras={name: (shape.image, shape.image) for name in shape.cameras},
        vocab_size=shape.vocabulary + ACTION_BINS + LOCATIONS,
        first_action_id=shape.vocabulary,
        action_horizon=shape.action_horizon,
        action_dim=shape.joints,
        max_text_tokens=48,
        head={"name": "parallel"},
        whole={
            "model_type": "smolvlm",
            "scale_factor": shape.shuffle,
            "image_token_id": shape.vocabulary - 1,
            "pad_token_id": 2,
            "tie_word_embeddings": True,
            "vision_config": {"model_type": "smolvlm_vision", **shape.vision()},
            "text_config": shape.text(shape.layers),
        },
    )


def _context(network: SmolVLA, shape: Shape, seen: Inputs, batch: dict[str, Tensor]) -> Any:
    images = [value * 2 - 1 for name, value in batch.items() if ".images." in name]
    there = [torch.ones(len(seen.state), dtype=torch.bool, device=seen.state.device)] * len(images)
    return network.context(images, there, seen.ids, seen.mask, _padded(seen.state, shape))


def _chunk(network: SmolVLA, shape: Shape, seen: Inputs, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        context = _context(network, shape, seen, batch)
        return network.act(context, shape.flow_steps, seen.noise)[..., : shape.joints]


def _loss(network: SmolVLA, shape: Shape, seen: Inputs, batch: dict[str, Tensor]) -> Tensor:
    context = _context(network, shape, seen, batch)
    time = seen.time[:, None].expand(-1, shape.action_horizon)
    return network.field.error(_padded(seen.actions, shape), seen.noise, time, context)[..., : shape.joints].mean()


def _parallel_chunk(network: Network, seen: Inputs) -> Tensor:
    given, none = torch.zeros_like(seen.actions), torch.zeros(len(seen.state), dtype=torch.long, device=seen.ids.device)
    return network.act(seen.images, seen.ids, seen.mask, seen.state.clamp(-1, 1), given, none).values


def _padded(values: Tensor, shape: Shape) -> Tensor:
    return functional.pad(values, (0, shape.padded - values.shape[-1]))


def _inference(chunks: dict[str, Callable[[], Tensor]], rounds: int, precision: str, device: str) -> dict[str, Any]:
    with _precisely(precision, device), torch.inference_mode():
        off, tolerance = _relative(chunks["same_weights"](), chunks["lerobot"]()), _tolerance(precision)
        taken = {name: 1e3 * s for name, s in seconds_each(chunks, rounds, f"inference {precision}").items()}
    compared = {"max_abs_diff": off, "tolerance": tolerance, "ok": off <= tolerance}
    return {
        "lerobot_ms": taken["lerobot"],
        "same_weights": {
            "ms": taken["same_weights"],
            "ratio": taken["lerobot"] / taken["same_weights"],
            **compared,
        },
        "parallel": {"ms": taken["parallel"], "ratio": taken["lerobot"] / taken["parallel"]},
    }


def _agreement(
    losses: dict[str, Callable[[], Tensor]], networks: dict[str, nn.Module], precision: str, device: str
) -> dict[str, Any]:
    """Compare loss and norm of the gradients before anything is learned."""
    loss, norm = {}, {}
    for name, compute in losses.items():
        with _precisely(precision, device):
            value = compute()
        value.backward()
        loss[name] = value.detach().float()
        norm[name] = nn.utils.clip_grad_norm_(networks[name].parameters(), CLIP)
        networks[name].zero_grad(set_to_none=True)
    off = max(_relative(found["ours"], found["lerobot"]) for found in (loss, norm))
    tolerance = _tolerance(precision)
    return {
        "loss": float(loss["ours"]),
        "lerobot_loss": float(loss["lerobot"]),
        "gradient": float(norm["ours"]),
        "lerobot_gradient": float(norm["lerobot"]),
        "max_relative_diff": off,
        "tolerance": tolerance,
        "ok": off <= tolerance,
    }


def _step(
    compute: Callable[[], Tensor], network: nn.Module, optimizer: torch.optim.Optimizer, precision: str, device: str
) -> Callable[[], None]:
    """Make a step as lerobot's training does it; gradients are let go of at its end."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def step() -> None:
        with _precisely(precision, device):
            loss = compute()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _precisely(precision: str, device: str) -> torch.autocast:
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is not known, possible: float32, bfloat16")
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def _tolerance(precision: str) -> float:
    return TOLERANCE if precision == "float32" else HALF


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """How far numbers are from others at most, relative to the largest of these; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def _held(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, buffers and what the optimizer remembers."""
    kept = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in [*kept.values(), *states])


def _flops(run: Callable[[], Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _count(network: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)
