"""Write a tiny dataset with the `lerobot` package: how the folders beside this file were made.

    python write_golden.py lerobot-0.4.4 h264        # in an environment with lerobot 0.4.4
    python write_golden.py lerobot-0.6.1 libsvtav1   # in an environment with lerobot 0.6.1

The content of a frame follows from its number, see `frame`; the reader's test computes it again.
"""

import inspect
import sys

import numpy as np

LENGTHS, FPS = (5, 1, 8), 10
TASKS = ("pick the cube", "push the cube", "pick the cube")
VECTOR = {"dtype": "float32", "shape": (2,), "names": ["pan", "gripper"]}
FEATURES = {
    "observation.state": VECTOR,
    "action": VECTOR,
    "observation.images.front": {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
    "observation.images.still": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    "subtask": {"dtype": "string", "shape": (1,), "names": None},
}


def image(height: int, width: int, index: int) -> np.ndarray:
    """A smooth picture whose blue channel counts the frames."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y + index, x + 2 * index, np.full_like(x, 10 * index)], -1).astype(np.uint8)


def frame(episode: int, step: int) -> dict:
    """Features of one frame."""
    index = sum(LENGTHS[:episode]) + step
    return {
        "observation.state": np.array([episode, step], np.float32),
        "action": np.array([index, -index], np.float32),
        "observation.images.front": image(64, 96, index),
        "observation.images.still": image(8, 8, index),
        "next.success": np.array([step > 3]),
        "subtask": f"subtask {step // 2}",
    }


def main(root: str, codec: str) -> None:
    """Record the episodes with small limits, so that there are several files."""
    # Not in the environment of the tests.
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    arguments = inspect.signature(LeRobotDataset.create).parameters
    more: dict = {"vcodec": codec} if "vcodec" in arguments else {}
    if "rgb_encoder" in arguments:
        from lerobot.configs.video import RGBEncoderConfig  # pyright: ignore[reportMissingImports]

        more = {"rgb_encoder": RGBEncoderConfig(vcodec=codec)}
    dataset = LeRobotDataset.create("golden/golden", fps=FPS, features=FEATURES, root=root, robot_type="toy", **more)
    dataset.meta.update_chunk_settings(video_files_size_in_mb=0.004)
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            dataset.add_frame(frame(episode, step) | {"task": TASKS[episode]})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
