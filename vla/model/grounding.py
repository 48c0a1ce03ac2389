"""Words look for what they name before the language model reads them.

A transformer of two million parameters that sees some hundred thousand frames learns slowly that "red cube" means that
patch over there. So every word first asks each camera's visual tokens which of them it names, by a dot product in a
shared space, and takes along what it finds. Pointing questions teach that product directly: their boxes say which
token is meant.

Sources: token-wise alignment of words and patches, FILIP (Yao et al. 2022, arXiv:2111.07783, section 3.1); words that
attend to regions before fusion, GLIP (Li et al. 2022, arXiv:2112.03857, section 3.2).

B batch, L words, P visual tokens of one camera, D width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Seen = dict[str, tuple[Tensor, Tensor]]  # camera -> visual tokens float[B, P, D], keys float[B, 1 + P, D]


class WordGrounding(nn.Module):
    """Adds to each word what it names in each camera; images stay independent of words."""

    def __init__(self, width: int, cameras: list[str]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Conv1d(width, width, kernel_size=2)  # a word and the one before it: "red" belongs to "cube"
        self.key = nn.Linear(width, width)
        self.nothing = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in cameras})
        self.found = nn.ModuleDict({name: nn.Linear(width, width) for name in cameras})

    def seen(self, visual: dict[str, Tensor]) -> Seen:
        """Make visual tokens float[B, P, D] of each camera ready to be named; all words about a frame share it."""
        normed = {name: self.norm(tokens) for name, tokens in visual.items()}
        return {
            name: (tokens, torch.cat([self.nothing[name].expand(len(tokens), 1, -1), self.key(tokens)], dim=1))
            for name, tokens in normed.items()
        }

    def forward(self, words: Tensor, seen: Seen, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ground words.

        words: float[B, L, D]; seen: of the frames they speak about; before: float[B, 1, D], the word before the first.
        Returns the words with what they found, float[B, L, D], and for the first camera the log-probability that a
        word names a token, float[B, L, 1 + P], "nothing in sight" first.
        """
        query = self._queries(words, before)
        first, total = None, words
        for name, (tokens, keys) in seen.items():
            scores = query @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
            attention = scores.softmax(dim=-1)[..., 1:]
            total = total + self.found[name](attention @ tokens)
            first = scores.log_softmax(dim=-1) if first is None else first
        assert first is not None
        return total, first

    @torch.no_grad()
    def relevance(self, words: Tensor, mask: Tensor, seen: Seen) -> Tensor:
        """How surely one of the words names each visual token of all cameras, float[B, sum of P] in 0..1.

        words: float[B, L, D], of which mask bool[B, L] are real; seen: of the frames that they speak about.
        """
        query = self._queries(words, None)
        named = [(query @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5).softmax(dim=-1) for _, keys in seen.values()]
        return torch.cat([(scores[..., 1:] * mask.unsqueeze(-1)).amax(dim=1) for scores in named], dim=1)

    def _queries(self, words: Tensor, before: Tensor | None) -> Tensor:
        before = torch.zeros_like(words[:, :1]) if before is None else before
        pairs = torch.cat([torch.cat([before, words[:, :-1]], dim=1), words], dim=-1)
        return functional.linear(pairs, self.query.weight.transpose(1, 2).flatten(1), self.query.bias)


def most_relevant(relevance: Tensor, keep: int) -> Tensor:
    """Places int[B, K] of the `keep` most relevant of float[B, P], in the order that they have.

    Most visual tokens can go before a language model notices: FastV, Chen et al. 2024, arXiv:2403.06764, drops them by
    the attention of its second layer. Words that have looked already let them go before the first.
    """
    return relevance.topk(keep, dim=1).indices.sort(dim=1).values


def waves(places: Tensor, width: int, finest: float) -> Tensor:
    """Describe places float[N] in 0..1 by sines and cosines of half a wave to `finest` waves, float[N, width]."""
    count = (width + 1) // 2
    angles = places[:, None] * math.pi * torch.logspace(0, math.log2(2 * finest), count, base=2.0)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def named_token(box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes float[B, 4] (x0, y0, x1, y1 in 0..1) -> index int[B] of the token at the centre, row by row."""
    rows, columns = grid
    column = ((box[:, 0] + box[:, 2]) / 2 * columns).long().clamp(0, columns - 1)
    row = ((box[:, 1] + box[:, 3]) / 2 * rows).long().clamp(0, rows - 1)
    return row * columns + column
