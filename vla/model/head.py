"""What every action head does: a few tokens into the sequence, their hidden states out, a chunk from these.

The contract is the same for all: values float[B, T, A], normalised by `ActionCodec` to -1..1, and leading steps that
may be given, which is what real-time chunking needs. Each head has its own loss and its own way to decide.

B batch, N tokens of the head, P tokens of the sequence so far, T action horizon, A action dimension, D width,
V vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache


@dataclass
class Context:
    """The sequence that a head's tokens stand in, so that the head can look back and go on."""

    table: Tensor  # float[V, D], the embedding of every word and action id
    transformer: Callable[..., Any]  # of the language model
    present: Tensor  # bool[B, P], which tokens so far may be seen
    position: int | Tensor  # of the next token; int[B, 1] where rows differ
    cache: Cache | None  # keys and values of all tokens so far, where the head asked for them
    sight: dict[str, Tensor] = field(default_factory=dict)  # what the transformer looks at beside the sequence
    state: Tensor | None = None  # float[B, A] in -1..1, for a head that reads it itself
    foreseen: int = 0  # leading steps of `given` that an older chunk foresaw, for a head that can be led by them

    def repeated(self, times: int) -> "Context":
        """Stand each row so many times, one below the other, to look back from; this one stays as it is."""
        if times == 1:
            return self
        cache = copy.copy(self.cache)
        if cache is not None:
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            cache.batch_repeat_interleave(times)
        rows = {
            name: value.repeat_interleave(times, dim=0)
            for name in ("present", "position", "state")
            if isinstance(value := getattr(self, name), Tensor)
        }
        sight = {name: value.repeat_interleave(times, dim=0) for name, value in self.sight.items()}
        return replace(self, cache=cache, sight=sight, **rows)

    def go_on(self, embeddings: Tensor) -> Tensor:
        """Append tokens float[B, N, D], each of which sees all before it, and return their hidden states."""
        batch, count = embeddings.shape[:2]
        self.present = torch.cat([self.present, self.present.new_ones(batch, count)], dim=1)
        positions = self.position + torch.arange(count, device=embeddings.device)
        self.position = self.position + count
        return self.transformer(
            inputs_embeds=embeddings,
            attention_mask=self.present.long(),
            position_ids=positions.expand(batch, -1),
            past_key_values=self.cache,
            use_cache=True,
            **self.sight,
        ).last_hidden_state


class ActionHead(nn.Module, ABC):
    """The seam between hidden states and chunks."""

    in_order = False  # whether it says token by token, each in the light of those before
    looks_back = False  # whether it reads keys and values of the sequence, in training too
    completion_at = -1  # which of its tokens says how far along the subtask is
    max_tokens: int  # the most positions that it takes up
    completion: nn.Module  # hidden float[B, D] of that token -> logits of progress and done float[B, 2]

    def __init__(self, action_horizon: int, action_dim: int) -> None:
        super().__init__()
        self.action_horizon, self.action_dim = action_horizon, action_dim

    @classmethod
    def fit(cls, values: Tensor, **settings: Any) -> dict[str, Any]:
        """Settings that this head takes from normalised chunks float[N, T, A] of the data, before training."""
        return settings

    @abstractmethod
    def embed(self, actions: Tensor, given_steps: Tensor) -> Tensor:
        """Normalised float[B, T, A], of which the first given_steps int[B] are shown -> tokens float[B, N, D]."""

    def taught(self, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that follow in training, as if already said: float[B, M, D] and which are real, bool[B, M]."""
        return table.new_zeros(len(targets), 0, table.shape[1]), targets.new_ones((len(targets), 0), dtype=torch.bool)

    @abstractmethod
    def loss(
        self,
        hidden: Tensor,
        context: Context,
        targets: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        sigma_bins: float,
        generator: torch.Generator,
        there: Tensor | None = None,
    ) -> Tensor:
        """Loss of hidden states float[B, N + M, D] against targets float[B, T, A] in -1..1.

        counts: bool[B, T], steps that count; given_steps: int[B], leading ones that were shown; sigma_bins: width of
        soft labels, where the head has bins; generator: of the noise, where it has any; there: bool[B, A], joints that
        the body has, None for all. Heads that read again what they said learn the 0 of the others, so that they say it.
        """

    @abstractmethod
    def plausibility(
        self,
        hidden: Tensor,
        context: Context,
        chunk: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """How plausible a chunk float[B, T, A] in -1..1 is, float[B]: its log-probability where the head has one.

        Elsewhere it is minus what the head misses it by, which is a log-likelihood but for scale and constant: of
        Laplace for differences, of Gauss for squared ones, as for diffusion in Wallace et al. 2023, arXiv:2311.12908,
        equation 14. counts: bool[B, T, A], values that count; the other arguments as in `loss`, with `hidden` of a
        sequence in which this chunk was taught.
        """

    @abstractmethod
    def decide(
        self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states float[B, N, D] -> values float[B, T, A] and confidence float[B] 0..1, where there is one.

        given: float[B, T, A] in -1..1, of which the first given_steps int[B] are decided.
        """


class ReadoutHead(ActionHead):
    """A head whose first token in the sequence reads it for the chunk as a whole; Octo's word for it is readout."""

    completion_at = 0

    def __init__(self, width: int, action_horizon: int, action_dim: int) -> None:
        super().__init__(action_horizon, action_dim)
        self.readout = nn.Parameter(torch.randn(width) * 0.02)
        self.given = nn.Linear(action_horizon * (action_dim + 1), width)
        self.completion = completion_layers(width)

    def embed(self, actions: Tensor, given_steps: Tensor) -> Tensor:
        """One token that knows all given steps: float[B, 1, D]."""
        shown = is_given(actions, given_steps).to(actions.dtype)
        return (self.readout + self.given(torch.cat([actions * shown, shown], dim=-1).flatten(1)))[:, None]


def completion_layers(width: int) -> nn.Sequential:
    """Hidden float[B, D] -> logits of progress and done float[B, 2]."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))


def is_given(actions: Tensor, given_steps: Tensor) -> Tensor:
    """Which steps of float[B, T, A] are among the first given_steps int[B]: bool[B, T, 1]."""
    steps = torch.arange(actions.shape[1], device=actions.device)
    return (steps < given_steps[:, None]).unsqueeze(-1)


def mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of float[...] over the places where bool[...] is true, zero where none is."""
    return (values * counts).sum() / counts.sum().clamp_min(1)


def over_joints(values: Tensor, there: Tensor | None) -> Tensor:
    """Mean of float[B, T, A] over the joints bool[B, A] that are there, all by default: float[B, T]."""
    if there is None:
        return values.mean(-1)
    return (values * there[:, None]).sum(-1) / there.sum(-1, keepdim=True)


class ResidualMlp(nn.Sequential):
    """Layers around each of which the input is carried, as in the action heads of OpenVLA-OFT and Octo."""

    def __init__(self, inputs: int, hidden: int, outputs: int, blocks: int) -> None:
        super().__init__(
            nn.LayerNorm(inputs),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            *(_Residual(hidden) for _ in range(blocks)),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, outputs),
        )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)
