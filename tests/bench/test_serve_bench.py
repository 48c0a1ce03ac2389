"""The serve bench sends what it says, both ways."""

import numpy as np
import pytest
from websockets.sync.client import connect

from vla.bench.serve import StillPolicy, _answer_bytes, _body, measure
from vla.control.listener import bind
from vla.serve.server import PolicyServer, in_background
from vla.serve.wire import pack, unpack


@pytest.mark.slow  # starts three processes
def test_the_result_has_each_way_and_its_ratios() -> None:
    result = measure(seed=0, calls=20, cameras=2, size=32, action_horizon=8)
    ways = result["round_trip_ms"]
    assert set(ways) == {"ours", "websocket", "tcp"}
    assert all(0 < way["p50"] <= way["p95"] <= way["p99"] for way in ways.values())
    for name in ("websocket", "tcp"):
        assert result["ratio_to"][name]["p50"] == pytest.approx(ways["ours"]["p50"] / ways[name]["p50"])
    assert 2 * 32 * 32 * 3 < result["request_bytes"] < 2 * 32 * 32 * 3 + 1000
    assert 8 * 6 * 4 < result["answer_bytes"] < 8 * 6 * 4 + 500


def test_the_bare_answers_are_as_long_as_ours() -> None:
    body = _body(1, 16)
    image, state = np.zeros((16, 16, 3), np.uint8), np.full(6, 0.5, np.float32)
    request = pack({"observation/image": image, "state": state, "prompt": "stay", "id": 1000})
    with (
        in_background(PolicyServer(StillPolicy(body, 4), bind("127.0.0.1", 0, None))) as server,
        connect(server.address, proxy=None) as connection,
    ):
        connection.recv()
        for _ in range(2):
            connection.send(request)
            answer = connection.recv()
    assert isinstance(answer, bytes)
    np.testing.assert_array_equal(unpack(answer)["actions"], np.full((4, 6), 0.5, np.float32))
    assert len(answer) == _answer_bytes(4)


def test_too_few_calls_for_a_percentile_are_refused() -> None:
    with pytest.raises(ValueError, match="calls=5 is too few"):
        measure(seed=0, calls=5, cameras=1, size=8, action_horizon=4)
