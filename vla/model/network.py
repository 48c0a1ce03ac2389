"""The network: frames, words and joints in one sequence; words, action bins, progress out of it.

Order and attention of the sequence, block-causal (rows look at columns):

               images  text    state  actions  taught  question
    images     all     -       -      -        -       -
    text       all     causal  -      -        -       -
    state      all     all     self   -        -       -
    actions    all     all     all    all      -       -
    taught     all     all     all    all      causal  -
    question   all     -       -      -        -       causal

Taught tokens are those that a head is shown in training as if it had said them. With cross-attention there are no image
rows: all others look at the visual tokens from between the layers.

Image states depend on nothing else, so planner, controller and questions share them. In training a question rides
along with the control sequence of the same frame for the price of its own tokens. Where words choose what is seen (an
instructed connector, or `keep`), nothing is shared, and a question has a sequence of its own: see `one_prefix`.

B batch, P visual tokens, K of them that stay, L text tokens, Q question tokens, T action horizon, A action dimension,
D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vla.model.actions import expectation_around_mode
from vla.model.attention import ACTION, IMAGE, QUESTION, STATE, TAUGHT, TEXT, attention_mask, in_order
from vla.model.dual import DualEncoder
from vla.model.fusion import CrossAttention
from vla.model.grounding import Seen, WordGrounding, most_relevant, waves
from vla.model.head import Context
from vla.model.heads import build_head
from vla.model.history import History
from vla.model.language import build_language_model
from vla.model.recall import few_shot_parts
from vla.model.vision import VisionTower
from vla.model.vocabulary import ACTION_BINS, LOCATIONS
from vla.model.whole import AsItIs, build_whole


@dataclass
class Outputs:
    """What one forward pass says."""

    action_hidden: Tensor  # float[B, T', D], of the tokens of the action head
    context: Context  # what the action head may read beside them
    progress: Tensor  # float[B], logit
    done: Tensor  # float[B], logit
    question_hidden: Tensor | None  # float[B, Q, D]
    visual: Tensor  # float[B, P, D], the visual tokens
    seen: Seen  # the same, ready to be named by further words


@dataclass
class Decision:
    """What the action head decided."""

    values: Tensor  # float[B, T, A] in -1..1
    confidence: Tensor | None  # float[B] in 0..1, where the head has one
    progress: Tensor  # float[B] in 0..1
    done: Tensor  # float[B] in 0..1


class Network(nn.Module):
    """Vision tower, language model, state encoder and action head."""

    def __init__(
        self,
        vision: dict[str, Any] | None,
        language: dict[str, Any] | None,
        cameras: dict[str, tuple[int, int]],
        vocab_size: int,
        first_action_id: int,
        action_horizon: int,
        action_dim: int,
        max_text_tokens: int = 80,
        connector: dict[str, Any] | None = None,
        tiling: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        dual: dict[str, Any] | None = None,
        keep: int | None = None,
        whole: dict[str, Any] | None = None,
        first_location_id: int | None = None,
        history: dict[str, int] | None = None,
        shots: dict[str, Any] | None = None,
    ) -> None:
        """Build from plain arguments; they are what `config.json` of a checkpoint holds.

        vision, language: arguments of `build_encoder`, `build_language_model`; cameras: name -> (height, width) [px];
        connector, fusion, head: `name` and settings, see the tables in connectors.py, fusion.py and heads.py, left out
        for mlp, prefix and parallel; tiling: see `VisionTower`, dual: arguments of `DualEncoder`, left out for none;
        keep: visual tokens that reach the language model, those that the words are about; left out for all; whole:
        arguments of `build_whole`, instead of vision, language and connector; first_location_id: left out where the
        locations come right after the action bins; history: arguments of `History`, left out for the present alone;
        shots: arguments of `few_shot_parts`.
        """
        super().__init__()
        fused = {"name": "prefix", **(fusion or {})}
        style = fused.pop("name")
        if style not in ("prefix", "early_fusion", "cross_attention"):
            raise ValueError(f"fusion {style!r} is not known, possible: prefix, early_fusion, cross_attention")
        if style == "prefix" and fused:
            raise ValueError(f"fusion prefix takes no settings, got {sorted(fused)}")
        sizes = {name: (size[0], size[1]) for name, size in cameras.items()}
        earlier = History(**history).frames if history else 0
        if whole is not None:
            if vision or language or connector or style != "prefix":
                raise ValueError("a whole model brings vision, language and connector along: set them to null")
            self.language, eyes = build_whole(vocab_size, **whole)
            width = self.language.config.hidden_size
            self.vision = VisionTower(eyes, sizes, width, AsItIs(), tiling, earlier)
            self.language.place(self.vision)
        else:
            if language is None:
                raise ValueError("a network needs language, or a whole model")
            if (vision is None) != (style == "early_fusion"):
                raise ValueError(f"fusion {style} {'has no encoder: set vision=null' if vision else 'needs vision'}")
            self.language = build_language_model(vocab_size, **language)
            width = self.language.config.hidden_size
            encoder = vision if vision is not None else {"model_type": "patches", **fused}
            self.vision = VisionTower(encoder, sizes, width, connector, tiling, earlier)
        self.known_words = first_action_id if "pretrained" in (whole or language or {}) else 0
        self.grounding = WordGrounding(width, list(cameras))
        self.state = nn.Sequential(nn.Linear(action_dim, width), nn.GELU(), nn.Linear(width, width))
        self.action_ids = slice(first_action_id, first_action_id + ACTION_BINS)
        self.head = build_head(self.language.config, action_horizon, action_dim, self.action_ids, **(head or {}))
        self.cross = CrossAttention(self.language, **fused) if style == "cross_attention" else None
        self.dual = DualEncoder(width, **dual) if dual is not None else None
        if dual is not None and self.vision.instructed:
            raise ValueError("dual: frames that are seen with words in mind have no vector of their own; leave it out")
        if keep is not None and not 0 < keep <= self.vision.num_tokens:
            raise ValueError(f"keep={keep}: there are {self.vision.num_tokens} visual tokens; give 1 to as many")
        self.keep, self.all_frames, self.recall = keep, *few_shot_parts(width, **(shots or {}))
        self.start = 0 if self.cross else self.vision.num_tokens  # position of the first word
        first_place = self.action_ids.stop if first_location_id is None else first_location_id
        self.location_ids = slice(first_place, first_place + LOCATIONS)
        self.max_text_tokens = max_text_tokens
        self._refuse_longer_than_the_language_model_reads()
        self._start_new_rows(width)

    @torch.no_grad()
    def _start_new_rows(self, width: int) -> None:
        """Let places that are close to each other start out alike, and a pretrained model start as it was."""
        table, spread = self.embedding.weight, 0.08
        if self.known_words:
            spread = float(table[: self.known_words].std())
            for parameter in self.grounding.found.parameters():
                parameter.zero_()
        if self.location_ids.start >= self.known_words:
            places = (torch.arange(LOCATIONS) + 0.5) / LOCATIONS
            table[self.location_ids] = spread * waves(places, width, finest=LOCATIONS / 16)

    def _refuse_longer_than_the_language_model_reads(self) -> None:
        longest = self.start + self.max_text_tokens + 1 + self.head.max_tokens
        readable = getattr(self.language.config, "max_position_embeddings", None)
        if readable is not None and longest > readable:
            raise ValueError(
                f"{self.start} visual tokens, {self.max_text_tokens} of text, 1 of state and {self.head.max_tokens} of "
                f"actions are {longest}, the language model reads {readable}: give it more positions (n_positions or "
                "max_position_embeddings), or take a connector or a head with fewer tokens"
            )

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
        taught: bool = True,
    ) -> Outputs:
        """Run control, and a question about the same frame where there is one (with `one_prefix` only), in one pass.

        images: uint8[B, H, W, 3] each, or as `VisionTower.forward` says; text_ids: int[B, L]; text_mask: bool[B, L];
        state: float[B, A] in -1..1; given_actions: float[B, T, A] in -1..1, shown for the first given_steps: int[B];
        question: int, bool[B, Q];
        taught: training, in which a head that says token by token is shown all of given_actions as if it had said them.
        """
        assert question_ids is None or self.one_prefix, "see `answering`"
        visual = self.look(images, text_ids, text_mask)
        actions = self.head.embed(given_actions, given_steps)
        seen = self.grounding.seen(self.vision.by_camera(visual))
        text, _ = self.words(text_ids, text_mask, seen)
        prefix, places, sight = self.placed(visual, text_ids, text_mask, seen)
        parts = [prefix, text, self.state(state)[:, None], actions]
        kinds = [IMAGE] * prefix.shape[1] + [TEXT] * text_ids.shape[1] + [STATE] + [ACTION] * actions.shape[1]
        present = [visual.new_ones(prefix.shape[:2], dtype=torch.bool), text_mask]
        present.append(visual.new_ones((len(visual), 1 + actions.shape[1]), dtype=torch.bool))
        if taught:
            said, real = self.head.taught(self.embedding.weight, given_actions)
            parts.append(said)
            kinds += [TAUGHT] * said.shape[1]
            present.append(real)
        before = prefix.shape[1] + text_ids.shape[1] + 1  # of the head's tokens
        after = len(kinds)
        begin = self.start + self.max_text_tokens  # position of the state
        next_position = begin + 1 + actions.shape[1]  # whatever is taught
        positions = [
            torch.arange(self.start, self.start + text_ids.shape[1]),
            torch.arange(begin, begin + 1 + after - before),
        ]
        if question_ids is not None and question_mask is not None:
            question, _ = self.words(question_ids, question_mask, seen)
            parts.append(question)
            kinds += [QUESTION] * question_ids.shape[1]
            present.append(question_mask)
            positions.append(torch.arange(question_ids.shape[1]) + self.start)
        there, kind = torch.cat(present, dim=1), torch.tensor(kinds, device=visual.device)
        remembers = self.head.looks_back or (self.head.in_order and not taught)
        cache = DynamicCache(config=self.language.config) if remembers else None
        position = torch.cat([places, torch.cat(positions).to(places).expand(len(places), -1)], dim=1)
        hidden = self.run(torch.cat(parts, dim=1), kind, there, position, cache, sight)
        acting = hidden[:, before:after]
        completion = self.head.completion(acting[:, self.head.completion_at])
        visible = there & (kind < TAUGHT)  # neither the answer nor what else is asked
        context = Context(self.embedding.weight, self.language.base_model, visible, next_position, cache, sight, state)
        question = hidden[:, after:] if question_ids is not None else None
        return Outputs(acting, context, completion[:, 0], completion[:, 1], question, visual, seen)

    @torch.no_grad()
    def act(
        self,
        images: dict[str, Tensor],
        text_ids: Tensor,
        text_mask: Tensor,
        state: Tensor,
        given_actions: Tensor,
        given_steps: Tensor,
        foreseen: int = 0,
    ) -> Decision:
        """Decide a chunk; arguments as in `forward`. Of given_actions the given steps are read, and by a head that is
        led by older chunks the first `foreseen`."""
        outputs = self(images, text_ids, text_mask, state, given_actions, given_steps, taught=False)
        outputs.context.foreseen = foreseen
        values, confidence = self.head.decide(outputs.action_hidden, outputs.context, given_actions, given_steps)
        return Decision(values, confidence, outputs.progress.sigmoid(), outputs.done.sigmoid())

    @property
    def one_prefix(self) -> bool:
        """Whether all that is said about a frame shares its visual tokens."""
        return self.keep is None and not self.vision.instructed

    def look(self, images: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Visual tokens float[B, P, D] of frames about which words int[B, L] with mask bool[B, L] are said."""
        return self.vision(images, (self.embedding(ids), mask) if self.vision.instructed else None)

    def placed(self, visual: Tensor, ids: Tensor, mask: Tensor, seen: Seen) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Say which of the visual tokens float[B, P, D] stand in the sequence and at which positions int[B, K].

        ids, mask: words about them, which choose where only some are kept. Third come those that the layers look at
        beside the sequence. What is kept has the position that it had among all.
        """
        places = torch.arange(visual.shape[1], device=visual.device).expand(len(visual), -1)
        if self.keep is not None:
            words = self.embedding(ids) * mask.unsqueeze(-1)
            places = most_relevant(self.grounding.relevance(words, mask, seen), self.keep)
            visual = visual.gather(1, places.unsqueeze(-1).expand(-1, -1, visual.shape[-1]))
        return (visual, places, {}) if self.cross is None else (visual[:, :0], places[:, :0], {"visual": visual})

    def answering(self, visual: Tensor, ids: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
        """Hidden states float[B, Q, D] of questions and their answers, int[B, Q] with mask bool[B, Q], after a frame.

        visual: float[B, P, D]; asked: bool[B, Q], the tokens of the question; the answer chooses nothing to be seen.
        """
        seen = self.grounding.seen(self.vision.by_camera(visual))
        words, _ = self.words(ids, mask, seen)
        prefix, places, sight = self.placed(visual, ids, asked, seen)
        kinds = torch.tensor([IMAGE] * prefix.shape[1] + [QUESTION] * ids.shape[1])
        present = torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1)
        following = torch.arange(self.start, self.start + ids.shape[1], device=places.device)
        positions = torch.cat([places, following.expand(len(ids), -1)], dim=1)
        return self.run(torch.cat([prefix, words], dim=1), kinds, present, positions, None, sight)[:, prefix.shape[1] :]

    def words(self, ids: Tensor, mask: Tensor, seen: Seen, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed words int[B, L] together with what they name of what is seen; see `WordGrounding`."""
        return self.grounding(self.embedding(ids) * mask.unsqueeze(-1), seen, before)

    def meaning(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Sentences int[B, L] with mask bool[B, L], padded on the right, as vectors float[B, E] of the dual encoder."""
        assert self.dual is not None, "this network was built without a dual encoder"
        kinds = torch.full((ids.shape[1],), TEXT)
        positions = torch.arange(ids.shape[1]) + self.start
        blind = {"visual": self.embedding.weight.new_zeros(len(ids), 0, self.embedding.weight.shape[1])}
        embedded = self.embedding(ids) * mask.unsqueeze(-1)
        return self.dual.texts(self.run(embedded, kinds, mask, positions, sight=blind if self.cross else None), mask)

    def run(
        self,
        embeddings: Tensor,
        kinds: Tensor,
        present: Tensor,
        positions: Tensor,
        cache: DynamicCache | None = None,
        sight: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Embeddings float[B, N, D], kinds int[N], present bool[B, N], positions int[B, N] or [N] -> float[B, N, D].

        cache: is filled with keys and values where it is given; sight: see `placed`.
        """
        mask = attention_mask(kinds, present, in_order(self.language))
        return self.language.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions.to(embeddings.device).expand(len(embeddings), -1),
            past_key_values=cache,
            use_cache=cache is not None,
            **(sight or {}),
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
        visual = self.look(images, ids, mask)
        seen = self.grounding.seen(self.vision.by_camera(visual))
        prefix, places, sight = self.placed(visual, ids, mask, seen)
        count, cache = prefix.shape[1], DynamicCache(config=self.language.config)
        if count:
            kinds = torch.full((count,), IMAGE)
            self.run(prefix, kinds, mask.new_ones(len(ids), count), places, cache, sight)
        sees = mask.new_ones(len(ids), count)
        words = self.embedding(ids) * mask.unsqueeze(-1)
        return self.continued(words, mask, seen, sight, sees, self.start, cache, max_tokens, eos, pad)

    @torch.no_grad()
    def continued(
        self,
        words: Tensor,
        mask: Tensor,
        seen: Seen,
        sight: dict[str, Tensor],
        sees: Tensor,
        start: Tensor | int,
        cache: DynamicCache,
        max_tokens: int,
        eos: int,
        pad: int,
    ) -> Tensor:
        """Answer embedded words float[B, Q, D] as `generate` does, after what the cache holds.

        sees: bool[B, N], what of it the words see; start: position of the first word, one or int[B, 1].
        """
        present = torch.cat([sees, mask], dim=1)
        position = start + (mask.cumsum(1) - 1).clamp_min(0)
        before, answer, finished = None, [], mask.new_zeros(len(mask))
        for _ in range(max_tokens):
            embedded, _ = self.grounding(words, seen, before)
            hidden = self.language.base_model(
                inputs_embeds=embedded,
                attention_mask=present.long(),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                **sight,
            ).last_hidden_state
            ids = self.likeliest(hidden[:, -1])[:, None].masked_fill(finished[:, None], pad)
            before, words = words[:, -1:], self.embedding(ids)
            answer.append(ids)
            finished |= ids[:, 0] == eos
            if finished.all():
                break
            mask = torch.ones_like(ids, dtype=torch.bool)
            present = torch.cat([present, mask], dim=1)
            position = position[:, -1:] + 1
        return torch.cat(answer, dim=1)
