"""`vla deploy`: the shipped policy on the simulated robot, in virtual time as in evaluation, in real time as said."""

import json
from math import inf
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from arms import HZ, SEEING, Flight, Walker
from hydra.utils import instantiate
from omegaconf import OmegaConf

from envs.robots.twin import SteppedTwin
from tests.video.chat_server import serving
from vla.cli import run
from vla.control.clock import VirtualClock
from vla.control.deploy import check_contract, deploy
from vla.control.executor import Executor
from vla.control.guard import Guard
from vla.control.inference import Timed
from vla.control.logbook import Logbook
from vla.control.loop import Loop
from vla.control.steering import Verbatim
from vla.control.strategy import Overlap, RealTime, Sequential
from vla.model.checkpoint import load
from vla.model.glimpses import UNDO, mistakes
from vla.types import ContractError, Embodiment, Observation

SIZE = {"front": (128, 256), "wrist": (128, 128)}
TASK, SEED = "press the button", 7


@pytest.fixture(scope="module")
def policy():
    torch.set_num_threads(1)
    return load()


class Diary(SteppedTwin):
    """The twin that keeps what it was told."""

    def send_action(self, action):
        self.told = [*getattr(self, "told", []), action]
        super().send_action(action)


def flown(folder, policy, hz, strategy, seconds, latency_s=0.0, **guard):
    """Run the policy on the twin in virtual time; return the commands, the summary and the executor."""
    clock = VirtualClock()
    twin = Diary(clock.now, hz, SEED, TASK, camera_hz=100.0, image_size=SIZE, randomize=False)
    body = Embodiment.from_dict(twin.embodiment())
    check_contract(policy, body, strategy)
    book, executor = Logbook(folder, body, TASK, hz, patient=True), Executor(strategy, body)
    loop = Loop(
        robot=twin,
        guard=Guard(body, hz, hardware=False, **guard),
        executor=executor,
        inference=Timed(policy, clock, latency_s),
        steering=Verbatim(),
        clock=clock,
        logbook=book,
        instruction=TASK,
    )
    summary = loop.run(seconds)
    book.close({"success": twin.truth()["is_success"]})
    twin.close()
    return np.array(twin.told), summary, executor


def test_at_ten_hertz_without_delay_the_loop_does_what_evaluation_does(policy, tmp_path):
    env = gymnasium.make(
        "envs:tabletop/PressButton-v0", cameras=list(SIZE), image_size=SIZE, randomize=False, disable_env_checker=True
    )
    observation, _ = env.reset(seed=SEED, options={"instruction": TASK})
    seen, expected = Observation.from_gym(observation, TASK, 0.0), []
    env.step(observation["agent_pos"])  # the tick in which the guard engages
    for _ in range(3):
        (chunk,) = policy.act([seen])
        for action in chunk.actions[:3]:
            expected.append(action)
            observation, *_ = env.step(action)
        seen = Observation.from_gym(observation, TASK, 0.0)
    env.close()
    told, summary, _ = flown(tmp_path, policy, 10.0, Sequential(replan_steps=3), 1.0, mode="off")
    np.testing.assert_allclose(told[1:10], expected, atol=2e-5)
    assert summary.states["DEGRADED"] == summary.ticks - summary.states["HOLD"]  # the guard that is off says so


def test_with_delay_and_guard_the_arm_goes_where_the_policy_wants(policy, tmp_path):
    told, summary, executor = flown(tmp_path, policy, 50.0, RealTime(), 3.0, latency_s=0.2)
    assert np.ptp(told, axis=0).max() > 0.1
    assert summary.missed == 0 and summary.idle_ticks <= 1
    assert executor.counts["unforeseen"] == 0 and executor.counts["chunks"] > 6
    assert max(seam.position for seam in executor.seams) < 1e-9
    velocity = np.diff(told, axis=0) * 50
    assert (np.abs(velocity) <= np.array([4.7] * 5 + [2.45]) + 1e-6).all()


def test_given_steps_come_back_as_they_were(policy):
    twin = SteppedTwin(lambda: 0.0, 50.0, SEED, TASK, image_size=SIZE, randomize=False)
    images = {name: camera.latest().image for name, camera in twin.cameras.items()}
    seen = Observation(images, twin.read_joints().joints, TASK, 0.0)
    twin.close()
    (free,) = policy.act([seen])
    given = free.actions[None, :2] - 0.02
    (chunk,) = policy.act([seen], given=given, given_steps=2)
    np.testing.assert_allclose(chunk.actions[:2], given[0], atol=1e-5)
    assert np.abs(chunk.actions[2:] - free.actions[2:]).max() > 1e-4  # it continues them


def test_the_shipped_policy_knows_its_front_camera(policy):
    env = gymnasium.make("envs:tabletop/Pick-v0", image_size=SIZE, randomize=False)
    image = env.reset(seed=SEED)[0]["pixels"]["front"]
    env.close()
    assert not mistakes({"front": image}, policy.glimpses)
    for what, undo in UNDO.items():
        assert mistakes({"front": np.ascontiguousarray(undo(image))}, policy.glimpses) == {"front": what}


def test_the_shipped_policy_knows_every_word_that_it_is_told_and_asked_in_long_instructions(policy):
    grammar = instantiate(OmegaConf.load("configs/skills/tabletop.yaml"))
    assert not {word for skill in grammar for word in policy.unknown_words(f"{skill.text} {skill.check}")}


def test_another_body_is_refused_before_anything_moves(policy):
    with pytest.raises(ContractError, match="joints"):
        check_contract(policy, SEEING, RealTime())
    with pytest.raises(ContractError, match="control_hz"):
        slower = Embodiment.from_dict(SEEING.to_dict() | {"control_hz": 5.0})
        check_contract(Walker(), slower, RealTime())


def test_real_time_chunking_needs_a_policy_that_continues(tmp_path):
    class Plain:
        embodiment = SEEING

        def act(self, observations):
            return Flight(tmp_path).policy.act(observations)

    with pytest.raises(ValueError, match=r"strategy=rtc needs .* possible: sequential, ensemble, overlap"):
        check_contract(Plain(), SEEING, RealTime())
    check_contract(Plain(), SEEING, Overlap())


def test_guidance_is_asked_of_the_policy_and_refused_where_it_cannot_be_had(tmp_path):
    policy, asked = Flight(tmp_path).policy, []
    check_contract(policy, SEEING, RealTime())
    with pytest.raises(ValueError, match="needs the checkpoint itself"):
        check_contract(policy, SEEING, RealTime(guidance="identity"))
    policy.guide = asked.append
    for guidance in ("jacobian", None):
        check_contract(policy, SEEING, RealTime(guidance=guidance))
    assert asked == ["jacobian", None]


def test_the_verb_runs_the_twin_in_real_time(tmp_path, monkeypatch):
    """How well it keeps time depends on the machine; that it runs, records and tells does not."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    words = ["deploy", "robot=sim", f"instruction={TASK}", "seconds=3", "latency_ms=50", f"out={tmp_path}"]
    assert run(words) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"success", "ticks", "missed", "interventions", "states", "events", "episode"} <= set(result)
    assert 0 < result["ticks"] <= 50 * (3 + 4)
    assert result["missed"] >= 0
    assert "end" not in result["interventions"]  # that the time was over is no rule of the guard
    assert sum(result["states"].values()) == result["ticks"]
    assert result["recording_fault"] is None
    assert {"engage", "end"} <= {event["event"] for event in result["events"]}
    assert (tmp_path / "dataset" / "meta" / "info.json").exists()


@pytest.mark.parametrize(("word", "seconds"), [("null", inf), ("2.5", 2.5)])
def test_it_runs_for_as_long_as_it_is_told(tmp_path, monkeypatch, word, seconds):
    told = []

    def deploy(*_, seconds, **__):
        told.append(seconds)
        raise ValueError("enough")

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("vla.control.deploy.deploy", deploy)
    monkeypatch.setattr("envs.robots.twin.Twin", lambda **_: SimpleNamespace(close=lambda: None))
    assert run(["deploy", f"seconds={word}", f"out={tmp_path}"]) == 1
    assert told == [seconds]


class UntilAsked(Loop):
    """Ends when the controller gets the words of the test's task."""

    def tick(self, due_s):
        status = super().tick(due_s)
        if self.latest and self.latest.text == TASK:
            self.stop("the words came through")
        return status


def test_an_endpoint_says_what_to_do_about_words_that_the_policy_does_not_know(tmp_path, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("vla.control.deploy.Loop", UntilAsked)
    with serving("Press the button.") as server:
        words = ["instruction=Make the table glow!", f"robot.connect.instruction={TASK}"]
        chat = ["planner=chat", f"planner.url={server.url}", "planner.model=any"]
        assert run(["deploy", *words, *chat, "seconds=60", f"out={tmp_path}"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ended"] == "the words came through"
    assert [event["text"] for event in result["events"] if event["event"] == "plan"] == [TASK]
    (asked,) = server.asked
    assert "Instruction: make the table glow" in asked[1]["messages"][1]["content"][0]["text"]


@pytest.fixture
def nobody(monkeypatch):
    """Run the verb up to the loop; the list holds what it was to carry out."""
    told = []

    def deploy(*_, instruction, steering, **__):
        told.append((instruction, steering.hierarchy.instruction))
        raise ValueError("enough")

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("vla.control.deploy.deploy", deploy)
    monkeypatch.setattr("envs.robots.twin.Twin", lambda **_: SimpleNamespace(close=lambda: None))
    return told


def test_words_are_tidied_before_the_policy_reads_them(tmp_path, nobody):
    assert run(["deploy", "instruction=  Press the  button. ", f"out={tmp_path}"]) == 1
    assert nobody == [(TASK, TASK)]


@pytest.mark.parametrize(
    ("words", "answer"),
    [("fold the red towel", "does not know “fold”, “towel”"), (" .", "no words"), ("null", "no words")],
)
def test_words_that_the_policy_does_not_know_are_refused_on_any_robot(tmp_path, nobody, capsys, words, answer):
    assert run(["deploy", f"instruction={words}", f"out={tmp_path}"]) == 1
    assert answer in capsys.readouterr().err and not nobody


def test_what_a_robot_did_that_has_failed_is_reported(tmp_path, monkeypatch):
    flight = Flight(tmp_path / "unused")
    monkeypatch.setattr(flight.arm, "truth", broken)
    settings = {"instruction": "up", "strategy": Overlap(), "hz": HZ, "latency_s": 0.0, "guard": {"hardware": False}}
    result = deploy(flight.arm, Walker(), seconds=0.5, out=tmp_path / "run", clock=flight.clock, **settings)
    flight.logbook.close({"success": False})
    assert not result["success"] and result["ticks"] >= 25


def broken():
    raise OSError("the process has ended")


@pytest.mark.parametrize("word", ["robot=so200", "strategy=best"])
def test_what_is_not_there_is_answered_with_what_is(tmp_path, word, capsys, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert run(["deploy", word, "seconds=1", f"out={tmp_path}"]) != 0
    assert "possible" in capsys.readouterr().err
