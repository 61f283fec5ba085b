"""The rows of a Feast feature view as Feast's Redis online store keeps them, made without Feast.

Importing Feast takes 3 s and its writer about 100 µs a row; this makes a row of 20 features in half a microsecond. The layout is
that of Feast 0.67 (feast/infra/online_stores/redis.py and helpers.py, entity keys of version 3), and
tests/functional/test_feast_reads_back.py reads with Feast what stands here:

    Redis key    number of join keys u32 | STRING u32, length u32, join key | STRING u32, length u32, value | project
    hash field   murmur3 of "<view>:<feature>", u32      hash value   a ValueProto
    hash field   "_ts:<view>"                            hash value   a Timestamp: the event time of the row

Counts and numbers of distinct values are Int64 (an estimate is rounded), everything else Float64; a missing value is the
empty ValueProto, which Feast reads as None.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import mmh3
import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import compiled
from features.plan import Aggregate, EntityPlan, Floats, Ints, Output

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

STRING: Final = 2  # feast.protos ... ValueType.STRING
NAME: Final = 5  # bytes of a hash field's name as a MessagePack text
SHORT_TEXT: Final = 0xA0  # MessagePack: this plus the length (at most 31) begins a text
INT64_TAG: Final = 0x20
DOUBLE_TAG: Final = 0x29  # ValueProto.int64_val = 4 (varint), ValueProto.double_val = 5 (8 bytes)
SECONDS_TAG: Final = 0x08
NANOS_TAG: Final = 0x10  # Timestamp.seconds = 1, Timestamp.nanos = 2 (varints)
VARINT: Final = 10  # bytes of the longest varint: 64 bits, 7 in each
LARGEST_INT: Final = float(2**63 - 1024)  # the largest double below 2^63

_length = struct.Struct("<I").pack


def is_integer(output: Output) -> bool:
    """Whether Feast shows this feature as Int64 (else as Float64)."""
    return output.aggregate in (Aggregate.COUNT, Aggregate.DISTINCT)


class FeastRows:
    """Makes the rows of one feature view: `view` of `project`, whose join key is the plan's entity.

    Example:
        >>> output = Output("origin_count_1h", Aggregate.COUNT, 0, 3_600_000_000, 0.0)
        >>> plan = EntityPlan("origin", ("origin",), (), (), (), (), (output,))
        >>> rows = FeastRows("flights", "flights_origin", plan)
        >>> [(key, row)] = rows.rows(["JFK"], np.array([[12.0]]), np.array([1_000_000]))
        >>> key
        b'\\x01\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x06\\x00\\x00\\x00origin\\x02\\x00\\x00\\x00\\x03\\x00\\x00\\x00JFKflights'
        >>> row[8:]  # after the field's name: 12 as a ValueProto, and second 1 as a Timestamp
        b'\\xa2 \\x0c\\xb2_ts:flights_origin\\xa2\\x08\\x01'
    """

    def __init__(self, project: str, view: str, plan: EntityPlan) -> None:
        entity = plan.entity.encode()
        self._key_head = b"".join(
            (_length(1), _length(STRING), _length(len(entity)), entity, _length(STRING))
        )
        self._key_tail = project.encode()
        self._integers = np.array([is_integer(output) for output in plan.outputs], np.bool_)
        names = b"".join(_field(view, output.name) for output in plan.outputs)
        self._names = np.frombuffer(bytearray(names), np.uint8).reshape(-1, NAME)
        # Each row is a MessagePack array of texts (features/redis_scripts/commit.lua takes it apart): an array of 2 bytes
        # of length, then field, value, field, value, ...
        fields = 2 * (len(plan.outputs) + 1)
        self._head = np.frombuffer(bytearray(b"\xdc" + fields.to_bytes(2, "big")), np.uint8)
        self._time_field = np.frombuffer(bytearray(msgspec.msgpack.encode(f"_ts:{view}")), np.uint8)

    def rows(self, keys: Sequence[str], features: Floats, times_us: Ints) -> list[tuple[bytes, bytes]]:
        """The (Redis key, packed row) of each entity, for `Commit.feature_rows`.

        `features` is float64[len(keys), outputs], NaN for missing; `times_us` the event times of the rows.
        """
        ends = np.zeros(len(keys) + 1, np.int64)
        cells = (self._head, self._names, self._integers, self._time_field)
        blob = _pack(*cells, np.ascontiguousarray(features), np.ascontiguousarray(times_us), ends)
        packed = blob.tobytes()
        values = [packed[start:end] for start, end in pairwise(ends.tolist())]
        return list(zip(self._keys(keys), values, strict=True))

    def _keys(self, keys: Sequence[str]) -> list[bytes]:
        head, tail = self._key_head, self._key_tail
        return [b"".join((head, _length(len(key)), key, tail)) for key in map(str.encode, keys)]


def _field(view: str, feature: str) -> bytes:
    """The hash field of a feature, as a MessagePack text of 4 bytes."""
    return bytes([SHORT_TEXT + 4]) + mmh3.hash(f"{view}:{feature}", signed=False).to_bytes(4, "little")


@compiled
def _pack(
    head: Bytes,
    names: Bytes,
    integers: Mask,
    time_field: Bytes,
    features: Floats,
    times_us: Ints,
    ends: Ints,
) -> Bytes:
    """All rows, one after another; `ends` (int64[rows + 1], zeros) becomes their bounds."""
    rows, outputs = features.shape
    most = len(head) + outputs * (NAME + 2 + VARINT) + len(time_field) + 1 + 2 * (1 + VARINT)
    blob = np.empty(rows * most, np.uint8)
    at = 0
    for row in range(rows):
        at = _copy(blob, at, head)
        for output in range(outputs):
            at = _copy(blob, at, names[output])
            value = features[row, output]
            if math.isnan(value):
                blob[at] = SHORT_TEXT
                at += 1
            elif integers[output]:
                at = _integer(blob, at, value)
            else:
                at = _double(blob, at, value)
        at = _copy(blob, at, time_field)
        at = _timestamp(blob, at, times_us[row])
        ends[row + 1] = at
    return blob[:at]


@compiled
def _copy(blob: Bytes, at: int, part: Bytes) -> int:
    for byte in range(len(part)):
        blob[at + byte] = part[byte]
    return at + len(part)


@compiled
def _integer(blob: Bytes, at: int, value: float) -> int:
    whole = int(np.rint(min(max(value, -LARGEST_INT), LARGEST_INT)))
    end = _tagged(blob, at + 1, INT64_TAG, whole)
    blob[at] = SHORT_TEXT + end - at - 1
    return end


@compiled
def _double(blob: Bytes, at: int, value: float) -> int:
    blob[at], blob[at + 1] = SHORT_TEXT + 9, DOUBLE_TAG
    bits = np.float64(value).view(np.uint64)
    for byte in range(8):
        blob[at + 2 + byte] = (bits >> np.uint64(8 * byte)) & np.uint64(0xFF)
    return at + 10


@compiled
def _timestamp(blob: Bytes, at: int, time_us: int) -> int:
    """Length, then seconds and nanoseconds, of which protobuf leaves out a zero."""
    seconds, end = time_us // 1_000_000, at + 1
    nanos = (time_us - seconds * 1_000_000) * 1_000
    if seconds != 0:
        end = _tagged(blob, end, SECONDS_TAG, seconds)
    if nanos != 0:
        end = _tagged(blob, end, NANOS_TAG, nanos)
    blob[at] = SHORT_TEXT + end - at - 1
    return end


@compiled
def _tagged(blob: Bytes, at: int, tag: int, value: int) -> int:
    """A tag, and a value in base 128, least digit first (protobuf.dev/programming-guides/encoding)."""
    blob[at] = tag
    rest = np.uint64(value)
    at += 1
    while rest >= np.uint64(0x80):
        blob[at] = (rest & np.uint64(0x7F)) | np.uint64(0x80)
        rest >>= np.uint64(7)
        at += 1
    blob[at] = rest
    return at + 1
