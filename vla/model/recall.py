"""A word that examples have asked about takes along what their answers point at, before it looks for anything itself.

What "dax" means is said nowhere but in the examples of a question: it is what stands where their boxes end. Each box
has looked there already (grounding.py), so that the mean of what they found is what the word is to look for. A mean
of a few examples as the meaning of a word: prototypes, Snell et al. 2017, arXiv:1703.05175, section 2.2.

B batch, S parts (the last is the question, those before it are examples), Q words of a part, D width.
"""

import torch
from torch import Tensor, nn


class Recall(nn.Module):
    """Adds to the words of a question what examples before it showed for the same words, as far as a word lets it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.meaning = nn.Linear(width, width)
        self.openness = nn.Linear(width, 1)  # "dax" takes a meaning along, "point" has one of its own

    def forward(self, words: Tensor, found: Tensor, ids: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
        """Return what is added, float[B, S, Q, D].

        words: their embeddings float[B, S, Q, D]; found: what each of them found, likewise; ids: int[B, S, Q]; mask,
        asked: bool[B, S, Q], words that are there, and those of questions. Answers end one word before their part.
        """
        asked = asked & mask
        end = (mask.sum(2) - 2).clamp_min(0)[..., None, None].expand(-1, -1, 1, found.shape[-1])
        shown = found.gather(2, end).squeeze(2)
        parts = torch.arange(ids.shape[1], device=ids.device)
        same = (ids[:, :, :, None, None] == ids[:, None, None]) & asked[:, :, :, None, None] & asked[:, None, None]
        known = same.any(4) & (parts < parts[:, None])[None, :, None]  # bool[B, S, Q, S], by which examples
        mean = (known / known.sum(3, keepdim=True).clamp_min(1)).to(shown.dtype).flatten(1, 2) @ shown
        added = self.meaning(self.norm(mean.unflatten(1, ids.shape[1:])))
        return self.openness(words).sigmoid() * added * known.any(3, keepdim=True)


def few_shot_parts(width: int, frames: str = "all", recall: bool = False) -> tuple[bool, Recall | None]:
    """Say whether words after worked examples see the frames of all examples or of theirs alone, and make `Recall`."""
    if frames not in ("all", "nearest"):
        raise ValueError(f"shots.frames={frames!r} is not known, possible: all, nearest")
    return frames == "all", Recall(width) if recall else None
