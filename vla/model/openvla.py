"""Actions of OpenVLA checkpoints: ids of the vocabulary to the actions of a dataset and back.

Of the folder only `config.json` is read: bins, vocabulary and the statistics of each dataset. The network (Prismatic, a
Llama of seven billion weights whose code comes with the checkpoint) is not built here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.model.actions import edge_bins, edge_centers
from vla.model.normalization import Bounds


@dataclass(frozen=True)
class OpenVLAActions:
    """Inverse pair, up to half a bin, between actions float[..., A] and token ids int[..., A]."""

    bounds: Bounds
    vocabulary: int  # ids of words; the last of them are bins
    bins: int = 256

    @classmethod
    def read(cls, folder: Path | str, dataset: str | None = None) -> "OpenVLAActions":
        """Read the `config.json` of a checkpoint; dataset: whose statistics, may be left out where there is one only.

        ValueError, FileNotFoundError say what is not there.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the folder of an OpenVLA checkpoint")
        config = json.loads(path.read_text())
        every: dict[str, Any] = config.get("norm_stats") or {}
        if config.get("model_type") != "openvla" or not every:
            raise ValueError(f"{path} is not of an OpenVLA checkpoint: it needs model_type openvla and norm_stats")
        if dataset is None and len(every) == 1:
            dataset = next(iter(every))
        if dataset not in every:
            raise ValueError(f"dataset {dataset!r} is not in {path}, possible: {', '.join(sorted(every))}")
        own = every[dataset]["action"]
        if missing := [name for name in ("q01", "q99") if name not in own]:
            raise ValueError(f"{path}: the actions of {dataset} have no {missing}, only {sorted(own)}")
        low, high = (torch.tensor(own[name], dtype=torch.float64) for name in ("q01", "q99"))
        mask = torch.tensor(own["mask"]) if "mask" in own else None
        unused = torch.tensor(own["min"]) == torch.tensor(own["max"]) if {"min", "max"} <= own.keys() else None
        bounds = Bounds(low, high, mask, unused)
        return cls(bounds, config["text_config"]["vocab_size"] - config["pad_to_multiple_of"], config["n_action_bins"])

    def encode(self, actions: Tensor) -> Tensor:
        """Actions float[..., A] in the units of the dataset -> ids int[..., A]."""
        return self.vocabulary - edge_bins(self.bounds.encode(actions.double()), self.bins)

    def decode(self, ids: Tensor) -> Tensor:
        """Ids int[..., A] -> actions float[..., A]; an id that is no bin is read as the nearest, as OpenVLA does."""
        return self.bounds.decode(edge_centers(self.vocabulary - ids, self.bins).double()).float()
