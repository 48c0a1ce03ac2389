"""One folder a checkpoint: weights, how to build them, how to read and write the world, where it all came from.

Where `config.json` has a `base`, the weights are what was learned beside pretrained ones, see `foundation.py`.

model.safetensors  config.json  processor.json  tokenizer.json  embodiment.json  provenance.json  README.md
glimpse-CAMERA.png, where there is one
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vla.data.schema import flush
from vla.model.actions import ActionCodec
from vla.model.adapters import fill
from vla.model.foundation import Foundation
from vla.model.glimpses import Glimpses
from vla.model.history import History
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.model.precision import PRECISIONS, multiply_in_int8, restored
from vla.model.processor import Processor
from vla.types import Embodiment

FILES = ("model.safetensors", "config.json", "processor.json", "tokenizer.json", "embodiment.json", "provenance.json")
GLIMPSE = "glimpse-"
FORMAT = 1
SIGNS: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}  # of `build_tokenizer`
DEFAULT = Path(__file__).resolve().parents[2] / "checkpoints" / "nano"


def save(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    processor: Processor,
    provenance: dict[str, Any],
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    base: dict[str, str] | None = None,
) -> None:
    """Write a checkpoint beside `folder`, then swap it in, so that a crash leaves the old one or the new one.

    config: the arguments of `Network`; weights: its state dict, or with a base what was learned beside it; dtype:
    floating weights are stored in it; precision: what the weights were made by, see `precision.stored`; base: hashes
    of pretrained parts, see `Foundation`.
    """
    _restore(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: _stored(tensor, dtype) for name, tensor in _without_ties(weights).items()}
    save_file(tensors, partial / "model.safetensors")
    embodiment = processor.embodiment
    special = {"precision": precision, "base": base}
    documents = {
        "config.json": {"format": FORMAT, "network": config} | {key: value for key, value in special.items() if value},
        "processor.json": {
            "cameras": {name: list(size) for name, size in processor.cameras.items()},
            "max_text_tokens": processor.max_text_tokens,
            "actions": processor.codec.to_dict(),
            **_pose(processor),
            "others": [
                {"embodiment": _body(other.embodiment), "actions": other.codec.to_dict(), **_pose(other)}
                for other in processor.others
            ],
        }
        | _spelling(processor),
        "embodiment.json": _body(embodiment),
        "provenance.json": provenance,
    }
    for name, document in documents.items():
        (partial / name).write_text(json.dumps(document, indent=1) + "\n")
    processor.tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
    for camera, glimpse in processor.glimpses.items():
        (partial / f"{GLIMPSE}{camera}.png").write_bytes(cv2.imencode(".png", glimpse[..., ::-1])[1].tobytes())
    for kept in sorted(folder.glob("*")) if folder.exists() else []:  # a model card, its pictures
        if kept.is_file() and kept.name not in FILES and not kept.name.startswith(GLIMPSE):
            shutil.copy(kept, partial / kept.name)
    for path in (*sorted(partial.iterdir()), partial):
        flush(path)
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path | str = DEFAULT, device: str = "cpu") -> VLAPolicy:
    """Load a checkpoint strictly: a missing file, weight or statistic is an error that names it.

    folder: where vla train wrote it, or the name of one that ships, such as "nano".
    """
    folder = _found(folder, FILES)
    config = _read(folder, "config.json")
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder} has checkpoint format {config.get('format')!r}, this version reads {FORMAT}")
    embodiment = _embodiment(_read(folder, "embodiment.json"), folder / "embodiment.json")
    settings = _read(folder, "processor.json")
    processor = Processor(
        embodiment=embodiment,
        cameras={name: (int(size[0]), int(size[1])) for name, size in settings["cameras"].items()},
        codec=ActionCodec.from_dict(settings["actions"]),
        tokenizer=load_tokenizer(folder / "tokenizer.json", settings.get("signs", SIGNS)),
        max_text_tokens=settings["max_text_tokens"],
        glimpses=_glimpses(folder),
        ready=_ready(settings),
        taught=frozenset(settings["taught"]) if "taught" in settings else None,
        history=History(**earlier) if (earlier := config["network"].get("history")) else None,
    )
    processor.others = tuple(
        replace(
            processor,
            embodiment=_embodiment(other["embodiment"], folder / "processor.json"),
            codec=ActionCodec.from_dict(other["actions"]),
            glimpses={},
            ready=_ready(other),
        )
        for other in settings.get("others", [])
    )
    network, weights = Network(**config["network"]), load_file(folder / "model.safetensors")
    if (precision := config.get("precision")) not in (None, *PRECISIONS):
        raise ValueError(f"{folder} was exported to {precision!r}, this version reads {', '.join(PRECISIONS)}")
    if precision == "int8":
        if device != "cpu":
            raise ValueError(f"{folder} multiplies in int8, which device={device} cannot: give device=cpu")
        multiply_in_int8(network)
    if "base" in config:
        fill(network, weights, _base(network, config).names)
    else:
        load_weights(network, restored(network, weights))
    return VLAPolicy(network.to(device).requires_grad_(False), processor)


def configuration(folder: Path | str) -> dict[str, Any]:
    """Return the arguments of a checkpoint's `Network`, of one by name as `load` has it."""
    return _read(_found(folder, FILES), "config.json")["network"]


def precision_of(folder: Path | str) -> str | None:
    """Return what a checkpoint was exported to, None where it is as it was trained."""
    return _read(_found(folder, FILES), "config.json").get("precision")


def _found(name: Path | str, files: Sequence[str]) -> Path:
    """Return the folder of a checkpoint, given by its path or by the name under which it ships; it has these files."""
    shipped = DEFAULT.parent / name
    folder = shipped if not Path(name).exists() and shipped.is_dir() else Path(name)
    _restore(folder)
    if missing := [file for file in files if not (folder / file).is_file()]:
        ships = ", ".join(sorted(path.parent.name for path in DEFAULT.parent.glob("*/config.json")))
        raise FileNotFoundError(
            f"{folder} is not a checkpoint, it lacks {missing}; give a folder of vla train, or what ships: {ships}"
        )
    return folder


def digest(folder: Path | str) -> str:
    """Return sixteen hexadecimal digits that tell the weights of a checkpoint from others; `folder` as in `load`."""
    return hashlib.sha256((_found(folder, FILES[:1]) / FILES[0]).read_bytes()).hexdigest()[:16]


def load_weights(network: Network, weights: dict[str, Tensor]) -> None:
    """Fill the network strictly; tied weights may be absent, anything else missing or extra is an error."""
    result = network.load_state_dict(weights, strict=False)
    missing = set(result.missing_keys) - _tied(network.state_dict())
    if missing or result.unexpected_keys:
        raise ValueError(f"weights do not fit: missing {sorted(missing)[:5]}, unexpected {result.unexpected_keys[:5]}")


def load_tokenizer(path: Path, signs: dict[str, Any] = SIGNS) -> PreTrainedTokenizerFast:
    """Read `tokenizer.json` as `vocabulary.py` made it; signs: what fills up, ends, and stands for the unknown."""
    return PreTrainedTokenizerFast(tokenizer_file=str(path), padding_side="left", **signs)


def _spelling(processor: Processor) -> dict[str, Any]:
    """What there is to say about a tokenizer that came with a pretrained model."""
    if processor.taught is None:
        return {}
    return {
        "signs": {name: getattr(processor.tokenizer, name) for name in SIGNS},
        "taught": sorted(processor.taught),
    }


def _base(network: Network, config: dict[str, Any]) -> Foundation:
    """Look at what the network stands on; raises ValueError where it is not what the checkpoint was trained on."""
    found = Foundation.of(network, config["network"])
    if found.hashes != config["base"]:
        names = {part: config["network"][part]["pretrained"] for part in config["base"]}
        raise ValueError(
            f"the checkpoint sits on weights {config['base']}, but {names} are {found.hashes}: get the same revision"
        )
    return found


def _pose(processor: Processor) -> dict[str, Any]:
    """What the file says of the ready pose; `_ready` reads it."""
    return {} if processor.ready is None else {"ready": processor.ready.tolist()}


def _ready(settings: dict[str, Any]) -> np.ndarray | None:
    return np.array(settings["ready"], np.float32) if "ready" in settings else None


def _body(embodiment: Embodiment) -> dict[str, Any]:
    return {"hash": embodiment.hash(), **embodiment.to_dict()}


def _embodiment(body: dict[str, Any], path: Path) -> Embodiment:
    embodiment = Embodiment.from_dict({key: value for key, value in body.items() if key != "hash"})
    if embodiment.hash() != body.get("hash"):
        raise ValueError(f"{path} was changed by hand: the hash of its embodiment does not match its content")
    return embodiment


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / name} is not valid JSON ({error}); restore it from a backup") from error


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Bring back the old checkpoint where saving the new one ended between two renames."""
    if not folder.exists() and _old(folder).exists():
        os.replace(_old(folder), folder)


def _glimpses(folder: Path) -> Glimpses:
    glimpses = {}
    for path in sorted(folder.glob(f"{GLIMPSE}*.png")):
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"{path} is not a picture; restore it from a backup")
        glimpses[path.stem.removeprefix(GLIMPSE)] = image[..., ::-1]
    return glimpses


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _tied(weights: dict[str, Tensor]) -> set[str]:
    """Names that share memory with an earlier name."""
    seen: set[int] = set()
    tied = set()
    for name, tensor in weights.items():
        if tensor.data_ptr() in seen and tensor.numel() > 1:
            tied.add(name)
        seen.add(tensor.data_ptr())
    return tied


def _without_ties(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    tied = _tied(weights)
    return {name: tensor for name, tensor in weights.items() if name not in tied}
