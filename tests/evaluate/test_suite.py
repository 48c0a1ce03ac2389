"""A whole evaluation of a small world: every documented key is there and means what it says."""

import json
from functools import partial

import pytest

from tests.evaluate.fake_world import EMBODIMENT, GRAMMAR, WordPolicy
from vla.control.hierarchy import Pacing
from vla.evaluate import rollout, suite, summary
from vla.evaluate.report import console_table, write_report
from vla.evaluate.workers import Workers
from vla.result import write_result

FAKE = {"id": "tests.evaluate.fake_world:Fake-v0"}
TASKS = {"red": FAKE, "blue": {**FAKE, "kwargs": {"raise_seeds": [1]}}}


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """Run both tasks, a long one, a held-out split and all controls once; crash one episode."""
    out = tmp_path_factory.mktemp("eval")
    long = {"long": {**FAKE, "kwargs": {"subtasks": 2}}}
    splits = {"objects": {"split": "heldout_objects", "kinds": ["pick", "place"]}}
    cases = [
        *suite.single_cases(TASKS, EMBODIMENT, episodes=3, seed=0, record=True),
        *suite.single_cases(long, EMBODIMENT, episodes=2, seed=0, stepping=True, group="long_horizon"),
        *suite.held_out_cases(FAKE, splits, EMBODIMENT, episodes=2, seed=0, questions=3),
        *suite.control_cases({"red": FAKE}, EMBODIMENT, list(suite.CONTROLS), episodes=2, seed=0),
    ]
    gallery = suite.Gallery(out / "videos", EMBODIMENT, each=1)
    with Workers(2) as workers:
        episodes = suite.fly(
            cases,
            run=partial(
                rollout.run,
                policy=WordPolicy(),
                workers=workers,
                pacing=Pacing(replan_steps=4, linger_steps=5),
                grammar=GRAMMAR,
            ),
            record=out / "episodes.jsonl",
            gallery=gallery,
            label="eval",
        )
    result = suite.summarise(episodes, policy=WordPolicy(), tolerance_s=0.5, latencies_s=[0.01, 0.02])
    return out, episodes, gallery, result


def test_every_documented_key_is_there(flown):
    result = flown[3]
    assert {"success_rate", "ci95", "episodes", "crashes", "long_horizon", "per_task", "held_out"} <= set(result)
    assert {"success_rate", "ci95", "episodes"} <= set(result["per_task"]["red"])
    assert {"success_rate", "ci95"} <= set(result["long_horizon"])
    assert {"precision", "recall"} <= set(result["completion"])
    assert {"accuracy", "yes_ratio"} <= set(result["questions"])
    assert {"p50", "p95"} <= set(result["chunk_latency_ms"])
    named = {"blank_instruction", "swapped_named", "swapped_original", "blank_camera"}
    assert all(isinstance(result["controls"][name], float) for name in named)


def test_a_crash_is_counted_apart_and_never_as_a_failure(flown):
    result = flown[3]
    assert result["crashes"] == result["per_task"]["blue"]["crashes"] == 1
    assert result["per_task"]["blue"]["episodes"] == 2
    assert result["success_rate"] == result["per_task"]["blue"]["success_rate"] == 1.0
    assert result["episodes"] == 5


def test_controls_expose_a_policy_that_listens_and_looks(flown):
    controls = flown[3]["controls"]
    assert (controls["swapped_named"], controls["swapped_original"]) == (1.0, 0.0)
    assert (controls["blank_instruction"], controls["blank_camera"]) == (0.0, 0.0)


def test_questions_come_from_the_held_out_scenes(flown):
    questions = flown[3]["questions"]
    assert questions["asked"] == 2 * 2 * 2  # yes/no: one of three a frame, two frames, two kinds, two episodes
    assert questions["yes_ratio"] == 1.0
    assert questions["box_iou"] == pytest.approx(0.75, abs=0.01)


def test_one_line_is_recorded_for_every_episode(flown):
    out, episodes, _, _ = flown
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == len(episodes)
    assert {line["outcome"] for line in lines} >= {"success", "crash"}
    assert all({"seed", "instruction", "success", "steps", "swapped_success", "latencies_s"} <= set(x) for x in lines)


def test_videos_show_a_success_of_every_task(flown):
    out, _, gallery, _ = flown
    assert {name.split("_")[0] for name in gallery.written} >= {"red", "blue"}
    assert all((out / "videos" / name).stat().st_size > 1000 for name in gallery.written)


def test_frames_are_let_go_after_the_video_is_written(flown):
    assert all(episode.recording is None for episode in flown[1])


def test_report_and_table_show_the_numbers(flown):
    out, _, gallery, result = flown
    result = {**result, "checkpoint": "checkpoints/x", "seed": 0, "seconds": 1.0}
    page = write_report(out, result, gallery=gallery.written).read_text()
    assert "100.0 % success" in page and "checkpoints/x" in page and "<script" not in page
    assert "mean of single" in console_table(result)
    write_result(out, **result)


def test_a_policy_against_itself_does_not_differ(flown):
    single = [episode for episode in flown[1] if episode.case.group == "single"]
    row = summary.paired_row(single, single)
    assert row["difference"] == 0 and row["pairs"] == 5 and row["left_out"] == 1


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match=r"no control \['deaf'\]; possible: \['blank_instruction'"):
        suite.control_cases({"red": FAKE}, EMBODIMENT, ["deaf"], episodes=1, seed=0)


def test_all_tasks_run_on_the_same_seeds_with_the_cameras_of_the_policy():
    cases = suite.single_cases(TASKS, EMBODIMENT, episodes=2, seed=5)
    assert [case.seed for case in cases] == [5, 6, 5, 6]
    assert cases[0].world.kwargs["image_size"] == {"front": [32, 32], "wrist": [16, 16]}
