"""Records of `outcomes`: what became of events, beside what had been served. One record is one mini-batch of the learner.

A record is an Arrow record batch without its schema, at most `MAX_FRAME_BYTES` long. Every row has a position: the record
of `hop-join` at which its outcome was settled, and its place among the outcomes of that record. After a crash outcomes may
be written again, and cut into other records then: `take_outcomes` drops the rows that were seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from features.errors import OperatorError
from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints
from features.store import Position
from models.matured import Matured
from models.outcomes import NAMES
from models.pipeline import Pipeline
from streams.batch import Record
from streams.frames import cut
from streams.headers import FRAME, PIPELINE_VERSION, UPSTREAM, header
from streams.join_frames import column_matrix, matrix_column, read_batch
from streams.producer import Outgoing
from streams.served_rows import PART_SEPARATOR, ServedRow

# Raised when the bytes of outcomes change for the same pipeline.
FORMAT = 2

PARTS = "parts"
"""Header: the names of the parts of the scores, a JSON list, in the order of the columns."""

_INTEGERS = 5  # event time, known, number of the name, upstream offset, upstream row
_FLOATS = 4  # code, replaced code, threshold, propensity
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one event, or of one label. `served` is None where that is not known."""

    event_id: str
    kind: str
    time_us: int
    known_us: int
    code: float
    replaced: float
    offset: int
    row: int
    served: ServedRow | None


@dataclass(frozen=True)
class OutcomeFrame:
    """n outcomes as the learner reads them, and their positions (int64[n] each), ascending."""

    matured: Matured
    upstream_offsets: Ints
    upstream_rows: Ints

    def __len__(self) -> int:
        return len(self.matured)

    def after(self, seen: Position) -> OutcomeFrame:
        """The rows that stand after `seen`."""
        later = self.upstream_offsets > seen.offset
        later |= (self.upstream_offsets == seen.offset) & (self.upstream_rows > seen.row)
        if later.all():
            return self
        return OutcomeFrame(
            self.matured.select(later), self.upstream_offsets[later], self.upstream_rows[later]
        )


class OutcomeCodec:
    """Writes and reads the outcomes of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        features, label = pipeline.feature_set, pipeline.label
        self._features = len(features.names)
        self._categories = [
            place for place, feature in enumerate(features.features) if feature.kind == "category"
        ]
        self._classes = len(label.classes) if label.kind == "multiclass" else 0
        self._no_features = np.full(self._features, np.nan).tobytes()
        self.version = f"outcomes-{FORMAT}-{features.hash}-{self._classes}".encode()

    def messages(self, outcomes: Sequence[Outcome], topic: str, upstream: str) -> list[Outgoing]:
        """The outcomes of a batch as records for partition 0 of `topic`, in order."""
        if not outcomes:
            return []
        parts = _part_names(outcomes)
        headers = [
            (UPSTREAM, upstream.encode()),
            (FRAME, self.version),
            (PARTS, json.dumps(parts).encode()),
            (PIPELINE_VERSION, self._pipeline.version.encode()),
        ]
        return [Outgoing(topic, 0, None, value, headers) for value in self.encode(outcomes, parts)]

    def encode(self, outcomes: Sequence[Outcome], parts: Sequence[str]) -> Iterator[bytes]:
        """Values of records; `parts` names the parts of scores that have columns."""
        schema = self._schema(len(parts))
        integers = [(one.time_us, one.known_us, _NUMBERS[one.kind], one.offset, one.row) for one in outcomes]
        floats = np.hstack(
            [
                np.array([_numbers(one) for one in outcomes], np.float64).reshape(-1, _FLOATS),
                self._values(outcomes),
                self._scores(outcomes, parts),
            ]
        )
        texts = [
            pa.array([None if one.served is None else one.served.texts[at] for one in outcomes], pa.string())
            for at in range(len(self._categories))
        ]
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([one.event_id for one in outcomes], pa.string()),
                pa.array(
                    ["" if one.served is None else one.served.champion for one in outcomes], pa.string()
                ),
                *texts,
                matrix_column(np.array(integers, np.int64), schema.field("integers").type),
                matrix_column(floats, schema.field("floats").type),
            ],
            schema=schema,
        )
        for _, value in cut(batch, np.zeros(len(outcomes), np.int64)):
            yield value

    def decode(self, value: bytes, parts: Sequence[str]) -> OutcomeFrame:
        """The outcomes in a record's value. Raises ValueError when it holds none."""
        batch = read_batch(value, self._schema(len(parts)))
        event_ids, champions, *texts, integers, numbers = batch.columns
        columns = np.ascontiguousarray(column_matrix(integers, _INTEGERS).T)
        times_us, known_us, kinds, offsets, rows = columns
        if len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(NAMES):
            raise ValueError("an outcome without a name")
        floats = column_matrix(numbers, self._width(len(parts)))
        fixed, values, scores = np.split(floats, (_FLOATS, _FLOATS + self._features), axis=1)
        by_part = scores.reshape(len(batch), 1 + len(parts), *([self._classes] if self._classes else []))
        names = self._pipeline.feature_set.names
        matured = Matured(
            event_ids.to_pylist(),
            times_us,
            known_us,
            [NAMES[kind] for kind in kinds.tolist()],
            fixed[:, 0],
            fixed[:, 1],
            FeatureMatrix(names, values, dict(zip(self._categories, texts, strict=True))),
            by_part[:, 0],
            {name: by_part[:, 1 + at] for at, name in enumerate(parts)},
            fixed[:, 2],
            fixed[:, 3],
            champions.to_pylist(),
        )
        return OutcomeFrame(matured, offsets, rows)

    def read(self, record: Record) -> tuple[str, OutcomeFrame]:
        """The partition of `hop-join` that a record's outcomes come from, and all of them.

        Raises `ValueError` for a record that holds none, `OperatorError` for one of another pipeline version.
        """
        version, upstream = header(record, FRAME), header(record, UPSTREAM)
        if version is None or upstream is None:
            raise ValueError("the headers of outcomes are missing")
        if version != self.version:
            raise OperatorError(
                f"record {record.offset} of outcomes was written for other features ({version.decode(errors='replace')}, "
                f"here {self.version.decode()}): let the learner of the other pipeline version finish, then start this one"
            )
        parts = json.loads(header(record, PARTS) or b"[]")
        return upstream.decode(), self.decode(record.value or b"", parts)

    def _values(self, outcomes: Sequence[Outcome]) -> Floats:
        blob = b"".join(self._no_features if one.served is None else one.served.values for one in outcomes)
        return np.frombuffer(blob, np.float64).reshape(len(outcomes), self._features)

    def _scores(self, outcomes: Sequence[Outcome], parts: Sequence[str]) -> Floats:
        each = max(self._classes, 1)
        scores = np.full((len(outcomes), 1 + len(parts), each), np.nan)
        by_names: dict[str, dict[int, bytes]] = {}  # nearly always one: rows are of one time
        for at, one in enumerate(outcomes):
            if one.served is not None:
                by_names.setdefault(one.served.parts, {})[at] = one.served.scores
        for names, rows in by_names.items():
            places = [0, *(1 + parts.index(name) for name in _names(names))]
            found = np.frombuffer(b"".join(rows.values()), np.float64)
            scores[np.ix_(list(rows), places)] = found.reshape(len(rows), len(places), each)
        return scores.reshape(len(outcomes), -1)

    def _width(self, parts: int) -> int:
        return _FLOATS + self._features + (1 + parts) * max(self._classes, 1)

    def _schema(self, parts: int) -> pa.Schema:
        fields: list[tuple[str, pa.DataType]] = [
            ("event_id", pa.string()),
            ("champion", pa.string()),
            *((f"text:{place}", pa.string()) for place in self._categories),
            ("integers", pa.list_(pa.int64(), _INTEGERS)),
            ("floats", pa.list_(pa.float64(), self._width(parts))),
        ]
        return pa.schema(fields)


def take_outcomes(
    codec: OutcomeCodec, record: Record, seen: Mapping[str, Position]
) -> tuple[Matured, dict[str, Position]]:
    """The outcomes of a record that are new, and what has then been seen. Raises as `OutcomeCodec.read` does."""
    upstream, frame = codec.read(record)
    frame = frame.after(seen.get(upstream, Position(-1, -1)))
    if not len(frame):
        return frame.matured, dict(seen)
    last = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
    return frame.matured, {**seen, upstream: last}


def _numbers(one: Outcome) -> tuple[float, float, float, float]:
    if one.served is None:
        return one.code, one.replaced, float("nan"), 1.0
    return one.code, one.replaced, one.served.threshold, one.served.propensity


def _part_names(outcomes: Sequence[Outcome]) -> list[str]:
    """All parts that stand in some row, in the order in which they first do."""
    found: dict[str, Any] = {}
    for names in dict.fromkeys(one.served.parts for one in outcomes if one.served is not None):
        found.update(dict.fromkeys(_names(names)))
    return list(found)


def _names(parts: str) -> list[str]:
    return parts.split(PART_SEPARATOR) if parts else []
