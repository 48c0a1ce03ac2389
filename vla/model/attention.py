"""Who sees whom in a sequence of frames and words.

B batch, N tokens.
"""

import torch
from torch import Tensor

IMAGE, TEXT, STATE, ACTION, QUESTION = range(5)
_SEES = torch.zeros(5, 5, dtype=torch.bool)  # [query kind, key kind]
_SEES[:, IMAGE] = True
_SEES[TEXT:QUESTION, TEXT] = True
_SEES[STATE:QUESTION, STATE] = True
_SEES[ACTION, ACTION] = True
_SEES[QUESTION, QUESTION] = True


def attention_mask(kinds: Tensor, present: Tensor, actions_in_order: bool = False) -> Tensor:
    """Token kinds int[N] and presence bool[B, N] -> who sees whom, bool[B, 1, N, N]; see the table in network.py.

    actions_in_order: whether action tokens see only those before them, as words do, instead of all. A token always sees
    itself, so that padding is never without anything to see.
    """
    kinds = kinds.to(present.device)
    order = torch.arange(len(kinds), device=present.device)
    ordered = (kinds == TEXT) | (kinds == QUESTION) | ((kinds == ACTION) & actions_in_order)
    causal = ~(ordered[:, None] & (kinds[:, None] == kinds[None])) | (order[None] <= order[:, None])
    sees = (_SEES.to(present.device)[kinds][:, kinds] & causal)[None, None] & present[:, None, None]
    return sees | (order[None] == order[:, None])


def interleaved_mask(parts: int, frames: int, words: int, present: Tensor, all_frames: bool) -> Tensor:
    """Who sees whom, bool[B, 1, N, N], in parts of so many tokens of frames and of words; see few_shot.py.

    present: bool[B, N]. A token always sees itself here as well.
    """
    length = frames + words
    order = torch.arange(parts * length, device=present.device)
    part, image = order // length, order % length < frames
    own, earlier = part[:, None] == part[None], part[None] < part[:, None]
    seen_by_words = torch.where(image[None], own | (earlier & all_frames), order[None] <= order[:, None])
    sees = torch.where(image[:, None], image[None] & own, seen_by_words)
    return (sees[None, None] & present[:, None, None]) | (order[None] == order[:, None])
