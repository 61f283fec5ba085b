"""What labels and actions become on `hop-join`, and how the partitions upstream say how far they are.

Three kinds of records stand on `hop-join`, told apart by the header FRAME: what was served (`streams/served.py`); *reports*,
which are labels or actions; and *idle frames*, which every partition upstream writes to every partition here each second,
whether or not there is traffic. An idle frame holds JSON: the newest time that was seen upstream, whether anything waits
there, and the wall clock. So the join stage knows how far everybody is without a clock of its own, and a replay of the
topic comes to the same decisions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from features.plan import Floats, Ints
from models.pipeline import Pipeline
from streams.frames import cut
from streams.headers import FRAME, PIPELINE_VERSION, UPSTREAM
from streams.labels import Actions, Labels
from streams.producer import Outgoing, partitions_of

# Raised when the bytes of reports change for the same label.
FORMAT = 1

SERVED: Final = "served"
LABELS: Final = "labels"
ACTIONS: Final = "actions"

IDLE_FRAME: Final = b"idle-1"

FEED = "feed"
"""Header of reports: `labels` or `actions`."""

WALL = "wall_ms"
"""Header of reports: the wall clock of who wrote them, in milliseconds."""

NO_MARK: Final = -(2**62)
"""The newest time of a partition from which nothing came yet."""

LABEL_ROW: Final = -1
"""In place of an action's number, in the row of a label."""

_INTEGERS = 4  # when it was known, action, upstream offset, upstream row


@dataclass(frozen=True)
class Reports:
    """n labels or actions in the order of their records. `actions` int64[n] are places in `streams.labels.ACTIONS`, or
    `LABEL_ROW`; `codes` and `values` are NaN for actions."""

    event_ids: Sequence[str]
    known_us: Ints
    codes: Floats
    values: Floats
    actions: Ints
    upstream_offsets: Ints
    upstream_rows: Ints

    def __len__(self) -> int:
        return len(self.event_ids)

    @classmethod
    def of_labels(cls, labels: Labels, offsets: Ints) -> Reports:
        """Labels, each from the record of its offset."""
        nothing = np.zeros(len(labels), np.int64)
        return cls(
            labels.event_ids,
            labels.known_us,
            labels.codes,
            labels.values,
            nothing + LABEL_ROW,
            offsets,
            nothing,
        )

    @classmethod
    def of_actions(cls, actions: Actions, offsets: Ints, values: int) -> Reports:
        """Actions, each from the record of its offset; `values`: how many numbers come with a label."""
        n = len(actions)
        nothing = np.zeros(n, np.int64)
        blank = np.full((n, values), np.nan)
        return cls(
            actions.event_ids, actions.at_us, np.full(n, np.nan), blank, actions.actions, offsets, nothing
        )


class Idle(msgspec.Struct, frozen=True):
    """An idle frame: how far the partition upstream was at the wall clock `wall_ms`.

    `mark_us` is the newest time that came from it (`NO_MARK`: none), `idle` says that nothing waited there, `last_ms` is
    the wall clock when the last record of it was worked on (0: none yet).
    """

    feed: str
    mark_us: int
    wall_ms: int
    idle: bool
    last_ms: int = 0


class ReportCodec:
    """Writes and reads the reports of a pipeline's label.

    Example:
        >>> from tests.shop_events import orders
        >>> codec = ReportCodec(orders())
        >>> ones = np.ones(2, np.int64)
        >>> labels = Labels(["a", "b"], ones * 7, np.array([1.0, 0.0]), np.zeros((2, 0)))
        >>> [(partition, value)] = codec.encode(Reports.of_labels(labels, ones * 40), 1)
        >>> read = codec.decode(value)
        >>> partition, read.event_ids, read.codes.tolist(), read.upstream_offsets.tolist()
        (0, ['a', 'b'], [1.0, 0.0], [40, 40])
    """

    def __init__(self, pipeline: Pipeline) -> None:
        label = pipeline.label
        self.values = len(label.values)
        content = json.dumps([FORMAT, label.name, label.kind, [*label.classes], [*label.values]]).encode()
        self.version = f"report-{hashlib.sha256(content).hexdigest()[:16]}".encode()
        self.schema = pa.schema(
            [
                ("event_id", pa.string()),
                ("integers", pa.list_(pa.int64(), _INTEGERS)),
                ("floats", pa.list_(pa.float64(), 1 + self.values)),
            ]
        )

    def encode(self, reports: Reports, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Cut by the hash of the event id: (partition, value) pairs, rows in order, none above the frames' limit."""
        if not len(reports):
            return
        columns = (reports.known_us, reports.actions, reports.upstream_offsets, reports.upstream_rows)
        floats = np.column_stack([reports.codes, reports.values])
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(reports.event_ids, pa.string()),
                matrix_column(np.column_stack(columns), self.schema.field("integers").type),
                matrix_column(floats, self.schema.field("floats").type),
            ],
            schema=self.schema,
        )
        yield from cut(batch, partitions_of(reports.event_ids, partitions))

    def decode(self, value: bytes) -> Reports:
        """The reports in a record's value. Raises ValueError when it holds none."""
        batch = read_batch(value, self.schema)
        event_ids, integers, floats = batch.columns
        if event_ids.null_count:
            raise ValueError("a label without an event id")
        known_us, actions, offsets, rows = np.ascontiguousarray(column_matrix(integers, _INTEGERS).T)
        numbers = column_matrix(floats, 1 + self.values)
        return Reports(event_ids.to_pylist(), known_us, numbers[:, 0], numbers[:, 1:], actions, offsets, rows)

    def headers(
        self, feed: str, upstream: str, wall_ms: int, pipeline_version: str
    ) -> list[tuple[str, bytes]]:
        """The headers of a record of reports."""
        return [
            (UPSTREAM, upstream.encode()),
            (FRAME, self.version),
            (FEED, feed.encode()),
            (WALL, str(wall_ms).encode()),
            (PIPELINE_VERSION, pipeline_version.encode()),
        ]


def idle_messages(topic: str, partitions: int, upstream: str, idle: Idle) -> list[Outgoing]:
    """An idle frame of the partition `upstream` for every partition of `hop-join`."""
    value = _ENCODER.encode(idle)
    headers = [(UPSTREAM, upstream.encode()), (FRAME, IDLE_FRAME)]
    return [Outgoing(topic, number, None, value, headers) for number in range(partitions)]


def read_idle(value: bytes) -> Idle:
    """The idle frame in a record's value. Raises ValueError when it holds none."""
    try:
        return _IDLE.decode(value)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


_ENCODER = msgspec.json.Encoder()
_IDLE = msgspec.json.Decoder(Idle)


def read_batch(value: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The record batch that was written without its schema. Raises ValueError when the bytes are none of it."""
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(value), schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ValueError(str(error)) from error
    return batch


def matrix_column(values: Floats | Ints, kind: pa.DataType) -> pa.FixedSizeListArray:
    """A matrix as one column."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    # Built from buffers because `from_arrays` cannot tell how many rows a matrix without columns has.
    return pa.FixedSizeListArray.from_buffers(kind, len(values), [None], children=[flat])


def column_matrix(column: pa.FixedSizeListArray, width: int) -> Any:
    """The matrix that stands in a column."""
    return column.flatten().to_numpy().reshape(len(column), width)
