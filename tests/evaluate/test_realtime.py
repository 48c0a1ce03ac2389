"""The loop in virtual time: delays are really there, the same seed gives the same record, the guard is counted."""

import numpy as np
import pytest

from tests.evaluate.fake_trial import FakeTrial, GivenPolicy
from tests.evaluate.fake_world import EMBODIMENT, GRAMMAR, WordPolicy
from vla.control.hierarchy import Pacing
from vla.control.strategy import Ensemble, Overlap, RealTime, Sequential
from vla.evaluate import realtime
from vla.evaluate.controls import BLANK_CAMERA, BLANK_INSTRUCTION, SWAPPED
from vla.evaluate.episodes import Case
from vla.evaluate.guarded import Guarding
from vla.evaluate.realtime import PolicyFault, Realtime, RealtimeHost, Timing
from vla.evaluate.workers import Workers, World
from vla.model.history import History

HZ = 50.0
STRATEGIES = [Sequential, Ensemble, Overlap, RealTime]
PACING = Pacing(k=2, subtask_timeout_steps=40, linger_steps=5, check=False)


def case(seed=0, *, control=None, kwargs=None, **more):
    more |= {"control": control} if control else {}
    return Case("reach", World("tests.evaluate.fake_world:Fake-v0", kwargs or {}), seed, **more)


def host(policy=None, **guard):
    policy = policy or GivenPolicy()
    return RealtimeHost(
        lambda: policy, Realtime(FakeTrial, planner_ms=100), Guarding(None, HZ, **guard), PACING, GRAMMAR
    )


def fly(one, strategy=RealTime, latency_s=0.2, policy=None, **guard):
    return host(policy, **guard).fly(one, Timing(strategy, latency_s)).episode


def commands() -> np.ndarray:
    """Return the commands float64[N, 6] of the latest episode, one a tick."""
    return np.array([command for _, command in FakeTrial.last.sent])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("latency_s", [0.0, 0.2, 0.4])
def test_no_chunk_is_used_before_its_time(strategy, latency_s):
    fly(case(), strategy, latency_s)
    one = commands()
    moved_s = np.flatnonzero(np.abs(one - one[0]).max(axis=1) > 1e-9)[0] / HZ
    assert latency_s <= moved_s <= latency_s + 0.1

    turn_s = 0.6
    fly(case(), strategy, latency_s, GivenPolicy(turn_s))
    other = commands()
    length = min(len(one), len(other))
    differs_s = np.flatnonzero(np.abs(one[:length] - other[:length]).max(axis=1) > 1e-9)[0] / HZ
    assert turn_s + latency_s <= differs_s + 1e-9  # to the tick: what came from no later frame is the same
    assert differs_s <= turn_s + 2 * latency_s + 0.6  # an arm with so little jerk brakes for a while, whatever comes


@pytest.fixture(scope="module")
def workers():
    with Workers(2, WorkerHost()) as workers:
        yield workers


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_record_here_and_in_a_worker(strategy, workers):
    timing, cases, flown = Timing(strategy, 0.2), [case(seed) for seed in range(3)], []
    here = [host().fly(one, timing).episode.to_dict() for one in cases]
    realtime.run(cases, policy=GivenPolicy(), workers=workers, timing=timing, on_episode=flown.append)
    there = [episode.to_dict() for episode in sorted(flown, key=lambda episode: episode.case.seed)]
    assert here == there
    assert all(episode["success"] and episode["loop"]["ticks"] > 50 for episode in here)


class WorkerHost:
    """Makes the same host in a worker; unlike a lambda it can be sent there."""

    def __call__(self):
        return host(Simple())


class Simple(GivenPolicy):
    """Asked for two things at once it answers nonsense."""

    def act(self, observations, given=None, given_steps=0):
        (chunk,) = super().act(observations, given, given_steps)
        if ", then" in observations[0].instruction:
            chunk.actions[:] = np.nan
        return [chunk]


@pytest.mark.parametrize("strategy", [Overlap, RealTime])
@pytest.mark.parametrize("latency_s", [0.05, 0.2, 0.4, 0.7])
def test_nothing_is_idle_while_the_next_chunk_comes_before_the_last_one_ends(strategy, latency_s):
    loop = fly(case(), strategy, latency_s).loop
    assert loop.idle_ticks == 0 and loop.missed == 0 and loop.chunks["chunks"] >= 2
    assert loop.chunks["late"] == loop.chunks["refused"] == 0


def test_who_waits_for_the_policy_is_idle_for_as_long():
    loop = fly(case(), Sequential, 0.4).loop
    waits = loop.chunks["chunks"] - 1
    assert 20 * waits <= loop.idle_ticks <= 22 * waits + 20  # ticks of 20 ms


def test_the_guard_keeps_the_limits_and_its_interventions_are_counted():
    guarded = fly(case())
    kept = np.abs(np.diff(commands(), n=2, axis=0)).max() * HZ**2
    bare = fly(case(), mode="off")
    unkept = np.abs(np.diff(commands(), n=2, axis=0)).max() * HZ**2
    assert kept <= EMBODIMENT.acceleration_max[0] * (1 + 1e-9) < unkept
    assert sum(guarded.interventions.get(rule, 0) for rule in ("acceleration", "jerk")) > 0
    assert not any(bare.interventions.values())
    assert guarded.loop.states["NORMAL"] > 0.8 * guarded.loop.ticks


def test_controls_do_what_they_say():
    blank, swapped, blind = (fly(case(control=one)) for one in (BLANK_INSTRUCTION, SWAPPED, BLANK_CAMERA))
    assert blank.spoken == "" and not blank.success and blank.loop.states["NORMAL"] > 100  # it listens, and stays
    assert swapped.swapped_success and swapped.outcome == "wrong_target"
    assert not blind.success


def test_done_is_noted_beside_the_truth_of_its_frame():
    episode = fly(case(1), latency_s=0.1)
    (claim_step, text), (truth_step, _) = episode.claims[0], episode.truths[0]
    assert text == episode.instruction and abs(claim_step - truth_step) <= 8
    late = [p for p in episode.predictions if p.step and abs(p.progress - p.true_progress) > 0.1]
    assert not late  # the truth of the frame, not of the time of the answer


def test_long_instructions_are_stepped_through_by_a_planner_that_takes_its_time():
    episode = fly(case(0, kwargs={"subtasks": 2}, stepping=True), latency_s=0.1)
    assert episode.success and episode.finished_subtasks == 2 and episode.wrong_plans == 0
    assert [text for _, text in episode.plans][:2] == episode.instruction.split(", then ")
    assert episode.loop.states["HOLD"] > 0  # while there is nothing to do


def test_frames_are_kept_one_a_control_step():
    one = host()
    episode = one.fly(case(0, record=True, questions=2), Timing(RealTime, 0.1)).episode
    recording = one.frames()
    assert abs(len(recording.pixels) - episode.steps) <= 1
    assert len(recording.actions) == len(recording.pixels) - 1
    assert len(episode.asked) == 2


def landed(cases, workers):
    flown = []
    realtime.run(cases, policy=Simple(), workers=workers, timing=Timing(Overlap, 0.1), on_episode=flown.append)
    return flown


def test_a_crash_of_the_world_is_no_failure_and_the_rest_goes_on(workers):
    breaks = {"raise_seeds": [0, 1]}
    flown = landed([case(0, kwargs=breaks), case(1, kwargs=breaks), case(2), case(3)], workers)
    first, second, *rest = sorted(flown, key=lambda episode: episode.case.seed)
    assert first.outcome == second.outcome == "crash" and "the world breaks at seed 0" in first.crash
    assert all(episode.success for episode in rest)


def test_a_policy_that_fails_is_an_error_and_no_failed_episode(workers):
    with pytest.raises(PolicyFault, match="not finite"):
        landed([case(kwargs={"subtasks": 2})], workers)


def test_a_chunk_that_leaps_is_refused_and_the_episode_goes_on():
    class Leaping(GivenPolicy):
        leapt = 0

        def act(self, observations, given=None, given_steps=0):
            (chunk,) = super().act(observations, given, given_steps)
            if self.leapt < 2 and len(FakeTrial.last.infos) > 3:
                self.leapt += 1
                chunk.actions[7:, 0] += 100.0
            return [chunk]

    policy = Leaping()
    landing = host(policy).fly(case(), Timing(RealTime, 0.2))
    assert policy.leapt == 2 and landing.fault == "" and landing.episode.success
    assert np.abs(commands()).max() < 50


def test_earlier_frames_are_those_of_the_same_episode():
    policy = GivenPolicy()
    policy.history = History(frames=1)
    flying, remembered = host(policy), []
    for seed in range(2):
        flying.fly(case(seed), Timing(RealTime, 0.2))
        remembered.append(policy.recollection)
    assert all(remembered) and remembered[0] is not remembered[1]


def test_what_the_policy_cannot_do_is_refused_before_anything_moves():
    with pytest.raises(ValueError, match="strategy=rtc needs a policy that continues given steps"):
        fly(case(), RealTime, policy=WordPolicy())
