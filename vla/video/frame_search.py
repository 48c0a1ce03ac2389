"""Frames as vectors near those of sentences that are true of them, for search by what can be seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vla.control.words import tidy
from vla.model.checkpoint import digest, load
from vla.types import Observation
from vla.video.track import Track

BATCH = 64  # frames at once


class CheckpointEncoder:
    """A checkpoint with a dual encoder, which looks through the cameras that it was trained with."""

    def __init__(self, checkpoint: str, device: str = "cpu", threads: int | None = None) -> None:
        """Load it; ValueError for a checkpoint without a dual encoder."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._policy = load(checkpoint, device=device)
        self._size = self._policy.embed_texts([""]).shape[1]
        self.identity = f"{Path(checkpoint).name} {digest(checkpoint)[:12]}"

    def frames(self, tracks: Mapping[str, Track], times_s: Sequence[float]) -> np.ndarray:
        """Return the vectors of the frames that its cameras showed at these times."""
        embodiment = self._policy.embodiment
        rows = [np.zeros((0, self._size), np.float32)]
        if set(embodiment.cameras) <= tracks.keys():
            state = np.zeros(len(embodiment.joints), np.float32)  # is not read
            for start in range(0, len(times_s), BATCH):
                part = [
                    Observation({name: tracks[name].picture(time_s) for name in embodiment.cameras}, state, "", time_s)
                    for time_s in times_s[start : start + BATCH]
                ]
                rows.append(self._policy.embed_images(part))
        return np.concatenate(rows)

    def sentence(self, text: str) -> np.ndarray | None:
        """Return the vector of a sentence, None where it was never taught one of the words."""
        tidied = tidy(text)
        return None if not tidied or self._policy.unknown_words(tidied) else self._policy.embed_texts([tidied])[0]
