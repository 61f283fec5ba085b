"""Files of events in any order, decoded as the stream decodes them, as one ordered history without repeats.

Bounded memory: rows are decoded `CHUNK_ROWS` at a time and kept in a temporary file; only event times and ids stay in
memory, to order the rows and to find repeated ids (about 100 bytes a row with ids of 26 characters). The temporary file
takes about as much room as the decoded rows: 8 bytes for each number, and the texts.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.decode import DeadRecord, Decoder
from features.feature_set import FeatureSet
from features.plan import Ints
from features.rows import RowLayout, Rows
from offline.events import CHUNK_ROWS, Source, count_rows, ignored_columns, read_records

Order = Literal["event time", "as given"]

# Paths that a refusal names beside its first. A pipeline has some dozen fields, but the path of an undeclared one is its
# sender's choice: without a bound a file could fill the memory.
OTHER_PATHS = 8

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done, 0.0 to 1.0."""


@dataclass(frozen=True)
class Refusal:
    """Records that could not be used for one reason, with the first of them as an example.

    `others`: other JSON paths at which the same reason was seen, at most OTHER_PATHS of them.
    """

    count: int
    path: str
    detail: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.others:
            return f"at {self.path} ({self.detail})"
        return f"at {self.path}, {', '.join(self.others)} (the first: {self.detail})"

    def again(self, path: str) -> Refusal:
        """One more record refused for this reason."""
        new = path != self.path and path not in self.others and len(self.others) < OTHER_PATHS
        return replace(self, count=self.count + 1, others=(*self.others, *[path] * new))


@dataclass(frozen=True)
class ReadReport:
    """What became of the records of the files."""

    records: int
    rows: int
    repeated: int  # rows whose id had been there before (in the chosen order): dropped
    refused: Mapping[str, Refusal]  # by reason
    unknown_fields: Mapping[str, int]
    ignored_columns: tuple[str, ...]  # of Parquet files: no fields of the event

    def sentences(self) -> list[str]:
        """The report for people, one fact a line; nothing to say about clean files but their size."""
        lines = [f"{self.records:,} records, {self.rows:,} used"]
        lines += [f"{one.count:,} refused: {why} {one}" for why, one in self.refused.items()]
        lines += [f"{self.repeated:,} with an id that was there before: dropped"] * bool(self.repeated)
        lines += [f"not in the event, left out: {', '.join(self.ignored_columns)}"] * bool(
            self.ignored_columns
        )
        return lines


@dataclass
class _Tally:
    records: int = 0
    refused: dict[str, Refusal] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)

    def add(self, dead: DeadRecord) -> None:
        known = self.refused.get(dead.reason)
        self.refused[dead.reason] = known.again(dead.path) if known else Refusal(1, dead.path, dead.detail)


class History:
    """Decoded events on disk, and the order in which to take them.

    `times_us` int64[n] and `event_ids` (n texts) are in that order.
    """

    def __init__(
        self, file: Path, layout: RowLayout, order: Ints, times_us: Ints, event_ids: pa.Array
    ) -> None:
        self.times_us = times_us
        self.event_ids = event_ids
        self._layout = layout
        self._order = order
        self._reader = pa.ipc.open_file(pa.memory_map(str(file)))
        counts = [self._reader.get_batch(index).num_rows for index in range(self._reader.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[Rows]:
        """The events in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self._gather(self._order[start : start + rows])

    def _gather(self, wanted: Ints) -> Rows:
        batch_of = np.searchsorted(self._starts, wanted, side="right") - 1
        by_batch = np.argsort(batch_of, kind="stable")
        pieces = [
            self._reader.get_batch(int(batch)).take(pa.array(wanted[batch_of == batch] - self._starts[batch]))
            for batch in np.unique(batch_of)
        ]
        back = np.empty_like(by_batch)
        back[by_batch] = np.arange(len(wanted))
        return _rows(pa.concat_batches(pieces).take(pa.array(back)), self._layout)


def read_history(
    source: Source,
    feature_set: FeatureSet,
    scratch: Path,
    order: Order = "event time",
    progress: Progress | None = None,
) -> tuple[History, ReadReport]:
    """Decodes every record of the files; `scratch` is an existing folder for one temporary file.

    `order`: "event time" sorts by (event time, id), the order in which the stream would have liked them; "as given"
    keeps the order of the files. Of repeated ids the first in that order is kept. (The stream remembers ids for a
    horizon only; a file is taken to name each event once, however far apart its copies stand.)

    Raises DeveloperError for files that cannot be read or lack a required column.
    """
    tally = _Tally()
    handle, name = tempfile.mkstemp(suffix=".arrow", dir=scratch)
    with open(handle, "wb") as sink:  # noqa: PTH123  # the file is open already
        times_us, ids = _spool(source, feature_set, sink, tally, progress)
    ordered = _ordered(times_us, ids) if order == "event time" else np.arange(len(times_us), dtype=np.int64)
    kept = _first_of_each(ids, ordered)
    report = ReadReport(
        tally.records,
        len(kept),
        len(ordered) - len(kept),
        dict(sorted(tally.refused.items())),
        dict(tally.unknown),
        ignored_columns(source, feature_set),
    )
    return History(Path(name), feature_set.layout, kept, times_us[kept], ids.take(pa.array(kept))), report


def _spool(
    source: Source, feature_set: FeatureSet, sink: object, tally: _Tally, progress: Progress | None
) -> tuple[Ints, pa.Array]:
    decoder = Decoder(feature_set)
    total = count_rows(source)
    times: list[Ints] = [np.zeros(0, np.int64)]
    ids: list[pa.Array] = [pa.array([], pa.large_string())]
    with pa.ipc.new_file(sink, _schema(feature_set.layout)) as writer:
        for records in read_records(source, feature_set):
            decoded = decoder.decode([(record, 0) for record in records])
            for dead in decoded.dead:
                tally.add(dead)
            tally.unknown.update(decoded.unknown_fields)
            tally.records += len(records)
            writer.write_batch(_batch(decoded.rows))
            times.append(decoded.rows.times_us)
            ids.append(decoded.rows.event_ids.cast(pa.large_string()))
            if progress is not None and total:
                progress("reading events", tally.records / total)
    return np.concatenate(times), pa.concat_arrays(ids)


def _ordered(times_us: Ints, ids: pa.Array) -> Ints:
    table = pa.table({"time": times_us, "id": ids})
    order: Ints = (
        pc.sort_indices(table, [("time", "ascending"), ("id", "ascending")]).to_numpy().astype(np.int64)
    )
    return order


def _first_of_each(ids: pa.Array, order: Ints) -> Ints:
    codes = ids.dictionary_encode().indices.to_numpy()[order]
    places = np.arange(len(order))
    first = np.empty(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[::-1]] = places[
        ::-1
    ]  # of several places assigned to one code the last one stays: the first in order
    kept: Ints = order[first[codes] == places]
    return kept


# ---- rows on disk


def _schema(layout: RowLayout) -> pa.Schema:
    fields = [pa.field("id", pa.string()), pa.field("time_us", pa.int64())]
    fields += [pa.field(f"number {name}", pa.float64()) for name in layout.numbers]
    return pa.schema(fields + [pa.field(f"text {name}", pa.string()) for name in layout.texts])


def _batch(rows: Rows) -> pa.RecordBatch:
    numbers = [pa.array(np.ascontiguousarray(column)) for column in rows.numbers.T]
    columns = [rows.event_ids, pa.array(rows.times_us), *numbers, *rows.texts]
    return pa.record_batch(columns, schema=_schema(rows.layout))


def _rows(batch: pa.RecordBatch, layout: RowLayout) -> Rows:
    columns = batch.columns
    numbers = np.empty((batch.num_rows, len(layout.numbers)))
    for place in range(len(layout.numbers)):
        numbers[:, place] = columns[2 + place].to_numpy()
    texts = tuple(columns[2 + len(layout.numbers) :])
    return Rows(layout, columns[0], columns[1].to_numpy(), numbers, texts)
