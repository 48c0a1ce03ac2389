"""What is learned beside weights that stay as they are: low-rank adapters, and the rows of new tokens.

Source: LoRA, Hu et al. 2021, arXiv:2106.09685. The words of a pretrained language model keep their embeddings, since
some thousand sentences would teach it to forget most of them; only action bins, locations and the like get new ones.

V vocabulary, D width.
"""

import warnings
from collections.abc import Collection
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.model.network import Network

try:
    from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore[reportMissingImports]
    from peft.tuners.lora import LoraLayer  # pyright: ignore[reportMissingImports]
except ImportError:  # the extra "hub"
    LoraConfig = inject_adapter_in_model = LoraLayer = None

KNOWN, ADDED, LORA_A, LORA_B = "known", "added", "lora_A", "lora_B"


class GrownTable(nn.Module):
    """A table float[V, D] whose first rows stay while those behind them are learned."""

    def __init__(self, weight: Tensor, known: int) -> None:
        super().__init__()
        self.known = nn.Parameter(weight[:known].detach().clone(), requires_grad=False)
        self.added = nn.Parameter(weight[known:].detach().clone())

    @property
    def weight(self) -> Tensor:
        """All rows."""
        return torch.cat([self.known, self.added])


class GrownEmbedding(GrownTable):
    """An embedding with new tokens."""

    def __init__(self, embedding: nn.Module, known: int) -> None:
        super().__init__(embedding.weight, known)  # pyright: ignore[reportArgumentType]
        self.scale = float(getattr(embedding, "embed_scale", 1.0))  # of Gemma

    def forward(self, ids: Tensor) -> Tensor:
        """int[...] -> float[..., D]."""
        count = len(self.known)
        old = functional.embedding(ids.clamp_max(count - 1), self.known)
        new = functional.embedding((ids - count).clamp_min(0), self.added)
        return torch.where((ids < count).unsqueeze(-1), old, new) * self.scale


class GrownOutput(GrownTable):
    """An output layer with new tokens."""

    def __init__(self, layer: nn.Linear, known: int) -> None:
        super().__init__(layer.weight, known)
        self.bias = layer.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> logits float[..., V]."""
        logits = torch.cat([functional.linear(hidden, rows) for rows in (self.known, self.added)], dim=-1)
        return logits if self.bias is None else logits + self.bias


def grow(language: Any, known: int) -> None:
    """Keep the first `known` rows of a language model's embedding and output layer, tied or not, as they are."""
    words, output = language.get_input_embeddings(), language.get_output_embeddings()
    embedding, logits = GrownEmbedding(words, known), GrownOutput(output, known)
    if output.weight is words.weight:
        logits.known, logits.added = embedding.known, embedding.added
    language.set_input_embeddings(embedding)
    language.set_output_embeddings(logits)


def adapt(network: Network, part: str, rank: int, alpha: int) -> None:
    """Give every matrix and convolution of vision encoder or language model an adapter that is trained in its stead.

    Of a language model the embedding is trained as well, in full or, where it is pretrained, the rows of new tokens.
    """
    if LoraConfig is None or inject_adapter_in_model is None:
        raise ValueError('lora needs the package peft: pip install "vla-stack[hub]"')
    module = network.language if part == "language" else network.vision.encoder
    if part == "language" and network.known_words:
        grow(module, network.known_words)
    words: Any = network.embedding  # and action ids: those of this world are new to any language model
    whole = words.weight
    layers = [name for name, layer in module.named_modules() if _is_linear(layer) and layer.weight is not whole]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # which peft sets right by itself
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), module)
    if isinstance(words, GrownTable):
        for table in (words, network.language.get_output_embeddings()):
            table.added.requires_grad_(True)
    else:
        whole.requires_grad_(True)


def merged(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights (such as an average) of a network with adapters as those of a plain one, for a checkpoint."""
    grown = isinstance(network.embedding, GrownTable)
    adapted = LoraLayer is not None and any(isinstance(module, LoraLayer) for module in network.modules())
    if not grown and not adapted:
        return weights
    plain = deepcopy(network)
    plain.load_state_dict(weights, strict=False)
    for name, module in list(plain.named_modules()):
        if LoraLayer is not None and isinstance(module, LoraLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
    return _plain_tables(plain.state_dict()) if grown else plain.state_dict()


def beside(network: Network, weights: dict[str, Tensor], base: Collection[str]) -> dict[str, Tensor]:
    """Return what a checkpoint has to hold of a network whose tensors named in `base` are to be had elsewhere.

    weights: of the network as it is trained, such as an average. Adapters are named after the layer that they change,
    with their scale in `lora_B`; new rows of a table end in `added`.
    """
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    kept = {}
    for name, tensor in weights.items():
        plain = name.replace(".base_layer.", ".")
        if plain.endswith(f".{KNOWN}") or (name in frozen and plain in base):
            continue
        layer, found, _ = plain.partition(f".{LORA_A}.")
        if found:
            plain = f"{layer}.{LORA_A}"
        layer, found, adapter = plain.partition(f".{LORA_B}.")
        if found:
            adapted: Any = network.get_submodule(layer)
            plain, tensor = f"{layer}.{LORA_B}", tensor * adapted.scaling[adapter.partition(".")[0]]
        kept[plain] = tensor
    return kept


@torch.no_grad()
def fill(network: Network, tensors: dict[str, Tensor], base: Collection[str]) -> None:
    """Put what `beside` returned into a plain network that holds the tensors named in `base` already.

    Raises ValueError for a tensor that is missing, has no place, or does not fit it.
    """
    state = network.state_dict()
    places = {name: _place(name) for name in tensors}
    filled = {name for place in places.values() for name in _ties(state, place)}
    rows = len(network.embedding.weight)
    there = {name for name in base if state[name].shape[:1] != (rows,)}  # of tables, the new rows are not
    missing, unexpected = state.keys() - filled - there, set(places.values()) - state.keys()
    missing |= {_other_half(name) for name in tensors if name.endswith((LORA_A, LORA_B))} - tensors.keys()
    if missing or unexpected:
        raise ValueError(f"adapters do not fit: missing {sorted(missing)[:5]}, unexpected {sorted(unexpected)[:5]}")
    new = rows - network.known_words
    if wrong := [name for name, place in places.items() if not _fits(tensors, name, state[place].shape, new)]:
        listed = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in sorted(wrong)[:5])
        raise ValueError(f"adapters do not fit: {listed} is not of the size that config.json asks for")
    for name in sorted(places, key=lambda name: name.endswith(f".{LORA_A}")):  # adapters change what has been filled in
        tensor, target = tensors[name].float(), state[places[name]]
        if name.endswith(f".{LORA_A}"):
            change = tensors[_other_half(name)].float().flatten(1) @ tensor.flatten(1)
            layer = network.get_submodule(places[name].removesuffix(".weight"))
            target += (change.T if type(layer).__name__ == "Conv1D" else change).reshape(target.shape)
        elif name.endswith(f".{ADDED}"):
            target[-len(tensor) :] = tensor
        elif not name.endswith(f".{LORA_B}"):
            target.copy_(tensor)


def _plain_tables(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the rows of grown tables; tied ones stay tied."""
    tables: dict[int, Tensor] = {}
    for name in [name for name in state if name.endswith(f".{KNOWN}")]:
        place = name.removesuffix(KNOWN)
        rows = state.pop(name), state.pop(f"{place}{ADDED}")
        table = tables.get(rows[0].data_ptr())
        tables[rows[0].data_ptr()] = state[f"{place}weight"] = torch.cat(rows) if table is None else table
    return state


def _place(name: str) -> str:
    """Say which tensor of a plain network a stored one changes."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.weight" if kind in (LORA_A, LORA_B, ADDED) else name


def _other_half(name: str) -> str:
    """Name the second matrix of an adapter by the first, and the first by the second."""
    layer, _, half = name.rpartition(".")
    return f"{layer}.{LORA_B if half == LORA_A else LORA_A}"


def _fits(tensors: dict[str, Tensor], name: str, shape: torch.Size, new: int) -> bool:
    """Say whether a stored tensor can change one of that shape, of a table `new` rows."""
    mine = tensors[name].shape
    if name.endswith(f".{ADDED}"):
        return mine == (new, *shape[1:])
    if not name.endswith((f".{LORA_A}", f".{LORA_B}")):
        return mine == shape
    first, second = (tensors[one].flatten(1) for one in sorted((name, _other_half(name))))
    return first.shape[0] == second.shape[1] and first.shape[1] * second.shape[0] == shape.numel()


def _ties(state: dict[str, Tensor], place: str) -> list[str]:
    """All names of a tensor."""
    same = state[place].data_ptr() if place in state else None
    return [name for name, tensor in state.items() if tensor.data_ptr() == same] if same else [place]


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d) or type(layer).__name__ == "Conv1D"
