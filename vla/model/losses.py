"""Training losses on the network's outputs: completion, words, grounding; action heads have their own."""

import torch
from torch import Tensor
from torch.nn import functional

from vla.model.actions import soft_targets
from vla.model.grounding import named_token
from vla.model.network import Network, Outputs


def completion_loss(outputs: Outputs, progress: Tensor, done: Tensor) -> Tensor:
    """Binary cross-entropy of progress float[B] 0..1 and done float[B] 0 or 1."""
    bce = functional.binary_cross_entropy_with_logits
    return bce(outputs.progress.float(), progress) + bce(outputs.done.float(), done)


def word_loss(network: Network, hidden: Tensor, labels: Tensor, sigma_bins: float) -> Tensor:
    """Next-token cross-entropy of hidden float[B, Q, D] with labels int[B, Q] (-100 does not count), shifted by one.

    Location tokens get soft labels over their neighbours: a box that is off by one is nearly right.
    """
    labels = labels[:, 1:]
    answered = labels != -100
    log_probability = torch.log_softmax(network.word_logits(hidden[:, :-1][answered]).float(), dim=-1)
    labels = labels[answered]
    start, stop = network.location_ids.start, network.location_ids.stop
    place = (labels >= start) & (labels < stop)
    loss = -log_probability.gather(1, labels[:, None]).squeeze(1)
    bins = stop - start
    values = ((labels - start).clamp(0, bins - 1) + 0.5) / bins * 2 - 1
    spread = soft_targets(values, sigma_bins, bins)
    entropy = -(spread * spread.clamp_min(1e-12).log()).sum(-1)
    soft = -(spread * log_probability[:, start:stop]).sum(-1) - entropy
    return torch.where(place, soft, loss).sum() / max(1, len(labels))


def grounding_loss(log_probability: Tensor, named_at: Tensor, named_box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cross-entropy of the token that a word names, over the words that name a thing.

    log_probability: float[B, L, 1 + P], "nothing in sight" first; named_at: int[B, K], which words, -1 where none;
    named_box: float[B, K, 4] in 0..1 of the first camera, NaN where not in sight; grid: rows, columns of P.
    """
    row, which = torch.nonzero(named_at >= 0, as_tuple=True)
    box = named_box[row, which]
    target = torch.where(box.isnan().any(dim=1), 0, 1 + named_token(box.nan_to_num(), grid))
    chosen = log_probability[row, named_at[row, which]]
    return functional.nll_loss(chosen.float(), target, reduction="sum") / max(1, len(row))
