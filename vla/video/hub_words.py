"""Any image-text-to-text model of the hub, run on this machine, behind the prompts for chat endpoints."""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vla.video.chat import Chat, NoReply
from vla.video.chat_words import SheetWords

_READ = (".safetensors", ".json", ".jinja", ".model", ".txt")  # files of a folder that answers depend on


class HubChat:
    """A model by name or from a folder; weights are read as safetensors, and no code of theirs is run."""

    def __init__(self, model: str, device: str = "cpu", max_tokens: int = 512) -> None:
        """Load it; ValueError for one that was not taught to chat."""
        self._processor: Any = AutoProcessor.from_pretrained(model)
        if not getattr(self._processor, "chat_template", None):
            raise ValueError(f"{model} has no chat template: choose a model that was taught to follow instructions")
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True, dtype="auto")
        self._model, self._max_tokens = loaded.to(device).eval(), max_tokens
        self._most = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
        self.identity = f"{Path(model).name} {_version(model, loaded)}, {max_tokens} tokens"

    @torch.inference_mode()
    def __call__(self, text: str, images: Sequence[str], temperature: float) -> str:
        """Return the answer to a text and images (data addresses); NoReply where there is none."""
        content: list[dict[str, Any]] = [{"type": "image", "image": _image(address)} for address in images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        inputs = self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device, dtype=self._model.dtype)
        length = inputs["input_ids"].shape[1]
        if self._most is not None and length + self._max_tokens > self._most:
            raise NoReply(f"the question has {length} tokens, the answer may have {self._max_tokens}: too many for it")
        how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        said = self._model.generate(**inputs, max_new_tokens=self._max_tokens, **how)
        answer = self._processor.batch_decode(said[:, length:], skip_special_tokens=True)[0]
        if not answer.strip():
            raise NoReply("the model's answer is empty")
        return answer


class HubWords(SheetWords):
    """Asks a model of the hub on this machine, so no picture leaves it."""

    def __init__(
        self,
        model: str | None,
        device: str = "cpu",
        threads: int | None = None,
        max_tokens: int = 512,
        samples: int = 1,
    ) -> None:
        """`samples`: answers to every question; the agreement of several is the confidence, and one gives none."""
        if not model:
            raise ValueError("vlm=hub needs vlm.model= a name on the hub or a folder, such as a SmolVLM2 or a Qwen-VL")
        if threads is not None:
            torch.set_num_threads(threads)
        ask = HubChat(model, device, max_tokens)
        super().__init__(Chat(ask, samples), ask.identity)


def _version(model: str, loaded: Any) -> str:
    """Return what tells this model from another of its name: the hub's commit, or the content of its folder."""
    if not Path(model).is_dir():
        return str(getattr(loaded.config, "_commit_hash", None) or "of unknown version")[:12]
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(model).iterdir() if path.suffix in _READ):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _image(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
