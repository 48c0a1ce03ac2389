"""The bench finds a drawn robot's truth in its columns, scores the right moments and not chance, and says all keys."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.scenes import HEIGHT, WIDTH, record
from vla.bench.rivals import every, matches, peract, random, score, uniform
from vla.bench.truth import half, merged, truth
from vla.bench.video import measure
from vla.data.dataset import EpisodeDataset
from vla.data.recorder import EpisodeRecorder
from vla.data.writer import DatasetWriter
from vla.video.segments import Segment
from vla.video.words import NoWords, Story

FPS, EPISODES = 10, 4
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
    scene = record(episode, FPS, speed=50.0)
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


class Never:
    """Records nothing."""

    def collect(self, root, episodes):
        raise AssertionError("a dataset was given, or is there")


GIVEN = {"seed": 0, "demonstrations": Never(), "episodes": 4, "spoilt_episodes": 1, "speed_s": 1.0}


def test_the_bench_measures_everything_and_ours_is_above_chance(dataset, tmp_path):
    result = measure(out=str(tmp_path), dataset=str(dataset[0]), **GIVEN)
    f1 = {name: own["0.5"] for name, own in result["boundary_f1"].items()}
    assert f1["state"] > 0.8 > f1["random"] and f1["pixels"] > f1["random"]
    assert set(f1) >= {"state", "pixels", "uniform", "random", "every", "peract"}
    best = result["against_best_rival"]["0.5"]
    assert best["f1"] == max(f1[name] for name in ("uniform", "random", "every", "peract"))
    assert best["state"] == pytest.approx(f1["state"] / best["f1"]) and best["state"] <= best["most_possible"]
    assert result["keyframe_recall_at_16"]["state"] > 0.9 and 0.6 < result["count_ratio"]["state"] < 1.5
    assert result["quality"]["recall"] > 0.8 and result["quality"]["faults"] > 15
    assert result["label_accuracy"] is None and result["failure_moment"] is None and result["pope"] is None
    assert sum(own["episodes"] for own in result["false_failures"].values()) == result["episodes"]
    chosen = result["frames_for_questions"]
    assert chosen["bolt"] >= max(0.8, chosen["uniform"]) and chosen["moments"] > 0
    found = result["search"]
    assert found["queries"] > 0 and 0 <= found["recall_at_1"] <= found["recall_at_5"] <= 1
    speeds = ("speed_x_realtime", "speed_x_processor", "decode_x_realtime", "peak_rss_mb")
    assert min(result[key] for key in speeds) > 0


def test_a_run_that_was_cut_off_goes_on_and_parts_run_alone(dataset, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    whole = measure(out=str(tmp_path / "whole"), parts=["episodes"], dataset=str(dataset[0]), **GIVEN)
    assert whole["quality"] is None and whole["speed_x_realtime"] is None and whole["parts"] == ["episodes"]
    ledger = tmp_path / "whole/cells/episodes.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + whole["episodes"]
    (tmp_path / "cut/cells").mkdir(parents=True)
    (tmp_path / "cut/cells/episodes.jsonl").write_text("".join(lines[:-1]) + lines[-1][:100])
    assert measure(out=str(tmp_path / "cut"), parts=["episodes"], dataset=str(dataset[0]), **GIVEN) == whole
    monkeypatch.setattr("vla.bench.scored.examine", broken)
    assert measure(out=str(tmp_path / "cut"), parts=["episodes"], dataset=str(dataset[0]), **GIVEN) == whole
    with pytest.raises(ValueError, match="another seed"):
        measure(out=str(tmp_path / "cut"), parts=["episodes"], dataset=str(dataset[0]), **(GIVEN | {"seed": 1}))
    with pytest.raises(ValueError, match=r"\['labels'\]; possible: episodes, quality"):
        measure(out=str(tmp_path), parts=["labels"], dataset=str(dataset[0]), **GIVEN)


class FirstDisc(NoWords):
    """Says of everything that it is done with the first disc, which is right for a while."""

    identity = "first disc"

    def name(self, story: Story) -> list[Segment]:
        """Name all segments alike."""
        return [replace(part, label="put disc 0 down", source=self.identity, confidence=0.5) for part in story.segments]


@dataclass(frozen=True)
class Discs:
    """Records scenes of two discs."""

    speed: float = 1.0

    def collect(self, root, episodes):
        with DatasetWriter(root, FPS, FEATURES) as writer:
            for episode in range(episodes):
                stage(writer.root, episode)


def test_data_are_collected_once_where_none_are_given(tmp_path):
    given = {"seed": 0, "out": str(tmp_path), "parts": ["episodes"], "dataset": None, "episodes": 3}
    given |= {"spoilt_episodes": 0, "speed_s": 0.5, "words": NoWords(), "stronger": FirstDisc()}
    result = measure(demonstrations=Discs(), **given)
    assert 1 <= result["episodes"] <= 3
    routed = result["routing"]
    assert routed["share"] > 0.5 and routed["accuracy_alone"] == 0 and 0.2 < routed["gain"] == routed["accuracy"] < 0.8
    assert result["label_accuracy"]["all"] == routed["accuracy"] and result["label_accuracy"]["by_verb"].keys() == {
        "put"
    }
    assert measure(demonstrations=Discs(), **given) == result
    with pytest.raises(ValueError, match="another recordings"):
        measure(demonstrations=Discs(speed=2.0), **given)
    nothing = measure(demonstrations=Discs(), **(given | {"parts": ["quality"]}))
    assert nothing["quality"]["recall"] is None and nothing["label_accuracy"] is None


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
    assert every(10.0, 3.0) == [3.0, 6.0, 9.0] and every(2.0, 3.0) == [] and every(6.0, 3.0) == [3.0]
    drawn = random(10.0, 5, np.random.default_rng(0))
    assert drawn == sorted(drawn) and drawn[0] >= 0 and drawn[-1] <= 10
    joints = np.interp(np.arange(40), [0, 10, 20, 30, 40], [0, 1, 1, 2, 3])[:, None]
    open_ = np.arange(40) < 25
    found = peract(joints, open_, fps=10.0)
    assert 2.5 in found and any(1.0 <= time_s <= 2.0 for time_s in found) and all(t < 3.9 for t in found)
