"""openpi's wire format: one msgpack map a message, arrays inside it as maps with bytes keys. No pickle.

What arrives is not trusted: its structure is surveyed before anything is built, so that a short message cannot ask for
much memory, and an array is built only if its bytes are exactly what its type and shape need.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

DTYPES = ("|b1", "|u1", "<i4", "<i8", "<f2", "<f4", "<f8")  # as numpy's dtype.str
MAX_DIMENSIONS, MAX_LENGTH = 5, 8192  # of an array
MAX_DEPTH, MAX_VALUES, MAX_TEXT_BYTES = 8, 4096, 65536  # of a message; the last: all of its strings together

ARRAY, SCALAR, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"

# msgpack's first byte -> what follows: a fixed number of bytes, or a length of so many bytes before the content
FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
BINARY, TEXT = {0xC4: 1, 0xC5: 2, 0xC6: 4}, {0xD9: 1, 0xDA: 2, 0xDB: 4}
LIST, MAP = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}


class WireError(ValueError):
    """The bytes are not a message of this wire."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message: plain values, lists, maps, and arrays or NumPy numbers of the types DTYPES."""
    return msgpack.packb(message, default=_described)  # pyright: ignore[reportReturnType]


def unpack(data: bytes) -> dict[str, Any]:
    """Return the message that the bytes hold; its arrays are read-only. Anything wrong raises WireError."""
    _survey(data)
    try:
        message = msgpack.unpackb(data, object_pairs_hook=_restored, strict_map_key=True)
    except WireError:
        raise
    except (ValueError, msgpack.UnpackException) as error:  # text that is not UTF-8, keys of other types
        raise WireError(f"not msgpack as openpi writes it: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"a message is a map, this is {_kind(message)}")
    return message


def _described(value: object) -> dict[bytes, Any]:
    """Return an array or a NumPy number as openpi's map."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} has no place in a message; give plain values and arrays")
    if value.dtype.str not in DTYPES:
        raise TypeError(f"arrays of {value.dtype} are not sent; convert to one of {', '.join(DTYPES)}")
    if isinstance(value, np.ndarray):
        return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
    return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}


def _survey(data: bytes) -> None:
    """Walk over the structure without building it; refuse what is too much, torn, or not of this wire."""
    end, position, values, text = len(data), 0, 0, 0
    open_levels = [1]  # values still to come in each list or map around the present place
    while open_levels:
        if open_levels[-1] == 0:
            open_levels.pop()
            continue
        open_levels[-1] -= 1
        values += 1
        if values > MAX_VALUES:
            raise WireError(f"more than {MAX_VALUES} values in one message; send numbers as arrays")
        if position >= end:
            raise WireError(f"the message ends early, after {end} bytes")
        first = data[position]
        position += 1
        content, children, is_text = 0, 0, False
        if first in FIXED:
            content = FIXED[first]
        elif 0x80 <= first <= 0x9F:
            children = (first & 0x0F) * (2 if first < 0x90 else 1)
        elif 0xA0 <= first <= 0xBF:
            content, is_text = first & 0x1F, True
        elif 0x80 <= first < 0xE0:
            width = BINARY.get(first) or TEXT.get(first) or LIST.get(first) or MAP.get(first)
            if width is None:
                raise WireError(f"a value begins with byte 0x{first:02x}; extension types are not read")
            length = int.from_bytes(data[position : position + width], "big")
            position += width
            if first in LIST or first in MAP:
                children = length * (2 if first in MAP else 1)
            else:
                content, is_text = length, first in TEXT
        position += content
        text += content if is_text else 0
        if text > MAX_TEXT_BYTES:
            raise WireError(f"more than {MAX_TEXT_BYTES} bytes of text in one message")
        if children:
            if len(open_levels) > MAX_DEPTH:
                raise WireError(f"lists and maps more than {MAX_DEPTH} deep")
            open_levels.append(children)
    if position != end:
        raise WireError(f"the message should end after {position} bytes and has {end}")


def _restored(pairs: Sequence[tuple[str | bytes, Any]]) -> Any:
    """Return a finished map as it is, or as the array or number that it describes."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise WireError(f"a map names a key twice: {_shown([key for key, _ in pairs])}")
    if not any(isinstance(key, bytes) for key in values):
        return values
    if values.keys() == {ARRAY, DATA, DTYPE, SHAPE} and values[ARRAY] is True:
        return _array(values[DATA], values[DTYPE], values[SHAPE])
    if values.keys() == {SCALAR, DATA, DTYPE} and values[SCALAR] is True:
        return _scalar(values[DATA], values[DTYPE])
    raise WireError(f"bytes keys describe an array or a number, these do not: {_shown(list(values))}")


def _array(data: object, dtype: object, shape: object) -> np.ndarray:
    kind = _dtype(dtype)
    if not isinstance(shape, list) or not all(type(length) is int and 0 <= length <= MAX_LENGTH for length in shape):
        raise WireError(f"an array's shape is a list of lengths 0 to {MAX_LENGTH}, not {_shown(shape)}")
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"an array has {len(shape)} dimensions, at most {MAX_DIMENSIONS}")
    if not isinstance(data, bytes):
        raise WireError(f"an array's data is bytes, not {_kind(data)}")
    needed = math.prod(shape) * kind.itemsize
    if len(data) != needed:
        raise WireError(f"an array {dtype} of shape {shape} needs {needed} bytes and has {len(data)}")
    if kind.kind == "b" and data.strip(b"\x00\x01"):
        raise WireError("an array of truth values holds bytes other than 0 and 1")
    return np.ndarray(shape, kind, data)


def _scalar(data: Any, dtype: object) -> np.generic:
    kind = _dtype(dtype)
    if type(data) is not {"b": bool, "f": float}.get(kind.kind, int):
        raise WireError(f"a number {dtype} cannot be {_kind(data)}")
    if kind.kind in "iu" and not np.iinfo(kind).min <= data <= np.iinfo(kind).max:
        raise WireError(f"{data} is out of range for {dtype}")
    with np.errstate(over="ignore"):  # a large float64 becomes infinity, which is a float32
        return kind.type(data)


def _dtype(dtype: object) -> np.dtype:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"dtype {_shown(dtype)} is not read; possible: {', '.join(DTYPES)}")
    return np.dtype(dtype)


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    """Return a value that a stranger chose, cut to what fits in a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
