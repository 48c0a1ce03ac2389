"""The closed loop: same seeds give the same records, crashes are no failures, controls do what they say."""

from collections.abc import Sequence
from typing import ClassVar

import pytest

from tests.evaluate.fake_world import GRAMMAR, WordPolicy
from vla.control.hierarchy import Pacing
from vla.evaluate.controls import BLANK_CAMERA, BLANK_INSTRUCTION, PLAIN, SWAPPED
from vla.evaluate.episodes import Case
from vla.evaluate.rollout import run
from vla.evaluate.workers import WorkerCrash, Workers, World
from vla.model.history import History

PACING = Pacing(replan_steps=4, confirm_steps=1, k=2, subtask_timeout_steps=25, attempts=2, linger_steps=5)


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


def fly(workers, cases, policy=None):
    episodes = []
    run(
        cases,
        policy=policy or WordPolicy(),
        workers=workers,
        pacing=PACING,
        grammar=GRAMMAR,
        on_episode=episodes.append,
    )
    return sorted(episodes, key=lambda episode: episode.case.seed)


def world(**kwargs):
    return World("tests.evaluate.fake_world:Fake-v0", kwargs)


def cases(seeds: Sequence[int] = range(4), *, where=None, **kwargs):
    return [Case("reach", where or world(), seed, **kwargs) for seed in seeds]


def test_every_case_is_run_once(workers):
    episodes = fly(workers, cases(range(7)))
    assert [episode.case.seed for episode in episodes] == list(range(7))
    assert all(episode.success for episode in episodes)


def test_same_seeds_give_the_same_record(workers):
    first, second = fly(workers, cases()), fly(workers, cases())
    for a, b in zip(first, second, strict=True):
        a.latencies_s = b.latencies_s = []
        assert a.to_dict() == b.to_dict()


def test_done_is_declared_after_k_predictions_near_the_truth(workers):
    (episode,) = fly(workers, cases([1]))
    (claim_step, text), (truth_step, _) = episode.claims[0], episode.truths[0]
    assert text == episode.instruction
    assert abs(claim_step - truth_step) <= 5
    said = [prediction.step for prediction in episode.predictions if prediction.done > 0.5]
    assert claim_step == said[1]


def test_an_exception_in_the_world_is_a_crash_and_the_rest_goes_on(workers):
    episodes = fly(workers, cases(range(4), where=world(raise_seeds=[1])))
    assert [episode.outcome for episode in episodes] == ["success", "crash", "success", "success"]
    assert "the world breaks at seed 1" in episodes[1].crash


def test_a_dead_process_is_a_crash_and_the_rest_goes_on(workers):
    episodes = fly(workers, cases(range(4), where=world(die_seeds=[2])))
    assert [episode.outcome for episode in episodes] == ["success", "success", "crash", "success"]
    assert "exit code 3" in episodes[2].crash


def test_an_unparsable_instruction_comes_back_as_words(workers):
    with pytest.raises(WorkerCrash, match="names no place") as crash:
        workers.all[0].ask("reset", world(), 0, {"instruction": "go mauve"}, False)
    assert crash.value.refusal == "'go mauve' names no place; there are ['red', 'blue', 'green']"


def test_blank_instruction_goes_nowhere(workers):
    episodes = fly(workers, cases(control=BLANK_INSTRUCTION))
    assert [episode.spoken for episode in episodes] == [""] * 4
    assert not any(episode.success or episode.swapped_success for episode in episodes)


def test_swapped_instruction_reaches_the_goal_that_is_named(workers):
    episodes = fly(workers, cases(control=SWAPPED))
    assert all(episode.swapped_success and not episode.success for episode in episodes)
    assert {episode.outcome for episode in episodes} == {"wrong_target"}


def test_blank_camera_blinds_the_policy_but_not_the_record(workers):
    episodes = fly(workers, cases([0], control=BLANK_CAMERA, record=True))
    assert not episodes[0].success
    assert episodes[0].recording.pixels[0]["front"].any()


def test_long_horizon_steps_through_its_subtasks(workers):
    episodes = fly(workers, cases(where=world(subtasks=2), stepping=True))
    for episode in episodes:
        assert episode.success and episode.finished_subtasks == 2 and episode.wrong_plans == 0
        assert [text for _, text in episode.plans] == [*episode.instruction.split(", then "), "done"]


def test_saying_done_too_early_fails_the_long_task_and_is_named(workers):
    episodes = fly(workers, cases(where=world(subtasks=2), stepping=True), policy=WordPolicy(early=True))
    assert not any(episode.success for episode in episodes)
    assert {episode.outcome for episode in episodes} <= {"wrong_plan", "done_too_early"}


def test_a_subtask_without_success_is_retried_and_then_given_up(workers):
    class Stuck(WordPolicy):
        def act(self, observations):
            return [chunk.__class__(chunk.actions * 0, 0.1, 0.0, done=0.0) for chunk in super().act(observations)]

    (episode,) = fly(workers, cases([0], where=world(subtasks=2), stepping=True), policy=Stuck())
    assert episode.ended == "gave_up"
    assert len(episode.plans) == PACING.attempts + 1


def test_recording_keeps_every_frame(workers):
    (episode,) = fly(workers, cases([0], record=True))
    assert len(episode.recording.pixels) == episode.steps + 1
    assert len(episode.recording.actions) == episode.steps


def test_questions_are_asked_about_the_first_and_the_last_frame(workers):
    (episode,) = fly(workers, cases([0], questions=3))
    (first, questions), (last, _) = episode.asked
    assert len(questions) == 3
    assert (first["agent_pos"] != last["agent_pos"]).any()


def test_another_body_is_refused_before_motion(workers):
    class Other(WordPolicy):
        def check(self, embodiment):
            raise ValueError("another body")

    with pytest.raises(ValueError, match="another body"):
        fly(workers, cases(), policy=Other())


def test_a_policy_that_returns_nan_is_an_error_not_a_failure():
    class Broken(WordPolicy):
        def act(self, observations):
            return [chunk.__class__(chunk.actions * float("nan"), 0.1, 0.0) for chunk in super().act(observations)]

    with Workers(1) as own, pytest.raises(FloatingPointError, match="not finite"):
        fly(own, cases([0]), policy=Broken())


def test_plain_control_changes_nothing():
    info = {"instruction": "go red"}
    observation = {"pixels": {}, "agent_pos": None}
    assert PLAIN.instruct(info) == "go red" and PLAIN.show(observation) is observation


def test_a_policy_that_reads_earlier_frames_gets_those_of_its_own_episode(workers):
    """Of three looks four steps apart, the one nearest to three steps ago is the last one."""

    class Reader(WordPolicy):
        history = History(frames=1, stride=3)
        seen: ClassVar[dict[int, list]] = {}

        def _act(self, observation):
            front, before = observation.images["front"], observation.earlier[0]["front"]
            self.seen.setdefault(int(front.argmax()), []).append(int(before.argmax()))
            return super()._act(observation)

    policy = Reader()
    episodes = fly(workers, cases(), policy)
    assert all(episode.success for episode in episodes)
    assert all(len(earlier) for earlier in policy.seen.values())
    moved = [place != was for place, earlier in policy.seen.items() for was in earlier]
    assert any(moved) and not all(moved)  # at the beginning nothing has moved
