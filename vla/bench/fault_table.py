"""The fault table: what fails, in which state the loop must then be, how soon, and whether it goes on by itself.

A row names what it shows in the order of cameras, policy, planner, server, bus, time, disk and process. `after` holds,
for each duration, the worst state that must be reached and within how many seconds of the fault's beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from vla.control.severity import State

NORMAL, DEGRADED, HOLD, STOP1, ESTOP = State.NORMAL, State.DEGRADED, State.HOLD, State.STOP1, State.ESTOP
START, REACH, GRASP, CARRY = "start", "reach", "grasp", "carry"
ALL = (REACH, GRASP, CARRY)  # near and far from contact, and with the object in the hand
CHUNK_S = 2.0  # until the last chunk is over and its last command too old: 16 steps of 0.1 s, 0.1 s, and a look
SOON_S, TICK_S = 0.15, 0.0201  # one frame of the cameras; one tick

Expected = tuple[State | str, float]


@dataclass(frozen=True)
class Row:
    """One kind of fault and what must come of it."""

    fault: str
    after: Mapping[float, Expected]
    name: str = ""  # part to inject into; empty: an event, see `event`
    kind: str = ""
    how: str = ""
    amount: float = 0.0
    event: str = ""  # stream, signal, two signals, kill, blow-up, wall clock
    phases: tuple[str, ...] = (REACH, CARRY)
    recovers: bool = True  # goes on by itself when the fault is over, and finishes the task
    acknowledged: bool = False  # goes on when a human has acknowledged
    drops_frames: bool = False  # recording must have dropped frames
    recording_ends: bool = False  # with a reason
    same_motion: bool = False  # to the last bit as without the fault
    planned: bool = False  # a planner steers
    checkpoint: bool = False  # the shipped checkpoint drives
    because: str = ""  # what a refusal must say
    never: tuple[State, ...] = field(default=())  # states that must not be entered while it lasts


REFUSED = "REFUSED"  # to start, and nothing moves
SERVOS = "SERVOS HOLD"  # nobody commands, nothing moves

ROWS = (
    # 5.1 cameras
    Row("camera frozen, time stamps go on", {0.02: (NORMAL, 0), 2: (HOLD, 0.85)}, "camera.front", "stuck"),
    Row("wrist camera frozen", {2: (HOLD, 0.85)}, "camera.wrist", "stuck", phases=(CARRY,)),
    Row("camera dark", {0.3: (DEGRADED, SOON_S), 2: (HOLD, 0.7)}, "camera.front", "garbage", "dark"),
    Row("camera blinded", {inf: (HOLD, 0.7)}, "camera", "garbage", "bright", phases=(CARRY,), recovers=False),
    Row("camera late by 60 ms", {2: (NORMAL, 0)}, "camera", "delayed", amount=0.06, phases=(CARRY,)),
    Row("camera late by 300 ms", {2: (DEGRADED, 0.3)}, "camera.front", "delayed", amount=0.3, phases=(CARRY,)),
    Row("camera late by 800 ms", {2: (HOLD, 0.6)}, "camera.front", "delayed", amount=0.8, phases=(CARRY,)),
    Row("camera loses 10 % of its frames", {1: (NORMAL, 0)}, "camera.wrist", "intermittent", amount=0.1, phases=ALL),
    Row("camera loses nearly all frames", {2: (HOLD, 0.65)}, "camera", "intermittent", amount=0.99, phases=(CARRY,)),
    Row("camera slow: a frame in 0.3 s", {2: (DEGRADED, 0.3)}, "camera.front", "slow", amount=0.3, phases=(CARRY,)),
    Row("half frames", {0.2: (DEGRADED, SOON_S), 2: (HOLD, 0.7)}, "camera.front", "garbage", "shape", phases=(CARRY,)),
    Row("camera of another resolution, turned", {inf: (REFUSED, 0)}, "camera.front", "wrong", phases=(START,)),
    Row("cameras swapped", {inf: (REFUSED, 0)}, "camera", "wrong", "swapped", phases=(START,)),
    Row("camera removed and put back", {0.06: (NORMAL, 0), 0.35: (DEGRADED, 0.3), 2: (HOLD, 0.6)}, "camera", "off"),
    # 5.2 policy and chunks
    Row("NaN or infinity in a chunk", {0.6: (DEGRADED, 0.6), 3: (HOLD, CHUNK_S)}, "policy", "garbage", "nan"),
    Row("degrees for radians", {0.6: (DEGRADED, 0.6), 3: (HOLD, CHUNK_S)}, "policy", "wrong", "degrees"),
    Row("wrong order of joints", {0.6: (DEGRADED, 0.6), 3: (HOLD, CHUNK_S)}, "policy", "wrong", "permuted"),
    Row("chunk of a wrong shape", {0.6: (DEGRADED, 0.6)}, "policy", "garbage", "shape"),
    Row("no chunk at all", {0.6: (DEGRADED, 0.6)}, "policy", "garbage", "object", phases=(CARRY,)),
    Row("stale chunk, again and again", {0.6: (DEGRADED, 0.6), 3: (HOLD, CHUNK_S)}, "policy", "stuck"),
    Row("chunk late by 3 s, queue empty", {0.5: (HOLD, CHUNK_S)}, "policy", "delayed", amount=3.0),
    Row("chunks that contradict each other", {0.6: (NORMAL, 0)}, "policy", "wrong", "alternating", phases=(START,)),
    Row("memory of the device full once", {0.5: (DEGRADED, 0.6)}, "policy", "off"),
    Row("policy gone for good", {inf: (HOLD, CHUNK_S)}, "policy", "off", phases=(CARRY,), recovers=False),
    Row("policy back after a restart", {3: (HOLD, CHUNK_S)}, "policy", "off"),
    Row("policy four times slower", {2: (NORMAL, 0)}, "policy", "slow", amount=0.3, phases=(CARRY,)),
    Row("policy ten times slower", {4: (HOLD, 3.0)}, "policy", "slow", amount=0.9),
    Row("policy fails now and then", {1.5: (DEGRADED, 1.5)}, "policy", "intermittent", amount=0.5, phases=(CARRY,)),
    # 5.2 planner: it is asked when the object has been picked up; that subtask then goes on for at most 5 s
    Row("planner late by 3 s", {8: (NORMAL, 0)}, "planner", "slow", amount=3.0, phases=(REACH,), planned=True),
    Row("planner late by 8 s", {12: (HOLD, 9)}, "planner", "slow", amount=8.0, phases=(REACH,), planned=True),
    Row("planner does not answer", {inf: (HOLD, 6)}, "planner", "off", phases=(REACH,), planned=True, recovers=False),
    Row("planner answers 1 MB", {inf: (HOLD, 6)}, "planner", "garbage", phases=(REACH,), planned=True, recovers=False),
    Row(
        "planner names what is not there",
        {inf: (HOLD, 6)},
        "planner",
        "wrong",
        "unseen",
        phases=(REACH,),
        planned=True,
        recovers=False,
    ),
    Row(
        "planner obeys a sign in the picture",
        {inf: (HOLD, 6)},
        "planner",
        "wrong",
        "sign",
        phases=(REACH,),
        planned=True,
        recovers=False,
    ),
    Row(
        "planner asks for the same again and again",
        {inf: (HOLD, 8)},
        "planner",
        "stuck",
        phases=(REACH,),
        planned=True,
        recovers=False,
    ),
    # 5.3 policy server
    Row("server killed and restarted", {0.5: (DEGRADED, 0.6), 3: (HOLD, CHUNK_S)}, "server", "off"),
    Row("server hangs", {1: (HOLD, CHUNK_S)}, "server", "stuck"),
    Row("server answers garbage", {0.6: (DEGRADED, 0.6)}, "server", "garbage"),
    Row("server with another policy, at the start", {inf: (REFUSED, 0)}, "server", "wrong", phases=(START,)),
    Row(
        "server comes back with another policy",
        {inf: (HOLD, CHUNK_S)},
        "server",
        "wrong",
        phases=(CARRY,),
        recovers=False,
    ),
    Row("answers late by 200 ms", {2: (NORMAL, 0)}, "server", "delayed", amount=0.2),
    Row("10 % of packets lost", {2: (NORMAL, 0)}, "server", "intermittent", amount=0.1, phases=(CARRY,)),
    # 5.4 bus, servos, mechanics
    Row("noise on the bus", {0.02: (DEGRADED, TICK_S), 1: (HOLD, 0.1)}, "bus", "garbage"),
    Row("the reply before, again and again", {1: (HOLD, 0.1)}, "bus", "stuck"),
    Row("a servo does not answer", {0.02: (HOLD, TICK_S), 1: (HOLD, TICK_S)}, "bus", "wrong", "servo", phases=ALL),
    Row("a servo has shut down", {0.5: (STOP1, TICK_S)}, "bus", "wrong", "latched", acknowledged=True),
    Row("a joint is blocked", {2: (STOP1, 1.5)}, "bus", "wrong", "blocked", 3, phases=(START,), acknowledged=True),
    Row("encoder leaps by 2 pi", {0.02: (DEGRADED, TICK_S), 1: (HOLD, 0.1)}, "bus", "wrong", "wrap"),
    Row("USB unplugged for a second", {1: (HOLD, TICK_S)}, "bus", "off"),
    Row("USB unplugged", {7: (STOP1, 5.1)}, "bus", "off", phases=(CARRY,), acknowledged=True),
    Row("measurements late by 40 ms", {1: (NORMAL, 0)}, "bus", "delayed", amount=0.04, phases=(CARRY,)),
    Row("measurements late by 100 ms", {1: (HOLD, 0.1)}, "bus", "delayed", amount=0.1),
    Row("bus takes 70 ms", {1: (DEGRADED, 0.2)}, "bus", "slow", amount=0.07),
    Row("bus takes 150 ms", {1: (HOLD, 0.4)}, "bus", "slow", amount=0.15, phases=(CARRY,)),
    Row("bus fails now and then", {1: (HOLD, 0.5)}, "bus", "intermittent", amount=0.2, phases=(CARRY,)),
    Row("first target 1 rad away", {1: (DEGRADED, 0.5)}, "policy", "wrong", "far", phases=(START,), never=(NORMAL,)),
    Row("the operator's stream stops", {0.5: (HOLD, SOON_S)}, event="stream"),
    Row("controller killed", {inf: (SERVOS, 0.5)}, event="kill", recovers=False),
    Row("Ctrl-C", {inf: (ESTOP, TICK_S)}, event="signal", recovers=False),
    Row("Ctrl-C twice", {inf: (ESTOP, TICK_S)}, event="two signals", recovers=False),
    Row("the simulator blows up", {inf: (HOLD, 0.05)}, event="blow-up", phases=(CARRY,), recovers=False),
    # 5.5 time and disk; 5.2 overruns of the loop
    Row("the wall clock is an hour ahead", {inf: (NORMAL, 0)}, event="wall clock", phases=(REACH,), same_motion=True),
    Row("the loop's clock leaps", {0.5: (HOLD, 0.1)}, "clock", "wrong", amount=1.0),
    Row("every tick late by 70 ms", {1: (DEGRADED, 0.2)}, "clock", "slow", amount=0.07),
    Row("one tick late by 80 ms", {0.5: (DEGRADED, 0.12)}, "clock", "delayed", amount=0.08),
    Row("the world stops for 300 ms", {0.5: (HOLD, 0.35)}, "clock", "delayed", amount=0.3),
    Row("ticks late now and then", {1: (DEGRADED, 0.5)}, "clock", "intermittent", amount=0.2, phases=(CARRY,)),
    Row("disk full", {inf: (NORMAL, 0)}, "disk", "off", phases=(CARRY,), recording_ends=True, same_motion=True),
    Row(
        "disk nearly full", {inf: (NORMAL, 0)}, "disk", "wrong", phases=(START,), recording_ends=True, same_motion=True
    ),
    Row("disk stalls for 5 s", {5: (NORMAL, 0)}, "disk", "slow", phases=(START,), drops_frames=True, same_motion=True),
    # the shipped checkpoint at the wheel: the states only, it need not succeed
    Row(
        "camera mirrored",
        {inf: (REFUSED, 0)},
        "camera.front",
        "wrong",
        "mirrored",
        phases=(START,),
        checkpoint=True,
        because="camera front looks mirrored",
    ),
    Row(
        "camera BGR",
        {inf: (REFUSED, 0)},
        "camera.front",
        "wrong",
        "bgr",
        phases=(START,),
        checkpoint=True,
        because="camera front looks BGR",
    ),
    Row("checkpoint: camera removed", {1: (HOLD, 0.6)}, "camera", "off", phases=(REACH,), checkpoint=True),
    Row(
        "checkpoint: NaN in a chunk",
        {0.6: (DEGRADED, 0.6)},
        "policy",
        "garbage",
        "nan",
        phases=(REACH,),
        checkpoint=True,
    ),
    Row("checkpoint: USB unplugged", {0.5: (HOLD, TICK_S)}, "bus", "off", phases=(REACH,), checkpoint=True),
)

_WRITER, _WIRE, _SERVER = "tests/data/test_writer.py", "tests/serve/test_wire.py", "tests/serve/test_server.py"
ELSEWHERE = {  # rows of data on disk, messages and processes, which no control loop takes part in -> who judges them
    "chunks out of order": "tests/control/test_executor.py::test_an_answer_to_an_older_frame_is_not_followed",
    "limits under fuzz": "tests/control/test_guard_fuzz.py::test_no_limit_is_broken",
    "contacts under fuzz": "tests/control/test_guard_fuzz.py::test_nothing_is_touched",
    "server stopped, killed -9 and back": "tests/serve/test_serve.py::test_a_client_survives_a_hung_server_and_kill_9",
    "server accepts and says nothing": (
        "tests/serve/test_client.py::test_a_server_that_accepts_and_says_nothing_misses_the_deadline"
    ),
    "an old reply after its deadline": (
        "tests/serve/test_client.py::test_an_answer_after_the_deadline_is_not_taken_for_the_next_one"
    ),
    "truncated and malformed messages": f"{_WIRE}::test_a_torn_or_spoiled_message_is_a_message_or_refused",
    "a message that unfolds to gigabytes": f"{_WIRE}::test_a_bomb_takes_less_than_twice_the_message_cap",
    "oversized messages": f"{_SERVER}::test_a_message_beyond_the_cap_is_not_even_read",
    "many connections": f"{_SERVER}::test_connections_beyond_the_cap_are_refused_until_one_closes",
    "a peer that does not read": f"{_SERVER}::test_a_client_that_does_not_read_does_not_hold_up_the_others",
    "a second commander": "tests/control/test_claim.py::test_a_second_commander_is_refused_with_the_name_of_the_first",
    "a commander that was killed": "tests/control/test_claim.py::test_a_commander_that_was_killed_keeps_nothing",
    "kill -9 while saving or recording": f"{_WRITER}::test_kill_loses_at_most_the_episode_in_progress",
    "power loss": f"{_WRITER}::test_a_file_is_on_the_disk_before_it_takes_its_name",
    "power loss while saving a checkpoint": (
        "tests/model/test_checkpoint.py::test_all_files_are_on_the_disk_before_the_checkpoint_takes_its_name"
    ),
    "disk full while collecting": f"{_WRITER}::test_full_disk_says_what_to_do",
    "disk full while saving a checkpoint": "tests/model/test_checkpoint.py::test_a_full_disk_leaves_the_old_checkpoint",
    "corrupt files": "tests/data/test_dataset.py::test_a_cut_off_video_is_an_error",
    "gaps in the index": "tests/data/test_foreign.py::test_missing_rows_are_noticed",
    "exact resume after a kill": (
        "tests/train/test_train.py::test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one"
    ),
}
