"""One step's worth of training, and how it is cut into parts that have its gradient together.

B batch, T action horizon, A action dimension, L text tokens, Q tokens of question and answer, K things that are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FILL = {name: -100 for name in ("question_labels", "worse_labels")} | {"named_at": -1, "named_box": float("nan")}
FILL |= {name: -1 for name in ("caption_facts", "frame_facts")}
FILL |= {name: False for name in ("text_mask", "question_mask", "worse_mask", "caption_mask")}  # padding elsewhere


@dataclass
class Batch:
    """One step's worth of training; see `Network.forward` for shapes."""

    kind: str
    images: dict[str, Tensor]  # uint8[B, H, W, 3], or [B, 1 + N, H, W, 3] of `EarlierFrames`
    text_ids: Tensor
    text_mask: Tensor
    state: Tensor  # float[B, A], measured, -1..1 as `ActionCodec` has it
    actions: Tensor  # float[B, T, A], targets, likewise; what does not count repeats the last that does
    counts: Tensor  # bool[B, T], steps that belong to this text
    given_steps: Tensor  # int[B]
    progress: Tensor  # float[B]
    done: Tensor  # float[B]
    question_ids: Tensor
    question_mask: Tensor
    question_labels: Tensor  # int[B, Q], -100 where nothing is asked
    named_ids: Tensor  # int[B, L], all pointing questions about the frame in one row, padded
    named_at: Tensor  # int[B, K], the last word of each of them, which names the thing, -1 where none
    named_box: Tensor  # float[B, K, 4], x0, y0, x1, y1 in 0..1 of the first camera, NaN where not in sight
    worse_ids: Tensor | None = None  # the same questions with answers that are not true; where preference is taught
    worse_mask: Tensor | None = None
    worse_labels: Tensor | None = None
    worse_actions: Tensor | None = None  # float[B, T, A], chunks of failed rollouts, where these are to be avoided
    caption_ids: Tensor | None = None  # int[B, L], some of what is true of the frame; where a dual encoder is taught
    caption_mask: Tensor | None = None  # bool[B, L], no word where nothing is known
    caption_facts: Tensor | None = None  # int[B, F], the facts that it tells, -1 for none; see captions.py
    frame_facts: Tensor | None = None  # int[B, G], all that are known of the frame
    shot_ids: Tensor | None = None  # int[B, S, Q], few-shot sequences; their frames are images `of_shots` of a camera
    shot_asked: Tensor | None = None  # bool[B, S, Q], the words of the questions
    shot_labels: Tensor | None = None  # int[B, S, Q], -100 where nothing is taught
    shot_at: Tensor | None = None  # int[B, S, 2], the name and the end of the box, -1 where there is none
    shot_box: Tensor | None = None  # float[B, S, 2, 4], for both that box in 0..1 of the first camera
    there: Tensor | None = None  # bool[B, A], joints that the body has, where bodies differ
    parts: int = 1  # that the batch was cut into, of which this is one
    counted_in_all: Mapping[str, int] = field(default_factory=dict)  # in all parts, see `counted`

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor, images as uint8."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        images = {name: image.to(device, non_blocking=True) for name, image in self.images.items()}
        more = {"parts": self.parts, "counted_in_all": self.counted_in_all}
        return Batch(kind=self.kind, images=images, **more, **moved)

    def counted(self) -> dict[str, int]:
        """How many samples, steps or words each loss is the mean of; of heads that say tokens only nearly."""
        steps = torch.arange(self.actions.shape[1], device=self.actions.device)
        counted = {
            "action": self.counts & (steps >= self.given_steps[:, None]),
            "completion": torch.ones_like(self.done),
            "words": self.question_labels[:, 1:] != -100,
            "grounding": self.named_at >= 0,
        }
        if self.worse_labels is not None:
            counted["preference"] = (self.question_labels != -100).any(1) & (self.worse_labels != -100).any(1)
        if self.worse_actions is not None:
            counted["preference_actions"] = differing(self.actions, self.worse_actions)
        if self.caption_mask is not None:
            counted["contrast"] = self.caption_mask.any(1)
        if self.shot_labels is not None and self.shot_at is not None:
            counted |= {"shots": self.shot_labels != -100, "places": self.shot_at >= 0}
        return {name: int(which.sum()) for name, which in counted.items()}

    def shares(self) -> dict[str, float]:
        """What this part has of all that a loss is the mean of, 1 being as much as the mean part.

        Losses of the parts times their shares have the loss of the whole as their mean; captions are compared within a
        part.
        """
        if not self.counted_in_all:
            return {}
        return {name: self.parts * own / max(1, self.counted_in_all[name]) for name, own in self.counted().items()}

    def split(self, count: int) -> list["Batch"]:
        """Cut into `count` parts of nearly equal size."""
        parts = {name: value.tensor_split(count) for name, value in vars(self).items() if isinstance(value, Tensor)}
        images = {name: image.tensor_split(count) for name, image in self.images.items()}
        more: dict[str, Any] = {"parts": self.parts * count, "counted_in_all": self.counted_in_all or self.counted()}
        return [
            Batch(self.kind, {name: pieces[part] for name, pieces in images.items()}, **more, **_row(parts, part))
            for part in range(count)
        ]


def _row(parts: dict[str, tuple[Tensor, ...]], number: int) -> dict[str, Any]:
    return {name: pieces[number] for name, pieces in parts.items()}


def of_shots(camera: str) -> str:
    """Name the frames [B, S, H, W, 3] of few-shot sequences among the images of a batch."""
    return f"{camera} of shots"


def differing(actions: Tensor, others: Tensor) -> Tensor:
    """Rows bool[B] of two chunks float[B, T, A] that are not the same."""
    return (actions != others).flatten(1).any(1)


def held(actions: Tensor, counts: Tensor) -> Tensor:
    """Repeat the last target float[B, T, A] that counts bool[B, T] over those that do not, which follow it."""
    steps = torch.arange(actions.shape[1], device=actions.device)
    kept = torch.minimum(steps, (counts.sum(1, keepdim=True) - 1).clamp_min(0))
    return actions.gather(1, kept[..., None].expand_as(actions))


def joined(batches: Sequence[Batch], pad_id: int) -> Batch:
    """Put batches that share their words and cameras below each other; `parts` must be the same."""
    first, *_ = batches
    fields: dict[str, Any] = {}
    for name, value in vars(first).items():
        if isinstance(value, Tensor):
            fields[name] = _stacked([vars(batch)[name] for batch in batches], FILL.get(name, pad_id))
    names = first.counted_in_all.keys()
    in_all = {name: sum(batch.counted_in_all[name] for batch in batches) for name in names}
    images = {name: torch.cat([batch.images[name] for batch in batches]) for name in first.images}
    return Batch("mixed", images, parts=first.parts, counted_in_all=in_all, **fields)


def _stacked(rows: Sequence[Tensor], fill: float) -> Tensor:
    """Tensors [B, N, ...] of different B and N as one, filled up along N."""
    if rows[0].ndim == 1:
        return torch.cat(list(rows))
    length = max(row.shape[1] for row in rows)
    gaps = [row.new_full((len(row), length - row.shape[1], *row.shape[2:]), fill) for row in rows]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(rows, gaps, strict=True)])
