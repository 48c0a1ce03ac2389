"""A policy drives in stretches of demonstrations: what it did is kept, what the expert would do is taught."""

import functools
from dataclasses import replace

import numpy as np
import point_world
import pytest
from test_collect import demonstrator

from vla.data.collect import collect
from vla.data.dataset import EpisodeDataset
from vla.data.rollin import BACK, DRIVES, EXECUTED, OFF, SHARE, STAY, RollIn
from vla.types import READY, ActionChunk, Embodiment, Observation

LIMIT = 60  # control steps of an episode of the point world


class Retreating:
    """A policy that goes back by 0.05 in each step."""

    def __init__(self, body="fake", heard=None):
        self.body, self.heard = body, heard if heard is not None else []
        self.history, self.back_after = None, None

    def check(self, embodiment: Embodiment) -> None:
        if embodiment.name != self.body:
            raise ValueError(f"the policy was trained for {self.body}, this is {embodiment.name}")

    def act(self, observations):
        self.heard += [observation.instruction for observation in observations]
        done = 1.0 if self.heard.count(READY) == self.back_after else None
        start = observations[0].state[0]
        actions = np.array([[start - 0.05 * step, 0] for step in range(1, 17)], np.float32)
        return [ActionChunk(actions, dt_s=0.1, time_s=0.0, done=done)]


def driven(root, workers=1, policy=Retreating, **changes):
    recording = demonstrator(policy="retreating", noise=0.0, **changes)
    recording.load_policy = policy
    return collect(recording, root, episodes=8, workers=workers)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("rollin") / "dataset"
    driven(root)
    return EpisodeDataset(root)


def test_where_the_policy_drives_its_targets_are_executed_and_the_experts_are_the_labels(dataset):
    state, action, executed = (dataset.column(name)[:, 0] for name in ("observation.state", "action", "executed"))
    by_policy = np.asarray(dataset.column("rollin"), bool)
    assert 0.2 < by_policy.mean() < 0.9
    np.testing.assert_allclose(action, np.minimum(state + 0.2, 1), atol=1e-6)
    np.testing.assert_allclose(executed[~by_policy], action[~by_policy], atol=1e-6)
    assert (executed[by_policy] < state[by_policy]).all()
    assert not np.asarray(dataset.column("perturbed"))[by_policy].any()
    inside = np.asarray(dataset.column("frame_index"))[1:] > 0
    np.testing.assert_allclose(state[1:][inside], executed[:-1][inside], atol=1e-6)


def test_every_episode_begins_with_the_policy_and_ends_with_the_expert(dataset):
    by_policy = np.asarray(dataset.column("rollin"), bool)
    for episode in dataset.episodes:
        rows = by_policy[episode.start : episode.start + episode.length]
        assert rows[: DRIVES[0]].all() and not rows[int(SHARE * LIMIT) :].any() and not rows[-10:].any()


def test_number_of_workers_does_not_change_what_the_policy_does(dataset, tmp_path):
    driven(tmp_path / "dataset", workers=2)
    assert EpisodeDataset(tmp_path / "dataset").hash == dataset.hash


def test_it_is_asked_with_the_operators_words_in_some_episodes_and_the_planners_in_others():
    heard = set()
    for seed in range(20):
        said = []
        rollin = RollIn(Retreating(heard=said), seed, LIMIT)
        world = point_world.FakeWorld()
        observation, info = world.reset(seed=seed)
        for _ in range(DRIVES[0]):
            assert rollin.act(observation, info) is not None
        assert len(set(said)) == 1 and len(said) == -(-DRIVES[0] // EXECUTED)
        heard.add(said[0])
    assert heard == {"long it", "please long it"}


def test_between_two_subtasks_it_mostly_returns_to_the_ready_pose_if_it_knows_one():
    backs = []
    for seed in range(40):
        for knows, back_after in ((True, None), (True, 4), (False, None)):
            said = []
            policy = Retreating(heard=said)
            policy.ready, policy.back_after = np.zeros(2) if knows else None, back_after
            rollin, world = RollIn(policy, seed, 10 * LIMIT), point_world.FakeWorld()
            observation, info = world.reset(seed=seed)
            for step in range(100):
                rollin.act(observation, info | {"subtask": info["subtask"] | {"index": step // 50}})
            assert said.count(READY) <= (back_after + 2 if back_after else 20) and (knows or READY not in said)
            if knows and not back_after:
                backs.append(said.count(READY) * EXECUTED)
    assert 20 < np.count_nonzero(backs) < 36
    assert all(steps == 0 or BACK[1] <= steps < 1.3 * BACK[1] for steps in backs)  # a border of stretches asks anew


class Believing(Retreating):
    """A policy that believes to be done whatever it is told to do, and is at its ready pose at once."""

    ready = np.zeros(2)

    def act(self, observations):
        return [replace(chunk, done=0.9) for chunk in super().act(observations)]


@pytest.mark.parametrize(
    ("by_subtask", "count", "progress", "backs"),
    [(True, 3, 0.5, True), (False, 1, 0.5, True), (False, 3, 0.5, False), (True, 3, 1.0, False)],
)
def test_it_steps_back_where_it_believes_to_be_done_with_a_step_and_is_not(by_subtask, count, progress, backs):
    stays = []
    for seed in range(40):
        said = []
        rollin, world = RollIn(Believing(heard=said), seed, 10 * LIMIT), point_world.FakeWorld()
        rollin._by_subtask, rollin._border = by_subtask, LIMIT
        observation, info = world.reset(seed=seed)
        info["subtask"] |= {"count": count, "progress": progress}
        for _ in range(2 * EXECUTED + STAY + 1):
            assert rollin.act(observation, info) is not None
        stays.append(said.count(READY))
    assert not any(stays) if not backs else 20 < np.count_nonzero(stays) < 36 and max(stays) == STAY // EXECUTED


def test_in_some_stretches_all_targets_are_off_by_the_same_and_the_gripper_never_is():
    offs = []
    for seed in range(200):
        rollin, world = RollIn(Retreating(), seed, 10 * LIMIT), point_world.FakeWorld()
        observation, info = world.reset(seed=seed)
        steps = np.array([rollin.act(observation, info) for _ in range(DRIVES[0])])
        off = steps[:EXECUTED] - Retreating().act([Observation.from_gym(observation, "", 0.0)])[0].actions[:EXECUTED]
        np.testing.assert_allclose(off - off[0], 0, atol=1e-6)
        assert (off[:, -1] == 0).all()
        offs.append(off[0, 0])
    offs, (share, spread) = np.array(offs), OFF
    assert abs((offs != 0).mean() - share) < 0.1 and abs(offs[offs != 0].std() - spread) < 0.3 * spread


def test_a_policy_of_another_body_or_with_a_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="trained for other, this is fake"):
        driven(tmp_path / "other", policy=functools.partial(Retreating, body="other"))
    remembering = Retreating()
    remembering.history = object()
    with pytest.raises(ValueError, match="reads earlier frames"):
        driven(tmp_path / "memory", policy=lambda: remembering)


def test_without_a_policy_nothing_is_said_of_it(tmp_path):
    collect(demonstrator(), tmp_path / "dataset", episodes=1, workers=1)
    assert "rollin" not in EpisodeDataset(tmp_path / "dataset").features
