"""The bench finds a drawn robot's truth in its columns, scores the right moments and not chance, and says all keys."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import HEIGHT, WIDTH, record
from vla.bench.rivals import matches, peract, random, score, uniform
from vla.bench.truth import half, merged, truth
from vla.bench.video import measure
from vla.data.dataset import EpisodeDataset
from vla.data.recorder import EpisodeRecorder
from vla.data.writer import DatasetWriter
from vla.video.segments import Segment
from vla.video.words import NoWords, Story

FPS, EPISODES = 10, 6
NAMES = ["rail_x.pos", "rail_y.pos", "gripper.pos"]
FEATURES = {
    "observation.images.top": {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [3], "names": NAMES},
    "subtask": {"dtype": "string", "shape": [1], "names": None},
    "progress": {"dtype": "float32", "shape": [1], "names": None},
    "done": {"dtype": "bool", "shape": [1], "names": None},
}


def stage(root, episode: int) -> list[float]:
    """Record a scene of two discs with the columns that an expert writes; return when things happened."""
    scene = record(episode, FPS, speed=30.0)
    grasps, releases, (start_s,) = scene.deeds_s[::2], scene.deeds_s[1::2], scene.starts_s
    with EpisodeRecorder(root, episode, FPS, FEATURES, "h264_444") as recorder:
        for step, image in enumerate(scene.frames):
            now_s = step / FPS + 1e-6
            part = int(now_s > start_s)
            progress = 1.0 if now_s > releases[part] else 0.6 if now_s > grasps[part] else 0.2
            frame = {
                "observation.images.top": image,
                "observation.state": np.append(scene.state.joints[step], scene.state.gripper[step]).astype(np.float32),
                "subtask": f"put disc {part} down",
                "progress": np.float32(progress),
                "done": now_s > releases[part] + 0.5,
            }
            recorder.add(frame, task=f"tidy up {episode}")
        recorder.save(extra={"kind": "long", "attempts": 1})
    return sorted([*scene.deeds_s, *scene.starts_s])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Some scenes as a dataset, and when things happened in each."""
    root = tmp_path_factory.mktemp("bench") / "dataset"
    with DatasetWriter(root, FPS, FEATURES) as writer:
        moments = [stage(writer.root, episode) for episode in range(EPISODES)]
    return root, moments


def test_truth_is_read_from_the_columns(dataset):
    root, moments = dataset
    data = EpisodeDataset(root)
    for episode, true in zip(data.episodes, moments, strict=True):
        found = truth(data, episode)
        assert [kind for _, kind in found] == ["grasp", "fulfilled", "change", "grasp", "fulfilled"]
        np.testing.assert_allclose([time_s for time_s, _ in found], true, atol=0.11)
    assert {half(episode) for episode in data.episodes} == {"tune", "held"}


def test_truths_that_no_tolerance_tells_apart_are_one():
    assert merged([(1.0, "grasp"), (1.4, "lost"), (1.8, "change"), (4.0, "grasp")]) == [pytest.approx(1.4), 4.0]
    assert merged([(1.0, "grasp"), (1.4, "lost")], ["lost"]) == [1.4]


def test_the_bench_measures_everything_and_ours_is_above_chance(dataset):
    def never(**_):
        raise AssertionError("a dataset was given")

    result = measure(seed=0, dataset=str(dataset[0]), collect=never, episodes=4, spoilt_episodes=1, speed_s=1.0)
    f1 = {name: own["0.5"] for name, own in result["boundary_f1"].items()}
    assert f1["state"] > 0.8 > f1["random"] and f1["pixels"] > f1["random"]
    assert set(f1) >= {"state", "pixels", "uniform", "random", "peract"}
    assert result["keyframe_recall_at_16"]["state"] > 0.9 and 0.6 < result["count_ratio"]["state"] < 1.5
    assert result["quality"]["recall"] > 0.8 and result["quality"]["faults"] > 15
    assert result["label_accuracy"] is None and result["failure_moment"] is None and result["pope"] is None
    chosen = result["frames_for_questions"]
    assert chosen["bolt"] >= max(0.8, chosen["uniform"]) and chosen["moments"] > 0
    found = result["search"]
    assert found["queries"] > 0 and 0 <= found["recall_at_1"] <= found["recall_at_5"] <= 1
    assert min(result[key] for key in ("speed_x_realtime", "decode_x_realtime", "peak_rss_mb")) > 0


class FirstDisc(NoWords):
    """Says of everything that it is done with the first disc, which is right for a while."""

    identity = "first disc"

    def name(self, story: Story) -> list[Segment]:
        """Name all segments alike."""
        return [replace(part, label="put disc 0 down", source=self.identity, confidence=0.5) for part in story.segments]


def test_data_are_collected_where_none_are_given():
    def collect(root, episodes):
        with DatasetWriter(root, FPS, FEATURES) as writer:
            for episode in range(episodes):
                stage(writer.root, episode)

    settings = {"episodes": 3, "spoilt_episodes": 0, "speed_s": 0.5, "words": NoWords(), "stronger": FirstDisc()}
    result = measure(seed=0, dataset=None, collect=collect, **settings)
    assert 1 <= result["episodes"] <= 3 and result["quality"]["recall"] is None
    routed = result["routing"]
    assert routed["share"] > 0.5 and routed["accuracy_alone"] == 0 and 0.2 < routed["gain"] == routed["accuracy"] < 0.8
    assert result["label_accuracy"]["all"] == routed["accuracy"] and result["label_accuracy"]["by_verb"].keys() == {
        "put"
    }


times = st.lists(st.floats(0, 100), max_size=12)


@settings(deadline=None)
@given(found=times, true=times, tolerance_s=st.floats(0.01, 5))
def test_matching_is_one_to_one_and_grows_with_tolerance(found, true, tolerance_s):
    count = matches(found, true, tolerance_s)
    assert count <= min(len(found), len(true)) and count <= matches(found, true, 2 * tolerance_s)
    assert matches(true, true, tolerance_s) == len(true) and count == matches(true, found, tolerance_s)
    assert 0 <= score([found], [true], tolerance_s)["f1"] <= 1


def test_rivals_are_what_their_papers_say():
    assert uniform(10.0, 4) == [2.0, 4.0, 6.0, 8.0]
    drawn = random(10.0, 5, np.random.default_rng(0))
    assert drawn == sorted(drawn) and drawn[0] >= 0 and drawn[-1] <= 10
    joints = np.interp(np.arange(40), [0, 10, 20, 30, 40], [0, 1, 1, 2, 3])[:, None]
    open_ = np.arange(40) < 25
    found = peract(joints, open_, fps=10.0)
    assert 2.5 in found and any(1.0 <= time_s <= 2.0 for time_s in found) and all(t < 3.9 for t in found)
