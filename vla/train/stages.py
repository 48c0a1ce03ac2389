"""What a stage of training changes: the learning rate of each part, frozen ones among them, and low-rank adapters.

Alignment teaches a new connector to speak to a language model that stays as it is (LLaVA, Liu et al. 2023,
arXiv:2304.08485, section 4.2); instruction and action tuning adapts the rest, in full or by LoRA (Hu et al. 2021,
arXiv:2106.09685).
"""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from vla.model.network import Network

try:
    from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore[reportMissingImports]
    from peft.tuners.lora import LoraLayer  # pyright: ignore[reportMissingImports]
except ImportError:  # the extra "hub"
    LoraConfig = inject_adapter_in_model = LoraLayer = None

PARTS = ("vision", "connector", "language", "head")


def part_of(name: str) -> str:
    """Say to which part a parameter of `Network` belongs, by its name."""
    if name.startswith("vision.encoder."):
        return "vision"
    if name.startswith(("vision.", "grounding.")):
        return "connector"
    return "language" if name.startswith(("language.", "cross.")) else "head"


def prepare(network: Network, rates: Mapping[str, float], lora: Mapping[str, Any] | None) -> None:
    """Freeze the parts whose rate is 0 and give those named in `lora` adapters, which are trained instead of them.

    lora: `parts` (of vision and language), `rank`, `alpha`; None for none. Raises ValueError for a part that there is
    not, or where nothing is left to train.
    """
    if unknown := [part for part in rates if part not in PARTS]:
        raise ValueError(f"rates: there is no part {unknown}, possible: {', '.join(PARTS)}")
    if lora is not None:
        if set(lora) != {"parts", "rank", "alpha"}:
            raise ValueError(f"lora has the keys parts, rank and alpha, got {sorted(lora)}")
        for part in lora["parts"]:
            if part not in ("vision", "language") or rates.get(part) == 0:
                raise ValueError(f"lora.parts: {part!r} has no adapters; possible: vision, language, of a rate above 0")
            _adapt(network, part, lora["rank"], lora["alpha"])
    for name, parameter in network.named_parameters():
        if rates.get(part_of(name), 1.0) == 0:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"rates={dict(rates)}: nothing is left to train")


def refuse_untaught(drawn: set[str], rates: Mapping[str, float], lora: Mapping[str, Any] | None, init: str) -> None:
    """Raise ValueError where tensors named in `drawn`, which nothing has taught yet, would stay as they were drawn."""
    still = {part for part in PARTS if rates.get(part) == 0} | set((lora or {}).get("parts", ()))
    if names := sorted(name for name in drawn if part_of(name) in still):
        raise ValueError(
            f"init={init}: {len(names)} tensors of {', '.join(sorted(still))} have no equal there and would stay as "
            f"they were drawn, such as {names[0]}; give a checkpoint of the same model, or train these parts in full"
        )


def keep_frozen_statistics(network: Network) -> None:
    """Switch normalisation over batches to evaluation where it is frozen, or its statistics would go on changing."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def merged(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights (such as an average) of a network with adapters as those of a plain one, for a checkpoint."""
    if LoraLayer is None or not any(isinstance(module, LoraLayer) for module in network.modules()):
        return weights
    plain = deepcopy(network)
    plain.load_state_dict(weights, strict=False)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
    return plain.state_dict()


def _adapt(network: Network, part: str, rank: int, alpha: int) -> None:
    if LoraConfig is None or inject_adapter_in_model is None:
        raise ValueError('lora needs the package peft: pip install "vla-stack[hub]"')
    module = network.language if part == "language" else network.vision.encoder
    words = network.embedding.weight  # and action ids: those of this world are new to any language model
    layers = [name for name, layer in module.named_modules() if _is_linear(layer) and layer.weight is not words]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # which peft sets right by itself
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), module)
    words.requires_grad_(True)


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d) or type(layer).__name__ == "Conv1D"
