"""Heads that say a chunk token by token, each in the light of those before, from a cache of keys and values.

Training shows all tokens at once (teacher forcing). Decoding is constrained: a token is possible where it stands for
one or more of the values that are still to come, so whatever is said is a whole chunk.

B batch, S symbols of a chunk, M tokens of a batch's longest chunk, T action horizon, A action dimension, D width,
V vocabulary.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig

from vla.model.actions import edge_bins, edge_centers
from vla.model.fast import FastCodec
from vla.model.fast_tokens import FastTokens, next_token_loss
from vla.model.head import Context, ReadoutHead


class TokenHead(ReadoutHead):
    """The loop over tokens; what a token means is the business of the two heads below."""

    in_order = True

    def __init__(self, width: int, action_horizon: int, action_dim: int) -> None:
        super().__init__(width, action_horizon, action_dim)
        self.max_tokens = action_horizon * action_dim  # one symbol a token at the worst; the readout predicts the first

    @abstractmethod
    def words(self, table: Tensor) -> Tensor:
        """Embeddings of the tokens that it speaks in float[V, D], given those of the language model."""

    @abstractmethod
    def lengths(self, words: Tensor) -> Tensor:
        """How many symbols each token stands for, int[V], zero where it is no part of a chunk."""

    @abstractmethod
    def spell(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised chunks float[B, T, A] -> tokens int[B, M] and which of them are real, bool[B, M]."""

    @abstractmethod
    def read(self, tokens: Tensor) -> Tensor:
        """Tokens int[B, M], S symbols and perhaps more after them -> values float[B, T, A]."""

    @abstractmethod
    def decided(self, given_steps: Tensor) -> Tensor:
        """How many leading tokens the given steps int[B] decide, int[B]."""

    def taught(self, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens but the last, which nothing follows."""
        tokens, real = self.spell(targets)
        return functional.embedding(tokens[:, :-1], self.words(table)), real[:, :-1]

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
        """Cross-entropy of the next token among all that it could say."""
        tokens, real = self.spell(targets)
        return next_token_loss(hidden, self.words(context.table), tokens, real & self.scored(counts, real))

    def plausibility(
        self,
        hidden: Tensor,
        context: Context,
        chunk: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Log-probability of the tokens, each in the light of those before."""
        tokens, real = self.spell(chunk)
        logits = (hidden @ self.words(context.table).T).float()
        said = functional.cross_entropy(logits.mT, tokens, reduction="none")
        return -(said * (real & self.scored(counts.any(-1), real))).sum(1)

    @abstractmethod
    def scored(self, counts: Tensor, real: Tensor) -> Tensor:
        """Which tokens say steps that count, given bool[B, T] of the steps, and bool[B, M] of real tokens."""

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest possible token each time; confidence is the mean probability of those that were chosen."""
        words = self.words(context.table)
        lengths = self.lengths(words)
        known, decided = self.spell(given)[0], self.decided(given_steps)
        left = torch.full_like(decided, self.max_tokens)  # symbols of each chunk that are still to be said
        said, sure, chosen = [], [], []
        for place in range(self.max_tokens):
            possible = (lengths > 0) & (lengths <= left.clamp_min(1)[:, None])
            logits = (hidden[:, -1] @ words.T).float().masked_fill(~possible, -torch.inf)
            probability, token = logits.softmax(dim=-1).max(dim=-1)
            if place < known.shape[1]:
                token = torch.where(place < decided, known[:, place], token)
            said.append(token)
            sure.append(probability)
            chosen.append((left > 0) & (place >= decided))
            left = left - lengths[token]
            if (left <= 0).all():
                break
            hidden = context.go_on(functional.embedding(token, words)[:, None])
        own = torch.stack(chosen, dim=1)
        confidence = (torch.stack(sure, dim=1) * own).sum(1) / own.sum(1).clamp_min(1)
        return self.read(torch.stack(said, dim=1)), confidence


class Autoregressive(TokenHead):
    """Bins of the vocabulary, a joint at a time: RT-2 (arXiv:2307.15818), with the arithmetic of OpenVLA.

    OpenVLA (arXiv:2406.09246, `prismatic/vla/action_tokenizer.py`): 256 edges over -1..1, so 255 bins; bin d, counted
    from 1, has the d-th id from the end, there of the vocabulary, here of the action ids.
    """

    def __init__(self, language: PretrainedConfig, action_horizon: int, action_dim: int, action_ids: slice) -> None:
        super().__init__(language.hidden_size, action_horizon, action_dim)
        self.action_ids = action_ids

    def words(self, table: Tensor) -> Tensor:
        """The language model's own."""
        return table

    def lengths(self, words: Tensor) -> Tensor:
        """One value each, and nothing but action ids."""
        lengths = torch.zeros(len(words), dtype=torch.long, device=words.device)
        lengths[self.action_ids] = 1
        return lengths

    def spell(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """float[B, T, A] -> ids int[B, T * A], joint after joint, step after step; all are real."""
        ids = (self.action_ids.stop - edge_bins(values)).flatten(1)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def read(self, tokens: Tensor) -> Tensor:
        """Ids int[B, T * A] -> centres of their bins float[B, T, A]."""
        values = edge_centers(self.action_ids.stop - tokens)
        return values.unflatten(1, (self.action_horizon, self.action_dim))

    def decided(self, given_steps: Tensor) -> Tensor:
        """A tokens a step."""
        return given_steps * self.action_dim

    def scored(self, counts: Tensor, real: Tensor) -> Tensor:
        """Those of the steps that count."""
        return counts.repeat_interleave(self.action_dim, dim=1)


class Fast(TokenHead):
    """Cosine coefficients in byte-pair tokens, see `FastCodec`; they have a table of their own.

    A coefficient belongs to the whole chunk, so given steps decide no token: the readout knows them instead.
    """

    def __init__(
        self,
        language: PretrainedConfig,
        action_horizon: int,
        action_dim: int,
        action_ids: slice,
        scale: float,
        low: int,
        high: int,
        bpe: dict[str, Any],
    ) -> None:
        """Take what `fit` found in the data."""
        super().__init__(language.hidden_size, action_horizon, action_dim)
        self.codec = FastCodec(action_horizon, action_dim, scale, low, high, bpe)
        self.tokens = FastTokens(self.codec, language.hidden_size)

    @classmethod
    def fit(cls, values: Tensor, **settings: Any) -> dict[str, Any]:
        """Fit the merges; settings: `scale` and `vocabulary` of `FastCodec.fit`."""
        return FastCodec.fit(values, **settings)

    def words(self, table: Tensor) -> Tensor:
        """Its own."""
        return self.tokens.weight

    def lengths(self, words: Tensor) -> Tensor:
        """As many as were merged."""
        return self.codec.lengths.to(words.device)

    def spell(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """float[B, T, A] -> tokens int[B, M], filled up with zeros that are not real."""
        return self.tokens.spell(values)

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens int[B, M] up to S symbols each -> values float[B, T, A]."""
        before = self.codec.lengths[tokens.cpu()].cumsum(1).roll(1, dims=1)
        before[:, 0] = 0
        rows = [row[said < self.codec.symbols].tolist() for row, said in zip(tokens.cpu(), before, strict=True)]
        return self.codec.decode(rows).to(tokens.device)

    def decided(self, given_steps: Tensor) -> Tensor:
        """None."""
        return torch.zeros_like(given_steps)

    def scored(self, counts: Tensor, real: Tensor) -> Tensor:
        """All tokens of chunks in which anything counts."""
        return self.tokens.scored(counts, real)
