"""Things that a detector of the hub knows by name: DETR, RT-DETR, YOLOS and the like, by name or from a folder."""

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from vla.video.objects import Sighting


class HubDetector:
    """Finds what the model is at least `sure` of; weights are read as safetensors, and no code of theirs is run."""

    def __init__(self, model: str, sure: float = 0.5, device: str = "cpu") -> None:
        self._prepare = AutoImageProcessor.from_pretrained(model)
        self._model = AutoModelForObjectDetection.from_pretrained(model, use_safetensors=True).to(device).eval()
        self._sure, self.identity = sure, f"{model} above {sure:g}"

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> list[Sighting]:
        """Return the things in uint8[h, w, 3] RGB, the surest first."""
        height, width = image.shape[:2]
        inputs = self._prepare(images=image, return_tensors="pt").to(self._model.device)
        (found,) = self._prepare.post_process_object_detection(
            self._model(**inputs), threshold=self._sure, target_sizes=[(height, width)]
        )
        rows = sorted(zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True), reverse=True)
        return [self._sighting(label, box, width) for _, label, box in rows]

    def _sighting(self, label: int, box: list[float], unit: int) -> Sighting:
        left, top, right, bottom = (value / unit for value in box)
        name = str(self._model.config.id2label[label])
        width, height = right - left, bottom - top
        return Sighting(name, (left + right) / 2, (top + bottom) / 2, width, height, width * height)
