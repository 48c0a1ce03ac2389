"""Faults are injected by name and kind, off unless spelled out, never on hardware, and as told."""

import numpy as np
import pytest

from tests.control.arms import SEEING, Flight, Frame, Record, Walker
from tests.control.test_grammar import TABLETOP
from tests.control.test_planner import Eyes
from vla.bench.fault_driver import LaterThread
from vla.control.clock import VirtualClock
from vla.control.deploy import check_contract, deploy
from vla.control.executor import Question
from vla.control.faults.clock import FaultyClock
from vla.control.faults.injection import Injection
from vla.control.faults.planner import NONSENSE, FaultyPlanner
from vla.control.faults.schedule import POSSIBLE, Fault, Faults, Kind
from vla.control.hierarchy import Pacing
from vla.control.inference import Request, Timed, answer, takes_given
from vla.control.planner import PlannerError, PlanRequest, ScriptedPlanner
from vla.control.steering import Verbatim
from vla.control.stepping import Stepping
from vla.control.strategy import RealTime
from vla.control.supervisor import Supervisor
from vla.types import Observation

PICTURE = np.arange(32 * 48 * 3, dtype=np.uint8).reshape(32, 48, 3)


class Robot:
    """Where time is: the joints are the time, a new frame every 40 ms."""

    def __init__(self, clock):
        self.clock, self.sent, self.cameras, self.frame = clock, [], {"front": self, "wrist": self}, None

    def embodiment(self):
        return SEEING.to_dict()

    def read_joints(self):
        return Record(np.full(2, self.clock.now() - 100, np.float32), self.clock.now())

    def send_action(self, action):
        self.sent.append(action)

    def latest(self):
        if self.frame is None or self.clock.now() >= self.frame.time_s + 0.04 - 1e-9:
            self.frame = Frame(PICTURE, self.clock.now())
        return self.frame

    def truth(self):
        return None

    def close(self):
        pass


class Bench:
    """A robot with faults, tick by tick."""

    def __init__(self, *faults):
        self.clock = VirtualClock(100.0)
        self.robot = Robot(self.clock)
        self.policy = Walker()
        self.injection = Injection(faults, self.robot, self.policy, self.clock, hardware=False)

    def ticks(self, count, what):
        found = []
        for _ in range(count):
            try:
                found.append(what())
            except OSError as error:
                found.append(error)
            self.clock.advance(0.02)
        return found

    def ask(self):
        state = np.zeros(2, np.float32)
        observation = Observation({"front": PICTURE}, state, "up", self.clock.now())
        return Request(observation, Question(self.clock.now(), None, np.empty((0, 0))), self.clock.now())


def fault(name, kind, **what):
    return {"name": name, "kind": kind, "at_s": 0.1, "for_s": 0.2, **what}


def test_without_faults_every_part_is_as_it_was():
    bench = Bench()
    injection = bench.injection
    assert injection.robot is bench.robot and injection.policy is bench.policy and injection.clock is bench.clock
    inference = Timed(bench.policy, bench.clock)
    assert injection.inference(inference) is inference and injection.disk is None


def test_faults_are_refused_on_hardware():
    with pytest.raises(ValueError, match="in simulation only"):
        Faults([fault("bus", "off")], VirtualClock())
    assert not Faults([], VirtualClock())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (fault("wheel", "off"), "possible: camera, policy, planner, server, bus, clock, disk"),
        (fault("clock", "stuck"), "clock knows no fault 'stuck'; possible: ok, wrong, slow"),
        (fault("bus", "broken"), "bus knows no fault 'broken'"),
        (fault("policy", "wrong", how="inches"), "possible: degrees, permuted"),
        (fault("bus", "off", for_s=0), "for_s must be positive"),
        (fault("bus", False), "quotes"),
        (fault("bus", "off", when=3), "possible beside those: at_s, for_s, how, amount"),
        ({"name": "disk", "kind": "slow"}, "give for_s"),
        ("bus", "is no fault"),
    ],
)
def test_what_cannot_be_injected_is_refused_by_name(wrong, words):
    with pytest.raises(ValueError, match=words):
        Faults([wrong], VirtualClock(), hardware=False)


@pytest.mark.parametrize("part", POSSIBLE)
def test_a_fault_begins_and_ends_when_it_is_told_to_and_ok_ends_it(part):
    clock = VirtualClock(50.0)
    kind = next(kind for kind in POSSIBLE[part] if kind is not Kind.OK)
    faults = Faults([Fault(part, kind, 1.0, 2.0)], clock, hardware=False)
    seen = []
    for _ in range(5):
        seen.append(faults.of(part) is not None)
        clock.advance(0.8)
    assert seen == [False, False, True, True, False]
    faults.inject(part, kind)
    assert faults.of(part)
    faults.inject(part, "ok")
    assert faults.of(part) is None


def test_one_camera_fails_and_the_other_does_not():
    bench = Bench(fault("camera.front", "off"))
    cameras = bench.injection.robot.cameras
    front = {frame.time_s for frame in bench.ticks(20, cameras["front"].latest)}
    assert front and not any(100.1 <= time_s < 100.3 - 1e-9 for time_s in front)
    bench = Bench(fault("camera.front", "off"))
    assert len({frame.time_s for frame in bench.ticks(20, bench.injection.robot.cameras["wrist"].latest)}) == 10


def test_a_late_camera_shows_true_times_and_loses_nothing():
    bench = Bench(fault("camera", "delayed", at_s=0.0, amount=0.1, for_s=9.0))
    camera = bench.injection.robot.cameras["front"]
    ages = []
    for _ in range(50):
        frame = camera.latest()
        if frame is not None:
            ages.append(bench.clock.now() - frame.time_s)
        bench.clock.advance(0.02)
    assert min(ages) == pytest.approx(0.1) and max(ages) == pytest.approx(0.12)


def test_swapped_cameras_show_what_the_other_one_sees():
    bench = Bench()
    bench.robot.cameras["wrist"] = other = Robot(bench.clock)
    other.frame = Frame(PICTURE[::-1], 200.0)
    swapped = [fault("camera", "wrong", how="swapped")]
    injection = Injection(swapped, bench.robot, bench.policy, bench.clock, hardware=False)
    shown = bench.ticks(10, injection.robot.cameras["front"].latest)
    assert np.array_equal(shown[0].image, PICTURE) and np.array_equal(shown[-1].image, PICTURE[::-1])
    assert shown[-1].time_s < 101.0


@pytest.mark.parametrize(
    ("kind", "how", "check"),
    [
        ("stuck", "", lambda image: np.array_equal(image, PICTURE)),
        ("garbage", "dark", lambda image: not image.any()),
        ("garbage", "bright", lambda image: (image == 255).all()),
        ("garbage", "shape", lambda image: image.shape == (16, 48, 3)),
        ("wrong", "turned", lambda image: image.shape == (24, 16, 3)),
    ],
)
def test_pictures_are_spoiled_with_times_that_go_on(kind, how, check):
    bench = Bench(fault("camera", kind, how=how))
    shown = [f for f in bench.ticks(20, bench.injection.robot.cameras["front"].latest) if 100.1 <= f.time_s < 100.3]
    assert len({frame.time_s for frame in shown}) == 5 and all(check(frame.image) for frame in shown)


def test_a_bus_that_is_off_answers_nobody():
    bench = Bench(fault("bus", "off"))
    robot = bench.injection.robot
    assert [isinstance(one, OSError) for one in bench.ticks(20, robot.read_joints)] == [False] * 5 + [True] * 10 + [
        False
    ] * 5


@pytest.mark.parametrize("how", ["servo", "latched"])
def test_a_servo_that_shut_down_says_that_it_needs_a_human(how):
    bench = Bench(fault("bus", "wrong", how=how))
    errors = [one for one in bench.ticks(10, bench.injection.robot.read_joints) if isinstance(one, OSError)]
    assert [error.latched for error in errors] == [how == "latched"] * 5


@pytest.mark.parametrize(("number", "joint"), [(0, 0), (1, 0), (2, 1)])  # by default the first one
def test_a_blocked_joint_stays_and_the_others_move(number, joint):
    bench = Bench(fault("bus", "wrong", how="blocked", amount=number))
    for tick in range(20):
        bench.injection.robot.send_action(np.array([tick, tick]))
        bench.clock.advance(0.02)
    sent = np.array(bench.robot.sent)
    assert sent[:, 1 - joint].tolist() == list(range(20))
    assert sent[:, joint].tolist() == [*range(5), *[5] * 10, *range(15, 20)]


@pytest.mark.parametrize(("kind", "amount", "age_s"), [("stuck", 0, 0.2), ("delayed", 0.06, 0.06)])
def test_old_replies_have_their_old_times(kind, amount, age_s):
    bench = Bench(fault("bus", kind, amount=amount, for_s=0.21))
    robot, ages = bench.injection.robot, []
    for _ in range(16):
        ages.append(bench.clock.now() - robot.read_joints().time_s)
        bench.clock.advance(0.02)
    assert max(ages) == pytest.approx(age_s)


def test_a_slow_bus_takes_its_time():
    bench = Bench(fault("bus", "slow", at_s=0.0, amount=0.07))
    bench.injection.robot.read_joints()
    assert bench.clock.now() == pytest.approx(100.07)


@pytest.mark.parametrize(
    ("kind", "how", "words"),
    [
        ("off", "", "MemoryError"),
        ("garbage", "object", "not with one chunk"),
        ("stuck", "", "it answered the frame of 100.0 s"),
    ],
)
def test_a_policy_fails_and_what_it_says_is_noticed(kind, how, words):
    bench = Bench(fault("policy", kind, how=how))
    assert not answer(bench.injection.policy, bench.ask()).error
    bench.clock.advance(0.1)
    assert words in answer(bench.injection.policy, bench.ask()).error
    bench.clock.advance(0.3)
    assert not answer(bench.injection.policy, bench.ask()).error


def test_a_policy_with_faults_continues_given_steps_as_the_policy_does():
    assert takes_given(Bench(fault("policy", "off")).injection.policy)


@pytest.mark.parametrize(("name", "late_s"), [("policy", 0.3), ("server", 0.3)])
def test_answers_come_late_in_order_and_are_waited_for(name, late_s):
    bench = Bench(fault(name, "delayed", amount=late_s))
    inference = bench.injection.inference(Timed(bench.injection.policy, bench.clock, 0.1))
    bench.clock.advance(0.1)
    inference.ask(bench.ask())
    heard = bench.ticks(25, lambda: (inference.waiting_s(), len(inference.answers())))
    assert [count for _, count in heard].index(1) == 20
    assert [round(waiting_s, 3) for waiting_s, _ in heard[1:20]] == [round(0.02 * tick, 3) for tick in range(1, 20)]
    assert heard[-1][0] == 0.0


def test_a_server_that_hangs_is_given_up_after_the_deadline():
    bench = Bench(fault("server", "stuck"))
    inference = bench.injection.inference(Timed(bench.injection.policy, bench.clock, 0.1))
    bench.clock.advance(0.1)
    inference.ask(bench.ask())
    heard = [answer for some in bench.ticks(110, inference.answers) for answer in some]
    assert [one.error[:14] for one in heard] == ["DeadlineMissed"] and heard[0].chunk is None


def test_a_server_with_another_policy_is_refused():
    bench = Bench({"name": "server", "kind": "wrong"})
    with pytest.raises(ValueError, match="another body"):
        bench.injection.policy.check(SEEING)


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [("garbage", "", NONSENSE), ("wrong", "sign", "push the mug"), ("stuck", "", "one"), ("slow", "", "two")],
)
def test_a_planner_says_something_else(kind, how, said):
    clock, waited = VirtualClock(), []
    planner = FaultyPlanner(
        ScriptedPlanner(["one", "two"]), Faults([fault("planner", kind, how=how)], clock, False), waited.append
    )
    observation = Observation({}, np.zeros(2), "both", 0.0)
    assert planner.next_subtasks([PlanRequest(observation)]) == ["one"]
    clock.advance(0.1)
    assert said in planner.next_subtasks([PlanRequest(observation, ("one",))])[0]
    assert waited == ([0.3] if kind == "slow" else [])


def test_a_planner_that_is_off_raises_what_planners_raise():
    planner = FaultyPlanner(
        ScriptedPlanner([]), Faults([{"name": "planner", "kind": "off"}], VirtualClock(), False), id
    )
    with pytest.raises(PlannerError):
        planner.next_subtasks([])


@pytest.mark.parametrize(
    ("kind", "wakes"), [("slow", [0.15, 0.25, 0.35]), ("delayed", [0.15, 0.2, 0.3]), ("wrong", [0.1, 0.2, 0.3])]
)
def test_a_clock_sleeps_too_long(kind, wakes):
    clock = VirtualClock()
    faulty = FaultyClock(clock, Faults([fault("clock", kind, at_s=0.0, for_s=9.0, amount=0.05)], clock, False))
    ahead_s, found = faulty.now() - clock.now(), []
    for tick in (1, 2, 3):
        faulty.sleep_until(0.1 * tick + ahead_s)
        found.append(clock.now())
    assert found == pytest.approx(wakes)
    assert ahead_s == (0.05 if kind == "wrong" else 0.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (fault("camera.nosuch", "off"), "no 'camera.nosuch'; possible: camera, camera.front, camera.wrist"),
        (fault("camera.", "off"), "no 'camera.'; possible"),
        (fault("bus", "wrong", how="blocked", amount=99), "amount=99 is no joint .* possible: 1 lift, 2 gripper"),
        (fault("bus", "wrong", how="blocked", amount=1.5), "amount=1.5 is no joint"),
        (fault("bus.servo3", "off"), "there is one bus only, write 'bus'"),
        (fault("policy", "intermittent", amount=30), "amount=30 is the share that is lost, 0..1"),
    ],
)
def test_what_the_robot_does_not_have_cannot_fail(wrong, words):
    with pytest.raises(ValueError, match=words):
        Bench(wrong)


def test_without_another_camera_none_is_swapped_and_without_any_none_fails():
    clock = VirtualClock()
    robot = Robot(clock)
    for cameras, how in ((["front"], "only one camera, 'front'"), ([], "none, it has no cameras")):
        robot.cameras = dict.fromkeys(cameras, robot)
        with pytest.raises(ValueError, match=how):
            Injection([fault("camera", "wrong", how="swapped")], robot, Walker(), clock, hardware=False)


class Lettered(Walker):
    """Can be led, and knows its words."""

    def __init__(self):
        super().__init__()
        self.led_by = []

    def guide(self, guidance):
        self.led_by.append(guidance)

    def unknown_words(self, text):
        return ["moon"]


def test_a_policy_with_faults_can_what_the_policy_can_and_no_more():
    clock = VirtualClock()
    policy = Lettered()
    faulty = Injection([fault("policy", "off")], Robot(clock), policy, clock, hardware=False).policy
    check_contract(faulty, SEEING, RealTime(guidance="identity"))
    assert policy.led_by == ["identity"] and faulty.unknown_words("to the moon") == ["moon"]
    plain = Bench(fault("policy", "off")).injection.policy
    assert not hasattr(plain, "guide") and not hasattr(plain, "unknown_words")
    with pytest.raises(ValueError, match="needs the checkpoint itself"):
        check_contract(plain, SEEING, RealTime(guidance="identity"))


def stepping(clock, instruction):
    supervisor = Supervisor(ScriptedPlanner(["pick up the red cube"]), TABLETOP, Eyes(["red cube"]))
    return Stepping(supervisor, instruction, Pacing(), 10.0, LaterThread(clock), plain=lambda text: "then" not in text)


def test_a_fault_of_the_planner_reaches_the_planner_of_a_deployed_loop(tmp_path):
    flight, told = Flight(tmp_path / "unused"), []
    settings = {"strategy": RealTime(), "hz": 50.0, "latency_s": 0.0, "guard": {"hardware": False}}
    for number, faults in enumerate(([], [fault("planner", "off", at_s=0.0, for_s=9.0)])):
        steering = stepping(flight.clock, "tidy up, then rest")
        settings |= {"steering": steering, "instruction": "tidy up, then rest", "faults": faults}
        result = deploy(flight.arm, Walker(), seconds=0.5, out=tmp_path / str(number), clock=flight.clock, **settings)
        told.append(str(result["events"]))
    flight.logbook.close({"success": False})
    assert "the planner does not answer (injected)" in told[1] and "injected" not in told[0]


def test_a_slow_planner_waits_on_the_true_clock():
    bench = Bench(fault("planner", "slow", at_s=0.0, amount=0.7))
    steering = bench.injection.steering(stepping(bench.clock, "tidy up, then rest"))
    steering.supervisor.planner.next_subtasks([PlanRequest(Observation({}, np.zeros(2), "both", 0.0))])
    assert bench.clock.now() == pytest.approx(100.7)


def test_a_fault_of_the_planner_is_refused_where_none_is_asked():
    bench = Bench(fault("planner", "off"))
    with pytest.raises(ValueError, match="possible: planner=policy, planner=chat"):
        bench.injection.steering(Verbatim())
    with pytest.raises(
        ValueError, match="not asked about “pick up the red cube”; give an instruction of several steps"
    ):
        bench.injection.steering(stepping(bench.clock, "pick up the red cube"))
    verbatim = Verbatim()
    assert Bench(fault("policy", "off")).injection.steering(verbatim) is verbatim
