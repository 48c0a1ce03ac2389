"""Observations to model inputs and model outputs to action chunks: the processor that trains is the one that serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vla.data.video import resize
from vla.model.actions import ActionCodec
from vla.model.glimpses import Glimpses
from vla.model.history import History
from vla.model.vocabulary import boxes_to_tokens, tokens_to_boxes, unknown_words
from vla.types import ActionChunk, ContractError, Embodiment, Observation


@dataclass
class Processor:
    """Everything between the outside world and the tensors, saved with the weights.

    cameras: name -> (height, width) [px] that the network sees, in token order; glimpses: what some of them showed in
    training, see `glimpses.py`; others: the same for further bodies that the network moves; ready: float[A], the joints
    in which demonstrations begin, where that is known; taught: words of the training text, where the tokenizer can
    spell others as well; history: earlier frames that it sees as well, None for none.
    """

    embodiment: Embodiment
    cameras: dict[str, tuple[int, int]]
    codec: ActionCodec
    tokenizer: PreTrainedTokenizerFast
    max_text_tokens: int
    glimpses: Glimpses = field(default_factory=dict)
    others: tuple["Processor", ...] = ()
    ready: np.ndarray | None = None
    taught: frozenset[str] | None = None
    history: History | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where the ready pose is not one of this body."""
        joints = len(self.embodiment.joints)
        if self.ready is not None and (self.ready.shape != (joints,) or not np.isfinite(self.ready).all()):
            raise ValueError(f"the ready pose must be {joints} finite values, got {self.ready.tolist()}")

    def of(self, body: Embodiment) -> "Processor":
        """Return the processor of that body, which knows the others; raises ContractError if there is none."""
        known, refusals = (self, *self.others), []
        for number, processor in enumerate(known):
            try:
                processor.embodiment.refuse_other(body)
            except ContractError as error:
                refusals.append(str(error))
            else:
                return replace(processor, others=(*known[:number], *known[number + 1 :]))
        raise ContractError("\n".join(refusals))

    def images(self, observations: Sequence[Observation]) -> dict[str, Tensor]:
        """Frames of a batch, resized: uint8[B, H, W, 3] for each camera of the model.

        With a history of N frames uint8[B, 1 + N, H, W, 3], the present one first.
        """
        return {
            camera: torch.from_numpy(np.stack([self._seen(o, camera, size) for o in observations]))
            for camera, size in self.cameras.items()
        }

    def _seen(self, observation: Observation, camera: str, size: tuple[int, int]) -> np.ndarray:
        """The frame of a camera, or this one and those before it; the oldest stands for what was not seen."""
        present = resize(self._frame(observation.images, camera), size)
        if self.history is None:
            return present
        earlier = observation.earlier[: self.history.frames]
        frames = [present, *(resize(self._frame(images, camera), size) for images in earlier)]
        return np.stack(frames + frames[-1:] * (1 + self.history.frames - len(frames)))

    def state(self, observations: Sequence[Observation]) -> Tensor:
        """Measured joints float[B, A]; a wrong shape or a value that is not finite is refused."""
        width = len(self.embodiment.joints)
        for observation in observations:
            state = np.asarray(observation.state)
            if state.shape != (width,) or not np.isfinite(state).all():
                raise ValueError(
                    f"state must be {width} finite values {list(self.embodiment.joints)}, got {state.tolist()}"
                )
        return torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that the model was never taught, in order, each once."""
        return unknown_words(self.tokenizer.get_vocab() if self.taught is None else self.taught, text)

    @property
    def pad_id(self) -> int:
        """The token that fills up."""
        return self.tokenizer.pad_token_id  # pyright: ignore[reportReturnType]

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.eos_token_id  # pyright: ignore[reportReturnType]

    def text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Right-padded token ids int[B, L] and their mask bool[B, L]; L is a multiple of 4."""
        return pad([self.tokenize(text) for text in texts], self.pad_id)

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts int[B, Q] and their mask bool[B, Q], ready to be continued."""
        return pad([self.tokenize(text) for text in texts], self.pad_id, left=True)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of one text; a text that does not fit is refused, never cut."""
        ids = self.tokenizer(boxes_to_tokens(text), add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_text_tokens:
            raise ValueError(f"text has {len(ids)} tokens, the model reads {self.max_text_tokens}: {text[:80]!r}")
        return ids

    def words(self, ids: Tensor) -> list[str]:
        """Generated ids int[B, L] back to text, boxes as `<box x0 y0 x1 y1>` with 0..1023 of width and height."""
        hidden = {self.pad_id, self.eos_id}
        kept = [[token for token in row if token not in hidden] for row in ids.tolist()]
        decode = self.tokenizer.backend_tokenizer.decode
        texts = (tokens_to_boxes(decode(row, skip_special_tokens=False)) for row in kept)
        return [text.strip().replace(" ,", ",") for text in texts]

    def chunks(
        self,
        values: Tensor,
        confidence: Tensor | None,
        progress: Tensor,
        done: Tensor,
        observations: Sequence[Observation],
    ) -> list[ActionChunk]:
        """Head outputs (values float[B, T, A] in -1..1, the others float[B]) to chunks inside the joint limits.

        confidence: None where the action head has none.
        """
        confidences = [None] * len(values) if confidence is None else confidence.tolist()
        targets = self.codec.decode(values.float().cpu(), self.state(observations)).numpy()
        low, high = (np.asarray(x, np.float32) for x in (self.embodiment.position_min, self.embodiment.position_max))
        return [
            ActionChunk(
                actions=np.clip(target, low, high),
                dt_s=1 / self.embodiment.control_hz,
                time_s=observation.time_s,
                confidence=sure,
                progress=float(part),
                done=float(finished),
            )
            for target, observation, sure, part, finished in zip(
                targets, observations, confidences, progress, done, strict=True
            )
        ]

    def _frame(self, images: Mapping[str, np.ndarray], camera: str) -> np.ndarray:
        if camera not in images:
            raise ValueError(f"camera {camera!r} is missing, got {sorted(images)}; add it or retrain without it")
        image = images[camera]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"camera {camera!r} must give uint8 [H, W, 3] RGB, got {image.dtype} {image.shape}")
        return image


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False, multiple: int = 4) -> tuple[Tensor, Tensor]:
    """Lists of ids to int[B, L] and the mask bool[B, L] of what is real, L a multiple of `multiple`."""
    length = -(-max(1, max(map(len, rows))) // multiple) * multiple
    gaps = [length - len(row) for row in rows]
    full = [[value] * gap + [*row] if left else [*row] + [value] * gap for row, gap in zip(rows, gaps, strict=True)]
    place, gap = torch.arange(length), torch.tensor(gaps)[:, None]
    return torch.tensor(full), place >= gap if left else place < length - gap
