"""Policies of lerobot, folder in, actions out: pi0 and SmolVLA in our network, of all others their normalisation.

A folder, as `save_pretrained` of lerobot 0.4 and later leaves it:
config.json  model.safetensors  policy_preprocessor.json  policy_postprocessor.json  policy_*_step_*.safetensors

B batch, T action horizon, A action dimension.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from vla.model import lerobot_weights
from vla.model.flow_vla import FlowVLA
from vla.model.normalization import Normalization
from vla.types import Observation

STATE, ACTION, IMAGES, OBSERVATION = "observation.state", "action", "observation.images.", "observation."
READ = ("pi0", "smolvla")
UNDERSTOOD = (  # steps before and after the network whose work is done here, or is none
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "smolvla_new_line_processor",
    "tokenizer_processor",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
    "relative_actions_processor",
    "absolute_actions_processor",
)
UNSUPPORTED = {  # setting -> the only value of it that is computed here
    "use_relative_actions": False,
    "adapt_to_pi_aloha": False,
    "add_image_special_tokens": False,
    "empty_cameras": 0,
    "n_obs_steps": 1,
    "min_period": 4e-3,
    "max_period": 4.0,
}


@dataclass(frozen=True)
class LeRobotFolder:
    """What the documents of a folder say."""

    path: Path
    kind: str  # the policy's type
    config: dict[str, Any]
    state: Normalization
    action: Normalization
    names: dict[str, str]  # feature of the policy -> feature of the data, where they differ

    @classmethod
    def read(cls, path: Path | str) -> "LeRobotFolder":
        """Read configuration and normalisation of any policy; ValueError, FileNotFoundError say what is not there."""
        path = Path(path)
        config = _json(path / "config.json")
        if "type" not in config or "normalization_mapping" not in config:
            raise ValueError(f"{path}/config.json is not of a lerobot policy: it has no type or normalization_mapping")
        if not (path / "policy_preprocessor.json").is_file():
            raise FileNotFoundError(
                f"{path} has no policy_preprocessor.json: it was written by lerobot before 0.4; convert it with "
                "lerobot's migrate_policy_normalization"
            )
        before, after = (_stats(path, f"policy_{which}processor.json") for which in ("pre", "post"))
        modes = config["normalization_mapping"]
        return cls(
            path,
            config["type"],
            config,
            _normalization(modes, "STATE", before, STATE),
            _normalization(modes, "ACTION", after, ACTION),
            {mine: theirs for theirs, mine in _renamed(path).items()},
        )

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras in the data, in the order in which the network sees them."""
        keys = [key for key, feature in self.config["input_features"].items() if feature["type"] == "VISUAL"]
        return [str(self.names.get(key, key)).removeprefix(IMAGES).removeprefix(OBSERVATION) for key in keys]

    @property
    def action_dim(self) -> int:
        """A."""
        return self.config["output_features"][ACTION]["shape"][0]


class LeRobotPolicy:
    """A pi0 or SmolVLA of lerobot: observations in the units of its data in, actions in these units out."""

    def __init__(self, folder: LeRobotFolder, network: FlowVLA, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take all parts; see `load`."""
        self.folder, self.network, self.tokenizer = folder, network, tokenizer
        steps = "num_inference_steps" if folder.kind == "pi0" else "num_steps"
        self.steps: int = folder.config[steps]

    @classmethod
    def load(
        cls, path: Path | str, vlm: Path | str | None = None, tokenizer: Path | str | None = None
    ) -> "LeRobotPolicy":
        """Load a folder strictly; single precision.

        vlm: name or folder of the vision-language model whose configuration SmolVLA was built from; tokenizer: name or
        folder of the words; both left out: what the folder names, from the hub. ValueError for a policy or a setting
        that is not computed here as lerobot does.
        """
        folder = LeRobotFolder.read(path)
        _refuse_other(folder)
        weights, config = load_file(folder.path / "model.safetensors"), folder.config
        if folder.kind == "pi0":
            network: FlowVLA = lerobot_weights.pi0(weights, config["chunk_size"])
        else:
            every = config["self_attn_every_n_layers"] if config["attention_mode"] == "cross_attn" else 1
            whole = AutoConfig.from_pretrained(vlm or config["vlm_model_name"])
            network = lerobot_weights.smolvla(weights, whole, every, config["chunk_size"])
        words = tokenizer or _step(folder.path, "policy_preprocessor.json", "tokenizer_processor")["tokenizer_name"]
        return cls(folder, network, AutoTokenizer.from_pretrained(words))

    @torch.no_grad()
    def actions(self, observations: Sequence[Observation], noise: Tensor | None = None) -> np.ndarray:
        """Answer each observation with a chunk float32[B, T, A].

        Images by the names of `folder.cameras`, all of them; state and actions in the units of the dataset, which
        lerobot's files do not tell. noise: where to begin, float[B, T, A of the network].
        """
        state = self.state(observations)
        ids, mask = self.words([observation.instruction for observation in observations])
        images = self.images(observations)
        there = [torch.ones(len(observations), dtype=torch.bool)] * len(images)
        context = self.network.context(images, there, ids, mask, state)
        chunk = self.network.act(context, self.steps, noise)
        return self.folder.action.decode(chunk[..., : self.folder.action_dim]).numpy()

    def state(self, observations: Sequence[Observation]) -> Tensor:
        """Normalised states float[B, S], filled up with zeros to the width of the network."""
        state = self.folder.state.encode(torch.from_numpy(np.stack([o.state for o in observations])).float())
        return functional.pad(state, (0, self.folder.config["max_state_dim"] - state.shape[1]))

    def words(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Instructions -> ids int[B, L] and mask bool[B, L]; one that is too long is refused, where lerobot cuts it."""
        lines = [text if text.endswith("\n") else f"{text}\n" for text in instructions]
        said: Any = self.tokenizer(lines, padding=True, padding_side="right", return_tensors="pt")
        longest = self.folder.config["tokenizer_max_length"]
        if said["input_ids"].shape[1] > longest:
            raise ValueError(f"an instruction has {said['input_ids'].shape[1]} tokens, the policy reads {longest}")
        return said["input_ids"], said["attention_mask"].bool()

    def images(self, observations: Sequence[Observation]) -> list[Tensor]:
        """Frames of each camera, float[B, 3, H, W] in -1..1, resized and padded as lerobot does."""
        missing = sorted({name for name in self.folder.cameras for o in observations if name not in o.images})
        if missing:
            raise ValueError(f"cameras {missing} are missing; the policy sees {self.folder.cameras}")
        frames = []
        for name in self.folder.cameras:
            pixels = torch.from_numpy(np.stack([o.images[name] for o in observations])).permute(0, 3, 1, 2) / 255
            frames.append(self._sized(pixels) * 2 - 1)
        return frames

    def _sized(self, pixels: Tensor) -> Tensor:
        """Fit pixels 0..1 into the size of the network; black beside them: around in pi0, left and above in SmolVLA."""
        config = self.folder.config
        if self.folder.kind == "pi0":
            height, width = config["image_resolution"]
            return fitted(pixels, height, width, centred=True)
        if config["resize_imgs_with_padding"] is None:
            return pixels
        width, height = config["resize_imgs_with_padding"]
        return fitted(pixels, height, width, centred=False)


def fitted(pixels: Tensor, height: int, width: int, centred: bool) -> Tensor:
    """Resize float[B, 3, H, W] to float[B, 3, height, width] with its proportions, zeros beside it."""
    ratio = max(pixels.shape[3] / width, pixels.shape[2] / height)
    inner = int(pixels.shape[2] / ratio), int(pixels.shape[3] / ratio)
    pixels = functional.interpolate(pixels, inner, mode="bilinear", align_corners=False)
    above, left = height - inner[0], width - inner[1]
    below, right = (above - above // 2, left - left // 2) if centred else (0, 0)
    return functional.pad(pixels, (left - right, right, above - below, below))


def _refuse_other(folder: LeRobotFolder) -> None:
    """Raise ValueError where our network would not compute what lerobot's does."""
    if folder.kind not in READ:
        raise ValueError(
            f"{folder.path} is a policy of type {folder.kind!r}; the weights of {' and '.join(READ)} are read, of "
            "others only their normalisation: LeRobotFolder.read"
        )
    config = folder.config
    if not folder.cameras:
        raise ValueError(f"{folder.path}: none of its inputs {sorted(config['input_features'])} is an image")
    for name, only in UNSUPPORTED.items():
        if config.get(name, only) != only:
            raise ValueError(f"{folder.path}: {name}={config[name]!r} is not supported, only {only!r}")
    if folder.kind == "smolvla":
        mode, every = config["attention_mode"], config["self_attn_every_n_layers"]
        if mode not in ("cross_attn", "self_attn") or (mode == "cross_attn" and every < 1):
            raise ValueError(
                f"{folder.path}: attention_mode={mode!r} with self_attn_every_n_layers={every} is not supported, only "
                "cross_attn with 1 or more, and self_attn"
            )
    if config.get("num_expert_layers", 0) > 0 and config["num_expert_layers"] != config["num_vlm_layers"]:
        raise ValueError(
            f"{folder.path}: an expert of {config['num_expert_layers']} layers beside {config['num_vlm_layers']} is "
            "not supported, only of as many"
        )
    if config["normalization_mapping"].get("VISUAL", "IDENTITY") != "IDENTITY":
        raise ValueError(f"{folder.path}: normalised images are not supported, only VISUAL: IDENTITY")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        steps = [step.get("registry_name", step.get("class")) for step in _json(folder.path / name)["steps"]]
        if other := [step for step in steps if step not in UNDERSTOOD]:
            raise ValueError(f"{folder.path}/{name}: steps {other} are not supported, only {', '.join(UNDERSTOOD)}")


def _normalization(modes: dict[str, str], kind: str, stats: dict[str, Tensor], feature: str) -> Normalization:
    start = f"{feature}."
    own = {name.removeprefix(start): value for name, value in stats.items() if name.startswith(start)}
    return Normalization(modes.get(kind, "IDENTITY"), own)


def _stats(path: Path, document: str) -> dict[str, Tensor]:
    """Return statistics "feature.name" -> float[...] of the normalising step of a document."""
    for step in _json(path / document)["steps"]:
        if step.get("registry_name") in ("normalizer_processor", "unnormalizer_processor") and "state_file" in step:
            return load_file(path / step["state_file"])
    return {}


def _renamed(path: Path) -> dict[str, str]:
    """Return how the features of the data are renamed before anything else."""
    steps = _json(path / "policy_preprocessor.json")["steps"]
    maps = [step.get("config", {}).get("rename_map") for step in steps if step.get("registry_name") == UNDERSTOOD[0]]
    return next(filter(None, maps), {})


def _step(path: Path, document: str, name: str) -> dict[str, Any]:
    for step in _json(path / document)["steps"]:
        if step.get("registry_name") == name:
            return step["config"]
    raise ValueError(f"{path / document} has no step {name}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a folder that lerobot's save_pretrained wrote")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it from a backup") from error
