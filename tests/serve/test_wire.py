"""The wire: openpi's bytes, and nothing else; whatever arrives is either a message or a WireError."""

import base64
import json
import resource
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.serve.golden.write_golden import MESSAGES
from vla.serve.limits import Limits
from vla.serve.wire import DTYPES, WireError, pack, unpack

GOLDEN = json.loads((Path(__file__).parent / "golden" / "openpi-client-0.1.2.json").read_text())
CAP = Limits().message_bytes
ARRAY = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
SCALAR = {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}


def assert_same(mine: Any, other: Any) -> None:
    """Compare two messages with the types of everything in them."""
    if isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, list):
        assert len(mine) == len(other)
        for one, two in zip(mine, other, strict=True):
            assert_same(one, two)
    elif isinstance(mine, np.ndarray | np.generic):
        assert type(mine) is type(other) and mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)
    else:
        assert type(mine) is type(other)
        assert mine == other or (mine != mine and other != other)


def read(data: bytes) -> dict[str, Any] | None:
    """Unpack, None where the bytes are refused; any other exception is a failure of the test."""
    try:
        return unpack(data)
    except WireError:
        return None


@pytest.mark.parametrize("name", GOLDEN)
def test_what_openpis_client_writes_is_read_and_written_byte_for_byte(name: str) -> None:
    data = base64.b64decode(GOLDEN[name])
    assert_same(MESSAGES[name], unpack(data))
    assert pack(MESSAGES[name]) == data


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)
numbers = st.sampled_from([dtype for dtype in DTYPES if dtype != "<f8"]).flatmap(  # float64 is sent as a plain float
    lambda dtype: hnp.from_dtype(np.dtype(dtype))
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
values = st.recursive(
    plain | st.binary(max_size=20) | arrays | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
messages = st.dictionaries(st.text(max_size=8), values, max_size=5)


@given(messages)
@settings(deadline=None, max_examples=40)
def test_unpack_inverts_pack(message: dict[str, Any]) -> None:
    assert_same(message, unpack(pack(message)))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    message = read(data)
    assert message is None or all(isinstance(key, str) for key in message)


@given(messages, st.data())
@settings(deadline=None, max_examples=50)
def test_a_torn_or_spoiled_message_is_a_message_or_refused(message: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(pack(message))
    if data.draw(st.booleans()):
        assert read(bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])) is None
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(whole))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            b"__ndarray__": st.just(True) | plain,
            b"__npgeneric__": st.just(True) | plain,
            b"data": st.binary(max_size=16) | plain,
            b"dtype": st.sampled_from([*DTYPES, "|O", ">f4", "<c8", "|V4", "<U1", "object"]) | plain,
            b"shape": st.lists(st.integers(-2, 3) | plain, max_size=7) | plain,
        },
    )
)
@settings(deadline=None, max_examples=200)
def test_a_described_array_has_exactly_its_bytes_or_is_refused(description: dict[bytes, Any]) -> None:
    message = read(msgpack.packb({"x": description}))
    if message is not None and isinstance(message["x"], np.ndarray):
        array = message["x"]
        assert array.dtype.str in DTYPES and array.tobytes() == description[b"data"]
        assert list(array.shape) == description[b"shape"] and not array.flags.writeable


@pytest.mark.parametrize(
    "value, words",
    [
        ({**ARRAY, b"dtype": "|O"}, "dtype '|O' is not read; possible"),
        ({**ARRAY, b"dtype": "<c8"}, "dtype '<c8' is not read"),
        ({**ARRAY, b"dtype": ">f4"}, "dtype '>f4' is not read"),
        ({**ARRAY, b"dtype": "float32"}, "dtype 'float32' is not read"),
        ({**ARRAY, b"shape": [3]}, "needs 12 bytes and has 8"),
        ({**ARRAY, b"shape": [-2]}, "list of lengths 0 to 8192"),
        ({**ARRAY, b"shape": [True, 2]}, "list of lengths 0 to 8192"),
        ({**ARRAY, b"shape": [8193, 0]}, "list of lengths 0 to 8192"),
        ({**ARRAY, b"shape": [1, 1, 1, 1, 1, 2]}, "has 6 dimensions, at most 5"),
        ({**ARRAY, b"data": "x" * 8}, "data is bytes, not str"),
        ({**ARRAY, b"__ndarray__": 1}, "bytes keys describe an array or a number"),
        ({**ARRAY, b"more": 1}, "bytes keys describe an array or a number"),
        ({**ARRAY, b"dtype": "|b1", b"shape": [8], b"data": b"\0\1\2\0\0\0\0\0"}, "bytes other than 0 and 1"),
        ({**SCALAR, b"data": 1}, "a number <f4 cannot be int"),
        ({**SCALAR, b"dtype": "|u1", b"data": 256}, "256 is out of range for |u1"),
        ({**SCALAR, b"dtype": "<i4", b"data": True}, "a number <i4 cannot be bool"),
        (msgpack.ExtType(1, b"x"), "extension types are not read"),
        (msgpack.Timestamp(1), "extension types are not read"),
        ("x" * 70_000, "more than 65536 bytes of text"),
        ([0] * 5000, "more than 4096 values"),
        ([[[[[[[[[1]]]]]]]]], "more than 8 deep"),
    ],
)
def test_a_refusal_says_what_is_wrong(value: Any, words: str) -> None:
    with pytest.raises(WireError) as caught:
        unpack(msgpack.packb({"x": value}))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "ends early, after 0 bytes"),
        (b"\x93\x01", "ends early"),
        (b"\x01", "a message is a map, this is int"),
        (msgpack.packb({}) + b"\x00", "should end after 1 bytes and has 2"),
        (b"\x82\xa1a\x01\xa1a\x02", "names a key twice: ['a', 'a']"),
        (b"\x81\x01\x02", "not msgpack as openpi writes it"),
        (b"\x81\xa1\xff\x02", "not msgpack as openpi writes it"),
        (b"\xc1", "begins with byte 0xc1"),
    ],
)
def test_torn_and_foreign_bytes_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(WireError) as caught:
        unpack(data)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.zeros(2, complex), np.zeros(2, ">f4"), np.array(["x"]), {1}]
)
def test_what_could_not_be_read_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError, match=r"not sent|no place in a message"):
        pack({"x": value})


BOMBS = {
    "empty maps": b"\xdd" + (CAP - 5).to_bytes(4, "big") + b"\x80" * (CAP - 5),
    "empty lists": b"\xdd" + (CAP - 5).to_bytes(4, "big") + b"\x90" * (CAP - 5),
    "nested lists that promise much": b"\xdd\xff\xff\xff\xff" * 1000,
    "one level after the other": b"\x91" * CAP,
    "text that needs four bytes a letter": b"\xdb" + (CAP - 5).to_bytes(4, "big") + b"a" * (CAP - 9) + "😀".encode(),
    "numbers": b"\xdd" + (CAP // 3).to_bytes(4, "big") + b"\xcd\xff\xff" * (CAP // 3),
    "a promise of four gigabytes": b"\xc6\xff\xff\xff\xff" + bytes(1000),
    "an array without bytes": msgpack.packb({"x": {**ARRAY, b"shape": [8192] * 5, b"data": b""}}),
    "bytes to the brim": msgpack.packb({"x": {**ARRAY, b"shape": [8192, 256], b"data": bytes(4 * 8192 * 256)}})[:CAP],
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_takes_less_than_twice_the_message_cap(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        read(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(bomb) + peak < 2 * CAP


def test_the_largest_message_costs_no_more_than_a_copy() -> None:
    rows = (CAP - 200) // 8192
    whole = pack({"x": np.zeros((rows, 8192), np.uint8)})
    assert CAP - 16384 < len(whole) <= CAP
    tracemalloc.start()
    try:
        unpack(whole)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(whole) + peak < 2 * CAP + 16384  # what arrived, one copy, and what describes them


def spoiled(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Return a message with some bytes changed, cut out, doubled or added, or bytes from nowhere."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 6)):
        start = int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 12))
        match rng.integers(6):
            case 0:
                data[start : start + 1] = rng.bytes(1)
            case 1:
                data[start : start + length] = b""
            case 2:
                data[start:start] = data[start : start + length]
            case 3:
                data[start:start] = rng.bytes(length)
            case 4:
                data[start : start + 1] = bytes([rng.integers(0x80, 0xE0)])
            case 5:
                data = data[:start] if rng.random() < 0.3 else data
    return bytes(data) if rng.random() < 0.95 else rng.bytes(int(rng.integers(0, 64)))


def fuzz(inputs: int, seed: int) -> tuple[int, float]:
    """Unpack many spoiled messages; return how many were still messages, and the longest time that one took [s]."""
    rng = np.random.default_rng(seed)
    small = [pack({"state": np.arange(2, dtype=np.float32), "n": np.int64(3), "prompt": "pick", "l": [1, [2.5, None]]})]
    small += [base64.b64decode(data) for name, data in GOLDEN.items() if name in ("answer", "droid")]
    taken, longest_s = 0, 0.0
    for _ in range(inputs):
        data = spoiled(rng, small)
        began_s = time.process_time()
        taken += read(data) is not None
        longest_s = max(longest_s, time.process_time() - began_s)
    return taken, longest_s


def test_spoiled_messages_never_crash_the_decoder() -> None:
    taken, longest_s = fuzz(2000, seed=0)
    assert 20 < taken < 1900  # the fuzz reaches both ends
    assert longest_s < 1.0


@pytest.mark.slow
def test_a_million_spoiled_messages_never_crash_the_decoder() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, longest_s = fuzz(1_000_000, seed=1)
    assert longest_s < 1.0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 2 * CAP


def test_the_survey_and_the_library_agree_on_where_values_end() -> None:
    for value in [0, -1, 127, 128, 2**16, 2**32, 2**63, -33, -129, -(2**31), 1.5, None, True, "é" * 40, b"b" * 300]:
        assert unpack(msgpack.packb({"v": value})) == {"v": value}
    for length in (0, 15, 16, 300):
        assert unpack(msgpack.packb({"v": list(range(length))}))["v"] == list(range(length))
        assert len(unpack(msgpack.packb({"v": {str(i): i for i in range(length)}}))["v"]) == length
    assert unpack(msgpack.packb({"v": 1.5}, use_single_float=True)) == {"v": 1.5}
