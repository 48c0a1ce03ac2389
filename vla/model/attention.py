"""Who sees whom in a sequence of frames and words.

B batch, N tokens.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

IMAGE, TEXT, STATE, ACTION, TAUGHT, QUESTION = range(6)
_SEES = torch.zeros(6, 6, dtype=torch.bool)  # [query kind, key kind]
_SEES[:, IMAGE] = True
_SEES[TEXT:QUESTION, TEXT] = True
_SEES[STATE:QUESTION, STATE] = True
_SEES[ACTION:QUESTION, ACTION] = True
_SEES[TAUGHT, TAUGHT] = True
_SEES[QUESTION, QUESTION] = True
_IN_ORDER = frozenset({TEXT, TAUGHT, QUESTION})


def in_order(language: Any) -> frozenset[int]:
    """Kinds of tokens that see only those before them: words, what is taught, frames where the model has them so."""
    return _IN_ORDER | ({IMAGE} if getattr(language, "images_in_order", False) else set())


def attention_mask(kinds: Tensor, present: Tensor, ordered: Collection[int] = _IN_ORDER) -> Tensor:
    """Token kinds int[N] and presence bool[B, N] -> who sees whom, bool[B, 1, N, N]; see the table in network.py.

    ordered: see `in_order`. A token always sees itself, so that padding is never without anything to see.
    """
    kinds = kinds.to(present.device)
    order = torch.arange(len(kinds), device=present.device)
    within = torch.isin(kinds, torch.tensor(sorted(ordered), device=present.device))[:, None]
    causal = ~(within & (kinds[:, None] == kinds[None])) | (order[None] <= order[:, None])
    sees = (_SEES.to(present.device)[kinds][:, kinds] & causal)[None, None] & present[:, None, None]
    return sees | (order[None] == order[:, None])


def interleaved_mask(
    parts: int, frames: int, words: int, present: Tensor, all_frames: bool, frames_in_order: bool = False
) -> Tensor:
    """Who sees whom, bool[B, 1, N, N], in parts of so many tokens of frames and of words; see few_shot.py.

    present: bool[B, N]; frames_in_order: whether tokens of a frame see only those before them. A token always sees
    itself here as well.
    """
    length = frames + words
    order = torch.arange(parts * length, device=present.device)
    part, image = order // length, order % length < frames
    own, earlier = part[:, None] == part[None], part[None] < part[:, None]
    seen_by_words = torch.where(image[None], own | (earlier & all_frames), order[None] <= order[:, None])
    in_frame = image[None] & own & (~torch.tensor(frames_in_order) | (order[None] <= order[:, None]))
    sees = torch.where(image[:, None], in_frame, seen_by_words)
    return (sees[None, None] & present[:, None, None]) | (order[None] == order[:, None])
