"""The network: frames, words and joints in one sequence; words, action bins, progress out of it.

Order and attention of the sequence, block-causal (rows look at columns):

               images  text    state  actions  question
    images     all     -       -      -        -
    text       all     causal  -      -        -
    state      all     all     self   -        -
    actions    all     all     all    all      -
    question   all     -       -      -        causal

Image states depend on nothing else, so planner, controller and questions share them. In training a question rides
along with the control sequence of the same frame for the price of its own tokens.

B batch, P visual tokens, L text tokens, Q question tokens, T action horizon, A action dimension, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from vla.model.actions import expectation_around_mode
from vla.model.grounding import Seen, WordGrounding, waves
from vla.model.vision import VisionTower
from vla.model.vocabulary import ACTION_BINS, LOCATIONS

IMAGE, TEXT, STATE, ACTION, QUESTION = range(5)
_SEES = torch.zeros(5, 5, dtype=torch.bool)  # [query kind, key kind]
_SEES[:, IMAGE] = True
_SEES[TEXT:QUESTION, TEXT] = True
_SEES[STATE:QUESTION, STATE] = True
_SEES[ACTION, ACTION] = True
_SEES[QUESTION, QUESTION] = True


def build_language_model(
    vocab_size: int, model_type: str | None = None, pretrained: str | None = None, **config: Any
) -> Any:
    """Make any causal language model of `transformers` with room for `vocab_size` tokens."""
    if pretrained is not None:
        model = AutoModelForCausalLM.from_pretrained(pretrained, **config)
        model.resize_token_embeddings(vocab_size)
        return model
    if model_type is None:
        raise ValueError("a language model needs model_type (from scratch, e.g. llama) or pretrained (name or folder)")
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, vocab_size=vocab_size, **config))


@dataclass
class Outputs:
    """What one forward pass says."""

    action_logits: Tensor  # float[B, T, A, 256]
    progress: Tensor  # float[B], logit
    done: Tensor  # float[B], logit
    question_hidden: Tensor | None  # float[B, Q, D]
    seen: Seen  # the visual tokens, ready to be named by further words


class ActionTokenHead(nn.Module):
    """T placeholders in, A distributions over the 256 action ids for each of them out, all in one pass.

    The action ids are rows of the language model's own embedding, so nothing but a valid action can be decoded.
    Placeholder T is the completion token. Leading steps may be given, which is what real-time chunking needs.
    """

    def __init__(self, width: int, action_horizon: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.placeholders = nn.Parameter(torch.randn(action_horizon + 1, width) * 0.02)
        self.given = nn.Linear(action_dim + 1, width)
        self.per_dimension = nn.Linear(width, action_dim * width)
        self.completion = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))

    def embed(self, actions: Tensor, given_steps: Tensor) -> Tensor:
        """Normalised actions float[B, T, A], of which the first given_steps int[B] are shown -> float[B, T + 1, D]."""
        steps = torch.arange(actions.shape[1], device=actions.device)
        shown = (steps < given_steps[:, None]).unsqueeze(-1).to(actions.dtype)
        given = shown * self.given(torch.cat([actions * shown, shown], dim=-1))
        return self.placeholders + nn.functional.pad(given, (0, 0, 0, 1))

    def forward(self, hidden: Tensor, action_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden float[B, T + 1, D], bins float[256, D] -> bin logits float[B, T, A, 256], completion float[B, 2]."""
        queries = self.per_dimension(hidden[:, :-1]).unflatten(-1, (self.action_dim, -1))
        return queries @ action_embeddings.T, self.completion(hidden[:, -1])


class Network(nn.Module):
    """Vision tower, language model, state encoder and action-token head."""

    def __init__(
        self,
        vision: dict[str, Any],
        language: dict[str, Any],
        cameras: dict[str, tuple[int, int]],
        vocab_size: int,
        first_action_id: int,
        action_horizon: int,
        action_dim: int,
        max_text_tokens: int = 80,
    ) -> None:
        """Build from plain arguments; they are what `config.json` of a checkpoint holds.

        vision, language: arguments of `build_encoder`, `build_language_model`; cameras: name -> (height, width) [px].
        """
        super().__init__()
        self.language = build_language_model(vocab_size, **language)
        width = self.language.config.hidden_size
        self.vision = VisionTower(vision, {name: (size[0], size[1]) for name, size in cameras.items()}, width)
        self.grounding = WordGrounding(width, list(cameras))
        self.state = nn.Sequential(nn.Linear(action_dim, width), nn.GELU(), nn.Linear(width, width))
        self.head = ActionTokenHead(width, action_horizon, action_dim)
        self.action_ids = slice(first_action_id, first_action_id + ACTION_BINS)
        self.location_ids = slice(self.action_ids.stop, self.action_ids.stop + LOCATIONS)
        self.max_text_tokens = max_text_tokens
        if "pretrained" not in language:
            with torch.no_grad():  # places that are close to each other start out alike
                places = (torch.arange(LOCATIONS) + 0.5) / LOCATIONS
                self.embedding.weight[self.location_ids] = 0.08 * waves(places, width, finest=LOCATIONS / 16)

    @property
    def embedding(self) -> nn.Embedding:
        """Token embedding, shared by input and output."""
        return self.language.get_input_embeddings()

    def forward(
        self,
        images: dict[str, Tensor],
        text_ids: Tensor,
        text_mask: Tensor,
        state: Tensor,
        given_actions: Tensor,
        given_steps: Tensor,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
    ) -> Outputs:
        """Run control, and a question about the same frame where there is one, in one pass.

        images: uint8[B, H, W, 3] each; text_ids: int[B, L]; text_mask: bool[B, L]; state: float[B, A] in -1..1;
        given_actions: float[B, T, A] in -1..1, shown for the first given_steps: int[B]; question: int, bool[B, Q].
        """
        visual = self.vision(images)
        actions = self.head.embed(given_actions, given_steps)
        seen = self.grounding.seen(self.vision.by_camera(visual))
        text, _ = self.words(text_ids, text_mask, seen)
        parts = [visual, text, self.state(state)[:, None], actions]
        kinds = [IMAGE] * visual.shape[1] + [TEXT] * text_ids.shape[1] + [STATE] + [ACTION] * actions.shape[1]
        present = [visual.new_ones(visual.shape[:2], dtype=torch.bool), text_mask]
        present.append(visual.new_ones((len(visual), 1 + actions.shape[1]), dtype=torch.bool))
        start = self.vision.num_tokens
        positions = [
            torch.arange(n) + offset
            for n, offset in (
                (start, 0),
                (text_ids.shape[1], start),
                (1 + actions.shape[1], start + self.max_text_tokens),
            )
        ]
        if question_ids is not None and question_mask is not None:
            question, _ = self.words(question_ids, question_mask, seen)
            parts.append(question)
            kinds += [QUESTION] * question_ids.shape[1]
            present.append(question_mask)
            positions.append(torch.arange(question_ids.shape[1]) + start)
        hidden = self.run(torch.cat(parts, dim=1), torch.tensor(kinds), torch.cat(present, dim=1), torch.cat(positions))
        after_text = start + text_ids.shape[1] + 1
        action_logits, completion = self.head(
            hidden[:, after_text : after_text + actions.shape[1]], self.embedding.weight[self.action_ids]
        )
        question = hidden[:, after_text + actions.shape[1] :] if question_ids is not None else None
        return Outputs(action_logits, completion[:, 0], completion[:, 1], question, seen)

    def words(self, ids: Tensor, mask: Tensor, seen: Seen, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed words int[B, L] together with what they name of what is seen; see `WordGrounding`."""
        return self.grounding(self.embedding(ids) * mask.unsqueeze(-1), seen, before)

    def run(self, embeddings: Tensor, kinds: Tensor, present: Tensor, positions: Tensor) -> Tensor:
        """Embeddings float[B, N, D], kinds int[N], present bool[B, N], positions int[N] -> hidden float[B, N, D]."""
        mask = attention_mask(kinds, present)
        return self.language.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions.to(embeddings.device)[None].expand(len(embeddings), -1),
            use_cache=False,
        ).last_hidden_state

    def word_logits(self, hidden: Tensor) -> Tensor:
        """Hidden float[..., D] -> logits over the whole vocabulary float[..., V]."""
        return self.language.get_output_embeddings()(hidden)

    def likeliest(self, hidden: Tensor) -> Tensor:
        """Choose the next token int[B] after hidden float[B, D].

        A location is taught as a bell over its neighbours, so no single one is likely: all of them together are
        weighed against the words, and the mean of the likeliest bell is taken.
        """
        logits = self.word_logits(hidden).float()
        probability = logits.softmax(dim=-1)
        places = probability[:, self.location_ids]
        words = probability.clone()
        words[:, self.location_ids] = 0
        value, _ = expectation_around_mode(logits[:, self.location_ids], radius=LOCATIONS // 32)
        place = ((value + 1) / 2 * LOCATIONS).long().clamp(0, LOCATIONS - 1) + self.location_ids.start
        best, word = words.max(dim=-1)
        return torch.where(places.sum(dim=-1) > best, place, word)

    @torch.no_grad()
    def generate(
        self, images: dict[str, Tensor], ids: Tensor, mask: Tensor, max_tokens: int, eos: int, pad: int
    ) -> Tensor:
        """Answer left-padded prompts int[B, Q] with mask bool[B, Q], word by word -> ids int[B, <= max_tokens]."""
        visual = self.vision(images)
        seen = self.grounding.seen(self.vision.by_camera(visual))
        count = visual.shape[1]
        everything = torch.ones(len(visual), 1, count, count, dtype=torch.bool, device=visual.device)
        positions = torch.arange(count, device=visual.device)[None].expand(len(visual), -1)
        cache = self.language.base_model(
            inputs_embeds=visual, attention_mask=everything, position_ids=positions, use_cache=True
        ).past_key_values
        present = torch.cat([mask.new_ones(len(ids), count), mask], dim=1)
        position = count + (mask.cumsum(1) - 1).clamp_min(0)
        before = None
        finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        answer = []
        for _ in range(max_tokens):
            embedded, _ = self.words(ids, mask, seen, before)
            hidden = self.language.base_model(
                inputs_embeds=embedded,
                attention_mask=present.long(),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            before = self.embedding(ids[:, -1:])
            ids = self.likeliest(hidden[:, -1])[:, None].masked_fill(finished[:, None], pad)
            answer.append(ids)
            finished |= ids[:, 0] == eos
            if finished.all():
                break
            mask = torch.ones_like(ids, dtype=torch.bool)
            present = torch.cat([present, mask], dim=1)
            position = position[:, -1:] + 1
        return torch.cat(answer, dim=1)


def attention_mask(kinds: Tensor, present: Tensor) -> Tensor:
    """Token kinds int[N] and presence bool[B, N] -> who sees whom, bool[B, 1, N, N]; see the table on top."""
    kinds = kinds.to(present.device)
    order = torch.arange(len(kinds), device=present.device)
    words = (kinds == TEXT) | (kinds == QUESTION)
    causal = ~(words[:, None] & (kinds[:, None] == kinds[None])) | (order[None] <= order[:, None])
    return (_SEES.to(present.device)[kinds][:, kinds] & causal)[None, None] & present[:, None, None]
