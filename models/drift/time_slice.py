"""A time slice: everything that is counted of a span of event time. Slices of the same span can be added, in any order.

    rows ──> Counting.add ──> TimeSlice of partition 0 ┐
    rows ──> Counting.add ──> TimeSlice of partition 1 ┴─ merged ──> the slice that one monitor of both would have counted

Only whole numbers are kept, so sums are exact. What is kept is bounded: of numbers the buckets that occur (1 % apart), of
categories 1,024 buckets, of each declared segment the `MOST_VALUES` values with the smallest hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

import mmh3
import msgspec
import numpy as np
import pyarrow as pa

from features.plan import Floats, Ints
from models.drift.buckets import (
    MISSING,
    WIDTHS,
    category_buckets,
    number_buckets,
    probability_buckets,
)
from models.drift.columns import Column

# Values of one segment that are counted on their own; the others are counted together, under `OTHER`.
MOST_VALUES: Final = 64
OTHER: Final = "(other)"
NULL: Final = "(none)"

# Of a category's name: longer ones say nothing more.
MOST_NAME: Final = 64

# Rows that are counted together: each call of numpy then costs little of a row, and they take half a megabyte.
MOST_WAITING: Final = 2_048

NO_VERSION: Final = ""


@dataclass(frozen=True)
class WatchedRows:
    """n answered events: `numbers` float64[n, number and probability columns], `texts` one array for each category column.

    Both in the order of the columns. `segments` has the n texts of each declared segment (None: no value). `version` is the
    champion's, or the fallback's, that answered them.
    """

    times_us: Ints
    numbers: Floats
    texts: Sequence[pa.StringArray]
    segments: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    version: str = NO_VERSION

    def __len__(self) -> int:
        return len(self.times_us)

    def take(self, rows: Ints) -> WatchedRows:
        """The rows at these indices."""
        return WatchedRows(
            self.times_us[rows],
            self.numbers[rows],
            [text.take(pa.array(rows)) for text in self.texts],
            {name: [values[row] for row in rows.tolist()] for name, values in self.segments.items()},
            self.version,
        )


class SegmentCounts(msgspec.Struct, array_like=True):
    """Of one value of a segment, by column: how many are missing or out of range, and the sum of the others' buckets.

    A segment's mean bucket says whether its values have moved, to 2 %.
    """

    rows: int
    missing: list[int]
    outside: list[int]
    bucket_sums: list[int]


class TimeSlice(msgspec.Struct, array_like=True, frozen=True):
    """What was counted of event times from `start_us` to `start_us + length_us`.

    `late`: rows of earlier slices that came while this was the oldest open one; they are counted nowhere else. By column
    (in the order of `watched_columns`): `buckets` (int32, ascending) and `counts` (int64) as bytes, `outside` how many
    values lay outside of the declared range, `names` of a category's buckets. `versions`: rows by champion.
    """

    start_us: int
    length_us: int
    rows: int
    late: int
    buckets: list[bytes]
    counts: list[bytes]
    outside: list[int]
    names: list[dict[int, str]]
    segments: dict[str, dict[str, SegmentCounts]]
    versions: dict[str, int]

    def column(self, place: int) -> tuple[Ints, Ints]:
        """Buckets and counts of a column, int64 each."""
        return (
            np.frombuffer(self.buckets[place], np.int32).astype(np.int64),
            np.frombuffer(self.counts[place], np.int64),
        )

    @property
    def end_us(self) -> int:
        """The first event time behind it."""
        return self.start_us + self.length_us


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TimeSlice).decode


def encoded(slice_: TimeSlice) -> bytes:
    """The slice as bytes: equal slices give equal bytes."""
    return _encode(slice_)


def decoded(data: bytes) -> TimeSlice:
    """The slice in these bytes. Raises ValueError when there is none."""
    return _decode(data)  # msgspec's errors are ValueErrors


def empty_slice(columns: Sequence[Column], start_us: int, length_us: int) -> TimeSlice:
    """A span of time in which nothing came."""
    none: list[bytes] = [b""] * len(columns)
    names: list[dict[int, str]] = [{} for _ in columns]
    return TimeSlice(start_us, length_us, 0, 0, none, none, [0] * len(columns), names, {}, {})


class _Plan(NamedTuple):
    """Where the columns stand: `bases` of their buckets among all buckets, their places, and theirs among the numbers."""

    bases: Ints
    numbers: Ints
    probabilities: Ints
    categories: list[int]
    from_numbers: Ints
    from_probabilities: Ints


@lru_cache(maxsize=64)
def _plan_of(columns: tuple[Column, ...]) -> _Plan:
    places: dict[str, list[int]] = {kind: [] for kind in WIDTHS}
    sources: dict[str, list[int]] = {kind: [] for kind in WIDTHS}
    measured = [place for place, column in enumerate(columns) if column.kind != "category"]
    for place, column in enumerate(columns):
        places[column.kind].append(place)
    for source, place in enumerate(measured):
        sources[columns[place].kind].append(source)
    return _Plan(
        np.concatenate([[0], np.cumsum([WIDTHS[column.kind] for column in columns])]).astype(np.int64),
        np.array(places["number"], np.int64),
        np.array(places["probability"], np.int64),
        places["category"],
        np.array(sources["number"], np.int64),
        np.array(sources["probability"], np.int64),
    )


class Counting:
    """Counts the rows of one time slice.

    Example:
        >>> columns = (Column("amount", "number", "feature", low=0.0), Column("country", "category", "feature"))
        >>> counting = Counting(columns, start_us=0, length_us=3_600_000_000)
        >>> amounts = np.array([[10.0], [np.nan], [-1.0]])
        >>> counting.add(WatchedRows(np.array([1, 2, 3]), amounts, [pa.array(["DE", "FR", "DE"])], version="a1"))
        >>> found = counting.closed()
        >>> found.rows, found.outside, found.column(1)[1].tolist(), found.versions
        (3, [1, 0], [2, 1], {'a1': 3})
    """

    def __init__(self, columns: Sequence[Column], start_us: int, length_us: int) -> None:
        self.start_us, self.length_us, self.rows, self.late = start_us, length_us, 0, 0
        self._columns = columns
        self._plan = _plan_of(tuple(columns))
        self._counts = np.zeros(self._plan.bases[-1], np.int64)
        self._outside = np.zeros(len(columns), np.int64)
        self._names: list[dict[int, str]] = [{} for _ in columns]
        self._segments: dict[str, dict[str, SegmentCounts]] = {}
        self._versions: dict[str, int] = {}
        self._waiting: list[WatchedRows] = []
        self._waiting_rows = 0

    @classmethod
    def of(cls, columns: Sequence[Column], before: TimeSlice) -> Counting:
        """Go on from what was counted before."""
        counting = cls(columns, before.start_us, before.length_us)
        counting.merge(before)
        return counting

    def add(self, rows: WatchedRows) -> None:
        """Count these rows, which belong to this slice. They are gathered, and counted `MOST_WAITING` or more at a time."""
        if not len(rows):
            return
        self.rows += len(rows)
        self._versions[rows.version] = self._versions.get(rows.version, 0) + len(rows)
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= MOST_WAITING:
            self._count()

    def merge(self, other: TimeSlice) -> None:
        """Add what was counted elsewhere of the same span."""
        for place in range(len(self._columns)):
            buckets, counts = other.column(place)
            self._counts[self._plan.bases[place] + buckets] += counts
            self._name(place, other.names[place])
        self._outside += np.array(other.outside, np.int64)
        for version, count in other.versions.items():
            self._versions[version] = self._versions.get(version, 0) + count
        for name, found in other.segments.items():
            known = self._segments.setdefault(name, {})
            for value, counts_of_value in found.items():
                add_counts(known, value, counts_of_value)
            bound_values(known)
        self.rows += other.rows
        self.late += other.late

    def closed(self) -> TimeSlice:
        """What was counted by now."""
        self._count()
        bases = self._plan.bases
        columns = [self._counts[bases[place] : bases[place + 1]] for place in range(len(self._columns))]
        found = [np.flatnonzero(counts) for counts in columns]
        return TimeSlice(
            self.start_us,
            self.length_us,
            self.rows,
            self.late,
            [buckets.astype(np.int32).tobytes() for buckets in found],
            [counts[buckets].tobytes() for counts, buckets in zip(columns, found, strict=True)],
            self._outside.tolist(),
            [dict(sorted(names.items())) for names in self._names],
            {name: dict(sorted(found.items())) for name, found in sorted(self._segments.items())},
            dict(sorted(self._versions.items())),
        )

    def _count(self) -> None:
        """Count what waits."""
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        numbers = np.concatenate([rows.numbers for rows in waiting])
        texts = [pa.concat_arrays(parts) for parts in zip(*(rows.texts for rows in waiting), strict=True)]
        buckets, outside = self._buckets(numbers, texts), self._outside_of(numbers)
        np.add.at(self._counts, (buckets + self._plan.bases[:-1]).ravel(), 1)
        self._outside += outside.sum(axis=0)
        for name in sorted({name for rows in waiting for name in rows.segments}):
            values = [value for rows in waiting for value in rows.segments.get(name) or [None] * len(rows)]
            self._add_segment(name, values, buckets, outside)

    def _buckets(self, numbers: Floats, texts: Sequence[pa.StringArray]) -> Ints:
        plan = self._plan
        found = np.empty((len(numbers), len(self._columns)), np.int64)
        found[:, plan.numbers] = number_buckets(numbers[:, plan.from_numbers])
        found[:, plan.probabilities] = probability_buckets(numbers[:, plan.from_probabilities])
        for place, text in zip(plan.categories, texts, strict=True):
            found[:, place], names = category_buckets(text, named=self._named(place))
            self._name(place, names)
        return found

    def _outside_of(self, numbers: Floats) -> Ints:
        """int64[n, columns]: 1 where a number is out of range; categories have no range."""
        found = np.zeros((len(numbers), len(self._columns)), np.int64)
        measured = [place for place, column in enumerate(self._columns) if column.kind != "category"]
        for place, values in zip(measured, numbers.T, strict=True):
            found[:, place] = outside_range(self._columns[place], values)
        return found

    def _named(self, place: int) -> bool:
        return self._columns[place].compared and not self._columns[place].hidden

    def _name(self, place: int, names: Mapping[int, str]) -> None:
        known = self._names[place]
        for bucket, name in names.items():
            short = name[:MOST_NAME]
            known[bucket] = min(known.get(bucket, short), short)

    def _add_segment(self, name: str, values: Sequence[str | None], buckets: Ints, outside: Ints) -> None:
        coded: dict[str, int] = {}
        codes = np.array(
            [coded.setdefault((value or NULL)[:MOST_NAME], len(coded)) for value in values], np.int64
        )
        order = np.argsort(codes, kind="stable")
        firsts = np.searchsorted(codes[order], np.arange(len(coded)))
        missing = buckets == MISSING
        sums = [
            np.add.reduceat(part[order], firsts, axis=0, dtype=np.int64).tolist()
            for part in (missing, outside, np.where(missing, 0, buckets))
        ]
        rows = np.bincount(codes, minlength=len(coded)).tolist()
        known = self._segments.setdefault(name, {})
        for value, code in coded.items():
            add_counts(known, value, SegmentCounts(rows[code], *(part[code] for part in sums)))
        bound_values(known)


def outside_range(column: Column, values: Floats) -> Ints:
    """int64[n]: 1 where a number is infinite or outside of the declared range, else 0."""
    wrong = np.isinf(values)
    if column.low is not None:
        wrong |= values < column.low
    if column.high is not None:
        wrong |= values > column.high
    return wrong.astype(np.int64)


def merged(columns: Sequence[Column], slices: Sequence[TimeSlice]) -> TimeSlice:
    """Slices of the same span as one. There is at least one."""
    counting = Counting(columns, slices[0].start_us, slices[0].length_us)
    for one in slices:
        counting.merge(one)
    return counting.closed()


def add_counts(known: dict[str, SegmentCounts], value: str, more: SegmentCounts) -> None:
    """Add to what is known of a value; the counts that were there before are left as they are."""
    before = known.get(value)
    if before is None:
        known[value] = more
        return
    sums = (
        [one + other for one, other in zip(mine, theirs, strict=True)]
        for mine, theirs in (
            (before.missing, more.missing),
            (before.outside, more.outside),
            (before.bucket_sums, more.bucket_sums),
        )
    )
    known[value] = SegmentCounts(before.rows + more.rows, *sums)


def bound_values(known: dict[str, SegmentCounts]) -> None:
    """Keep the values with the smallest hashes: the same ones, however the rows were spread over partitions."""
    if len(known) <= MOST_VALUES:
        return
    ordered = sorted(
        (value for value in known if value != OTHER), key=lambda value: (mmh3.hash(value), value)
    )
    for value in ordered[MOST_VALUES - 1 :]:
        add_counts(known, OTHER, known.pop(value))
