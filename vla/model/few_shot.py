"""Questions after worked examples: frames and words of the examples and of the question interleaved in one sequence.

    [frames 1][question 1, answer 1] ... [frames n][question n, answer n][frames][question] -> answer

Flamingo, Alayrac et al. 2022, arXiv:2204.14198. Each part (frames with their words) has as many positions as the next,
whatever its length: those of a question without examples, shifted. Words look for what they name among their own
frames (grounding.py), and visual tokens depend on nothing but their own frames, so all frames are encoded at once. Who
sees whom, of parts that follow each other:

                   own frames   earlier frames   own words   earlier words
    frames         all          -                -           -
    words          all          all, or none *   causal      all

* none where the network was built with `shots: {frames: nearest}`, and with cross-attention always, as in Flamingo
(section 2.3 there): of earlier frames only that is known which their words have taken along. With `shots: {recall:
true}` a word also brings along what earlier examples with it point at, see recall.py.

B batch, S parts, F parts that are there, P visual tokens, K of them in the sequence, Q words, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from vla.model.attention import IMAGE, in_order, interleaved_mask
from vla.model.grounding import Seen
from vla.model.network import Network
from vla.model.processor import Processor, pad
from vla.types import Observation


@dataclass(frozen=True)
class Shot:
    """A worked example: what was seen and asked, and the right answer; boxes as `<box x0 y0 x1 y1>` in 0..1023."""

    observation: Observation
    question: str
    answer: str


@dataclass
class Parts:
    """Examples and questions of a batch; parts that are not there stand anywhere, without words."""

    images: dict[str, Tensor]  # uint8 (or float 0..255) [F, H, W, 3], or as `VisionTower.forward` says, row after row
    there: Tensor  # bool[B, S]
    ids: Tensor  # int[B, S, Q]
    mask: Tensor  # bool[B, S, Q]
    asked: Tensor  # bool[B, S, Q], the words of the questions, which alone choose what is seen where words do

    def to(self, device: torch.device) -> "Parts":
        """Move every tensor."""
        images = {camera: image.to(device) for camera, image in self.images.items()}
        return Parts(images, *(values.to(device) for values in (self.there, self.ids, self.mask, self.asked)))


@dataclass
class Reading:
    """What was made of the parts."""

    hidden: Tensor  # float[B, S, Q, D], of the words
    named: Tensor  # float[F, Q, 1 + P], what they name among their frames, see `WordGrounding.forward`
    seen: Seen  # of the parts that are there, row after row
    words: Tensor  # float[B, Q, D], the embedded words of the last parts
    sight: dict[str, Tensor]  # visual tokens of the parts that are there, where layers look at them beside the sequence
    sees: Tensor  # bool[B, S * (K + Q)], what further words of the last parts see
    start: Tensor  # int[B, 1], the position of the first word of the last parts


def stride(network: Network) -> int:
    """Positions of one part."""
    return network.start + network.max_text_tokens + 1 + network.head.max_tokens


def read(network: Network, parts: Parts, cache: DynamicCache | None = None, unsaid: bool = False) -> Reading:
    """Run interleaved frames and words in one pass.

    cache: is filled where it is given; unsaid: leaves the words of the last parts out, which are to be said after it.
    Raises ValueError where the language model cannot read as many, or places frames in a way of its own.
    """
    there, (batch, count, length) = parts.there, parts.ids.shape
    _refuse(network, count, length)
    ids, mask, asked = parts.ids[there], parts.mask[there], parts.asked[there]
    visual = network.look(parts.images, ids, asked)
    seen = network.grounding.seen(network.vision.by_camera(visual))
    embedded = network.embedding(ids) * mask.unsqueeze(-1)
    words, named = network.grounding(embedded, seen)
    prefix, places, sight = network.placed(visual, ids, asked, seen)

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(batch, count, *values.shape[1:])
        whole[there] = values
        return whole

    if network.recall is not None:
        known = network.recall(spread(embedded), spread(words - embedded), parts.ids, parts.mask, parts.asked)
        embedded = embedded + known[there]
        words, named = network.grounding(embedded, seen)
    said = parts.mask.clone()
    said[:, -1] &= not unsaid
    start = (there.cumsum(1) - 1).clamp_min(0)[..., None] * stride(network)
    spoken = network.start + (said.cumsum(2) - 1).clamp_min(0)
    kept = prefix.shape[1]
    present = torch.cat([there[..., None].expand(-1, -1, kept), said], dim=2).flatten(1)
    frames_in_order = IMAGE in in_order(network.language)
    sees = interleaved_mask(count, kept, length, present, network.all_frames, frames_in_order)
    hidden = network.language.base_model(
        inputs_embeds=torch.cat([spread(prefix), spread(words)], dim=2).flatten(1, 2),
        attention_mask=sees,
        position_ids=(torch.cat([spread(places), spoken], dim=2) + start).flatten(1),
        past_key_values=cache,
        use_cache=cache is not None,
        **{name: spread(tokens).flatten(0, 1) for name, tokens in sight.items()},
    ).last_hidden_state
    return Reading(
        hidden.unflatten(1, (count, -1))[:, :, kept:],
        named,
        seen,
        spread(embedded)[:, -1],
        sight,
        sees[:, 0, -1] & present,
        network.start + start[:, -1],
    )


@torch.no_grad()
def generate(network: Network, parts: Parts, max_tokens: int, eos: int, pad: int) -> Tensor:
    """Answer the questions of the last parts, which are padded on the left -> ids int[B, <= max_tokens]."""
    mask, cache = parts.mask[:, -1], DynamicCache(config=network.language.config)
    _refuse(network, parts.ids.shape[1], mask.shape[1] + max_tokens)
    known = read(network, parts, cache, unsaid=True)
    last = parts.there.sum(1).cumsum(0) - 1
    seen = {camera: (tokens[last], keys[last]) for camera, (tokens, keys) in known.seen.items()}
    sight = {name: tokens[last] for name, tokens in known.sight.items()}
    return network.continued(
        known.words, mask, seen, sight, known.sees, known.start, cache, max_tokens, eos=eos, pad=pad
    )


def interleaved(
    processor: Processor, observations: Sequence[Observation], prompts: Sequence[str], shots: Sequence[Sequence[Shot]]
) -> Parts:
    """Lay out a question about each observation after its examples, of which each may have a number of its own.

    Raises ValueError where an example has too many words, or not every observation has a sequence of examples.
    """
    if len(shots) != len(observations):
        raise ValueError(f"shots for {len(shots)} observations, there are {len(observations)}: give each some or none")
    most, pad_id = max(map(len, shots)), processor.pad_id
    there = torch.tensor([[slot < len(row) for slot in range(most)] + [True] for row in shots])
    said = [[_example(processor, shot) for shot in row] for row in shots]
    blank: tuple[list[int], int] = ([], 0)
    slots = [slot for row in said for slot in (*row, *[blank] * (most - len(row)))]
    questions, question_mask = processor.prompts(prompts)
    examples, example_mask = pad([words for words, _ in slots] + [[0] * questions.shape[1]], pad_id)
    examples, example_mask = (x[:-1].unflatten(0, (len(shots), most)) for x in (examples, example_mask))
    gap = examples.shape[2] - questions.shape[1]
    ids = torch.cat([examples, functional.pad(questions, (gap, 0), value=pad_id)[:, None]], dim=1)
    mask = torch.cat([example_mask, functional.pad(question_mask, (gap, 0))[:, None]], dim=1)
    ends = torch.tensor([end for _, end in slots]).unflatten(0, (len(shots), most))
    asked = mask.clone()
    asked[:, :-1] &= torch.arange(ids.shape[2]) < ends[..., None]
    pairs = zip(shots, observations, strict=True)
    seen = [each for row, observation in pairs for each in (*(shot.observation for shot in row), observation)]
    return Parts(processor.images(seen), there, ids, mask, asked)


def _example(processor: Processor, shot: Shot) -> tuple[list[int], int]:
    """Words of an example with the end of its answer, and how many of them are the question."""
    question = processor.tokenize(shot.question)
    words = [*question, *processor.tokenize(shot.answer), processor.eos_id]
    if len(words) > processor.max_text_tokens:
        raise ValueError(
            f"an example has {len(words)} tokens of question and answer, the model reads {processor.max_text_tokens}: "
            f"{shot.question[:80]!r}"
        )
    return words, len(question)


def lengthened(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make the learned positions float[N, D] of a checkpoint as many as a network has, if it has more of them.

    Each part begins with the positions of the first and a vector of its own. Returns what was changed, by name.
    """
    changed, period = {}, stride(network)
    for name, module in network.language.named_modules(prefix="language"):
        table = weights.get(f"{name}.weight")
        if not isinstance(module, nn.Embedding) or module is network.embedding or table is None:
            continue
        if period <= len(table) < module.num_embeddings and table.shape[1:] == module.weight.shape[1:]:
            place = torch.arange(module.num_embeddings)
            part = place // period
            vectors = torch.randn(int(part.max()) + 1, table.shape[1]) * table.float().std()
            vectors[0] = 0
            changed[f"{name}.weight"] = table[place % period] + vectors[part].to(table)
    return changed


def _refuse(network: Network, parts: int, words: int) -> None:
    if "mrope_section" in (getattr(network.language.config, "rope_parameters", None) or {}):
        raise ValueError("shots: this language model gives the frames of one observation places in rows and columns")
    needed = (parts - 1) * stride(network) + network.start + words
    readable = getattr(network.language.config, "max_position_embeddings", None)
    if readable is not None and needed > readable:
        raise ValueError(
            f"{parts - 1} shots of {stride(network)} positions each and {network.start + words} of the question are "
            f"{needed}, the language model reads {readable}: give fewer shots, or train a checkpoint with more "
            "positions (n_positions or max_position_embeddings)"
        )
