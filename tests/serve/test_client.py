"""The client: the same answers as the policy itself, and a typed error in time whenever there is none."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.model.tiny import embodiment, observation
from tests.serve.gated import PATIENCE_S, GatedPolicy, Start
from vla.control.listener import bind
from vla.model.policy import VLAPolicy
from vla.serve.client import RemotePolicy
from vla.serve.errors import DeadlineMissed, Refusal, ServerGone, StaleAnswer, WrongAnswer
from vla.serve.limits import Limits
from vla.serve.line import Backoff
from vla.serve.server import PolicyServer, in_background
from vla.serve.wire import pack, unpack
from vla.types import ContractError

SLOW = {"deadline_s": PATIENCE_S, "text_deadline_s": PATIENCE_S, "open_s": PATIENCE_S}


def remote(server: PolicyServer, **settings: Any) -> RemotePolicy:
    """Connect without haste."""
    return RemotePolicy(server.address, **{**SLOW, **settings})


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Begin a call in a thread; the list will hold what it returned or raised."""
    said: list[Any] = []

    def work() -> None:
        try:
            said.append(call())
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, said


def end_of(thread: threading.Thread) -> None:
    """Wait for a thread."""
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@contextmanager
def impostor(*replies: Any, greeting: Any = None) -> Iterator[str]:
    """A server that greets as told and sends one reply after each request, whatever it is; a function gets its id."""

    def talk(connection: ServerConnection) -> None:
        try:
            connection.send(greeting)
            for reply in replies:
                request = unpack(bytes(connection.recv(PATIENCE_S)))  # pyright: ignore[reportArgumentType]
                connection.send(reply(request["id"]) if callable(reply) else reply)
            connection.recv(PATIENCE_S)
        except ConnectionClosed:
            pass

    with serve(talk, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def hello(start: Start) -> bytes:
    """The greeting of the real server."""
    return pack(start().metadata())


def test_a_served_policy_says_what_the_policy_says(start: Start, policy: VLAPolicy) -> None:
    observations = [observation(1), observation(2, "put the blue cube in the green bowl")]
    with remote(start(), body=policy.embodiment) as client:
        assert client.embodiment == policy.embodiment
        for mine, other in zip(client.act(observations), policy.act(observations), strict=True):
            np.testing.assert_allclose(mine.actions, other.actions, atol=1e-5)
            assert (mine.dt_s, mine.time_s) == (other.dt_s, other.time_s)
            assert mine.done == pytest.approx(other.done, abs=1e-5) and mine.actions.flags.writeable
        questions = ["is there a red cube", "is there"]
        assert client.generate(observations, questions, 4) == policy.generate(observations, questions, 4)
        plans = client.next_subtask(observations, [[], ["pick up the red cube"]])
        assert plans == policy.next_subtask(observations, [[], ["pick up the red cube"]])
        assert client.unknown_words("pick the zebra") == policy.unknown_words("pick the zebra") == ["zebra"]


def test_decided_targets_are_continued_as_by_the_policy_itself(start: Start, policy: VLAPolicy) -> None:
    seen = observation(1)
    given = policy.act([observation(2)])[0].actions[None]
    with remote(start()) as client:
        whole = client.act([seen], given=given, given_steps=2)[0]
        only_decided = client.act([seen], given=given[:, :2], given_steps=2)[0]
    expected = policy.act([seen], given=given, given_steps=2)[0].actions
    np.testing.assert_allclose(whole.actions, expected, atol=1e-5)
    np.testing.assert_allclose(only_decided.actions, expected, atol=1e-5)


def test_another_body_is_refused_naming_each_difference(start: Start) -> None:
    server = start()
    with pytest.raises(ContractError, match=r"control_hz: 10\.0 here, 30\.0 there") as refused:
        remote(server, body=embodiment(control_hz=30.0, name="other"))
    assert "name: 'tiny arm' here, 'other' there" in str(refused.value)


def test_a_refusal_arrives_with_its_code_and_the_connection_is_kept(start: Start) -> None:
    with remote(start()) as client:
        epoch = client.epoch
        with pytest.raises(Refusal, match="tokens, the model reads 32") as refused:
            client.act([observation(1, "pick " * 100)])
        assert refused.value.code == "bad_request"
        client.act([observation(1)])
        assert client.epoch == epoch


def test_a_patient_client_waits_where_it_has_asked_too_often(start: Start) -> None:
    server = start(limits=Limits(requests_per_s=20.0, burst=1))
    with remote(server) as hasty, pytest.raises(Refusal) as refused:
        hasty.act([observation(1)] * 20)
    assert refused.value.code == "rate_limited"
    with remote(server, patience_s=PATIENCE_S) as client:
        assert len(client.act([observation(1)] * 20)) == 20
        with pytest.raises(Refusal, match="tokens, the model reads 32"):
            client.act([observation(1, "pick " * 100)])


def test_the_token_is_sent_and_a_wrong_one_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(token="sesame")
    with remote(server, token="sesame") as client:
        client.act([observation(1)])
    with pytest.raises(Refusal) as refused:
        remote(server, token="wrong")
    assert refused.value.code == "unauthorized"
    monkeypatch.setenv("VLA_TOKEN", "sesame")
    remote(server).close()


def test_an_answer_after_the_deadline_is_not_taken_for_the_next_one(
    start: Start, gated: GatedPolicy, policy: VLAPolicy
) -> None:
    with remote(start(gated), deadline_s=0.2) as client:
        epoch = client.epoch
        gated.shut()
        with pytest.raises(DeadlineMissed, match=r"did not answer within 0\.2 s"):
            client.act([observation(1)])
        gated.gate.set()
        client._deadline_s, client._patience_s = PATIENCE_S, PATIENCE_S
        chunk = client.act([observation(2)])[0]
        np.testing.assert_allclose(chunk.actions, policy.act([observation(2)])[0].actions, atol=1e-5)
        assert client.epoch > epoch and chunk.extra["epoch"] == client.epoch


def test_an_answer_of_an_episode_that_is_over_is_dropped(start: Start, gated: GatedPolicy) -> None:
    with remote(start(gated)) as client:
        before = client.act([observation(1)])[0]
        gated.shut()
        thread, said = in_thread(lambda: client.act([observation(1)]))
        gated.wait_for_a_call()
        client.new_episode()
        gated.gate.set()
        end_of(thread)
        assert isinstance(said[0], StaleAnswer)
        assert before.extra["epoch"] != client.epoch
        assert client.act([observation(1)])[0].extra["epoch"] == client.epoch


def test_a_server_that_goes_is_noticed_at_once_and_one_that_comes_back_is_used(
    start: Start, policy: VLAPolicy, gated: GatedPolicy
) -> None:
    with in_background(PolicyServer(gated, bind("127.0.0.1", 0, None), fingerprint="same")) as server:
        client = remote(server)
        gated.shut()
        thread, said = in_thread(lambda: client.act([observation(1)]))
        gated.wait_for_a_call()
        server.stop()
        end_of(thread)  # while the policy still thinks
        assert isinstance(said[0], ServerGone) and said[0].retry_in_s > 0
        gated.gate.set()
    with pytest.raises(ServerGone):
        client.act([observation(1)])
    epoch = client.epoch
    start(port=int(server.address.rpartition(":")[2]), fingerprint="same")
    client._patience_s = PATIENCE_S
    chunk = client.act([observation(2)])[0]
    np.testing.assert_allclose(chunk.actions, policy.act([observation(2)])[0].actions, atol=1e-5)
    assert client.epoch == epoch + 1
    client.close()


def test_a_server_that_comes_back_with_another_policy_is_refused(start: Start, policy: VLAPolicy) -> None:
    with in_background(PolicyServer(policy, bind("127.0.0.1", 0, None), fingerprint="old")) as server:
        client = remote(server, patience_s=PATIENCE_S)
    start(port=int(server.address.rpartition(":")[2]), fingerprint="new")
    with pytest.raises(ContractError, match=r"another policy.*\n.*policy: 'old' before, 'new' now"):
        client.act([observation(1)])
    client.close()


def test_while_a_server_is_left_alone_calls_fail_without_touching_the_network() -> None:
    listener = bind("127.0.0.1", 0, None)
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with pytest.raises(ServerGone, match="no connection to ws://") as gone:
        RemotePolicy(url)
    assert 0 < gone.value.retry_in_s <= 0.05


def test_patience_waits_for_a_server_that_is_still_to_come(policy: VLAPolicy) -> None:
    listener = bind("127.0.0.1", 0, None)
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    thread, said = in_thread(lambda: RemotePolicy(url, patience_s=PATIENCE_S, **SLOW))
    time.sleep(0.1)
    with in_background(PolicyServer(policy, listener)):
        end_of(thread)
        assert said[0].embodiment == policy.embodiment
        said[0].close()


def test_a_server_that_accepts_and_says_nothing_misses_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServerGone, match="timed out"):
        RemotePolicy(f"ws://127.0.0.1:{silent.getsockname()[1]}", open_s=0.2)


class Silent(GatedPolicy):
    """Its words wait at the gate too."""

    def generate(self, observations: Any, prompts: Any, max_tokens: int = 24, shots: Any = ()) -> list[str]:
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        return super().generate(observations, prompts, max_tokens, shots)


@pytest.fixture
def silent() -> Iterator[Silent]:
    """A policy whose words can be held up; its gate is open in the end."""
    made = Silent()
    yield made
    made.gate.set()


def test_chunks_keep_their_deadline_while_words_hang(start: Start, policy: VLAPolicy, silent: Silent) -> None:
    seen = observation(1)
    with remote(start(silent), deadline_s=0.2, text_deadline_s=30.0) as client:
        silent.shut()
        thread, said = in_thread(lambda: client.generate([seen], ["is there"], 4))
        silent.wait_for_a_call()
        for _ in range(2):  # the second time by a new connection
            with pytest.raises(DeadlineMissed, match=r"did not answer within 0\.2 s"):
                client.act([seen])
            client._line._not_before_s = 0.0
        assert thread.is_alive()
        silent.gate.set()
        client._deadline_s, client._patience_s = PATIENCE_S, PATIENCE_S
        np.testing.assert_allclose(client.act([seen])[0].actions, policy.act([seen])[0].actions, atol=1e-5)
        end_of(thread)
        assert said == [policy.generate([seen], ["is there"], 4)]


def test_a_second_connection_is_made_for_words_alone_and_only_where_there_is_room(start: Start) -> None:
    server = start(limits=Limits(connections=1))
    with remote(server) as client:
        client.act([observation(1)])
        assert server.metrics.summary()["connections"] == 1
        with pytest.raises(ServerGone, match="1 connections are open, more are not taken"):
            client.generate([observation(1)], ["is there"], 4)
        epoch = client.epoch
        client.act([observation(1)])
        assert client.epoch == epoch


def test_closing_ends_a_call_that_waits_and_every_later_one(start: Start, gated: GatedPolicy) -> None:
    client = remote(start(gated))
    gated.shut()
    thread, said = in_thread(lambda: client.act([observation(1)]))
    gated.wait_for_a_call()
    client.close()
    end_of(thread)
    assert isinstance(said[0], ServerGone)
    with pytest.raises(ServerGone, match="closed on this side"):
        client.act([observation(1)])


ANSWER = {"actions": np.zeros((4, 3), np.float32), "dt_s": 0.1, "progress": 0.5}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"actions": np.full((4, 3), np.nan, np.float32)}, "must be finite float32"),
        ({"actions": np.zeros((4, 2), np.float32)}, "must be finite float32"),
        ({"actions": np.zeros((0, 3), np.float32)}, "must be finite float32"),
        ({"actions": np.zeros((4, 3))}, "no actions float32"),
        ({"actions": [[0.0, 0.0, 0.0]]}, "no actions float32"),
        ({"dt_s": 0.0}, "dt_s must be seconds above 0"),
        ({"dt_s": "soon"}, "dt_s must be seconds above 0"),
        ({"progress": 1.5}, "what should lie in 0..1 does not"),
        ({"id": 99}, "it answers question 99, the last one was 1"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(start: Start, change: dict[str, Any], words: str) -> None:
    with impostor(lambda number: pack({**ANSWER, "id": number, **change}), greeting=hello(start)) as url:
        client = RemotePolicy(url, **SLOW)
        with pytest.raises(WrongAnswer) as wrong:
            client.act([observation(1)])
        client.close()
    assert words in str(wrong.value)


def test_old_answers_before_the_right_one_are_skipped(start: Start) -> None:
    def second(number: int) -> bytes:
        return pack({**ANSWER, "id": number})

    refused = Refusal("superseded", "", 1).to_text()
    with impostor(second, second, greeting=hello(start)) as url:
        client = RemotePolicy(url, **SLOW)
        client.act([observation(1)])
        line = client._line
        assert line._read(pack({**ANSWER, "id": 0})) is None
        line._last_id += 1
        assert line._read(pack({**ANSWER, "id": 1})) is None
        assert line._read(refused) is None
        client.close()


def test_a_pause_doubles_up_to_a_limit_with_jitter_and_begins_anew() -> None:
    backoff = Backoff(0.1, 1.0, random.Random(0))
    pauses = [backoff.pause_s() for _ in range(40)]
    for pause_s, longest_s in zip(pauses, [0.1, 0.2, 0.4, 0.8] + [1.0] * 36, strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    assert len(set(pauses)) == len(pauses)
    assert pauses != [Backoff(0.1, 1.0, random.Random(1)).pause_s() for _ in range(40)]
    backoff.reset()
    assert backoff.pause_s() <= 0.1


def test_lost_connections_leave_no_threads_and_no_sockets_behind(start: Start) -> None:
    server = start()
    client = remote(server, patience_s=PATIENCE_S)
    client.act([observation(1)])

    def held() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def settled() -> tuple[int, int]:
        end_s = time.monotonic() + PATIENCE_S
        while server.metrics.text().count("connections 1") != 1 and time.monotonic() < end_s:
            time.sleep(0.01)
        return held()

    before = settled()
    for _ in range(10):
        client._line.drop()
        client.act([observation(1)])
    after = settled()
    client.close()
    assert after <= before


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1:8000", "ws://", "checkpoints/nano"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a policy server; write ws://HOST:PORT"):
        RemotePolicy(url)
