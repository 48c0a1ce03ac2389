"""An operator records several episodes into one dataset, by hand or beside a policy; what is kept is what was meant."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from arms import HZ, SEEING, Arm, Walker
from drive import MIDDLE

from tests.control.browser import CHROMIUM, Browser
from tests.train.conftest import run as train
from vla.bench.guard import shares_of_limits
from vla.cli import run
from vla.control import logbook
from vla.control.clock import VirtualClock
from vla.control.deploy import open_page
from vla.control.inference import Timed
from vla.control.record import Driver, RecordingError, record, scene_seed
from vla.control.replay import Recording
from vla.data.dataset import EpisodeDataset
from vla.train.batches import Labels


class Desk:
    """Connects arms in virtual time, and does at given times of each what an operator does on the page."""

    def __init__(self, *scripts, clock=None):
        self.scripts, self.clock = list(scripts), clock or VirtualClock(100.0)
        self.takes, self.arms, self.seeds, self.replies, self.phases = None, [], [], [], []

    def page(self, takes, body):
        self.takes = takes
        return nullcontext()

    def connect(self, seed):
        script, since_s = list(self.scripts.pop(0)) if self.scripts else [], self.clock.now()

        def trouble(name):
            if name != "read" or self.takes is None or self.takes.phase == "reset":
                return
            self.phases.append(self.takes.phase)
            while script and script[0][0] <= self.clock.now() - since_s:
                _, what, *words = script.pop(0)
                self.replies.append(getattr(self.takes, what)(*words))

        self.seeds.append(seed)
        self.arms.append(Arm(self.clock, trouble))
        return self.arms[-1]

    def record(self, out, episodes, **more):
        settings = {"instruction": "up", "hz": HZ, "seconds": 60.0, "guard": {"hardware": False}, "page": self.page}
        think = {"clock": self.clock, "think": lambda policy, clock: Timed(policy, clock, 0.1), "patient": True}
        return record(self.connect, episodes=episodes, out=out, **settings | think | more)


def driven(verdict, height=0.1, count=10):
    """Start after a second, lift the arm by so many steps, and end with a verdict."""
    jogs = [(2.0 + 0.1 * number, "jog", 0, height) for number in range(count)]
    return [(1.0, "take", "start"), *jogs, (4.5, "take", verdict)]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Two episodes that were kept and one that was not."""
    out = tmp_path_factory.mktemp("session")
    desk = Desk(driven("success"), driven("discard", -0.1), driven("failure", -0.05))
    return desk, desk.record(out, 2), EpisodeDataset(out / "dataset")


def rows(dataset, number, column):
    episode = dataset.episodes[number]
    return np.asarray(dataset.column(column)[episode.start : episode.start + episode.length])


def test_what_was_kept_is_one_dataset_of_what_the_operator_drove(session):
    desk, result, dataset = session
    assert set(desk.replies) <= {"", None}
    assert result["episodes"] == len(dataset.episodes) == 2 and result["discarded"] == 1 and result["successes"] == 1
    assert [episode.extra["success"] for episode in dataset.episodes] == [True, False]
    assert rows(dataset, 0, "observation.state")[-1, 0] == pytest.approx(1.0, abs=0.05)
    assert rows(dataset, 1, "observation.state")[-1, 0] == pytest.approx(-0.5, abs=0.05)
    assert [episode.length for episode in dataset.episodes] == pytest.approx([35, 35], abs=2)  # of 3.5 s at 10 Hz
    assert set(dataset.column("task")) == set(dataset.column("subtask")) == {"up"}


def test_a_discarded_scene_comes_again_and_no_evaluation_has_it(session):
    desk, _, dataset = session
    assert desk.seeds == [scene_seed(0, 0), scene_seed(0, 1), scene_seed(0, 1)] and min(desk.seeds) >= 2**31
    assert [episode.extra["seed"] for episode in dataset.episodes] == desk.seeds[:2]
    assert Recording.read(dataset.root, 1).seed == desk.seeds[1]


def test_actions_are_the_commands_that_passed_the_guard(session):
    desk, _, dataset = session
    for arm in desk.arms:
        path = np.array([MIDDLE, *(command for _, command in arm.sent)])
        assert max(share.max() for share in shares_of_limits(path, SEEING, HZ).values()) <= 1 + 1e-9
        assert np.ptp(path[-5:], axis=0).max() < 1e-9  # it ended at rest
    sent = np.array([command for _, command in desk.arms[0].sent], np.float32)
    assert all(np.isclose(sent, action, atol=1e-6).all(axis=1).any() for action in rows(dataset, 0, "action"))
    assert np.abs(np.diff(rows(dataset, 0, "since_s")) - 0.1).max() < 1e-6


def test_training_takes_it_as_it_is_and_learns_what_succeeded(session, tmp_path):
    dataset = session[2]
    progress, done = rows(dataset, 0, "progress"), rows(dataset, 0, "done")
    assert progress[0] == 0 and (np.diff(progress) >= 0).all() and done.sum() == 5 and (progress[done] == 1).all()
    assert not rows(dataset, 1, "done").any()
    shown = Labels.read(dataset).shown
    first = dataset.episodes[0].length
    assert shown is not None and shown[5:first].all() and not shown[first:].any()
    small = ["~model.cameras.wrist", "steps=2", "save_every=2", "warmup_steps=1"]
    result = train(dataset, tmp_path, *small)
    assert result["steps"] == 2 and np.isfinite(result["loss"])


def test_beside_a_policy_frames_tell_who_drove(tmp_path):
    jogs = [(3.0 + 0.1 * number, "jog", 0, -0.1) for number in range(5)]
    script = [
        (1.0, "take", "start"),
        (2.5, "takeover", True),
        *jogs,
        (5.0, "takeover", False),
        (8.0, "take", "success"),
    ]
    desk, policy = Desk(script), Walker()
    result = desk.record(tmp_path, 1, policy=Driver(policy, "walker"))
    assert min(seen.time_s for seen in policy.seen) > 100.9  # not before the episode was started
    dataset = EpisodeDataset(tmp_path / "dataset")
    by_hand, height = dataset.column("intervention"), dataset.column("observation.state")[:, 0]
    (changes,) = np.nonzero(np.diff(by_hand))
    assert changes == pytest.approx([14, 39], abs=2)  # of 1.5 to 4 s after the start
    assert result["by_hand"] == pytest.approx(by_hand.mean()) and dataset.info["vla"]["record"]["policy"] == "walker"
    assert height[changes[1]] < height[changes[0]] - 0.4 and height[-1] == pytest.approx(1.2, abs=0.05)
    labels = Labels.read(dataset)
    np.testing.assert_array_equal(labels.shown, by_hand)
    ends = labels.subtask_end[by_hand]
    assert (ends == changes[1] + 1).all()  # no target of the policy is learnt as the human's


def test_words_and_orders_that_do_not_fit_are_answered(tmp_path):
    script = [(0.5, "take", "success"), (0.6, "instruct", "down"), (1.0, "take", "start"), (1.1, "take", "start")]
    desk = Desk([*script, (1.2, "take", "dance"), (2.5, "take", "success"), (2.5, "take", "failure")])
    desk.record(tmp_path, 1)
    early, words, started, again, unknown, ended, late = desk.replies
    assert "no episode has been started" in early and "one instruction" in words and "already" in again
    assert "possible: start, success, failure, discard" in unknown and "wait" in late and (started, ended) == ("", "")


def test_when_the_time_is_over_recording_pauses_until_somebody_says_how_it_went(tmp_path):
    desk = Desk([(1.0, "take", "start"), (9.0, "take", "success")])
    assert desk.record(tmp_path, 1, seconds=2.0)["frames"] == pytest.approx(20, abs=2)
    assert desk.phases.count("judging") / HZ == pytest.approx(6.0, abs=0.2)


def test_the_same_command_goes_on_and_counts_what_is_there(session, tmp_path):
    first, second = Desk(driven("success")), Desk(driven("success"))
    assert first.record(tmp_path, 1)["episodes"] == 1
    assert second.record(tmp_path, 2)["episodes"] == 2 and second.seeds == [scene_seed(0, 1)]
    with pytest.raises(ValueError, match="begun with other settings"):
        Desk().record(tmp_path, 3, policy=Driver(Walker(), "walker"))


def _killed(out):
    desk = Desk(driven("success"), [*driven("success")[:6], (2.9, "kill")])
    desk.record(out, 2, page=lambda takes, body: _armed(desk, takes))


def _armed(desk, takes):
    takes.kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    return desk.page(takes, None)


def test_a_kill_costs_the_present_episode_only(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    desk = Desk(driven("failure"))
    result = desk.record(tmp_path, 2)
    assert result["episodes"] == 2 and result["successes"] == 1 and desk.seeds == [scene_seed(0, 1)]


def test_a_disk_that_fails_is_told_and_what_was_saved_is_safe(tmp_path, monkeypatch):
    add = logbook.EpisodeRecorder.add

    def full(self, frame, task):
        if self.episode_index == 1 and self.length == 10:
            raise OSError(28, "No space left on device")
        add(self, frame, task)

    monkeypatch.setattr(logbook.EpisodeRecorder, "add", full)
    with pytest.raises(RecordingError, match=r"No space left.* safe \(1 episodes in .*\): make room"):
        Desk(driven("success"), driven("success")).record(tmp_path, 3)
    monkeypatch.undo()
    desk = Desk(driven("success"))
    assert desk.record(tmp_path, 2)["episodes"] == 2 and desk.seeds == [scene_seed(0, 1)]


def test_on_a_disk_that_is_nearly_full_the_episode_ends_and_can_be_kept(tmp_path, monkeypatch):
    add = logbook.EpisodeRecorder.add

    def nearly(self, frame, task):
        add(self, frame, task)
        monkeypatch.setattr(logbook, "ROOM_BYTES", 2**80 if self.length == 10 else 0)

    monkeypatch.setattr(logbook, "LOOK_EVERY", 1)
    monkeypatch.setattr(logbook.EpisodeRecorder, "add", nearly)
    with pytest.raises(RecordingError, match=r"are free in .* safe \(1 episodes"):
        Desk([(1.0, "take", "start"), (5.0, "take", "success")]).record(tmp_path, 3)
    monkeypatch.undo()
    assert Desk(driven("success")).record(tmp_path, 2)["frames"] == pytest.approx(10 + 35, abs=3)


class Paced(VirtualClock):
    """Stands still while the machine is busy, and else goes on about as fast as time: no tick is ever late."""

    def sleep_until(self, t_s):
        time.sleep(max(t_s - self.now(), 0.0) / 2)
        super().sleep_until(t_s)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_an_operator_records_by_clicking_and_by_keys(tmp_path):
    desk, opened, failed = Desk(clock=Paced(100.0)), threading.Event(), []
    phase = "document.getElementById('phase').textContent"

    @contextmanager
    def page(takes, body):
        with open_page("127.0.0.1", 0, takes, body) as served:
            desk.address = served.address
            opened.set()
            thread.start()
            yield served
            thread.join(120)

    def drive(browser, key, times):
        browser.wait("document.getElementById('state').textContent === 'NORMAL'")
        for _ in range(times):
            browser.press(key)
            time.sleep(0.15)

    def operate():
        try:
            with Browser(desk.address) as browser:
                browser.wait(f"{phase} === 'Ready when you are' && !document.getElementById('start').disabled")
                browser.screenshot(pictures / "record-ready.png")
                browser.click("#start")
                drive(browser, "q", 6)
                browser.screenshot(pictures / "record.png")
                browser.click("#success")
                browser.wait(f"{phase} === 'Ready when you are' && !document.getElementById('start').disabled")
                browser.press("ArrowRight")
                drive(browser, "a", 3)
                browser.press("ArrowLeft")
                browser.wait("document.getElementById('count').textContent === '1 of 2, 1 discarded'")
                browser.wait(f"{phase} === 'Ready when you are' && !document.getElementById('start').disabled")
                browser.press("ArrowRight")
                drive(browser, "a", 6)
                browser.press("ArrowDown")
                end = time.monotonic() + 60
                while desk.takes_seen.saved < 2 and time.monotonic() < end:
                    time.sleep(0.05)
        except Exception as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    def remember(takes, body):
        desk.takes_seen = takes
        return page(takes, body)

    pictures = Path(os.environ.get("VLA_PICTURES", tmp_path))
    thread = threading.Thread(target=operate)
    result = desk.record(tmp_path / "out", 2, page=remember)
    assert not failed and result["episodes"] == 2 and result["discarded"] == 1 and result["successes"] == 1
    dataset = EpisodeDataset(tmp_path / "out/dataset")
    first, second = (rows(dataset, number, "observation.state")[-1, 0] for number in (0, 1))
    assert first == pytest.approx(0.3, abs=0.06) and second == pytest.approx(-0.3, abs=0.06)
    assert dataset.column("intervention").mean() > 0.9 and len(desk.seeds) == 3


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["instruction=null"], "no words"),
        (["robot.hardware=true"], "a real arm is not moved by keyboard"),
        (["checkpoint=nano", "instruction=fold the towel"], "does not know “fold”, “towel”"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_there_is_a_robot(tmp_path, monkeypatch, capsys, words, answer):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("envs.robots.twin.Twin", lambda **_: pytest.fail("a robot was made"))
    assert run(["record", *words, f"out={tmp_path}"]) == 1
    assert answer in capsys.readouterr().err


def test_the_verb_records_and_tells_what_there_is(tmp_path, monkeypatch, capsys):
    desk = Desk(driven("success"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("vla.control.record.RealClock", lambda: desk.clock)
    monkeypatch.setattr("vla.control.record.open_page", lambda host, port, takes, body: desk.page(takes, body))
    monkeypatch.setattr("envs.robots.twin.Twin", lambda seed, **_: desk.connect(seed))
    words = ["instruction=Lift the arm!", "episodes=1", "seed=7", "robot.collides=null", f"out={tmp_path}"]
    assert run(["record", *words]) == 0
    assert "1 episodes, 1 of them successes" in capsys.readouterr().out
    assert EpisodeDataset(tmp_path / "dataset").tasks == {"lift the arm": 0} and desk.seeds == [scene_seed(7, 0)]
