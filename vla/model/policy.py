"""The vision-language-action policy: observations in, action chunks and words out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vla.model import few_shot
from vla.model.denoising_heads import Flow
from vla.model.dual import DualEncoder
from vla.model.few_shot import Shot, interleaved
from vla.model.glimpses import Glimpses
from vla.model.guidance import check_variant
from vla.model.history import History, Recollection
from vla.model.memory import Memory
from vla.model.network import Network
from vla.model.processor import Processor
from vla.model.prompts import plan_prompt
from vla.model.ready import way_back
from vla.types import READY, ActionChunk, Embodiment, Observation

REMEMBERED = 6  # frames of each camera: the present one and what is seen of it a little to each side, for questions


class VLAPolicy:
    """Processor and network together; stateless between calls, but for features of the last frames that save time."""

    def __init__(self, network: Network, processor: Processor) -> None:
        """Take both as they are; the network is switched to evaluation, and its weights are not to change any more."""
        self.network = network.eval()
        self.network.vision.memory = Memory(REMEMBERED * len(processor.cameras) * self.network.vision.frames)
        self.processor = processor
        self.recollection: Recollection | None = None  # of earlier frames, where it follows one robot, see `follow`

    @property
    def embodiment(self) -> Embodiment:
        """The body that the policy moves: of those that it was trained on, the first until `check` names another."""
        return self.processor.embodiment

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.embedding.weight.device

    @property
    def history(self) -> History | None:
        """The earlier frames that it reads, None for none."""
        return self.processor.history

    def check(self, embodiment: Embodiment) -> None:
        """Move this body from now on; refuse one that is none of training, naming each difference (ContractError)."""
        self.processor = self.processor.of(embodiment)

    @property
    def glimpses(self) -> Glimpses:
        """What some of the cameras showed in training, very small."""
        return self.processor.glimpses

    @property
    def ready(self) -> np.ndarray | None:
        """The pose in which demonstrations begin, float[A] [rad, gripper 0..1]; `types.READY` leads back to it."""
        return self.processor.ready

    def guide(self, variant: str | None) -> None:
        """Lead chunks by older ones from now on, see guidance.py; ValueError where the head cannot be led."""
        head = self.network.head
        if isinstance(head, Flow):
            head.guidance = check_variant(variant)
        elif check_variant(variant):
            raise ValueError(f"guidance={variant} is for a flow head, this is {type(head).__name__}: set guidance=null")

    @torch.no_grad()
    def act(
        self,
        observations: Sequence[Observation],
        given: np.ndarray | None = None,
        given_steps: int = 0,
    ) -> list[ActionChunk]:
        """Answer each observation with a chunk of T absolute joint targets.

        given: float32[B, N, A] absolute targets, of which the first `given_steps` are already decided and kept; the
        rest is predicted to continue them (prefix conditioning of real-time chunking). Further ones are what an older
        chunk foresaw, by which a policy with guidance is led.
        """
        if self.ready is None or all(o.instruction != READY for o in observations):
            return self._decide(observations, given, given_steps)
        chunks = []
        for row, observation in enumerate(observations):
            shown = None if given is None else given[row : row + 1]
            if observation.instruction == READY:
                measured = replace(observation, state=self.processor.state([observation])[0].numpy())
                decided = None if shown is None else shown[0, :given_steps]
                steps = self.processor.codec.action_horizon
                chunks.append(way_back(measured, self.ready, self.embodiment, steps, decided))
            else:
                chunks += self._decide([observation], shown, given_steps)
        return chunks

    def _decide(
        self, observations: Sequence[Observation], given: np.ndarray | None, given_steps: int
    ) -> list[ActionChunk]:
        """Let the network answer; see `act`."""
        processor = self.processor
        state = processor.state(observations)
        batch = len(observations)
        values = torch.zeros(batch, processor.codec.action_horizon, processor.codec.action_dim)
        if given is not None:
            values = processor.codec.encode(self._whole(torch.from_numpy(np.array(given, np.float32))), state)
        ids, mask = processor.text([o.instruction for o in observations])
        decision = self.network.act(
            self._images(observations),
            ids.to(self.device),
            mask.to(self.device),
            processor.codec.encode_state(state).to(self.device),
            values.to(self.device),
            torch.full((batch,), given_steps, device=self.device),
            foreseen=0 if given is None else given.shape[1],
        )
        decided = decision.values
        decided[:, :given_steps] = values[:, :given_steps].to(decided)
        return processor.chunks(decided, decision.confidence, decision.progress, decision.done, observations)

    @torch.no_grad()
    def generate(
        self,
        observations: Sequence[Observation],
        prompts: Sequence[str],
        max_tokens: int = 24,
        shots: Sequence[Sequence[Shot]] = (),
    ) -> list[str]:
        """Answer one prompt about each observation, greedily; boxes come as `<box x0 y0 x1 y1>` in 0..1023.

        shots: worked examples that come before each prompt, for each as many as there are; see few_shot.py.
        """
        processor = self.processor
        if any(shots):
            parts = interleaved(processor, self._recollected(observations), prompts, shots).to(self.device)
            answer = few_shot.generate(self.network, parts, max_tokens, eos=processor.eos_id, pad=processor.pad_id)
            return processor.words(answer.cpu())
        ids, mask = processor.prompts(prompts)
        answer = self.network.generate(
            self._images(observations),
            ids.to(self.device),
            mask.to(self.device),
            max_tokens,
            eos=processor.eos_id,
            pad=processor.pad_id,
        )
        return processor.words(answer.cpu())

    @torch.no_grad()
    def embed_images(self, observations: Sequence[Observation]) -> np.ndarray:
        """Frames as vectors float32[N, E] of length 1; near those of sentences that are true of them."""
        visual = self.network.vision(self._images(observations))
        return self._dual().images(visual).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Sentences as vectors float32[N, E] of length 1."""
        self._dual()
        ids, mask = self.processor.text(texts)
        return self.network.meaning(ids.to(self.device), mask.to(self.device)).cpu().numpy()

    def _dual(self) -> DualEncoder:
        if self.network.dual is None:
            raise ValueError("this checkpoint has no dual encoder: train one with vla train recipe=dual_encoder")
        return self.network.dual

    def next_subtask(
        self, observations: Sequence[Observation], finished: Sequence[Sequence[str]], failed: Sequence[str] = ()
    ) -> list[str]:
        """What to do next for each instruction, given its finished subtasks; `prompts.ALL_FINISHED` at the end.

        failed: for each observation the subtask that was just tried in vain, or "".
        """
        failed = failed or [""] * len(observations)
        asked = zip(observations, finished, failed, strict=True)
        return self.generate(observations, [plan_prompt(o.instruction, before, vain) for o, before, vain in asked])

    def unknown_words(self, text: str) -> list[str]:
        """The words of an instruction that the model was never taught."""
        return self.processor.unknown_words(text)

    def _whole(self, given: Tensor) -> Tensor:
        """Repeat the last of N steps float[B, N, A] up to the action horizon; what is not given is not read."""
        missing = self.processor.codec.action_horizon - given.shape[1]
        return torch.cat([given, given[:, -1:].expand(-1, missing, -1)], dim=1)

    def _images(self, observations: Sequence[Observation]) -> dict[str, Tensor]:
        images = self.processor.images(self._recollected(observations))
        return {name: image.to(self.device) for name, image in images.items()}

    def _recollected(self, observations: Sequence[Observation]) -> Sequence[Observation]:
        if self.recollection is None:
            return observations
        return [self.recollection.see(seen, seen.time_s) for seen in observations]
