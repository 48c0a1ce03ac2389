"""Heads that turn noise into a chunk, step by step: flow matching and diffusion.

The noise at the start is the same for every observation, so that a policy answers the same frame in the same way.

B batch, T action horizon, A action dimension, D width, P tokens of the sequence so far.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from vla.model.head import Context, ReadoutHead, ResidualMlp, is_given, mean_where


class Flow(ReadoutHead):
    """An expert of its own beside the language model, which reads its keys and values layer by layer: pi0.

    Black et al. 2024, arXiv:2410.24164, section IV: noise at time 1, the chunk at time 0, and the expert says the way
    from one to the other. Time is told to each step of the chunk, given ones being at 0 from the start: training-time
    real-time chunking, arXiv:2512.05964.
    """

    looks_back = True

    def __init__(
        self,
        language: PretrainedConfig,
        action_horizon: int,
        action_dim: int,
        action_ids: slice,
        expert: dict[str, Any] | None = None,
        steps: int = 10,
        insulate: bool = False,
    ) -> None:
        """Build the expert.

        expert: what differs from the language model's configuration, anything but the number and size of the heads,
        whose keys it reads; steps: of Euler's method; insulate: whether the expert's gradients stop at the language
        model, which then learns from the other losses alone (arXiv:2505.23705).
        """
        super().__init__(language.hidden_size, action_horizon, action_dim)
        self.max_tokens = 1 + action_horizon
        self.steps, self.insulate = steps, insulate
        config = copy.deepcopy(language)
        for name, value in (expert or {}).items():
            if not hasattr(config, name):
                raise ValueError(f"the expert's {name!r} is no setting of a {language.model_type} model")
            setattr(config, name, value)
        config.vocab_size, config.pad_token_id = 1, None  # it reads no words
        self.expert = AutoModel.from_config(config)
        self.expert.set_input_embeddings(None)
        inner: int = config.hidden_size
        self.inward = nn.Linear(action_dim, inner)
        self.mix = nn.Sequential(nn.Linear(2 * inner, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.outward = nn.Linear(inner, action_dim)

    def velocity(self, noisy: Tensor, time: Tensor, context: Context) -> Tensor:
        """Noisy chunks float[B, T, A] at times float[B, T] -> noise minus chunk, float[B, T, A]."""
        assert context.cache is not None
        embedded = self.inward(noisy)
        embedded = self.mix(torch.cat([embedded, time_waves(time, embedded.shape[-1])], dim=-1))
        batch, steps = time.shape
        seen = torch.cat([context.present, context.present.new_ones(batch, steps)], dim=1)
        positions = torch.arange(context.position, context.position + steps, device=time.device)
        hidden = self.expert(
            inputs_embeds=embedded,
            attention_mask=seen[:, None, None].expand(-1, 1, steps, -1),
            position_ids=positions.expand(batch, -1),
            past_key_values=_kept(context.cache, self.insulate),
            use_cache=True,
        ).last_hidden_state
        return self.outward(hidden)

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
        """Squared error of the velocity at a random time, more often near the noise: Beta(1.5, 1)."""
        noise = torch.randn(targets.shape, generator=generator).to(targets.device)
        drawn = torch.rand(len(targets), 1, generator=generator).to(targets.device)
        time = 0.001 + 0.999 * drawn ** (1 / 1.5)
        time = torch.where(is_given(targets, given_steps).squeeze(-1), 0.0, time)
        noisy = time[..., None] * noise + (1 - time[..., None]) * targets
        error = self.velocity(noisy, time, context).float() - (noise - targets)
        return mean_where(error.square().mean(-1), counts)

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, None]:
        """Euler's method from noise to chunk; no confidence comes with it."""
        known = is_given(given, given_steps)
        chunk = torch.where(known, given, same_noise(given, 1)[0])
        for step in range(self.steps):
            time = torch.where(known.squeeze(-1), 0.0, 1 - step / self.steps)
            velocity = self.velocity(chunk, time, context)
            chunk = torch.where(known, given, chunk - velocity / self.steps)
        return chunk, None


class Diffusion(ReadoutHead):
    """Layers that say the noise in a chunk, given the readout: Octo, arXiv:2405.12213, `DiffusionActionHead`.

    DDPM with a cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672). On the way the chunk that the noise
    suggests is kept within -1..1, where normalised chunks are, as Diffusion Policy does (arXiv:2303.04137).
    """

    def __init__(
        self,
        language: PretrainedConfig,
        action_horizon: int,
        action_dim: int,
        action_ids: slice,
        steps: int = 20,
        blocks: int = 3,
        hidden: int = 256,
        time_width: int = 32,
    ) -> None:
        """steps: of denoising; blocks, hidden: of the layers; time_width: of the description of a step."""
        width = language.hidden_size
        super().__init__(width, action_horizon, action_dim)
        self.max_tokens = 1
        self.betas = cosine_betas(steps)
        self.kept = torch.cumprod(1 - self.betas, dim=0)  # of the chunk, after so many steps of noise
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, 2 * time_width), nn.SiLU(), nn.Linear(2 * time_width, time_width)
        )
        values = action_horizon * action_dim
        self.score = ResidualMlp(time_width + width + values, hidden, values, blocks)

    def noise_in(self, noisy: Tensor, step: Tensor, readout: Tensor) -> Tensor:
        """Noisy chunks float[B, T, A] after steps int[B] of noise, readout float[B, D] -> the noise float[B, T, A]."""
        time = self.time(time_waves(step / len(self.betas), self.time_width))
        return self.score(torch.cat([time, readout, noisy.flatten(1)], dim=-1)).view_as(noisy)

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
        """Squared error of the noise after a random number of steps."""
        step = torch.randint(len(self.betas), (len(targets),), generator=generator)
        noise = torch.randn(targets.shape, generator=generator).to(targets.device)
        kept = self.kept[step, None, None].to(targets.device)
        noisy = torch.where(is_given(targets, given_steps), targets, kept.sqrt() * targets + (1 - kept).sqrt() * noise)
        error = self.noise_in(noisy, step.to(targets.device), hidden[:, 0]).float() - noise
        return mean_where(error.square().mean(-1), counts)

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, None]:
        """Take the noise out step by step; no confidence comes with it."""
        known = is_given(given, given_steps)
        noise = same_noise(given, 1 + len(self.betas))
        chunk = torch.where(known, given, noise[-1])
        for step in reversed(range(len(self.betas))):
            said = self.noise_in(chunk, torch.full((len(given),), step, device=given.device), hidden[:, 0])
            beta, kept = float(self.betas[step]), float(self.kept[step])
            before = float(self.kept[step - 1]) if step else 1.0
            clean = ((chunk - math.sqrt(1 - kept) * said) / math.sqrt(kept)).clamp(-1, 1)
            toward_clean, toward_noisy = math.sqrt(before) * beta, math.sqrt(1 - beta) * (1 - before)
            chunk = (toward_clean * clean + toward_noisy * chunk) / (1 - kept)
            chunk = chunk + math.sqrt(beta * (1 - before) / (1 - kept)) * noise[step]
            chunk = torch.where(known, given, chunk)
        return chunk, None


def same_noise(like: Tensor, count: int) -> Tensor:
    """Draw `count` chunks of normal noise for float[B, T, A], the same in each call and row: float[count, B, T, A]."""
    noise = torch.randn(count, 1, *like.shape[1:], generator=torch.Generator().manual_seed(0))
    return noise.to(like).expand(-1, len(like), -1, -1)


def time_waves(time: Tensor, width: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """Describe times float[...] in 0..1 by sines and cosines of periods from `shortest` to `longest`: [..., width]."""
    fraction = torch.linspace(0, 1, width // 2, device=time.device)
    angle = time[..., None].float() * 2 * math.pi / (shortest * (longest / shortest) ** fraction)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def cosine_betas(steps: int, offset: float = 0.008) -> Tensor:
    """Variance of the noise that each step adds, float[steps], so that the chunk fades as a squared cosine."""
    fade = torch.cos((torch.linspace(0, 1, steps + 1) + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - fade[1:] / fade[:-1]).clamp(0, 0.999)


class _KeptLayer(DynamicLayer):
    """Keys and values of one layer that are read again and again and never grow."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.kept = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.kept
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _kept(cache: Cache, insulate: bool) -> Cache:
    pairs: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]
    return Cache(layers=[_KeptLayer(*((k.detach(), v.detach()) if insulate else (k, v))) for k, v in pairs])
