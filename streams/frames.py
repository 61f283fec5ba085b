"""Frames: the rows of one batch that are bound for one partition of a hop topic, as one Kafka record.

A frame is an Arrow record batch without its schema (both sides work the schema out from the pipeline), at most
`MAX_FRAME_BYTES` long. Beside the event's columns every row carries where it comes from:

* `upstream_offset`, `upstream_row`: the record it was made from, and its place there. Together with the upstream
  partition, which stands in the record's headers, this is the row's *position*: the next stage drops what it has seen.
* `origin_topic` (a digest of its identity: it may be deleted and made anew), `origin_partition`, `origin_offset`,
  `arrived_ms`: the event's own record in `events`, for the prediction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from features.feature_set import FeatureSet
from features.plan import Floats, Ints
from features.rows import Rows
from features.store import Position
from streams.batch import Record

# Below the broker's and the consumers' default message and fetch limits (1 MiB), so that one frame always travels.
MAX_FRAME_BYTES = 512 * 1024


# Raised when the bytes of a frame change for the same features: a worker of the other kind must not read them.
FORMAT = 2

# The columns of whole numbers of a frame, after the event time.
INTEGERS = (
    "upstream_offsets",
    "upstream_rows",
    "origin_topics",
    "origin_partitions",
    "origin_offsets",
    "arrived_ms",
    "flags",
)


@dataclass(frozen=True)
class Frame:
    """n rows with the features worked out so far.

    `windows` is float64[n, features so far], `ages_s` float64[n, entities so far] (seconds since the entity's newest
    earlier event, NaN when it was never seen), `flags` int64[n] (see `streams.flags`).
    """

    rows: Rows
    upstream_offsets: Ints
    upstream_rows: Ints
    origin_topics: Ints
    origin_partitions: Ints
    origin_offsets: Ints
    arrived_ms: Ints
    windows: Floats
    ages_s: Floats
    flags: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_events(cls, rows: Rows, source: str, partition: int, records: Sequence[Record]) -> Frame:
        """Decoded events, each from its own record of this partition; `source` names the topic and its identity."""
        offsets = np.array([record.offset for record in records], np.int64)
        arrived_ms = np.array([record.timestamp for record in records], np.int64)
        zeros = np.zeros(len(rows), np.int64)
        nothing = np.zeros((len(rows), 0))
        topics = zeros + topic_digest(source)
        return cls(
            rows, offsets, zeros, topics, zeros + partition, offsets, arrived_ms, nothing, nothing, zeros
        )

    def take(self, chosen: Ints) -> Frame:
        """The rows at these indices, in this order."""
        return Frame(
            self.rows.take(chosen),
            self.upstream_offsets[chosen],
            self.upstream_rows[chosen],
            self.origin_topics[chosen],
            self.origin_partitions[chosen],
            self.origin_offsets[chosen],
            self.arrived_ms[chosen],
            self.windows[chosen],
            self.ages_s[chosen],
            self.flags[chosen],
        )

    def with_entity(self, windows: Floats, ages_s: Floats, flags: Ints) -> Frame:
        """The same rows after one more entity's stage."""
        return replace(
            self,
            windows=np.hstack([self.windows, windows]),
            ages_s=np.column_stack([self.ages_s, ages_s]),
            flags=self.flags | flags,
        )


class FrameCodec:
    """Writes and reads the frames that enter the stage number `stage` (0 = the first entity's)."""

    def __init__(self, feature_set: FeatureSet, stage: int) -> None:
        plans = feature_set.entities[:stage]
        self._layout = feature_set.layout
        widths = (len(self._layout.numbers), sum(len(plan.outputs) for plan in plans), len(plans))
        self._numbers, self._windows, self._width = np.cumsum(widths).tolist()
        self.schema = pa.schema(self._fields())
        self.version = f"{FORMAT}-{feature_set.hash}-{stage}".encode()

    def encode(self, frame: Frame) -> pa.RecordBatch:
        """The frame as an Arrow record batch."""
        integers = np.column_stack((frame.rows.times_us, *(getattr(frame, name) for name in INTEGERS)))
        floats = np.hstack((frame.rows.numbers, frame.windows, frame.ages_s))
        matrices = [self._matrix("integers", integers), self._matrix("floats", floats)]
        return pa.RecordBatch.from_arrays(
            [frame.rows.event_ids, *frame.rows.texts, *matrices], schema=self.schema
        )

    def split(self, frame: Frame, partitions: Ints) -> Iterator[tuple[int, bytes]]:
        """Cut a frame by target partition: (partition, bytes) pairs, rows in order, none above `MAX_FRAME_BYTES`."""
        if len(frame) == 0:
            return
        yield from cut(self.encode(frame), partitions)

    def decode(self, value: bytes) -> Frame:
        """The frame in a record's value. Raises ValueError when it is none."""
        return self.frame_of(opened(value, self.schema))

    def empty(self) -> Frame:
        """A frame without rows."""
        return self._empty

    @cached_property
    def _empty(self) -> Frame:  # every batch of label rows alone asks for it
        return self.frame_of(pa.RecordBatch.from_pylist([], schema=self.schema))

    def join(self, frames: Sequence[Frame]) -> Frame:
        """Several frames as one, in order."""
        if len(frames) == 1:
            return frames[0]
        return self.frame_of(pa.concat_batches([self.encode(frame) for frame in frames]))

    def frame_of(self, batch: pa.RecordBatch) -> Frame:
        """The frame in a record batch of this schema."""
        event_ids, *texts, integers, floats = batch.columns
        columns = np.ascontiguousarray(self._values(integers, 1 + len(INTEGERS)).T)
        times_us, offsets, places, topics, partitions, origins, arrived_ms, flags = columns
        numbers, windows, ages_s = np.split(
            self._values(floats, self._width), (self._numbers, self._windows), axis=1
        )
        rows = Rows(self._layout, event_ids, times_us, numbers, tuple(texts))
        return Frame(rows, offsets, places, topics, partitions, origins, arrived_ms, windows, ages_s, flags)

    def _fields(self) -> list[tuple[str, pa.DataType]]:
        # Two matrices instead of a column for each: a column costs some 10 µs to write and read, whatever its rows.
        return [
            ("event_id", pa.string()),
            *((f"text:{name}", pa.string()) for name in self._layout.texts),
            ("integers", pa.list_(pa.int64(), 1 + len(INTEGERS))),
            ("floats", pa.list_(pa.float64(), self._width)),
        ]

    def _matrix(self, name: str, values: Floats | Ints) -> pa.FixedSizeListArray:
        flat = pa.array(values.reshape(-1))
        kind = self.schema.field(name).type
        # Built from buffers because `from_arrays` cannot tell how many rows a matrix without columns has.
        return pa.FixedSizeListArray.from_buffers(kind, len(values), [None], children=[flat])

    @staticmethod
    def _values(column: pa.FixedSizeListArray, width: int) -> Any:
        return column.flatten().to_numpy().reshape(len(column), width)


def topic_digest(source: str) -> int:
    """A number of 32 bits for a topic and its identity ("<topic>@<identity>")."""
    return zlib.crc32(source.encode())


class Positioned(Protocol):
    """Rows with their positions upstream, int64[n] each."""

    @property
    def upstream_offsets(self) -> Ints: ...

    @property
    def upstream_rows(self) -> Ints: ...


def positions_after(frame: Positioned, seen: Position) -> int:
    """Index of the first row that stands after `seen`. Rows of one record are in the order of their positions.

    Example: rows (5, 0), (5, 3), (6, 0) after position (5, 0) begin at index 1.
    """
    later = frame.upstream_offsets > seen.offset
    same = (frame.upstream_offsets == seen.offset) & (frame.upstream_rows > seen.row)
    after = np.flatnonzero(later | same)
    return int(after[0]) if len(after) else len(frame.upstream_offsets)


def opened(value: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The rows of this schema in a record's value, each with an event id. Raises ValueError when it holds none."""
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(value), schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ValueError(str(error)) from error
    if batch.column(0).null_count:
        raise ValueError("an event without an id")
    return batch


def cut(batch: pa.RecordBatch, partitions: Ints) -> Iterator[tuple[int, bytes]]:
    """The rows by target partition: (partition, bytes) pairs, rows in order, none above `MAX_FRAME_BYTES`."""
    if len(partitions) and (partitions == partitions[0]).all():  # a pipeline of one partition
        yield from ((int(partitions[0]), piece) for piece in _pieces(batch))
        return
    order = np.argsort(partitions, kind="stable")
    if (np.diff(partitions) < 0).any():
        batch = batch.take(pa.array(order))
    targets, starts = np.unique(partitions[order], return_index=True)
    ends = [*starts[1:], len(order)]
    for target, start, end in zip(targets, starts, ends, strict=True):
        for piece in _pieces(batch.slice(int(start), int(end - start))):
            yield int(target), piece


def _pieces(batch: pa.RecordBatch) -> Iterator[bytes]:
    data = batch.serialize().to_pybytes()
    if len(data) <= MAX_FRAME_BYTES or batch.num_rows == 1:
        yield data
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))
