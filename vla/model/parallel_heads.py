"""Heads that say the whole chunk in one pass, from one placeholder a step that all see each other.

B batch, T action horizon, A action dimension, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from vla.model.actions import expectation_around_mode, soft_targets
from vla.model.head import ActionHead, Context, ResidualMlp, completion_layers, is_given, mean_where, over_joints
from vla.model.vocabulary import ACTION_BINS


class PlaceholderHead(ActionHead):
    """T placeholders in the sequence, and one more for completion."""

    def __init__(self, width: int, action_horizon: int, action_dim: int) -> None:
        super().__init__(action_horizon, action_dim)
        self.max_tokens = action_horizon + 1
        self.placeholders = nn.Parameter(torch.randn(action_horizon + 1, width) * 0.02)
        self.given = nn.Linear(action_dim + 1, width)

    def embed(self, actions: Tensor, given_steps: Tensor) -> Tensor:
        """Normalised actions float[B, T, A], of which the first given_steps int[B] are shown -> float[B, T + 1, D]."""
        shown = is_given(actions, given_steps).to(actions.dtype)
        given = shown * self.given(torch.cat([actions * shown, shown], dim=-1))
        return self.placeholders + functional.pad(given, (0, 0, 0, 1))


class Parallel(PlaceholderHead):
    """Each placeholder gives A distributions over the 256 action ids.

    The action ids are rows of the language model's own embedding, so nothing but a valid action can be decoded.
    """

    def __init__(
        self, language: PretrainedConfig, action_horizon: int, action_dim: int, action_ids: slice, mode_radius: int = 24
    ) -> None:
        """mode_radius: bins on each side of the most likely one over which the action is averaged.

        Two ways around an obstacle are not averaged, neighbours of one way are. Of radius 12, 24 and the mean over all
        bins, 24 did best in a trial of 35 episodes on seeds that are not used in reports (24, 22 and 16 succeeded, the
        last with five instead of three steps a chunk); that is few, so measure it again for another checkpoint.
        """
        width = language.hidden_size
        super().__init__(width, action_horizon, action_dim)
        self.action_ids, self.mode_radius = action_ids, mode_radius
        self.per_dimension = nn.Linear(width, action_dim * width)
        self.completion = completion_layers(width)

    def logits(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Hidden float[B, T + 1, D], embedding float[V, D] -> bin logits float[B, T, A, 256]."""
        queries = self.per_dimension(hidden[:, :-1]).unflatten(-1, (self.action_dim, -1))
        return queries @ table[self.action_ids].T

    def loss(
        self,
        hidden: Tensor,
        context: Context,
        targets: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        sigma_bins: float,
        generator: torch.Generator,
        there: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of the bins with soft labels around the targets; a perfect fit is zero."""
        logits = self.logits(hidden, context.table)
        expected = soft_targets(targets, sigma_bins)
        per_value = -(expected * torch.log_softmax(logits.float(), dim=-1)).sum(-1)
        entropy = -(expected * expected.clamp_min(1e-12).log()).sum(-1)
        return mean_where(over_joints(per_value - entropy, there), counts)

    def plausibility(
        self,
        hidden: Tensor,
        context: Context,
        chunk: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Log-probability of the bins."""
        bins = ((chunk + 1) / 2 * ACTION_BINS).long().clamp(0, ACTION_BINS - 1)
        log_probability = torch.log_softmax(self.logits(hidden, context.table).float(), dim=-1)
        return (log_probability.gather(-1, bins[..., None]).squeeze(-1) * counts).sum((1, 2))

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, Tensor]:
        """Expectation around the mode of each bin; confidence is the mass around it."""
        values, mass = expectation_around_mode(self.logits(hidden, context.table), self.mode_radius)
        return values, mass.mean((1, 2))


class L1(PlaceholderHead):
    """Each placeholder gives A numbers: OpenVLA-OFT, Kim et al. 2025, arXiv:2502.19645, section IV.

    There a step has one placeholder a dimension, zero before its position is added; here one a step, which is learned
    and carries the given steps.
    """

    def __init__(
        self,
        language: PretrainedConfig,
        action_horizon: int,
        action_dim: int,
        action_ids: slice,
        blocks: int = 2,
        hidden: int = 256,
    ) -> None:
        """blocks, hidden: of the layers behind the placeholders."""
        width = language.hidden_size
        super().__init__(width, action_horizon, action_dim)
        self.regress = ResidualMlp(width, hidden, action_dim, blocks)
        self.completion = completion_layers(width)

    def loss(
        self,
        hidden: Tensor,
        context: Context,
        targets: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        sigma_bins: float,
        generator: torch.Generator,
        there: Tensor | None = None,
    ) -> Tensor:
        """Mean absolute difference."""
        return mean_where(over_joints((self.regress(hidden[:, :-1]).float() - targets).abs(), there), counts)

    def plausibility(
        self,
        hidden: Tensor,
        context: Context,
        chunk: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Minus the absolute differences."""
        return -((self.regress(hidden[:, :-1]).float() - chunk).abs() * counts).sum((1, 2))

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, None]:
        """The numbers as they are; no confidence comes with them."""
        return self.regress(hidden[:, :-1]), None
