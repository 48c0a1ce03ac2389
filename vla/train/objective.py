"""From a batch to one number: augmentation, forward pass, weighted losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla.model.losses import completion_loss, grounding_loss, word_loss
from vla.model.network import Network
from vla.model.processor import Processor
from vla.train.batch import Batch, differing
from vla.train.captions import true_of
from vla.train.preference import chunk_margin, chunk_preference_loss, preference_loss
from vla.train.shots import shot_losses


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and colour balance of uint8[B, ..., H, W, 3] -> float 0..255.

    Each entry of the batch is changed in its own way, all its frames in the same.
    """
    shape = (len(images), *(1,) * (images.ndim - 1))
    gain = 1 + strength * (2 * torch.rand(shape, generator=generator) - 1)
    tint = 1 + 0.3 * strength * (2 * torch.rand((*shape[:-1], 3), generator=generator) - 1)
    shift = 128 * strength * (2 * torch.rand(shape, generator=generator) - 1)
    return images.float().mul_((gain * tint).to(images.device)).add_(shift.to(images.device)).clamp_(0, 255)


def losses(
    network: Network,
    processor: Processor,
    batch: Batch,
    *,
    sigma_bins: float,
    location_sigma: float,
    augmentation: float,
    state_noise: float,
    generator: torch.Generator,
    reference: Network | None = None,
    beta: float = 0.1,
) -> dict[str, Tensor]:
    """Return the unweighted losses `action`, `completion`, `words` and `grounding` of a batch.

    With a reference there is also `preference` for true answers, see `preference_loss`, which explains beta, or
    `preference_actions` where the batch holds chunks of failed rollouts; with a dual encoder `contrast` of frames and
    captions; with few-shot sequences those of `shot_losses`.

    sigma_bins, location_sigma: width of the soft labels in bins; augmentation: 0..1; state_noise: standard deviation
    that is added to the normalised state, so that the network looks instead of remembering.
    """
    targets, state = batch.actions, batch.state
    noise = torch.randn(state.shape, generator=generator).to(state.device)
    if batch.there is not None:
        noise = noise * batch.there
    noisy = state + state_noise * noise
    images = {name: augment(image, augmentation, generator) for name, image in batch.images.items()}
    asked = batch.question_ids, batch.question_mask
    outputs = network(
        images,
        batch.text_ids,
        batch.text_mask,
        noisy,
        targets,
        batch.given_steps,
        *(asked if network.one_prefix else ()),
    )
    question_hidden = outputs.question_hidden
    if question_hidden is None:
        prompt = batch.question_mask & (batch.question_labels == -100)
        visual = network.look(images, batch.question_ids, prompt) if network.vision.instructed else outputs.visual
        question_hidden = network.answering(visual, *asked, prompt)
    steps = torch.arange(targets.shape[1], device=targets.device)
    counts = batch.counts & (steps >= batch.given_steps[:, None])
    action = network.head.loss(
        outputs.action_hidden, outputs.context, targets, counts, batch.given_steps, sigma_bins, generator, batch.there
    )
    grid = next(iter(network.vision.grids.values()), None)
    _, named = network.words(batch.named_ids, batch.named_ids != processor.pad_id, outputs.seen)
    found = {
        "action": action,
        "completion": completion_loss(outputs, batch.progress, batch.done),
        "words": word_loss(network, question_hidden, batch.question_labels, location_sigma),
        "grounding": grounding_loss(named, batch.named_at, batch.named_box, grid) if grid else targets.new_zeros(()),
    }
    if network.dual is not None and batch.caption_ids is not None and batch.caption_mask is not None:
        known = batch.caption_mask.any(dim=1)
        assert batch.caption_facts is not None and batch.frame_facts is not None
        texts = network.meaning(batch.caption_ids[known], batch.caption_mask[known])
        true = true_of(batch.caption_facts[known], batch.frame_facts[known])
        found["contrast"] = network.dual.loss(network.dual.images(outputs.visual[known]), texts, true)
    if batch.shot_ids is not None:
        found |= shot_losses(network, processor, images, batch, location_sigma)
    if reference is not None and batch.worse_actions is not None:
        compared = counts[..., None] & (torch.ones_like(targets) > 0 if batch.there is None else batch.there[:, None])
        shown = images, batch.text_ids, batch.text_mask, noisy
        seed = int(torch.randint(2**31, (), generator=generator))
        chunks = targets, batch.worse_actions, compared, batch.given_steps, seed
        with torch.no_grad():
            theirs = chunk_margin(reference, shown, *chunks)
        mine = chunk_margin(network, shown, *chunks, outputs)
        found["preference_actions"] = chunk_preference_loss(mine, theirs, differing(targets, batch.worse_actions), beta)
    elif reference is not None:
        assert batch.worse_ids is not None and batch.worse_mask is not None and batch.worse_labels is not None
        better = batch.question_ids, batch.question_mask, batch.question_labels
        worse = batch.worse_ids, batch.worse_mask, batch.worse_labels
        found["preference"] = preference_loss(network, reference, images, better, worse, beta)
    return found


@dataclass
class Objective:
    """What a part of a batch costs the network; random numbers depend on seed, step and number of the part alone."""

    processor: Processor
    settings: Mapping[str, Any]  # keyword arguments of `losses`
    weights: Mapping[str, float]  # of every loss
    seed: int
    bf16: bool
    reference: Network | None = None  # what answers are preferred against, see `preference_loss`

    def __call__(self, network: Network, part: Batch, step: int, number: int) -> dict[str, Tensor]:
        """Return all losses, times the shares of the part, and their weighted sum `total`."""
        generator = torch.Generator().manual_seed(hash((self.seed, step, number)) % 2**31)
        with torch.autocast(part.state.device.type, torch.bfloat16, enabled=self.bf16):
            more = {"generator": generator, "reference": self.reference}
            found = losses(network, self.processor, part, **more, **self.settings)
        shares = part.shares()
        found = {name: value * shares.get(name, 1.0) for name, value in found.items()}
        return found | {"total": torch.stack([self.weights[name] * value for name, value in found.items()]).sum()}
