"""The oracle: lerobot itself reads what we write, and sees what our reader sees.

Set VLA_LEROBOT_PYTHON to a Python that has lerobot (0.4.4 or 0.6.1), or to several with `:` between them.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vla.data.dataset import EpisodeDataset
from vla.data.language import FEATURES as LANGUAGE
from vla.data.writer import DatasetWriter

PYTHONS = [path for path in os.environ.get("VLA_LEROBOT_PYTHON", "").split(os.pathsep) if path]
HORIZON = 4
FEATURES = {
    "observation.images.front": {"dtype": "video", "shape": [64, 96, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["pan", "gripper"]},
    "action": {"dtype": "float32", "shape": [2], "names": ["pan", "gripper"]},
    "subtask": {"dtype": "string", "shape": [1], "names": None},
    "progress": {"dtype": "float32", "shape": [1], "names": None},
    "done": {"dtype": "bool", "shape": [1], "names": None},
    "vqa": {"dtype": "string", "shape": [1], "names": None},
}


def write(root: Path, codec: str, language: bool) -> EpisodeDataset:
    """Three episodes, one of a single frame, two tasks, several files, extra columns."""
    y, x = np.mgrid[0:64, 0:96]
    with DatasetWriter(root, 10, FEATURES, codec=codec, language=language, video_files_size_in_mb=0.003) as writer:
        for episode, length in enumerate((6, 1, 9)):
            with writer.record() as recorder:
                for step in range(length):
                    image = np.stack([y + step, x + 7 * episode, 0 * x + 20 * step], -1).astype(np.uint8)
                    vector = np.array([episode, step], np.float32)
                    frame = {"observation.images.front": image, "observation.state": vector, "action": vector + 0.5}
                    frame |= {"subtask": f"subtask {step // 3}", "progress": step / length, "done": step == 5}
                    question = {"question": "is it red", "answer": "yes", "type": "yesno"}
                    frame["vqa"] = json.dumps([question] if step % 2 == 0 else [])
                    recorder.add(frame, task=["pick the cube", "push the cube"][episode % 2])
                recorder.save(extra={"kind": "pick", "seed": 7, "attempts": 1})
    return EpisodeDataset(root)


def read_with_lerobot(python: str, root: Path) -> dict[str, np.ndarray]:
    """Let lerobot read the dataset in its own environment."""
    script, out = Path(__file__).with_name("lerobot_reads.py"), root.parent / "seen.npz"
    command = [python, str(script), str(root), str(out), str(HORIZON)]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="VLA_LEROBOT_PYTHON names no Python that has lerobot")
@pytest.mark.parametrize("codec", ["h264", "h264_444", "av1"])
@pytest.mark.parametrize("python", PYTHONS)
def test_lerobot_reads_what_we_write(python, codec, tmp_path):
    dataset = write(tmp_path / "dataset", codec, language=False)
    seen = read_with_lerobot(python, dataset.root)
    indices = range(len(dataset))
    windows = [dataset.window(index, HORIZON) for index in indices]
    np.testing.assert_array_equal(seen["state"], dataset.column("observation.state"))
    np.testing.assert_array_equal(seen["action"], np.stack([window["action"] for window in windows]))
    np.testing.assert_array_equal(seen["action_is_pad"], np.stack([window["action_is_pad"] for window in windows]))
    assert seen["task"].tolist() == dataset.column("task")
    assert seen["subtask"].tolist() == dataset.column("subtask")
    images = np.stack([window["observation.images.front"] for window in windows]) / 255
    np.testing.assert_allclose(seen["front"].transpose(0, 2, 3, 1), images, atol=3 / 255)
    np.testing.assert_allclose(seen["std"], dataset.stats["observation.images.front"]["std"])
    np.testing.assert_allclose(seen["q99"], dataset.stats["action"]["q99"])


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="VLA_LEROBOT_PYTHON names no Python that has lerobot")
@pytest.mark.parametrize("python", PYTHONS)
def test_lerobot_06_reads_the_language_columns(python, tmp_path):
    version = "import importlib.metadata as m; print(m.version('lerobot'))"
    if subprocess.check_output([python, "-c", version], text=True) < "0.6":
        pytest.skip("lerobot before 0.6 has no language columns")
    dataset = write(tmp_path / "dataset", "h264", language=True)
    seen = read_with_lerobot(python, dataset.root)
    assert seen["state"].shape == (16, 2)
    assert "1. subtask 0" in seen["persistent"][0]
    assert "is it red" in seen["events"][0]
    assert "is it red" not in seen["events"][1]


def test_language_columns_hold_subtasks_plans_and_questions(tmp_path):
    dataset = write(tmp_path / "dataset", "h264", language=True)
    assert LANGUAGE.keys() <= dataset.features.keys()
    persistent, events = dataset.column("language_persistent"), dataset.column("language_events")
    assert persistent[7] == persistent[15]  # the same at all frames of an episode
    rows = [(row["style"], row["content"], round(row["timestamp"], 3)) for row in persistent[0]]
    assert rows == [
        ("plan", "1. subtask 0\n2. subtask 1", 0.0),
        ("subtask", "subtask 0", 0.0),
        ("plan", "1. subtask 1", 0.3),
        ("subtask", "subtask 1", 0.3),
    ]
    assert [row["role"] for row in events[0]] == ["user", "assistant"]
    assert events[0][0]["camera"] == "observation.images.front"
    assert json.loads(events[0][1]["content"]) == {"answer": "yes", "type": "yesno"}
    assert events[1] == []


def test_language_columns_need_their_sources(tmp_path):
    with pytest.raises(ValueError, match="made from subtask and vqa"):
        DatasetWriter(tmp_path, 10, {"action": FEATURES["action"]}, language=True)


def test_av1_is_written_and_read(tmp_path):
    dataset = write(tmp_path / "dataset", "av1", language=False)
    assert dataset.features["observation.images.front"]["info"]["video.codec"] == "av1"
    levels = dataset.frames("front", range(6))[..., 2].mean((1, 2))
    np.testing.assert_allclose(levels, 20 * np.arange(6), atol=4)
