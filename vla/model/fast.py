"""FAST: a chunk as a few symbols, by cosine transform and byte-pair merges that are fitted to the data.

Each joint's values over time become cosine coefficients, most of which are near zero for smooth motion; scaled and
rounded they become one symbol each, low frequencies of all joints first; symbols that often follow each other are
merged into one token. Source: Pertsch et al. 2025, arXiv:2501.09747, section IV.

T action horizon, A action dimension, S = T * A symbols of a chunk.
"""

import json
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from tokenizers import Tokenizer, models, trainers
from torch import Tensor

FIRST = 0x100  # the character of the smallest coefficient; behind it come letters without surrogates


class FastCodec:
    """Inverse pair, up to rounding, between normalised chunks and lists of tokens."""

    def __init__(self, action_horizon: int, action_dim: int, scale: float, low: int, high: int, bpe: dict[str, Any]):
        """scale: steps of rounding in a coefficient of 1; low, high: the rounded range; bpe: merges, see `fit`."""
        self.shape = (action_horizon, action_dim)
        self.scale, self.low, self.high = scale, low, high
        self.tokenizer = Tokenizer.from_str(json.dumps(bpe))
        self.waves = cosines(action_horizon)
        vocabulary = self.tokenizer.get_vocab()
        self.lengths = torch.zeros(len(vocabulary), dtype=torch.long)  # symbols of each token
        for text, number in vocabulary.items():
            self.lengths[number] = len(text)

    @staticmethod
    def fit(values: Tensor, scale: float = 10.0, vocabulary: int = 512) -> dict[str, Any]:
        """Fit to normalised chunks float[N, T, A] and return what `__init__` takes beside the shape, as plain JSON.

        vocabulary: tokens in all. Raises ValueError where that is fewer than there are coefficients.
        """
        coefficients = (cosines(values.shape[1]) @ values.float() * scale).round().long()
        low, high = int(coefficients.min()), int(coefficients.max())
        alphabet = [chr(FIRST + i) for i in range(high - low + 1)]
        if len(alphabet) > vocabulary:
            raise ValueError(
                f"a vocabulary of {vocabulary} cannot hold {len(alphabet)} coefficients from {low} to {high}: raise "
                "vocabulary, or lower scale"
            )
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        tokenizer.train_from_iterator((_text(row, low) for row in coefficients.flatten(1).tolist()), trainer)
        return {"scale": scale, "low": low, "high": high, "bpe": json.loads(tokenizer.to_str())}

    @property
    def symbols(self) -> int:
        """S."""
        return self.shape[0] * self.shape[1]

    def coefficients(self, values: Tensor) -> Tensor:
        """Normalised chunks float[B, T, A] -> rounded cosine coefficients int[B, T, A], low frequencies first."""
        return (self.waves @ values.detach().float().cpu() * self.scale).round().long()

    def encode(self, values: Tensor) -> list[list[int]]:
        """Normalised chunks float[B, T, A] -> tokens of each; coefficients beyond the fitted range are cut."""
        rows = self.coefficients(values).clamp(self.low, self.high).flatten(1).tolist()
        return [encoding.ids for encoding in self.tokenizer.encode_batch([_text(row, self.low) for row in rows])]

    def decode(self, rows: list[list[int]]) -> Tensor:
        """Tokens of each chunk, S symbols together -> float[B, T, A]; other lengths are refused (ValueError)."""
        chunks = []
        for row in rows:
            symbols = "".join(self.tokenizer.id_to_token(token) or "" for token in row)
            if len(symbols) != self.symbols:
                raise ValueError(f"a chunk has {self.symbols} symbols, these tokens have {len(symbols)}")
            chunks.append([ord(symbol) - FIRST + self.low for symbol in symbols])
        coefficients = torch.tensor(chunks, dtype=torch.float32).unflatten(1, self.shape) / self.scale
        return self.waves.T @ coefficients


def cosines(length: int) -> Tensor:
    """Orthonormal cosine transform as a matrix float[T, T], whose rows are frequencies."""
    return torch.from_numpy(dct(np.eye(length), axis=0, norm="ortho").astype(np.float32))


def _text(coefficients: list[int], low: int) -> str:
    return "".join(chr(FIRST + coefficient - low) for coefficient in coefficients)
