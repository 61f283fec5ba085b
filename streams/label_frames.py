"""Frames of label rows: how what became known of an entity's events travels to its stage, on its hop topic.

One record is an Arrow record batch without its schema, as a frame of events is (`streams/frames.py`), and like there each
row carries the record it was made from and its place there, and the header UPSTREAM names the partition that it comes
from. The header FRAME has `LabelFrameCodec.version`, by which the stage tells the two kinds apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.label_rows import LabelRows, join
from features.plan import EntityPlan, Ints

# Raised when the bytes of a label frame change for the same label windows.
FORMAT = 1

_INTEGERS = 4  # known, replaced known, upstream offset, upstream row


@dataclass(frozen=True)
class LabelFrame:
    """n label rows, and the position of each upstream (int64[n] each), ascending within a frame."""

    rows: LabelRows
    upstream_offsets: Ints
    upstream_rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Ints) -> LabelFrame:
        """The rows at these indices, in this order."""
        return LabelFrame(self.rows.take(chosen), self.upstream_offsets[chosen], self.upstream_rows[chosen])


class LabelFrameCodec:
    """Writes and reads the label frames that enter the stage of this plan's entity.

    Example:
        >>> plan = EntityPlan("origin", ("origin",), (), (), (), (), (), label_inputs=("late",))
        >>> codec = LabelFrameCodec(plan)
        >>> rows = LabelRows.of(["JFK", "EWR"], [100, 140], [[1.0], [0.0]])
        >>> read = codec.decode(codec.encode(rows, np.array([7, 7]), np.array([0, 1])))
        >>> list(read.rows.keys), read.rows.values.tolist(), read.upstream_rows.tolist()
        (['JFK', 'EWR'], [[1.0], [0.0]], [0, 1])
    """

    def __init__(self, plan: EntityPlan) -> None:
        self._width = len(plan.label_inputs)
        self.schema = pa.schema(
            [
                ("key", pa.string()),
                ("integers", pa.list_(pa.int64(), _INTEGERS)),
                ("floats", pa.list_(pa.float64(), 2 * self._width)),
            ]
        )
        content = json.dumps([FORMAT, plan.entity, plan.keys, plan.label_inputs]).encode()
        self.version = f"label-{hashlib.sha256(content).hexdigest()[:16]}".encode()

    def encode(self, rows: LabelRows, upstream_offsets: Ints, upstream_rows: Ints) -> bytes:
        """Rows that are bound for one partition as the value of one record.

        A row takes some 50 bytes, its key and 16 a value: the caller keeps frames below `streams.frames.MAX_FRAME_BYTES`.
        """
        integers = np.column_stack([rows.known_us, rows.replaced_known_us, upstream_offsets, upstream_rows])
        floats = np.hstack([rows.values, rows.replaced])
        keys = pa.array(rows.keys, pa.string())
        columns = [keys, self._matrix("integers", integers), self._matrix("floats", floats)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        return bytes(batch.serialize().to_pybytes())

    def decode(self, value: bytes) -> LabelFrame:
        """The label rows in a record's value. Raises ValueError when it holds none."""
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(value), self.schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise ValueError(str(error)) from error
        keys, integers, floats = batch.columns
        if keys.null_count:
            raise ValueError("a label row without a key")
        known, replaced_known, offsets, places = np.ascontiguousarray(_values(integers, _INTEGERS).T)
        both = _values(floats, 2 * self._width)
        values, replaced = both[:, : self._width].copy(), both[:, self._width :].copy()
        return LabelFrame(
            LabelRows(keys.to_pylist(), known, values, replaced_known, replaced), offsets, places
        )

    @staticmethod
    def join(frames: Sequence[LabelFrame]) -> LabelFrame:
        """Several frames as one, in order; at least one."""
        if len(frames) == 1:
            return frames[0]
        return LabelFrame(
            join([frame.rows for frame in frames]),
            np.concatenate([frame.upstream_offsets for frame in frames]),
            np.concatenate([frame.upstream_rows for frame in frames]),
        )

    def _matrix(self, name: str, values: np.ndarray[Any, Any]) -> pa.FixedSizeListArray:
        flat = pa.array(values.reshape(-1))
        return pa.FixedSizeListArray.from_buffers(
            self.schema.field(name).type, len(values), [None], children=[flat]
        )


def _values(column: pa.FixedSizeListArray, width: int) -> Any:
    return column.flatten().to_numpy().reshape(len(column), width)
