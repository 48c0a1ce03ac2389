"""`vla collect` on the real world, as a user runs it: labels are true, and the second run goes on from the first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla.data.dataset import EpisodeDataset
from vla.model.checkpoint import digest


def collect(out, *overrides):
    """Run the verb and return its result."""
    command = [sys.executable, "-m", "vla.cli", "collect", f"out={out}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MUJOCO_GL": "egl"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Two short episodes: the folder and the result of the second run."""
    out = tmp_path_factory.mktemp("tabletop")
    few = (
        "workers=1",
        "mix={press: 1, pick: 1, place: 0, stack: 0, push: 0, open: 0, close: 0, long: 0}",
        "env.arguments.image_size={front: [64, 64], wrist: [32, 32]}",
    )
    first = collect(out, "episodes=1", *few)
    assert first["episodes"] == first["collected"] == 1
    return out, collect(out, "episodes=2", *few)


def test_result_has_the_documented_keys(collected):
    out, result = collected
    assert result["episodes"] == 2
    assert result["collected"] == 1
    assert result["frames"] == len(EpisodeDataset(out / "dataset"))
    assert 0 < result["expert_success"] <= 1
    assert result["episodes_per_s"] > 0


def test_episodes_end_in_a_second_of_success(collected):
    dataset = EpisodeDataset(collected[0] / "dataset")
    for episode in dataset.episodes:
        rows = slice(episode.start, episode.start + episode.length)
        assert dataset.column("done")[rows][-10:].all()
        assert dataset.column("next.success")[rows][-10:].all()
        assert not dataset.column("done")[rows][0]
        assert dataset.column("progress")[rows][-1] > dataset.column("progress")[rows][0]
        assert dataset.column("finished")[episode.start + episode.length - 1]
        assert dataset.column("subtask")[episode.start].split()[0] == episode.extra["kind"]


def test_actions_are_targets_that_the_arm_follows(collected):
    dataset = EpisodeDataset(collected[0] / "dataset")
    state, action = dataset.column("observation.state"), dataset.column("action")
    assert action.shape[1] == len(dataset.features["action"]["names"]) == 6
    assert np.abs(action - state)[:, :5].max() < 0.6  # an action is one control period ahead [rad]
    assert dataset.info["vla"]["embodiment"]["control_hz"] == dataset.fps == 10


def test_images_and_questions_are_there(collected):
    dataset = EpisodeDataset(collected[0] / "dataset")
    assert dataset.frames("front", [0]).shape == (1, 64, 64, 3)
    assert dataset.frames("wrist", [0]).std() > 10
    questions = json.loads(dataset.column("vqa")[0])
    assert questions and questions[0].keys() >= {"question", "answer", "type"}
    assert dataset.column("vqa")[1] == "[]"


def test_corrections_name_the_weights_that_they_correct(tmp_path):
    mix = "mix={press: 1, pick: 0, place: 0, stack: 0, push: 0, open: 0, close: 0, long: 0}"
    assert collect(tmp_path, "policy=nano", "workers=1", "episodes=1", mix)["episodes"] == 1
    about = EpisodeDataset(tmp_path / "dataset").info["vla"]
    assert f"nano, weights {digest(Path('checkpoints/nano'))}" in json.dumps(about)
