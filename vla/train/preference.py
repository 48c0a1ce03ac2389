"""Preference between two answers to one question, the true one and one that could have been said but is not true, or
between two chunks for one frame, what the expert would do and what was done there in a rollout that failed.

Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation 7): a network learns to tell the two
apart by more than a copy of itself from before does, so that it makes up less without forgetting how to speak.

B batch, P visual tokens, Q tokens of question and answer, T action horizon, A action dimension.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vla.model.network import Network, Outputs

Shown = tuple[dict[str, Tensor], Tensor, Tensor, Tensor]  # images, ids and mask of the words, state
Said = tuple[Tensor, Tensor, Tensor]  # ids int[B, Q], mask bool[B, Q], labels int[B, Q], -100 where nothing is answered


def preference_loss(
    network: Network, reference: Network, images: dict[str, Tensor], better: Said, worse: Said, beta: float
) -> Tensor:
    """Loss over the rows that have both answers; log 2 where the network prefers as its reference does.

    images: uint8 or float 0..255 [B, H, W, 3] of each camera; beta: how soon the network has moved far enough.
    """
    mine = _margin(network, images, better, worse)
    with torch.no_grad():
        theirs = _margin(reference, images, better, worse)
    asked = (better[2] != -100).any(dim=1) & (worse[2] != -100).any(dim=1)
    losses = -functional.logsigmoid(beta * (mine - theirs))
    return (losses * asked).sum() / asked.sum().clamp_min(1)


def _margin(network: Network, images: dict[str, Tensor], better: Said, worse: Said) -> Tensor:
    """By how much the better answer is likelier than the worse one, in log-probability float[B]."""
    visual = network.look(images, better[0], asked_of(better))
    return answer_log_probability(network, visual, *better) - answer_log_probability(network, visual, *worse)


def asked_of(said: Said) -> Tensor:
    """Which of the tokens bool[B, Q] are the question."""
    return said[1] & (said[2] == -100)


def answer_log_probability(network: Network, visual: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Log-probability float[B] of the labelled tokens after visual tokens float[B, P, D] and what is asked."""
    hidden = network.answering(visual, ids, mask, asked_of((ids, mask, labels)))
    log_probability = torch.log_softmax(network.word_logits(hidden[:, :-1]).float(), dim=-1)
    labels = labels[:, 1:]
    said = log_probability.gather(2, labels.clamp_min(0)[..., None]).squeeze(-1)
    return (said * (labels != -100)).sum(dim=1)


def chunk_preference_loss(mine: Tensor, theirs: Tensor, compared: Tensor, beta: float) -> Tensor:
    """Loss of margins float[B] of network and reference, by which the better chunk is likelier than the worse one.

    compared: bool[B], rows that have two chunks.
    """
    losses = -functional.logsigmoid(beta * (mine - theirs))
    return (losses * compared).sum() / compared.sum().clamp_min(1)


def chunk_margin(
    network: Network,
    shown: Shown,
    better: Tensor,
    worse: Tensor,
    counts: Tensor,
    given_steps: Tensor,
    seed: int,
    outputs: Outputs | None = None,
) -> Tensor:
    """By how much one chunk float[B, T, A] in -1..1 is more plausible than another, float[B]; see `ActionHead`.

    shown: the first arguments of the network, up to the state; counts: bool[B, T, A], values that are compared, in the
    others the chunks are taken to be the same; given_steps: int[B]; seed: of the noise, where the head has any, which
    is the same for both; outputs: of the network shown the better chunk, where they are there already.
    """
    head = network.head
    worse = torch.where(counts, worse, better)

    def of(chunk: Tensor, outputs: Outputs) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return head.plausibility(outputs.action_hidden, outputs.context, chunk, counts, given_steps, random)

    first = network(*shown, better, given_steps) if outputs is None else outputs
    return of(better, first) - of(worse, network(*shown, worse, given_steps) if head.in_order else first)


def in_equal_shares(weight: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Scale weights float[N] of frames so that those in bool[N] come as often as all others, if there are any.

    Frames of failures alone would teach a network what to do there and let it forget all else.
    """
    sums = np.where(chosen, (weight * chosen).sum(), (weight * ~chosen).sum())
    return weight / np.maximum(sums, 1e-12) * weight.sum() / 2
