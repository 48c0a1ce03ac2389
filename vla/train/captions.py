"""Captions for the dual encoder: some of what is true of a frame, and of which other frames the same is true.

A short caption, such as "the drawer is open", is true of many frames of a batch. Facts are numbered, so that the loss
knows which pairs belong together beside those that were drawn together.

B batch, F facts of a caption, G facts of a frame.
"""

import json
import zlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vla.model.processor import Processor, pad


def facts_of(questions: str) -> list[str]:
    """Return the facts of the caption among stored questions (JSON); none where there is no caption."""
    captions = [item["answer"] for item in json.loads(questions) if item["type"] == "caption"]
    return captions[0].split(", ") if captions else []


def drawn(questions: Sequence[str], processor: Processor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Draw a caption for every frame: one to all of its facts, in any order; the fields of `Batch` about captions."""
    known = [facts_of(one) for one in questions]
    told = [
        [facts[i] for i in rng.permutation(len(facts))[: rng.integers(len(facts)) + 1]] if facts else []
        for facts in known
    ]
    ids, mask = pad([processor.tokenize(", ".join(facts)) if facts else [] for facts in told], processor.pad_id)
    return {
        "caption_ids": ids,
        "caption_mask": mask,
        "caption_facts": pad([list(map(_number, facts)) for facts in told], -1)[0],
        "frame_facts": pad([list(map(_number, facts)) for facts in known], -1)[0],
    }


def true_of(caption_facts: Tensor, frame_facts: Tensor) -> Tensor:
    """Say of which frames captions are true: int[C, F] and int[B, G], -1 for none -> bool[B, C]."""
    told = caption_facts[None, :, :, None] == frame_facts[:, None, None]
    return (told.any(-1) | (caption_facts == -1)).all(-1)


def _number(fact: str) -> int:
    return zlib.crc32(fact.encode())
