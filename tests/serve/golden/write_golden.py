"""Write messages with the `openpi-client` package: how openpi-client-0.1.2.json was made.

    python write_golden.py > openpi-client-0.1.2.json   # in an environment with openpi-client 0.1.2

Each entry is the message in base64, as `openpi_client.msgpack_numpy.Packer` writes it;
the test builds `MESSAGES` again.
"""

import base64
import json

import numpy as np


def image(seed: int, *shape: int) -> np.ndarray:
    """A picture that is the same with every version of NumPy."""
    return ((np.arange(np.prod(shape)) * 7 + seed) % 256).astype(np.uint8).reshape(shape)


MESSAGES = {
    "libero": {
        "observation/image": image(1, 8, 8, 3),
        "observation/wrist_image": image(2, 8, 8, 3),
        "observation/state": np.linspace(-1, 1, 8),
        "prompt": "pick up the black bowl",
    },
    "droid": {
        "observation/exterior_image_1_left": image(3, 8, 8, 3),
        "observation/wrist_image_left": image(4, 8, 8, 3),
        "observation/joint_position": np.linspace(-1, 1, 7, dtype=np.float32),
        "observation/gripper_position": np.array([0.5], np.float32),
        "prompt": "put the marker in the cup",
    },
    "aloha": {
        "state": np.ones(14),
        "images": {name: image(5, 3, 8, 8) for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")},
        "prompt": "transfer the cube",
    },
    "answer": {
        "actions": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
        "server_timing": {"infer_ms": 12.5, "prev_total_ms": 20.0},
        "numbers": {"f": np.float32(1.5), "i": np.int64(-3), "b": np.bool_(True)},
        "empty": np.zeros((0, 3), np.float32),
        "reversed": np.arange(6, dtype=np.int32).reshape(2, 3)[::-1, ::2],
        "mask": np.array([True, False]),
        "list": [1, 2.5, None, True, "text", -200, 2**40],
    },
}


if __name__ == "__main__":
    from openpi_client import msgpack_numpy

    packer = msgpack_numpy.Packer()
    print(json.dumps({name: base64.b64encode(packer.pack(m)).decode() for name, m in MESSAGES.items()}, indent=1))
