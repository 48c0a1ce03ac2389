"""Action heads by name, all on the same hidden states and with the same contract, see `ActionHead`.

| name           | says a chunk                                       | source                       | confidence |
|----------------|----------------------------------------------------|------------------------------|------------|
| parallel       | in one pass, 256 bins a value, mean around the mode | the default here             | yes        |
| autoregressive | token by token, 255 bins a value                   | RT-2, OpenVLA                | yes        |
| fast           | token by token, merged cosine coefficients         | FAST                         | yes        |
| l1             | in one pass, numbers                               | OpenVLA-OFT                  | no         |
| flow           | 10 passes of an expert of its own                  | pi0, pi0.5                   | no         |
| diffusion      | 20 passes of a few layers                          | Octo                         | no         |

Each can be given leading steps: as tokens or placeholders in the sequence, or at time 0 (flow), or by the readout.
"""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from vla.model.denoising_heads import Diffusion, Flow
from vla.model.head import ActionHead
from vla.model.parallel_heads import L1, Parallel
from vla.model.token_heads import Autoregressive, Fast

HEADS = {
    "parallel": Parallel,
    "autoregressive": Autoregressive,
    "fast": Fast,
    "l1": L1,
    "flow": Flow,
    "diffusion": Diffusion,
}


def build_head(
    language: PretrainedConfig,
    action_horizon: int,
    action_dim: int,
    action_ids: slice,
    name: str = "parallel",
    **settings: Any,
) -> ActionHead:
    """Make the head of that name for a language model of that configuration; see the table on top."""
    return _known(name)(language, action_horizon, action_dim, action_ids, **settings)


def fit_head(values: Tensor, name: str = "parallel", **settings: Any) -> dict[str, Any]:
    """Complete the settings of a head by what it takes from normalised chunks float[N, T, A] of the data."""
    return {"name": name, **_known(name).fit(values, **settings)}


def _known(name: str) -> Any:
    if name not in HEADS:
        raise ValueError(f"action head {name!r} is not known, possible: {', '.join(HEADS)}")
    return HEADS[name]
