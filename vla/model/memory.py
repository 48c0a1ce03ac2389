"""What the vision encoder made of the last frames, so that all that is asked about one frame looks at it once.

A planner asks what is next, whether the things that it names are there and where, and the controller acts: all about
one frame. Frames are told apart by their content, so nobody has to say that two are the same.

B frames.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor


class Memory:
    """Features of the frames that were used last; may be asked by several threads. A copy starts empty."""

    def __init__(self, frames: int) -> None:
        """frames: how many are kept, those of all cameras together."""
        self.frames = frames
        self.looks = self.hits = 0  # frames that were asked for, and those that had not to be encoded
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self.frames,)

    def recall(self, camera: str, images: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        """Features float[B, ...] of frames uint8[B, H, W, 3] of a camera; `look` encodes those that are not known."""
        keys = [_key(camera, image) for image in images.cpu()]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: row for row, key in enumerate(keys) if key not in known}
        if new:
            found = look(images if len(new) == len(images) else images[list(new.values())])
            known |= {key: features.clone() for key, features in zip(new, found, strict=True)}  # not the whole batch
        with self._lock:
            self.looks, self.hits = self.looks + len(keys), self.hits + len(keys) - len(new)
            for key in keys:
                self._kept[key] = known[key]
                self._kept.move_to_end(key)
            while len(self._kept) > self.frames:
                self._kept.popitem(last=False)
        return torch.stack([known[key] for key in keys])


def _key(camera: str, image: Tensor) -> bytes:
    digest = hashlib.blake2b(camera.encode(), digest_size=16)
    digest.update(f"{image.dtype} {tuple(image.shape)}".encode())
    digest.update(image.numpy().tobytes())
    return digest.digest()
