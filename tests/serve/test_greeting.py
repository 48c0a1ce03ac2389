"""The greeting tells a client what a policy is, and one that cannot be true is refused."""

from typing import Any

import numpy as np
import pytest

from tests.model.tiny import tiny_policy
from tests.serve.gated import Start
from tests.serve.test_client import SLOW, hello, impostor
from vla.serve.client import RemotePolicy
from vla.serve.errors import WrongAnswer
from vla.serve.wire import pack, unpack


@pytest.mark.parametrize(
    "greeting, words",
    [
        ("openpi", "it greets with the text 'openpi'"),
        (b"\xc1", "begins with byte 0xc1"),
        (pack({"model": "pi0"}), "does not say which body its policy moves"),
        (pack({"embodiment": {"name": "arm"}}), "describes a body that cannot be read"),
    ],
)
def test_a_server_of_another_kind_is_refused(greeting: str | bytes, words: str) -> None:
    with impostor(greeting=greeting) as url, pytest.raises(WrongAnswer) as wrong:
        RemotePolicy(url, **SLOW)
    assert words in str(wrong.value)


def test_what_cameras_showed_in_training_comes_with_the_greeting(start: Start) -> None:
    policy = tiny_policy()
    policy.processor.glimpses["front"] = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with RemotePolicy(start(policy).address, **SLOW) as client:
        assert np.array_equal(client.glimpses["front"], policy.glimpses["front"])


@pytest.mark.parametrize(
    "told",
    [
        {"front": "a picture"},
        {"front": np.zeros((0, 9, 3), np.uint8)},
        {"rear": np.zeros((16, 16, 3), np.uint8)},
        [1],
    ],
)
def test_glimpses_that_are_none_are_refused(start: Start, told: object) -> None:
    greeting = unpack(hello(start)) | {"glimpses": told}
    with (
        impostor(greeting=pack(greeting)) as url,
        pytest.raises(WrongAnswer, match="must be small pictures of"),
    ):
        RemotePolicy(url, **SLOW)


@pytest.mark.parametrize("ready", [None, [0.5, -1.25, 0.25]])
def test_the_ready_pose_comes_with_the_greeting(start: Start, ready: list[float] | None) -> None:
    policy = tiny_policy()
    policy.processor.ready = None if ready is None else np.array(ready, np.float32)
    with RemotePolicy(start(policy).address, **SLOW) as client:
        assert (client.ready is None) if ready is None else client.ready.tolist() == ready


@pytest.mark.parametrize("told", ["home", np.zeros(2, np.float32), np.full(3, np.nan, np.float32)])
def test_a_ready_pose_that_is_none_is_refused(start: Start, told: object) -> None:
    greeting = unpack(hello(start)) | {"ready": told}
    with impostor(greeting=pack(greeting)) as url, pytest.raises(WrongAnswer, match="ready pose must be 3 finite"):
        RemotePolicy(url, **SLOW)


@pytest.mark.parametrize(("modes", "talks"), [({}, False), ({"modes": ["act", "generate"]}, True)])
def test_whether_it_answers_in_words_comes_with_the_greeting(start: Start, modes: dict[str, Any], talks: bool) -> None:
    greeting = {key: value for key, value in unpack(hello(start)).items() if key != "modes"} | modes
    with impostor(greeting=pack(greeting)) as url, RemotePolicy(url, **SLOW) as client:
        assert client.talks is talks


def test_modes_that_are_none_are_refused(start: Start) -> None:
    with impostor(greeting=pack(unpack(hello(start)) | {"modes": 1})) as url, pytest.raises(WrongAnswer, match="modes"):
        RemotePolicy(url, **SLOW)


def test_a_body_that_was_changed_on_the_way_is_refused(start: Start) -> None:
    metadata = unpack(hello(start))
    metadata["embodiment"]["velocity_max"][0] *= 2
    with impostor(greeting=pack(metadata)) as url, pytest.raises(WrongAnswer, match="does not have the hash"):
        RemotePolicy(url, **SLOW)
