"""The velocity field of flow matching: an expert beside a language model, which reads its keys and values.

| setting       | pi0, arXiv:2410.24164            | SmolVLA, arXiv:2506.01844                                      |
|---------------|----------------------------------|----------------------------------------------------------------|
| `state_dim`   | the state is a token of its own  | none: the language model has read the state                    |
| `causal`      | steps of the chunk see each other | steps see those before them                                   |
| `joint_every` | 1: all layers look at both       | 2: the others look at the language model only, by projections  |

Noise is at time 1, the chunk at time 0.

B batch, T action horizon, A action dimension, N tokens of the expert, P tokens of the sequence so far, D width.
"""

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from vla.model.guidance import led
from vla.model.head import Context


class VelocityField(nn.Module):
    """Says, for a noisy chunk, the way from the chunk to the noise."""

    def __init__(
        self,
        language: PretrainedConfig,
        action_dim: int,
        expert: dict[str, Any] | None = None,
        insulate: bool = False,
        state_dim: int | None = None,
        causal: bool = False,
        joint_every: int = 1,
        time_precision: torch.dtype = torch.float64,
    ) -> None:
        """Build the expert; see the table on top.

        expert: what differs from the language model's configuration, anything but the number and size of the heads,
        whose keys it reads; insulate: whether its gradients stop at the language model; time_precision: see
        `time_waves`.
        """
        super().__init__()
        self.insulate, self.causal, self.time_precision = insulate, causal, time_precision
        config = copy.deepcopy(language)
        for name, value in (expert or {}).items():
            if not hasattr(config, name):
                raise ValueError(f"the expert's {name!r} is no setting of a {language.model_type} model")
            setattr(config, name, value)
        config.vocab_size, config.pad_token_id = 1, None  # it reads no words
        model = AutoModel.from_config(config)
        model.set_input_embeddings(None)
        self.expert = model if joint_every == 1 else CrossLayers(model, joint_every)
        inner: int = config.hidden_size
        self.state = nn.Linear(state_dim, inner) if state_dim is not None else None
        self.inward = nn.Linear(action_dim, inner)
        self.mix = nn.Sequential(nn.Linear(2 * inner, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.outward = nn.Linear(inner, action_dim)

    def velocity(self, noisy: Tensor, time: Tensor, context: Context, sight: dict[str, Any] | None = None) -> Tensor:
        """Noisy chunks float[B, T, A] at times float[B, T] -> noise minus chunk, float[B, T, A].

        sight: what `sight` made of the context, where many velocities are asked for.
        """
        embedded = self.inward(noisy)
        waves = time_waves(time, embedded.shape[-1], precision=self.time_precision)
        embedded = self.mix(torch.cat([embedded, waves.to(embedded)], dim=-1))
        if self.state is not None:
            assert context.state is not None
            embedded = torch.cat([self.state(context.state)[:, None], embedded], dim=1)
        sight = self.sight(noisy, context) if sight is None else sight
        hidden = self.expert(inputs_embeds=embedded, **sight).last_hidden_state
        return self.outward(hidden[:, -noisy.shape[1] :])

    def sight(self, noisy: Tensor, context: Context) -> dict[str, Any]:
        """Make what the expert looks at, the same for all noisy chunks float[B, T, A] and times."""
        assert context.cache is not None
        count = noisy.shape[1] + (self.state is not None)
        positions = context.position + torch.arange(count, device=noisy.device)
        sight = {
            "attention_mask": self._sees(context.present, count),
            "position_ids": positions.expand(len(noisy), -1),
            "past_key_values": _kept(context.cache, self.insulate),
            "use_cache": True,
        }
        return self.expert.sight(noisy, **sight) if isinstance(self.expert, CrossLayers) else sight

    def error(self, targets: Tensor, noise: Tensor, time: Tensor, context: Context) -> Tensor:
        """Squared error of the velocity between targets and noise, float[B, T, A] all, at times float[B, T]."""
        noisy = time[..., None] * noise + (1 - time[..., None]) * targets
        return (self.velocity(noisy, time, context).float() - (noise - targets)).square()

    def integrate(self, noise: Tensor, context: Context, steps: int, given: Tensor, known: Tensor) -> Tensor:
        """Go from noise float[B, T, A] to the chunk by Euler's method.

        given: float[B, T, A], what the steps in known bool[B, T, 1] are and remain; they are at time 0 from the start.
        """
        chunk = torch.where(known, given, noise)
        sight = self.sight(noise, context)
        for step in range(steps):
            time = torch.where(known.squeeze(-1), 0.0, 1 - step / steps)
            chunk = torch.where(known, given, chunk - self.velocity(chunk, time, context, sight) / steps)
        return chunk

    def integrate_led(
        self, noise: Tensor, context: Context, steps: int, toward: Tensor, weights: Tensor, variant: str
    ) -> Tensor:
        """Go from noise to the chunk, led toward another float[B, T, A] by weights float[B, T]; see guidance.py."""
        chunk = noise
        for step in range(steps):
            time = 1 - step / steps
            at = partial(self.velocity, time=noise.new_full(noise.shape[:2], time), context=context)
            chunk = chunk - led(at, chunk, time, toward, weights, variant) / steps
        return chunk

    def _sees(self, present: Tensor, count: int) -> Tensor:
        """Presence bool[B, P] of the sequence so far -> what each token of the expert sees, bool[B, 1, N, P + N]."""
        within = present.new_ones(count, count)
        if self.causal:
            within = within.tril()
        if self.state is not None:
            within[0, 1:] = False
        batch = len(present)
        parts = [present[:, None].expand(-1, count, -1), within.expand(batch, -1, -1)]
        return torch.cat(parts, dim=-1)[:, None]


class CrossLayers(nn.Module):
    """Layers of which every n-th looks at language model and chunk, as all do in pi0, the others only at the former.

    These make their keys and values from those of the language model, and count positions from the first step. Source:
    SmolVLA, arXiv:2506.01844, section 3.1, and lerobot's `smolvlm_with_expert.py` for what the paper leaves open.
    """

    def __init__(self, model: Any, joint_every: int) -> None:
        """Take the layers from a model of `transformers`; ValueError where it has no rotary positions."""
        super().__init__()
        if not hasattr(model, "rotary_emb"):
            raise ValueError(
                f"joint_every={joint_every} needs a language model with rotary positions, such as llama, not "
                f"{model.config.model_type}: set joint_every=1"
            )
        self.model = model
        config = model.config
        width = config.num_key_value_heads * config.head_dim
        self.keys, self.values = nn.ModuleDict(), nn.ModuleDict()
        for number, layer in enumerate(model.layers):
            if number % joint_every:
                self.keys[str(number)] = nn.Linear(width, width, bias=config.attention_bias)
                self.values[str(number)] = nn.Linear(width, width, bias=config.attention_bias)
                layer.self_attn.k_proj = layer.self_attn.v_proj = _Unread(config.head_dim)

    def sight(
        self, like: Tensor, attention_mask: Tensor, position_ids: Tensor, past_key_values: Cache, **_: Any
    ) -> dict[str, Any]:
        """Make masks, rotations and the cache of all layers, for embeddings of the type and device of `like`.

        attention_mask: bool[B, 1, N, P + N]; position_ids: int[B, N]; past_key_values: of P tokens.
        """
        rotate, begin = self.model.rotary_emb, position_ids[:, :1]
        return {
            "joint": (attention_mask, rotate(like, position_ids)),
            "cross": (attention_mask[..., : -position_ids.shape[1]], rotate(like, position_ids - begin)),
            "cache": Cache(layers=[self._looked_at(layer, str(n)) for n, layer in enumerate(past_key_values.layers)]),
        }

    def forward(
        self, inputs_embeds: Tensor, joint: tuple[Tensor, Any], cross: tuple[Tensor, Any], cache: Cache
    ) -> BaseModelOutput:
        """As a model of `transformers`: embeddings float[B, N, D], and what `sight` made."""
        hidden = inputs_embeds
        for number, layer in enumerate(self.model.layers):
            mask, places = cross if str(number) in self.keys else joint
            hidden = layer(hidden, attention_mask=mask, position_embeddings=places, past_key_values=cache)
        return BaseModelOutput(last_hidden_state=self.model.norm(hidden))

    def _looked_at(self, kept: Any, number: str) -> Any:
        if number not in self.keys:
            return kept
        keys, values = (
            project[number](given.transpose(1, 2).flatten(2)).unflatten(2, (given.shape[1], -1)).transpose(1, 2)
            for project, given in zip((self.keys, self.values), kept.kept, strict=True)
        )
        return _AloneLayer(keys, values)


class _Unread(nn.Module):
    """Stands where a layer makes keys or values of its own tokens, where nothing reads them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class _KeptLayer(DynamicLayer):
    """Keys and values of one layer that are read again and again and never grow."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.kept = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.kept
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class _AloneLayer(_KeptLayer):
    """The same, and all that the layer looks at."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.kept


def _kept(cache: Cache, insulate: bool) -> Cache:
    pairs: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]
    return Cache(layers=[_KeptLayer(*((k.detach(), v.detach()) if insulate else (k, v))) for k, v in pairs])


def time_waves(
    time: Tensor,
    width: int,
    shortest: float = 4e-3,
    longest: float = 4.0,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Describe times float[...] in 0..1 by sines and cosines of periods from `shortest` to `longest`: [..., width].

    precision: of the angle. The shortest wave turns 250 times, which single precision tells to four digits only; openpi
    and lerobot take double, `transformers` single.
    """
    fraction = torch.linspace(0, 1, width // 2, device=time.device, dtype=precision)
    frequency = 1 / (shortest * (longest / shortest) ** fraction) * 2 * math.pi
    angle = time[..., None].to(precision) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()
