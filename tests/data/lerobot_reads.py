"""Run by test_lerobot.py in an environment with lerobot: read a dataset with lerobot and write what it saw."""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]


def main(root: str, out: str, horizon: int) -> None:
    """Write states, windows of actions, paddings, images, tasks and statistics of all frames to one file."""
    fps = LeRobotDataset("local/dataset", root=root).fps
    delta_s = {"action": [step / fps for step in range(horizon)]}
    dataset = LeRobotDataset("local/dataset", root=root, delta_timestamps=delta_s, video_backend="pyav")
    frames = [dataset[index] for index in range(len(dataset))]
    stats = dataset.meta.stats
    seen = {
        "state": np.stack([frame["observation.state"] for frame in frames]),
        "action": np.stack([frame["action"] for frame in frames]),
        "action_is_pad": np.stack([frame["action_is_pad"] for frame in frames]),
        "front": np.stack([frame["observation.images.front"] for frame in frames]),
        "task": np.array([frame["task"] for frame in frames]),
        "subtask": np.array([frame["subtask"] for frame in frames]),
        "episode": np.array([int(frame["episode_index"]) for frame in frames]),
        "std": np.asarray(stats["observation.images.front"]["std"]),
        "q99": np.asarray(stats["action"]["q99"]),
    }
    if "language_persistent" in frames[0]:
        seen["persistent"] = np.array([str(frame["language_persistent"]) for frame in frames])
        seen["events"] = np.array([str(frame["language_events"]) for frame in frames])
    np.savez(out, **seen)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
