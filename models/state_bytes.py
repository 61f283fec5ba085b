"""Learning state as bytes: MessagePack with NumPy arrays in it, every number bit for bit, and no pickle anywhere.

Equal states give equal bytes, so two runs can be compared by what they wrote.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from features.errors import SnapshotError

# The extension type by which an array is known in the bytes: dtype, shape, then the numbers in C order.
ARRAY = 1

# What an array may be of. Nothing else is read back, so bytes cannot ask for an object that runs code.
DTYPES = ("<f8", "<i8", "<u8", "|b1", "<i4", "<u4", "|u1", "|i1")


def pack_state(state: dict[str, Any]) -> bytes:
    """The state as bytes. Takes dicts with string keys, lists, numbers, texts, bytes, None and arrays.

    Example:
        >>> unpack_state(pack_state({"weights": np.array([0.25, 0.75]), "rows": 3}))
        {'weights': array([0.25, 0.75]), 'rows': 3}
    """
    return _ENCODER.encode(state)


def unpack_state(data: bytes) -> dict[str, Any]:
    """What `pack_state` was given; arrays are writable copies. Raises SnapshotError for anything else."""
    try:
        state = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise SnapshotError(f"learning state of {len(data)} bytes cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise SnapshotError(f"learning state is a {type(state).__name__}, expected named parts")
    return state


def _pack_array(value: object) -> msgspec.msgpack.Ext:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        raise TypeError(f"{type(value).__name__} is no learning state")
    head = msgspec.msgpack.encode((value.dtype.str, value.shape))
    return msgspec.msgpack.Ext(ARRAY, len(head).to_bytes(2, "little") + head + value.tobytes())


def _unpack_array(code: int, data: memoryview) -> object:
    if code != ARRAY:
        raise ValueError(f"extension type {code}, expected {ARRAY}")
    end = 2 + int.from_bytes(data[:2], "little")
    dtype, shape = msgspec.msgpack.decode(data[2:end], type=tuple[str, tuple[int, ...]])
    if dtype not in DTYPES:
        raise ValueError(f"an array of {dtype!r}, expected one of {', '.join(DTYPES)}")
    return np.frombuffer(data[end:], dtype).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack_array)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_unpack_array)
