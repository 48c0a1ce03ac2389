"""What is learnt of episodes that a human drove, alone or beside a policy: what he did where it went well.

Learning only from what the human did beside a policy is HG-DAgger (Kelly et al. 2019, arXiv:1810.02890).
"""

import numpy as np

from vla.data.dataset import EpisodeDataset

COLUMN = "intervention"  # bool: a human moved the arm in this frame; there is none where an expert shows every frame


def shown(dataset: EpisodeDataset) -> np.ndarray:
    """Frames whose targets are to be learnt, bool[N]: all of an expert, a human's own in episodes that succeeded."""
    if COLUMN not in dataset.features:
        return np.ones(len(dataset), bool)
    lengths = [episode.length for episode in dataset.episodes]
    succeeded = np.repeat([bool(episode.extra.get("success", True)) for episode in dataset.episodes], lengths)
    used = np.asarray(dataset.column(COLUMN), bool) & succeeded
    if not used.any():
        raise ValueError(
            f"{dataset.root}: in no episode that succeeded did a human drive, so there is nothing to learn"
        )
    return used


def ends(dataset: EpisodeDataset) -> np.ndarray:
    """One past the last frame that the same hands led up to, int[N]: a policy's targets after it are not learnt."""
    count = len(dataset)
    if COLUMN not in dataset.features:
        return np.full(count, count)
    others = np.append(np.where(np.asarray(dataset.column(COLUMN), bool), count, np.arange(count)), count)
    return np.maximum(np.minimum.accumulate(others[::-1])[::-1][:count], np.arange(count) + 1)
