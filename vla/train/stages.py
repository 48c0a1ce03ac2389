"""What a stage of training changes: the learning rate of each part, frozen ones among them, and low-rank adapters.

Alignment teaches a new connector to speak to a language model that stays as it is (LLaVA, Liu et al. 2023,
arXiv:2304.08485, section 4.2); instruction and action tuning adapts the rest, in full or by LoRA (Hu et al. 2021,
arXiv:2106.09685).
"""

from collections.abc import Collection, Mapping
from typing import Any

from vla.model.adapters import adapt, grow
from vla.model.network import Network

PARTS = ("vision", "connector", "language", "head")


def part_of(name: str) -> str:
    """Say to which part a parameter of `Network` belongs, by its name; new words of a pretrained model to the head."""
    if name.startswith("vision.encoder."):
        return "vision"
    if name.startswith(("vision.", "grounding.")):
        return "connector"
    new = name.endswith(".added")
    return "language" if name.startswith(("language.", "cross.")) and not new else "head"


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
            adapt(network, part, lora["rank"], lora["alpha"])
    if rates.get("language") == 0 and network.known_words:  # its new words are the head's
        grow(network.language, network.known_words)
    for name, parameter in network.named_parameters():
        if rates.get(part_of(name), 1.0) == 0:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"rates={dict(rates)}: nothing is left to train")


def refuse_untaught(
    drawn: set[str],
    rates: Mapping[str, float],
    lora: Mapping[str, Any] | None,
    init: str | None,
    preferring: str | None = None,
    frozen: Collection[str] = (),
) -> None:
    """Raise ValueError where tensors named in `drawn`, which nothing has taught yet, would stay as they were drawn.

    preferring: the key that asks for preference, which sharpens what is known and can teach no tensor from nothing;
    frozen: tensors that the design keeps as they are, whatever the rates.
    """
    if preferring and init and drawn:
        raise ValueError(
            f"{preferring}=true: {len(drawn)} tensors of the model have no equal in init={init}, such as "
            f"{min(drawn)}; give the model that the checkpoint has"
        )
    still = {part for part in PARTS if rates.get(part) == 0} | set((lora or {}).get("parts", ()))
    if names := sorted(name for name in drawn if part_of(name) in still or name in frozen):
        parts = sorted({part_of(name) for name in names})
        raise ValueError(
            f"init={init}: {len(names)} tensors of {', '.join(parts)} have no equal there and would stay as "
            f"they were drawn, such as {names[0]}; give a checkpoint of the same model, or train these parts in full"
        )


def kept_by_design(network: Network) -> set[str]:
    """Names of what the language model keeps as it is for what was built into it, such as gated cross-attention."""
    weights = network.language.named_parameters(prefix="language")
    return {name for name, weight in weights if not weight.requires_grad}


def keep_frozen_statistics(network: Network) -> None:
    """Switch normalisation over batches to evaluation where it is frozen, or its statistics would go on changing."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
