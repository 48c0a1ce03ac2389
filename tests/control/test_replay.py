"""A recorded episode drives the arm again, through the loop and the guard that any policy has, or is refused."""

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from arms import HZ, SEEING, Flight
from drive import MIDDLE

from envs.robots.trial import Trial
from envs.tabletop.collision import Collision
from envs.tabletop.expert import Expert
from vla.bench.guard import shares_of_limits
from vla.cli import run
from vla.control.clock import VirtualClock
from vla.control.deploy import check_contract
from vla.control.executor import Executor
from vla.control.guard import Guard
from vla.control.inference import Timed
from vla.control.logbook import Logbook
from vla.control.loop import Loop
from vla.control.replay import Recording, Replay, _names, present_joints
from vla.data.collect import collect
from vla.data.demonstration import Demonstrator, Settings
from vla.types import ContractError, Embodiment

SMALL = {"front": [48, 96], "wrist": [48, 48]}


@pytest.fixture(scope="module")
def run_of_4_s(tmp_path_factory):
    """The dataset of a run in which a policy has gone up."""
    out = tmp_path_factory.mktemp("run")
    Flight(out, instruction="up").run(4.0)
    return out / "dataset"


def replaying(folder, recording, **parts):
    """Return a flight that replays a recording, and the replay."""
    policy = Replay(recording, SEEING)
    flight = Flight(folder, policy=policy, steering=policy, strategy=policy.playback, instruction="up", **parts)
    policy.finish = lambda: flight.loop.stop("replayed")
    return flight, policy


def lag(policy):
    """Return how far the lift was at most from where it had been [rad]."""
    followed = policy.followed()
    assert followed is not None
    return followed["lift"]["max"]


def test_a_run_is_driven_again_and_ends_at_rest_when_the_recording_does(run_of_4_s, tmp_path):
    recording = Recording.read(run_of_4_s, 0)
    flight, policy = replaying(tmp_path, recording)
    summary = flight.run(60.0)
    assert summary.ended == "replayed" and summary.ticks / HZ == pytest.approx(recording.seconds, abs=1.0)
    assert flight.arm.joints == pytest.approx(recording.actions[-1], abs=0.01)
    followed = policy.followed()
    assert followed and followed.keys() == set(SEEING.joints)
    assert 0 < followed["lift"]["mean"] <= followed["lift"]["max"] < 0.03
    assert np.ptp(flight.arm.heights()) > 1.0
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    assert max(share.max() for share in shares_of_limits(path, SEEING, HZ).values()) <= 1 + 1e-9
    assert np.ptp(flight.arm.heights()[-10:]) < 1e-9


def test_what_interrupts_it_delays_it_and_no_action_is_left_out(run_of_4_s, tmp_path):
    recording = Recording.read(run_of_4_s, 0)
    flight, policy = replaying(tmp_path, recording)
    flight.troubles["see"] = lambda since_s: 1.0 < since_s < 3.0  # no new frames
    summary = flight.run(60.0)
    assert "HOLD" in [state for _, state in flight.states()[:-1]] and len(policy.playback.stretches) == 2
    assert summary.ended == "replayed" and summary.ticks / HZ > recording.seconds + 1.0
    assert flight.arm.joints == pytest.approx(recording.actions[-1], abs=0.01)
    assert lag(policy) < 0.15
    path = np.array([MIDDLE, *(command for _, command in flight.arm.sent)])
    assert max(share.max() for share in shares_of_limits(path, SEEING, HZ).values()) <= 1 + 1e-9


def test_an_arm_that_does_not_go_along_is_told_by_how_much(run_of_4_s, tmp_path):
    flight, policy = replaying(tmp_path, Recording.read(run_of_4_s, 0))
    send = flight.arm.send_action
    flight.arm.send_action = lambda action: send(action * [0.9, 1.0])  # lifts a tenth less than it is told
    flight.run(60.0)
    assert lag(policy) == pytest.approx(0.12, abs=0.04)


def test_where_it_is_asked_for_an_arm_elsewhere_goes_there_slowly_first(run_of_4_s, tmp_path):
    recording = Recording.read(run_of_4_s, 0)
    flight, _ = replaying(tmp_path, recording, guard={"slow_approach": True})
    flight.arm.joints = np.array([-0.5, 0.5], np.float32)
    with pytest.raises(ContractError, match=r"off are lift by 0\.5.*at most guard\.engage_tol=0\.1"):
        recording.refuse_start(present_joints(flight.arm), 0.1)
    assert flight.run(60.0).ended == "replayed"
    speeds = np.abs(np.diff(flight.arm.heights())) * HZ
    met = int(np.argmax(flight.arm.heights() > recording.actions[0, 0] - 0.1))
    assert met / HZ > 1.0 and speeds[: met - 1].max() <= 0.25 + 1e-6
    assert flight.arm.joints == pytest.approx(recording.actions[-1], abs=0.01)


@pytest.fixture(scope="module")
def picked(tmp_path_factory):
    """A dataset of one pick by the expert, who stumbles on the way."""
    settings = Settings(
        ids={"default": "envs:tabletop/Mixed-v0"},
        env={"split": "train", "randomize": True, "image_size": SMALL},
        mix={"pick": 1},
        seed=3,
        noise=1.0,
        noise_level=1.0,
        vqa_stride=0,
        vqa_count=0,
        tail_frames=10,
        max_attempts=20,
    )
    root = tmp_path_factory.mktemp("picked") / "dataset"
    collect(Demonstrator(settings, Expert, "h264"), root, episodes=1, workers=1)
    return root


@pytest.mark.parametrize("same_scene", [True, False])
def test_a_demonstration_succeeds_again_in_its_own_scene_and_not_in_another(picked, tmp_path, same_scene):
    recording, clock = Recording.read(picked, 0), VirtualClock()
    assert recording.scene is not None
    scene = dict(recording.scene)
    env = gymnasium.make(scene["env_id"], disable_env_checker=True, **scene["kwargs"])
    robot = Trial(env, clock.now, HZ, scene["seed"] + (not same_scene), scene["options"])
    body = Embodiment.from_dict(robot.embodiment())
    recording.refuse_other(body)
    recording.refuse_start(present_joints(robot), 0.1 if same_scene else 1.0)
    policy = Replay(recording, body)
    check_contract(policy, body, policy.playback)
    book = Logbook(tmp_path, body, recording.task, HZ, patient=True)
    loop = Loop(
        robot=robot,
        guard=Guard(body, HZ, collides=Collision(), hardware=False, slow_approach=not same_scene),
        executor=Executor(policy.playback, body),
        inference=Timed(policy, clock),
        steering=policy,
        clock=clock,
        logbook=book,
        instruction=recording.task,
    )
    policy.finish = lambda: loop.stop("replayed")
    assert loop.run(60.0).ended == "replayed"
    book.close({"success": False})
    assert robot.truth()["is_success"] == same_scene
    env.close()
    followed = policy.followed()
    assert followed and max(joint["mean"] for joint in followed.values()) < (0.03 if same_scene else 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joints": ("gripper", "lift")}, r"joints: \('gripper', 'lift'\) recorded, \('lift', 'gripper'\) here"),
        ({"joints": ("lift",)}, "joints"),
        ({"fps": 30.0}, "control_hz: 30.0 recorded, 10.0 here"),
        ({"action_space": "delta_joint"}, "action_space: 'delta_joint' recorded"),
        ({"actions": np.array([[0.0, 0.5], [np.nan, 0.5]])}, "action 1 of lift: nan recorded, -1.5 .. 1.5 is possible"),
        ({"actions": np.array([[0.0, 50.0]])}, "action 0 of gripper: 50 recorded, 0 .. 1 is possible"),
        ({"actions": np.array([[0.0, 0.5], [1.4, 0.5]])}, "step 1 moves lift by 1.4, which no arm can do"),
    ],
)
def test_what_was_recorded_with_another_body_is_refused(run_of_4_s, change, words):
    recording = Recording.read(run_of_4_s, 0)
    recording.refuse_other(SEEING)
    with pytest.raises(ContractError, match=words):
        replace(recording, **change).refuse_other(SEEING)


@pytest.mark.parametrize(
    "names", [["lift.pos", "gripper.pos"], ["lift", "gripper"], {"motors": ["lift", "gripper"]}], ids=str
)
def test_joints_are_read_by_name_whoever_recorded_them(names):
    assert _names({"dtype": "float32", "shape": [2], "names": names}) == SEEING.joints
    assert _names({"dtype": "float32", "shape": [2], "names": None}) == ("0", "1")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["replay=NOWHERE"], "there is no such folder"),
        (["replay=RUN"], "it holds one: replay="),
        (["replay=RUN/dataset", "episode=4"], "has episodes 0 to 0"),
        (["replay=RUN/dataset", "checkpoint=nano"], "hears of no checkpoint"),
        (["replay=RUN/dataset", "policy=ws://127.0.0.1:9"], "hears of no policy"),
        (["replay=RUN/dataset", "planner=none"], "hears of no planner"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_there_is_a_robot(
    run_of_4_s, tmp_path, monkeypatch, capsys, words, answer
):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("envs.robots.twin.Twin", lambda **_: pytest.fail("a robot was made"))
    words = [word.replace("RUN", str(run_of_4_s.parent)) for word in words]
    assert run(["deploy", *words, f"out={tmp_path}"]) == 1
    assert answer in capsys.readouterr().err


@pytest.fixture
def virtual(tmp_path, monkeypatch):
    """Let the verb drive the small arm, in virtual time; returns the arm and what it was connected with."""
    flight = Flight(tmp_path / "unused")
    flight.logbook.close({"success": False})
    connected = {}
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("vla.control.deploy.RealClock", lambda: flight.clock)
    monkeypatch.setattr("envs.robots.twin.Twin", lambda **words: connected.update(words) or flight.arm)
    return flight.arm, connected


def test_the_verb_replays_and_tells_how_closely(run_of_4_s, tmp_path, virtual):
    arm, connected = virtual
    words = [f"replay={run_of_4_s}", "robot.collides=null", f"out={tmp_path / 'out'}"]
    assert run(["deploy", *words, "seed=12"]) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["ended"] == "replayed" and result["success"] and result["seed"] == connected["seed"] == 12
    assert connected["instruction"] == "up" and result["replay"] == str(run_of_4_s) and result["replayed_episode"] == 0
    assert set(result["followed"]) == set(SEEING.joints) and result["followed"]["lift"]["max"] < 0.1
    again = ["deploy", f"replay={tmp_path / 'out/dataset'}", "robot.collides=null", f"out={tmp_path / 'again'}"]
    arm.joints = np.array([-1.0, 0.5], np.float32)
    assert run(again) == 1
    assert not (tmp_path / "again/result.json").exists()
    arm.joints = np.array(MIDDLE, np.float32)
    assert run(again) == 0 and connected["seed"] == 12  # a run keeps the seed of its scene
