"""The server: answers like its policy, refuses in words, and does not let one client harm another."""

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.serve.gated import PATIENCE_S, GatedPolicy, Start
from vla.control.listener import bind
from vla.model.policy import VLAPolicy
from vla.serve import server as server_module
from vla.serve.limits import Bucket, Limits
from vla.serve.server import PolicyServer, in_background
from vla.serve.wire import pack, unpack
from vla.types import Embodiment, Observation

Message = dict[str, Any]


def dial(server: PolicyServer, **settings: Any) -> connect:
    """Connect as a stranger does."""
    return connect(server.address, proxy=None, max_size=None, open_timeout=PATIENCE_S, **settings)


def hear(connection: ClientConnection) -> Message:
    """Return the next answer, or what a text frame says."""
    data = connection.recv(PATIENCE_S)
    return json.loads(data) if isinstance(data, str) else unpack(data)


def ask(connection: ClientConnection, message: Message) -> Message:
    """Send a request and return the answer."""
    connection.send(pack(message))
    return hear(connection)


def get(server: PolicyServer, path: str, **headers: str) -> tuple[int, str]:
    """Return the status and text of a page."""
    request = urllib.request.Request(server.address.replace("ws://", "http://") + path, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE_S) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def eventually(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    end_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_first_message_says_which_body_is_moved(start: Start, policy: VLAPolicy) -> None:
    with dial(start(fingerprint="abc")) as connection:
        metadata = hear(connection)
    told = metadata["embodiment"]
    assert told["cameras"]["front"] == {"height": 64, "width": 64, "rotation_deg": 0}
    assert told["state"] == told["action"] == ["a", "b", "gripper"]
    assert told["action_horizon"] == 4
    body = {key: value for key, value in told.items() if key not in ("state", "action", "action_horizon")}
    assert Embodiment.from_dict(body) == policy.embodiment
    assert metadata["embodiment_hash"] == policy.embodiment.hash() and metadata["policy"] == "abc"


def test_an_answer_is_what_the_policy_says(start: Start, policy: VLAPolicy, message: Message) -> None:
    with dial(start()) as connection:
        hear(connection)
        answer = ask(connection, message | {"time_s": 3.5, "id": 9})
        again = ask(connection, message)
    chunk = policy.act([Observation(message["images"], message["state"], message["prompt"], 3.5)])[0]
    np.testing.assert_array_equal(answer["actions"], chunk.actions)
    assert answer["actions"].dtype == np.float32 and answer["actions"].shape == (4, 3)
    assert (answer["progress"], answer["done"], answer["confidence"]) == (chunk.progress, chunk.done, chunk.confidence)
    assert (answer["time_s"], answer["dt_s"], answer["id"]) == (3.5, 0.1, 9)
    assert answer["server_timing"]["infer_ms"] == answer["policy_timing"]["infer_ms"] > 0
    assert "prev_total_ms" not in answer["server_timing"] and again["server_timing"]["prev_total_ms"] > 0
    assert "id" not in again


def test_a_wrong_request_is_refused_in_words_and_the_next_is_answered(start: Start, message: Message) -> None:
    server = start()
    with dial(server) as connection:
        hear(connection)
        refusal = ask(connection, message | {"state": np.zeros(2, np.float32), "id": 4})
        assert refusal == {"error": "bad_request", "message": refusal["message"], "id": 4}
        assert "must be 3 finite numbers" in refusal["message"]
        too_long = ask(connection, message | {"prompt": "pick up the red cube " * 20})
        assert too_long["error"] == "bad_request" and "tokens, the model reads" in too_long["message"]
        assert "actions" in ask(connection, message)
    assert server.metrics.summary()["errors"] == {"bad_request": 2}


@pytest.mark.parametrize("data", [b"\x93\x01", b"\xc1", "text", pack({"x": 1})[:-1]])
def test_what_is_no_message_is_refused_and_ends_the_connection(start: Start, data: bytes | str) -> None:
    with dial(start()) as connection:
        hear(connection)
        connection.send(data)
        assert hear(connection)["error"] == "malformed"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1007


def test_a_newer_request_supersedes_the_one_that_waits_on_the_same_connection(
    start: Start, gated: GatedPolicy, message: Message
) -> None:
    server = start(gated)
    gated.shut()
    with dial(server) as mine, dial(server) as other:
        hear(mine), hear(other)
        mine.send(pack(message | {"id": 1}))
        gated.wait_for_a_call()
        other.send(pack(message | {"id": 2}))
        mine.send(pack(message | {"id": 3}))
        mine.send(pack(message | {"id": 4}))
        superseded = hear(mine)
        assert (superseded["error"], superseded["id"]) == ("superseded", 3)
        gated.gate.set()
        assert [hear(mine)["id"], hear(mine)["id"], hear(other)["id"]] == [1, 4, 2]
    summary = server.metrics.summary()
    assert summary["superseded"] == 1 and summary["answers"] == 3 and summary["errors"] == {}


def test_an_inference_does_not_hold_up_pings_health_and_refusals(
    start: Start, gated: GatedPolicy, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(gated)
    gated.shut()
    with dial(server) as connection:
        hear(connection)
        connection.send(pack(message))
        gated.wait_for_a_call()
        assert connection.ping().wait(PATIENCE_S)
        assert get(server, "/healthz") == (200, "OK\n")
        assert ask(connection, message | {"state": 1})["error"] == "bad_request"
        monkeypatch.setattr(server_module, "STUCK_S", 0.0)
        status, words = get(server, "/healthz")
        assert status == 503 and "one inference has taken" in words
        gated.gate.set()
        assert "actions" in hear(connection)


def test_a_failing_policy_is_reported_without_its_insides_and_serves_on(
    start: Start, gated: GatedPolicy, message: Message, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(gated)
    with dial(server) as connection, caplog.at_level(logging.CRITICAL, "vla.serve.worker"):
        hear(connection)
        gated.failures = [RuntimeError("secret /home/someone/weights")]
        refusal = ask(connection, message | {"id": 1})
        assert refusal["error"] == "policy_failed" and "RuntimeError" in refusal["message"]
        assert "secret" not in refusal["message"] and "Traceback" not in refusal["message"]
        gated.failures = [torch.OutOfMemoryError()]
        assert "actions" in ask(connection, message)  # at the second attempt
        gated.failures = [torch.OutOfMemoryError(), torch.OutOfMemoryError()]
        assert ask(connection, message)["error"] == "out_of_memory"
        gated.spoil = lambda chunks: [setattr(chunk.actions, "flat", np.nan) or chunk for chunk in chunks]
        assert ask(connection, message)["error"] == "policy_failed"
        gated.spoil = lambda chunks: chunks
        assert "actions" in ask(connection, message)


def test_a_policy_that_cannot_act_fails_at_the_start(gated: GatedPolicy) -> None:
    gated.failures = [RuntimeError("broken weights")]
    with (
        pytest.raises(RuntimeError, match="broken weights"),
        in_background(PolicyServer(gated, bind("127.0.0.1", 0, None))),
    ):
        pass


def test_too_many_requests_in_a_second_are_refused_then_end_the_connection(start: Start, message: Message) -> None:
    server = start(limits=Limits(requests_per_s=1e-6, burst=2, refusals=3))
    with dial(server) as connection:
        hear(connection)
        assert "actions" in ask(connection, message) and "actions" in ask(connection, message)
        assert [ask(connection, message)["error"] for _ in range(3)] == ["rate_limited"] * 3
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    now_s = 100.0
    bucket = Bucket(10.0, 3, lambda: now_s)
    assert [bucket.take() for _ in range(5)] == [True] * 3 + [False] * 2
    now_s += 0.25
    assert [bucket.take() for _ in range(4)] == [True] * 2 + [False] * 2
    assert bucket.refused == 2
    now_s += 1000
    assert [bucket.take() for _ in range(4)] == [True] * 3 + [False]


def test_a_message_beyond_the_cap_is_not_even_read(start: Start, message: Message) -> None:
    server = start(limits=Limits(message_bytes=50_000))
    with dial(server) as connection, dial(server) as other:
        hear(connection), hear(other)
        gigabyte = (2**30).to_bytes(8, "big")
        connection.socket.sendall(b"\x82\xff" + gigabyte + b"mask" + b"only the beginning of it")
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
        assert "actions" in ask(other, message)
    eventually(lambda: server.metrics.summary()["errors"] == {"too_large": 1})


def test_compression_is_not_agreed_on(start: Start) -> None:
    with dial(start(), compression="deflate") as connection:
        assert connection.protocol.extensions == []


def test_connections_beyond_the_cap_are_refused_until_one_closes(start: Start, message: Message) -> None:
    server = start(limits=Limits(connections=2))
    with dial(server) as first:
        with dial(server):
            with pytest.raises(InvalidStatus) as refused, dial(server):
                pass
            assert refused.value.response.status_code == 503
            hear(first)
            assert "actions" in ask(first, message)

        def admitted() -> bool:
            try:
                with dial(server):
                    return True
            except InvalidStatus:
                return False

        eventually(admitted)
    assert server.metrics.summary()["errors"]["too_many_connections"] >= 1


def test_a_client_that_does_not_read_does_not_hold_up_the_others(start: Start, message: Message) -> None:
    server = start()
    with dial(server) as deaf, dial(server) as other:
        with deaf.recv_flow_control:  # its thread stops reading
            for number in range(5):
                deaf.send(pack(message | {"id": number}))
            hear(other)
            assert all("actions" in ask(other, message) for _ in range(3))
        hear(deaf)


def test_web_pages_may_not_connect(start: Start) -> None:
    with pytest.raises(InvalidStatus) as refused, dial(start(), additional_headers={"Origin": "http://evil.example"}):
        pass
    assert refused.value.response.status_code == 403


def test_the_token_opens_the_door_in_both_spellings_and_nothing_else_does(start: Start) -> None:
    server = start(token="sesame")
    for header in ("Bearer sesame", "Api-Key sesame"):
        with dial(server, additional_headers={"Authorization": header}) as connection:
            assert "embodiment" in hear(connection)
    for header in ("Bearer sesam", "Bearer", "Basic sesame", "sesame", "Bearer sésame"):
        with pytest.raises(InvalidStatus) as refused, dial(server, additional_headers={"Authorization": header}):
            pass
        assert refused.value.response.status_code == 401
    assert get(server, "/healthz") == (200, "OK\n")
    assert get(server, "/metrics")[0] == 401
    assert get(server, "/metrics", Authorization="Bearer sesame")[0] == 200


def test_metrics_count_what_happened_and_only_that(start: Start, message: Message) -> None:
    server = start()
    with dial(server) as connection:
        hear(connection)
        ask(connection, message), ask(connection, message), ask(connection, {})
        status, text = get(server, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert status == 200
    assert values["vla_serve_requests_total"] == "3"
    assert values["vla_serve_connections"] == "1"
    assert values['vla_serve_errors_total{code="bad_request"}'] == "1"
    assert values["vla_serve_superseded_total"] == "0"
    assert float(values['vla_serve_latency_seconds{quantile="0.95"}']) > 0
    assert text.count("# TYPE vla_serve_") == 8 and text.endswith("\n")
    eventually(lambda: server.metrics.summary()["connections"] == 1 and "connections 0" in server.metrics.text())


def test_other_machines_need_a_token() -> None:
    with pytest.raises(ValueError, match=r"on 0\.0\.0\.0 anyone in the network could move the robot: set a token"):
        bind("0.0.0.0", 0, None)
    bind("0.0.0.0", 0, "sesame").close()
    bind("127.0.0.1", 0, None).close()


def test_a_port_that_is_taken_is_named(start: Start) -> None:
    port = int(start().address.rpartition(":")[2])
    with pytest.raises(OSError, match=rf"cannot serve on 127\.0\.0\.1:{port} .*; give another port="):
        bind("127.0.0.1", port, None)


def test_stopping_ends_connections_and_frees_the_port(policy: VLAPolicy) -> None:
    threads = threading.active_count()
    with in_background(PolicyServer(policy, bind("127.0.0.1", 0, None))) as server:
        connection = dial(server).__enter__()
        hear(connection)
    with pytest.raises(ConnectionClosed):
        connection.recv(PATIENCE_S)
    connection.close()
    bind("127.0.0.1", int(server.address.rpartition(":")[2]), None).close()
    eventually(lambda: threading.active_count() <= threads)
