"""The collector: N means N saved, labels fit their frames, and neither workers nor pauses change the dataset."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import point_world
import pytest

from vla.data.collect import collect
from vla.data.dataset import EpisodeDataset
from vla.data.demonstration import EXPERT_SEEDS, Demonstrator, Settings


def demonstrator(expert: Callable = point_world.FakeExpert, **changes):
    """A collector of the fake world."""
    settings = {
        "ids": {"default": "point_world:Point-v0", "long": "point_world:Point-v0"},
        "env": {"image_size": [32, 32]},
        "mix": {"pick": 2, "long": 1},
        "seed": 0,
        "noise": 0.5,
        "noise_level": 1.0,
        "vqa_stride": 2,
        "vqa_count": 3,
        "tail_frames": 10,
        "max_attempts": 20,
    }
    return Demonstrator(Settings(**(settings | changes)), make_expert=expert, codec="h264")


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Twelve episodes by two workers: the folder and the result."""
    root = tmp_path_factory.mktemp("collect") / "dataset"
    return root, collect(demonstrator(), root, episodes=12, workers=2)


def test_n_episodes_are_saved_and_failed_attempts_counted(collected):
    root, result = collected
    dataset = EpisodeDataset(root)
    assert result["episodes"] == len(dataset.episodes) == 12
    assert result["frames"] == len(dataset)
    assert result["attempts"] > 12
    assert result["expert_success"] == 12 / result["attempts"]
    assert result["episodes_per_s"] > 0
    assert sum(kind["episodes"] for kind in result["per_kind"].values()) == 12


def test_failed_attempts_are_kept_when_asked_for(tmp_path):
    result = collect(demonstrator(keep_failures=True), tmp_path / "dataset", episodes=6, workers=1)
    dataset = EpisodeDataset(tmp_path / "dataset")
    successes = [episode.extra["success"] for episode in dataset.episodes]
    assert 0 < sum(successes) < 6 and result["attempts"] == 6 and result["expert_success"] == sum(successes) / 6
    executed, perturbed = dataset.column("executed")[:, 0], dataset.column("perturbed")
    np.testing.assert_allclose(executed, dataset.column("action")[:, 0] - 0.1 * perturbed, atol=1e-6)
    for episode, success in zip(dataset.episodes, successes, strict=True):
        assert dataset.column("next.success")[episode.start + episode.length - 1] or not success


def test_labels_belong_to_their_frames(collected):
    dataset = EpisodeDataset(collected[0])
    state, action = dataset.column("observation.state"), dataset.column("action")
    perturbed, done = dataset.column("perturbed"), dataset.column("done")
    np.testing.assert_allclose(action[:, 0], np.minimum(state[:, 0] + 0.2, 1), atol=1e-6)
    np.testing.assert_allclose(dataset.column("progress"), np.minimum(state[:, 0], 1), atol=1e-6)
    for episode in dataset.episodes:
        rows = slice(episode.start, episode.start + episode.length)
        executed = action[rows][:-1, 0] - 0.1 * perturbed[rows][:-1]
        np.testing.assert_allclose(state[rows][1:, 0], executed, atol=1e-6)
        np.testing.assert_array_equal(dataset.column("next.success")[rows][:-1], done[rows][1:])
        assert done[rows][-10:].all()
        assert not done[rows][:3].any()
        text = dataset.column("subtask")[episode.start]
        assert text == f"{episode.extra['kind']} it"
        assert dataset.column("task")[episode.start] == f"please {text}"
        assert dataset.column("finished")[episode.start] == ""
        assert dataset.column("finished")[episode.start + episode.length - 1] == text
    assert perturbed.any()


def test_questions_come_at_every_stride(collected):
    dataset = EpisodeDataset(collected[0])
    steps = dataset.column("frame_index")
    counts = np.array([len(json.loads(text)) for text in dataset.column("vqa")])
    np.testing.assert_array_equal(counts, np.where(steps % 2 == 0, 3, 0))


def test_number_of_workers_does_not_change_the_dataset(collected, tmp_path):
    collect(demonstrator(), tmp_path / "dataset", episodes=12, workers=1)
    assert EpisodeDataset(tmp_path / "dataset").hash == EpisodeDataset(collected[0]).hash


def test_collecting_in_parts_gives_the_same_episodes(collected, tmp_path):
    for episodes in (3, 3, 12):
        result = collect(demonstrator(), tmp_path / "dataset", episodes=episodes, workers=1)
        assert result["episodes"] == episodes
    whole, parts = EpisodeDataset(collected[0]), EpisodeDataset(tmp_path / "dataset")
    assert [episode.extra for episode in whole.episodes] == [episode.extra for episode in parts.episodes]
    assert whole.column("vqa") == parts.column("vqa")
    np.testing.assert_array_equal(whole.column("action"), parts.column("action"))
    indices = np.arange(0, len(whole), 7)
    np.testing.assert_array_equal(whole.frames("front", indices), parts.frames("front", indices))
    assert whole.stats["observation.images.front"]["mean"] == pytest.approx(
        parts.stats["observation.images.front"]["mean"]
    )


def test_other_settings_do_not_mix_into_a_dataset(collected):
    with pytest.raises(ValueError, match=r"collect\.seed: 0 before, 1 now"):
        collect(demonstrator(seed=1), collected[0], episodes=13, workers=1)


def test_seeds_differ_between_attempts_and_from_those_of_evaluation():
    settings = demonstrator().settings
    seeds = [settings.episode_seed(episode, attempt) for episode in range(50) for attempt in range(3)]
    assert len(set(seeds)) == 150
    assert min(seeds) >= EXPERT_SEEDS


def test_mix_sets_the_shares_of_the_kinds():
    settings = demonstrator(mix={"pick": 3, "push": 1, "open": 0}).settings
    kinds = [settings.kind(episode) for episode in range(400)]
    assert 0.68 < kinds.count("pick") / 400 < 0.82
    assert "open" not in kinds


def test_a_crash_is_an_error_and_not_a_failed_attempt(tmp_path):
    faulty = functools.partial(point_world.FakeExpert, crash=True)
    with pytest.raises(ZeroDivisionError, match="the expert has a fault"):
        collect(demonstrator(expert=faulty), tmp_path, episodes=4, workers=2)


def test_an_expert_that_always_fails_stops_the_collector(tmp_path):
    with pytest.raises(RuntimeError, match=r"failed 1 times in a row at episode \d"):
        collect(demonstrator(max_attempts=1), tmp_path, episodes=20, workers=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {"pick": 0}}, "one of them more than 0"),
        ({"noise": 1.5}, "it is a probability"),
        ({"ids": {"long": "x"}}, "'default' is missing"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        demonstrator(**change)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_collect import collect, demonstrator
if __name__ == "__main__":
    collect(demonstrator(), sys.argv[2], episodes=400, workers=2)
"""


def test_a_killed_collector_leaves_no_worker_behind_and_resumes(tmp_path):
    script, root = tmp_path / "child.py", tmp_path / "dataset"
    script.write_text(CHILD)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(root)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline_s = time.monotonic() + 240
    while len(list(root.glob(".staging/episode-*"))) < 5 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline_s = time.monotonic() + 60  # a busy machine takes a while to end them
    while _survivors(child.pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _survivors(child.pid)
    saved = len(list(root.glob(".staging/episode-*")))
    assert 5 <= saved < 400
    result = collect(demonstrator(), root, episodes=12, workers=1)
    assert result["episodes"] >= 12
    assert result["collected"] < 12


def _survivors(session):
    return [path for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == session]


def _session(path):
    try:
        fields = path.read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(fields[3]) if fields[0] != "Z" else None
