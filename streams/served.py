"""What was served, on its way to the join stage: the rows of an answered batch with all their features, and their scores.

A record's value is a head, padded to a multiple of eight bytes, and an Arrow record batch without its schema:

    u32  length of the head
    head JSON: versions, threshold, and the parts of the score by name with their weights
    rows the columns of a frame that has passed every stage (`streams/frames.py`), and one more: the scores

The scores of a row are one float64 for a number, or one for each class: first the score that was served, then the parts in
the order of the head. Everything in the head is the same for all rows of a frame, because a batch has one pin.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from features.plan import Floats, Ints
from models.pipeline import Pipeline
from streams.frames import Frame, FrameCodec, cut, opened
from streams.headers import FRAME, PIPELINE_VERSION, UPSTREAM
from streams.producer import Outgoing, partitions_of
from streams.topics import Topic

_LENGTH = struct.Struct("<I")
_ALIGNED = 8  # Arrow reads its columns in place where they lie on such addresses


class Head(msgspec.Struct):
    """What all rows of a frame have in common."""

    versions: str
    threshold: float | None
    parts: list[str]
    weights: list[float]


@dataclass(frozen=True)
class Served:
    """n answered events.

    `frame` has all windows, the rows' positions in the last stage's topic, and all flags of the predictions. `score` and
    each of `parts` are float64[n], or float64[n, K] for K classes. `versions` is the JSON of what answered
    (`streams.versions.versions_text`), `threshold` NaN where nothing is decided by one, `weights` those of the parts.
    """

    frame: Frame
    score: Floats
    parts: Mapping[str, Floats]
    versions: str
    threshold: float
    weights: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.frame)


class ServedCodec:
    """Writes and reads what was served of one pipeline. `version` is that of the columns, for the header `frame`."""

    def __init__(self, pipeline: Pipeline) -> None:
        feature_set, label = pipeline.feature_set, pipeline.label
        self._frames = FrameCodec(feature_set, len(feature_set.entities))
        self._classes = len(label.classes) if label.kind == "multiclass" else 0
        self.version = b"served-" + self._frames.version

    def encode(self, served: Served, partitions: Ints) -> Iterator[tuple[int, bytes]]:
        """Cut by target partition: (partition, value) pairs, rows in order, each about as long as a frame may be."""
        if not len(served):
            return
        head = _head_bytes(served)
        scores = np.stack((served.score, *served.parts.values()), axis=1).reshape(len(served), -1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), scores.shape[1])
        batch = self._frames.encode(served.frame).append_column(_scores(scores.shape[1]), column)
        for partition, rows in cut(batch, partitions):
            yield partition, head + rows

    def decode(self, value: bytes) -> Served:
        """What was served, from a record's value. Raises ValueError when it is none."""
        head, rows = _parted(value)
        width = (1 + len(head.parts)) * max(self._classes, 1)
        batch = opened(rows, self._schema(width))
        scores = batch.column(batch.num_columns - 1).flatten().to_numpy()
        shape = (len(batch), 1 + len(head.parts), *([self._classes] if self._classes else []))
        columns = np.ascontiguousarray(np.moveaxis(scores.reshape(shape), 1, 0))
        frame = self._frames.frame_of(batch.remove_column(batch.num_columns - 1))
        return Served(
            frame,
            columns[0],
            dict(zip(head.parts, columns[1:], strict=True)),
            head.versions,
            math.nan if head.threshold is None else head.threshold,
            dict(zip(head.parts, head.weights, strict=True)),
        )

    def _schema(self, width: int) -> pa.Schema:
        return self._frames.schema.append(_scores(width))


@dataclass(frozen=True)
class JoinHop:
    """The way to the join stage: `topic` is `hop-join`, which is keyed by the event id."""

    topic: Topic
    codec: ServedCodec
    pipeline_version: str

    def messages(self, served: Served, upstream: str) -> list[Outgoing]:
        """What was served as one or more records for each partition. `upstream` names the partition its rows come from."""
        headers = [
            (UPSTREAM, upstream.encode()),
            (FRAME, self.codec.version),
            (PIPELINE_VERSION, self.pipeline_version.encode()),
        ]
        name, partitions = self.topic.name, self.topic.partitions
        ids = served.frame.rows.event_ids.to_pylist()
        pieces = self.codec.encode(served, partitions_of(ids, partitions))
        return [Outgoing(name, partition, None, value, headers) for partition, value in pieces]


def _scores(width: int) -> pa.Field:
    return pa.field("scores", pa.list_(pa.float64(), width))


def _head_bytes(served: Served) -> bytes:
    threshold = None if math.isnan(served.threshold) else served.threshold
    weights = [float(served.weights[name]) for name in served.parts]
    head = msgspec.json.encode(Head(served.versions, threshold, list(served.parts), weights))
    head += b" " * (-(_LENGTH.size + len(head)) % _ALIGNED)  # spaces behind JSON say nothing
    return _LENGTH.pack(len(head)) + head


def _parted(value: bytes) -> tuple[Head, bytes]:
    """Head and rows. Raises ValueError when this is not what `_head_bytes` begins."""
    if len(value) < _LENGTH.size:
        raise ValueError("a record without a head")
    end = _LENGTH.size + _LENGTH.unpack_from(value)[0]
    try:
        head = msgspec.json.decode(value[_LENGTH.size : end], type=Head)
    except msgspec.DecodeError as error:
        raise ValueError(f"a head that cannot be read: {error}") from error
    if len(head.parts) != len(head.weights):
        raise ValueError("a head with as many weights as it has no parts")
    return head, value[end:]
