"""What a network stands on: the pretrained weights of its parts, which a checkpoint may name instead of holding them.

A checkpoint is whole, and then says how to build its parts without any download; or it holds what was learned beside
pretrained weights that stay as they are, with their names and hashes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from vla.model.adapters import beside, merged
from vla.model.network import Network

PARTS = {  # argument of `Network` -> where its weights are
    "vision": ("vision.encoder.",),
    "language": ("language.",),
    "whole": ("vision.encoder.", "language."),
}
OF_THE_TOWER = ("layer", "patches_only", "size")  # settings of `vision`, beside those of the encoder itself
NOT_OF_THE_SHAPE = ("vocab_size", "transformers_version", "architectures", "dtype", "_name_or_path")


@dataclass(frozen=True)
class Foundation:
    """Pretrained weights of a network."""

    hashes: dict[str, str] = field(default_factory=dict)  # part -> sha256 of its tensors, as they were loaded
    names: frozenset[str] = frozenset()  # of these tensors

    @classmethod
    def of(cls, network: Network, config: dict[str, Any]) -> "Foundation":
        """Look at a network that has just been built from the arguments `config`."""
        state = network.state_dict()
        parts = {
            part: sorted(name for name in state if name.startswith(place))
            for part, places in PARTS.items()
            if (place := _pretrained(config.get(part) or {}, places))
        }
        hashes = {part: _hash(network, state, names) for part, names in parts.items()}
        return cls(hashes, frozenset(name for names in parts.values() for name in names))


def to_store(
    network: Network, weights: dict[str, Tensor], config: dict[str, Any], foundation: Foundation
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str] | None]:
    """Return the arguments, tensors and hashes of the base for `checkpoint.save`; None where the tensors are all.

    weights: of the network as it is trained, such as an average; foundation: empty where pretrained weights have been
    changed since, by another checkpoint from which the training started.
    """
    kept = beside(network, weights, foundation.names)
    if any(name.endswith((".lora_A", ".added")) for name in kept) and foundation.names:
        return config, kept, foundation.hashes
    return without_downloads(network, config), merged(network, weights), None


def without_downloads(network: Network, config: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `Network` that build the same, with all shapes written out instead of names."""
    own = dict(config)
    named = {part for part, places in PARTS.items() if _pretrained(config.get(part) or {}, places)}
    if "vision" in named:
        own["vision"] = _written_out(network.vision.encoder, config["vision"])
    if "language" in named:
        own["language"] = _shape(network.language.config)
    if "whole" in named:
        own["whole"] = network.vision.encoder.colours | _shape(network.language.whole)
    return own


def _pretrained(settings: Mapping[str, Any], places: tuple[str, ...]) -> tuple[str, ...]:
    """Where the pretrained weights of a part are: everywhere, in some encoders of a fused one, or nowhere."""
    if "pretrained" in settings:
        return places
    numbers = [number for number, part in enumerate(settings.get("parts") or ()) if "pretrained" in part]
    return tuple(f"{place}encoders.{number}." for place in places for number in numbers)


def _written_out(encoder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a vision encoder that build the same without its name, those of each encoder of a fused one."""
    if "parts" in settings:
        parts = zip(encoder.encoders, settings["parts"], strict=True)
        return {**settings, "parts": [_written_out(one, part) for one, part in parts]}
    if "pretrained" not in settings:
        return dict(settings)
    return (
        {key: value for key, value in settings.items() if key in OF_THE_TOWER}
        | encoder.colours
        | _shape(encoder.config)
    )


def _shape(config: PretrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_diff_dict().items() if key not in NOT_OF_THE_SHAPE}


def _hash(network: Network, state: dict[str, Tensor], names: list[str]) -> str:
    """Hash names and bytes of tensors, of tables the rows of known words alone."""
    rows, digest = len(network.embedding.weight), hashlib.sha256()
    for name in names:
        tensor = state[name][: network.known_words] if state[name].shape[:1] == (rows,) else state[name]
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
