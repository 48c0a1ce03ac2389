"""What a run learns from: one dataset, or a mixture of several, of one body or of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from vla.data.dataset import EpisodeDataset
from vla.data.framecache import EarlierFrames, FrameCache
from vla.model.actions import ActionCodec
from vla.model.glimpses import glimpses
from vla.model.history import History
from vla.model.processor import Processor
from vla.train.batch import Batch, joined
from vla.train.batches import Batches, Labels
from vla.train.shots import FewShot, with_shots
from vla.types import Embodiment


@dataclass
class Source:
    """One dataset of the mixture: its frames in a memory map, its labels in memory."""

    dataset: EpisodeDataset
    frames: FrameCache
    labels: Labels
    body: Embodiment
    weight: float  # share of the samples

    @classmethod
    def open(cls, folder: Path, weight: float, cameras: dict[str, tuple[int, int]], frames: Path) -> "Source":
        """Read a LeRobotDataset v3.0 of demonstrations; frames: where they are kept decoded, cameras: [px] of each."""
        dataset = EpisodeDataset(folder)
        if "embodiment" not in dataset.info.get("vla", {}):
            raise ValueError(f"{folder} does not say which body moved in it: collect it with vla collect")
        body = Embodiment.from_dict(dataset.info["vla"]["embodiment"])
        return cls(dataset, FrameCache(dataset, cameras, frames), Labels.read(dataset), body, weight)


def shares_of(folders: str | Sequence[str], weights: Sequence[float] | None) -> dict[str, float]:
    """Say which share of the samples comes from each folder: equal ones, or in proportion to the weights."""
    listed = [folders] if isinstance(folders, str) else list(folders)
    weights = [1.0] * len(listed) if weights is None else list(weights)
    if not listed or len(weights) != len(listed) or len(set(listed)) < len(listed) or min(weights) <= 0:
        raise ValueError(
            f"dataset={folders} dataset_weights={weights}: give a folder or a list of different ones, and as many "
            "weights above 0, or none"
        )
    return {folder: weight / sum(weights) for folder, weight in zip(listed, weights, strict=True)}


def processors(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerFast,
    horizon: int,
    max_text_tokens: int,
    taught: frozenset[str] | None = None,
    history: History | None = None,
) -> list[Processor]:
    """Make the processor of each source; sources of one body share their statistics, all are as wide as the widest.

    taught: words of the training text, where the tokenizer can spell others as well.
    """
    width = max(len(source.body.joints) for source in sources)
    fitted = [source.labels.fit_codec(horizon) for source in sources]
    made = []
    for source in sources:
        same = [codec for codec, other in zip(fitted, sources, strict=True) if other.body.hash() == source.body.hash()]
        cameras = {name: (array.shape[1], array.shape[2]) for name, array in source.frames.arrays.items()}
        looks = glimpses(source.frames.gather, list(cameras), len(source.dataset))
        codec = ActionCodec.around(same, width)
        more = {"ready": source.labels.ready(), "taught": taught, "history": history}
        made.append(Processor(source.body, cameras, codec, tokenizer, max_text_tokens, looks, **more))
    return made


def of_all_bodies(processors: Sequence[Processor]) -> Processor:
    """Return the processor of the first body, which knows those of the others."""
    each = {processor.embodiment.hash(): processor for processor in reversed(processors)}
    first = processors[0]
    others = tuple(other for name, other in reversed(each.items()) if name != first.embodiment.hash())
    return replace(first, others=others)


class Mixture:
    """`mixture[step]` is the batch of that step; each sample is of a source drawn by its weight."""

    def __init__(
        self,
        sources: Sequence[Source],
        processors: Sequence[Processor],
        batch_size: int,
        seed: int,
        shots: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Take the processor of each source; shots: arguments of `FewShot`; settings: further ones of `Batches`."""
        self.weights, self.batch_size, self.seed = [source.weight for source in sources], batch_size, seed
        self.pad_id = processors[0].pad_id
        parts = [
            Batches(
                source.labels, _seen(source, processor), processor, batch_size, seed + number * 1_000_003, **settings
            )
            for number, (source, processor) in enumerate(zip(sources, processors, strict=True))
        ]
        self.parts = with_shots(parts, FewShot(**shots)) if shots else parts

    def __getitem__(self, step: int) -> Batch:
        if len(self.parts) == 1:
            return self.parts[0][step]
        sizes = np.random.default_rng([self.seed, step]).multinomial(self.batch_size, self.weights)
        drawn = [part.draw(step, int(size)) for part, size in zip(self.parts, sizes, strict=True) if size]
        return joined(drawn, self.pad_id)


def _seen(source: Source, processor: Processor) -> FrameCache | EarlierFrames:
    """The frames of a source as its processor sees them."""
    if (history := processor.history) is None:
        return source.frames
    return EarlierFrames(source.frames, source.dataset.starts, history.frames, history.stride)
