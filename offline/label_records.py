"""Labels of a file as records of the `labels` topic, in the order in which they became known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from features.errors import DeveloperError
from features.plan import Floats, Ints
from models.pipeline import Pipeline
from offline.columns import column_names, read_columns
from offline.events import Source
from offline.labels import KNOWN_AT, LabelColumns, chosen_columns, moments_of

# Records of one chunk: as `driftwood.produce` cuts events.
CHUNK = 20_000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class LabelChunk:
    """Records of `labels` in order: the event id of each, which is its key, and when it became known (seconds)."""

    values: Sequence[bytes]
    times_s: Floats
    keys: Sequence[bytes]


@dataclass(frozen=True)
class LabelRecords:
    """All labels of a file. `left_out`: rows without an id, or without the time they became known."""

    event_ids: Sequence[str]
    values: Sequence[bytes]
    known_us: Ints
    left_out: int

    def chunks(self, limit: int | None = None) -> Iterator[LabelChunk]:
        """In pieces of `CHUNK`, `limit` labels at most."""
        count = len(self.values) if limit is None else min(limit, len(self.values))
        bounds = [*range(0, count, CHUNK), count]
        for start, end in pairwise(bounds):
            keys = [event_id.encode() for event_id in self.event_ids[start:end]]
            yield LabelChunk(self.values[start:end], self.known_us[start:end] / 1e6, keys)


def label_records(pipeline: Pipeline, source: Source, columns: LabelColumns | None = None) -> LabelRecords:
    """Reads a labels file as `driftwood train` reads it, with the values that the label declares where it has them.

    Raises DeveloperError for a missing column, a value that the label cannot have, or a file without the times at which
    the labels became known: without them nobody could say in which order they came.
    """
    present = column_names(source)
    id_column, label_column, known_column = chosen_columns(pipeline, present, columns or LabelColumns())
    if known_column is None:
        raise DeveloperError(f"the labels have no column {KNOWN_AT!r}: when each of them became known")
    more = [name for name in pipeline.label.values if name in present]
    table = read_columns(source, [id_column, label_column, known_column, *more])
    features = pipeline.feature_set
    ids = table.ids(id_column, features.schema[features.id_field].type)
    moments, timed = moments_of(table.array(known_column), features, known_column)
    usable = np.flatnonzero(timed & ids.is_valid().to_numpy())
    order = usable[np.argsort(moments[usable], kind="stable")]
    texts = ids.take(pa.array(order)).to_pylist()
    labels = table.values(label_column)
    others = {name: table.values(name) for name in more}
    times = np.datetime_as_string(moments[order].astype("datetime64[us]"), unit="us", timezone="UTC")
    values = [
        _encode(
            _record(pipeline, text, labels[row], str(time), {name: of[row] for name, of in others.items()})
        )
        for text, row, time in zip(texts, order.tolist(), times, strict=True)
    ]
    return LabelRecords(texts, values, moments[order], len(moments) - len(order))


def _record(
    pipeline: Pipeline, event_id: str, label: object, known_at: str, more: dict[str, object]
) -> dict[str, Any]:
    return {"event_id": event_id, pipeline.label.name: label, KNOWN_AT: known_at, **more}
