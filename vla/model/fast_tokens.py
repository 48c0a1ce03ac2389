"""The tokens of FAST as a language model reads and says them; see fast.py for what they mean.

B batch, M tokens of a batch's longest chunk, T action horizon, A action dimension, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.model.fast import FastCodec
from vla.model.head import mean_where


class FastTokens(nn.Embedding):
    """A table of the embeddings of all tokens of a codec, shared by input and output."""

    def __init__(self, codec: FastCodec, width: int) -> None:
        super().__init__(len(codec.lengths), width)
        self.codec = codec
        nn.init.normal_(self.weight, std=width**-0.5)

    def spell(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised chunks float[B, T, A] -> tokens int[B, M], filled up with zeros that bool[B, M] says not real."""
        rows = [torch.tensor(row) for row in self.codec.encode(values)]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(values.device)
        count = torch.tensor([len(row) for row in rows], device=values.device)
        return tokens, torch.arange(tokens.shape[1], device=values.device) < count[:, None]

    def taught(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens but the last, which nothing follows: float[B, M - 1, D] and which are real, bool[B, M - 1]."""
        tokens, real = self.spell(values)
        return self(tokens[:, :-1]), real[:, :-1]

    def loss(self, hidden: Tensor, values: Tensor, counts: Tensor) -> Tensor:
        """Cross-entropy of the tokens of chunks float[B, T, A], given what stands before each, float[B, M, D].

        counts: bool[B, T], steps that count.
        """
        tokens, real = self.spell(values)
        return next_token_loss(hidden, self.weight, tokens, real & self.scored(counts, real))

    def scored(self, counts: Tensor, real: Tensor) -> Tensor:
        """Tokens bool[B, M] of chunks in which any step bool[B, T] counts: a coefficient belongs to all steps."""
        return counts.any(1, keepdim=True).expand_as(real)


def next_token_loss(hidden: Tensor, words: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """Mean cross-entropy of tokens int[B, M] where bool[B, M] counts.

    hidden: float[B, M, D], what stands before each; words: float[V, D], all that could have been said.
    """
    logits = (hidden @ words.T).float()
    return mean_where(functional.cross_entropy(logits.mT, tokens, reduction="none"), counts)
