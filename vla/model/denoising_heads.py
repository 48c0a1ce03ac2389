"""Heads that turn noise into a chunk, step by step: flow matching and diffusion.

The noise at the start is the same for every observation, so that a policy answers the same frame in the same way.

B batch, T action horizon, A action dimension, D width, P tokens of the sequence so far.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from vla.model.fast import FastCodec
from vla.model.fast_tokens import FastTokens
from vla.model.flow import VelocityField, time_waves
from vla.model.guidance import prefix_weights
from vla.model.head import Context, ReadoutHead, ResidualMlp, is_given, mean_where

LEAST_SPREAD = 0.01  # of a step and joint, in normalised units: what never moves is not blown up


class DenoisingHead(ReadoutHead):
    """A readout head whose chunks are brought to the size of the noise, beside which small motions are hardly seen."""

    middle: Tensor
    spread: Tensor

    def __init__(
        self,
        width: int,
        action_horizon: int,
        action_dim: int,
        draws: int,
        middle: Sequence[Sequence[float]] | None,
        spread: Sequence[Sequence[float]] | None,
    ) -> None:
        """Prepare.

        draws: of noise and time for each chunk in training, since the way to it is longer to learn than to look
        (CogACT, arXiv:2411.19650, takes 8); middle, spread: mean and standard deviation of each step and joint of the
        data, [T][A], None for 0 and 1.
        """
        super().__init__(width, action_horizon, action_dim)
        self.draws = draws
        for name, values, usual in (("middle", middle, 0.0), ("spread", spread, 1.0)):
            filled = torch.full((action_horizon, action_dim), usual) if values is None else torch.tensor(values)
            self.register_buffer(name, filled, persistent=False)  # the configuration keeps them

    @classmethod
    def fit(cls, values: Tensor, **settings: Any) -> dict[str, Any]:
        """Take middle and spread from the data."""
        middle, spread = values.mean(0), values.std(0).clamp_min(LEAST_SPREAD)
        return {"middle": middle.tolist(), "spread": spread.tolist(), **settings}

    @abstractmethod
    def errors(
        self, hidden: Tensor, context: Context, targets: Tensor, given_steps: Tensor, generator: torch.Generator
    ) -> Tensor:
        """What is missed of each value at one random moment on the way, float[B * draws, T, A]; see `loss`."""

    def plausibility(
        self,
        hidden: Tensor,
        context: Context,
        chunk: Tensor,
        counts: Tensor,
        given_steps: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Minus the squared errors, at moments and with noise that the generator draws."""
        errors = self.errors(hidden, context, chunk, given_steps, generator)
        (counts,) = several(self.draws, counts)
        return -(errors * counts).sum((1, 2)).unflatten(0, (-1, self.draws)).mean(1)

    def sized(self, chunk: Tensor) -> Tensor:
        """Normalised float[B, T, A] -> as large as the noise."""
        return (chunk - self.middle) / self.spread


class Flow(DenoisingHead):
    """An expert of its own beside the language model, which reads its keys and values layer by layer: pi0.

    Black et al. 2024, arXiv:2410.24164, section IV: noise at time 1, the chunk at time 0, and the expert says the way
    from one to the other. Time is told to each step of the chunk, given ones being at 0 from the start: training-time
    real-time chunking, arXiv:2512.05964.

    Knowledge insulation (Driess et al. 2025, arXiv:2505.23705, section IV): the language model learns to say the chunk
    in the tokens of FAST, while the expert's gradients stop before it. The expert sees none of these tokens, and
    nothing says them when a chunk is decided.
    """

    looks_back = True
    guidance: str | None = None  # how chunks are led by older ones instead of taking their steps as given; guidance.py

    def __init__(
        self,
        language: PretrainedConfig,
        action_horizon: int,
        action_dim: int,
        action_ids: slice,
        expert: dict[str, Any] | None = None,
        steps: int = 10,
        insulate: bool = False,
        reads_state: bool = False,
        causal: bool = False,
        joint_every: int = 1,
        draws: int = 1,
        tokens: dict[str, Any] | None = None,
        middle: Sequence[Sequence[float]] | None = None,
        spread: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Build the expert.

        expert: what differs from the language model's configuration, anything but the number and size of the heads,
        whose keys it reads; steps: of Euler's method; insulate: whether the expert's gradients stop at the language
        model, which then learns from the other losses alone; reads_state: whether the state is also a token of the
        expert, as in pi0; causal, joint_every: see `VelocityField`; tokens: in which the language model learns to say
        the chunk, arguments of `FastCodec` and `weight` of their loss beside that of the velocity, None for none;
        draws, middle, spread: see `DenoisingHead`.
        """
        super().__init__(language.hidden_size, action_horizon, action_dim, draws, middle, spread)
        self.max_tokens = 1 + reads_state + action_horizon
        self.steps = steps
        self.tokens, self.tokens_weight = None, 0.0
        if tokens is not None:
            merges = {name: value for name, value in tokens.items() if name != "weight"}
            self.tokens = FastTokens(FastCodec(action_horizon, action_dim, **merges), language.hidden_size)
            self.tokens_weight = float(tokens.get("weight", 1.0))
            self.max_tokens = max(self.max_tokens, action_horizon * action_dim)  # one symbol a token at the worst
        state_dim = action_dim if reads_state else None
        self.field = VelocityField(language, action_dim, expert, insulate, state_dim, causal, joint_every)

    @classmethod
    def fit(cls, values: Tensor, tokens: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        """Take the merges of the tokens from the data as well; tokens: `scale`, `vocabulary` and `weight`."""
        fitted = super().fit(values, **settings)
        if tokens is not None:
            merges = {name: value for name, value in tokens.items() if name != "weight"}
            fitted["tokens"] = FastCodec.fit(values, **merges) | {"weight": tokens.get("weight", 1.0)}
        return fitted

    def taught(self, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the chunk, where there are any."""
        return super().taught(table, targets) if self.tokens is None else self.tokens.taught(targets)

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
        """Squared error of the velocity at a random time, more often near the noise: Beta(1.5, 1); and of tokens."""
        said = self.tokens_weight * self.tokens.loss(hidden, targets, counts) if self.tokens is not None else 0.0
        (counts,) = several(self.draws, counts)
        return said + mean_where(self.errors(hidden, context, targets, given_steps, generator).mean(-1), counts)

    def errors(
        self, hidden: Tensor, context: Context, targets: Tensor, given_steps: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Squared error of the velocity at a random time."""
        targets, given_steps = several(self.draws, self.sized(targets), given_steps)
        noise = torch.randn(targets.shape, generator=generator).to(targets.device)
        drawn = torch.rand(len(targets), 1, generator=generator).to(targets.device)
        time = 0.001 + 0.999 * drawn ** (1 / 1.5)
        time = torch.where(is_given(targets, given_steps).squeeze(-1), 0.0, time)
        return self.field.error(targets, noise, time, context.repeated(self.draws))

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, None]:
        """Euler's method from noise to chunk; no confidence comes with it."""
        noise, known, shown = same_noise(given, 1)[0], is_given(given, given_steps), self.sized(given)
        if self.guidance and context.foreseen:
            weights = prefix_weights(given_steps, context.foreseen, self.action_horizon)
            chunk = self.field.integrate_led(noise, context, self.steps, shown, weights, self.guidance)
            return chunk * self.spread + self.middle, None
        chunk = self.field.integrate(noise, context, self.steps, shown, known) * self.spread + self.middle
        return torch.where(known, given, chunk), None


class Diffusion(DenoisingHead):
    """Layers that tell chunk from noise, given the readout: Octo, arXiv:2405.12213, `DiffusionActionHead`.

    DDPM with a cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672). The layers say the noise, as in Octo, or
    the chunk, as `prediction_type="sample"` of diffusers. On the way the chunk is kept within `bound`: Octo's 5
    standard deviations, or 1, where normalised chunks end, as Diffusion Policy does (arXiv:2303.04137).
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
        says: str = "noise",
        bound: float = 1.0,
        draws: int = 1,
        middle: Sequence[Sequence[float]] | None = None,
        spread: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Build the layers.

        steps: of denoising; blocks, hidden: of the layers; time_width: of the description of a step; says:
        "noise" or "chunk", what the layers are taught to say; bound: of a chunk as large as the noise; draws, middle,
        spread: see `DenoisingHead`.
        """
        width = language.hidden_size
        super().__init__(width, action_horizon, action_dim, draws, middle, spread)
        if says not in ("noise", "chunk"):
            raise ValueError(f"head.says={says!r} of diffusion is not known, possible: noise, chunk")
        self.max_tokens, self.says, self.bound = 1, says, bound
        self.betas = cosine_betas(steps)
        self.kept = torch.cumprod(1 - self.betas, dim=0)  # of the chunk, after so many steps of noise
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, 2 * time_width), nn.SiLU(), nn.Linear(2 * time_width, time_width)
        )
        values = action_horizon * action_dim
        self.score = ResidualMlp(time_width + width + values, hidden, values, blocks)

    @classmethod
    def fit(cls, values: Tensor, **settings: Any) -> dict[str, Any]:
        """Take middle and spread from the data, and with them Octo's bound."""
        return {"bound": 5.0, **super().fit(values, **settings)}

    def told(self, noisy: Tensor, step: Tensor, readout: Tensor) -> Tensor:
        """Noisy float[B, T, A] after steps int[B] of noise, readout float[B, D] -> what the layers say, likewise."""
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
        """Squared error of the noise, or of the chunk, after a random number of steps."""
        (counts,) = several(self.draws, counts)
        return mean_where(self.errors(hidden, context, targets, given_steps, generator).mean(-1), counts)

    def errors(
        self, hidden: Tensor, context: Context, targets: Tensor, given_steps: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Squared error of what the layers say."""
        targets, given_steps, readout = several(self.draws, self.sized(targets), given_steps, hidden[:, 0])
        step = torch.randint(len(self.betas), (len(targets),), generator=generator)
        noise = torch.randn(targets.shape, generator=generator).to(targets.device)
        kept = self.kept[step, None, None].to(targets.device)
        noisy = torch.where(is_given(targets, given_steps), targets, kept.sqrt() * targets + (1 - kept).sqrt() * noise)
        wanted = noise if self.says == "noise" else targets
        return (self.told(noisy, step.to(targets.device), readout).float() - wanted).square()

    def decide(self, hidden: Tensor, context: Context, given: Tensor, given_steps: Tensor) -> tuple[Tensor, None]:
        """Take the noise out step by step; no confidence comes with it."""
        noise = same_noise(given, 1 + len(self.betas))
        known, shown = is_given(given, given_steps), self.sized(given)
        chunk = self.denoise(noise, hidden[:, 0], shown, known) * self.spread + self.middle
        return torch.where(known, given, chunk), None

    def denoise(self, noise: Tensor, readout: Tensor, given: Tensor, known: Tensor) -> Tensor:
        """Go from the last of noise float[steps + 1, B, T, A] to the chunk; step n of the way back adds noise[n].

        readout: float[B, D]; given: float[B, T, A], what the steps in known bool[B, T, 1] are and remain.
        """
        chunk = torch.where(known, given, noise[-1])
        for step in reversed(range(len(self.betas))):
            said = self.told(chunk, torch.full((len(given),), step, device=given.device), readout)
            beta, kept = float(self.betas[step]), float(self.kept[step])
            before = float(self.kept[step - 1]) if step else 1.0
            clean = said if self.says == "chunk" else (chunk - math.sqrt(1 - kept) * said) / math.sqrt(kept)
            clean = clean.clamp(-self.bound, self.bound)
            toward_clean, toward_noisy = math.sqrt(before) * beta, math.sqrt(1 - beta) * (1 - before)
            chunk = (toward_clean * clean + toward_noisy * chunk) / (1 - kept)
            chunk = chunk + math.sqrt(beta * (1 - before) / (1 - kept)) * noise[step]
            chunk = torch.where(known, given, chunk)
        return chunk


def several(draws: int, *rows: Tensor) -> list[Tensor]:
    """Stand each row of the tensors so many times, one below the other."""
    return [one.repeat_interleave(draws, dim=0) for one in rows]


def same_noise(like: Tensor, count: int) -> Tensor:
    """Draw `count` chunks of normal noise for float[B, T, A], the same in each call and row: float[count, B, T, A]."""
    noise = torch.randn(count, 1, *like.shape[1:], generator=torch.Generator().manual_seed(0))
    return noise.to(like).expand(-1, len(like), -1, -1)


def cosine_betas(steps: int, offset: float = 0.008) -> Tensor:
    """Variance of the noise that each step adds, float[steps], so that the chunk fades as a squared cosine."""
    fade = torch.cos((torch.linspace(0, 1, steps + 1) + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - fade[1:] / fade[:-1]).clamp(0, 0.999)
