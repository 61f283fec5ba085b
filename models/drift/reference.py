"""The reference: what was usual, counted by spans of time, so that every window of now can be compared with its like."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

import msgspec
import numpy as np

from features.durations import DAY_US
from features.plan import Floats, Ints
from models.drift.bins import Bins, Histogram
from models.drift.columns import Column
from models.drift.measures import FEWEST_ROWS, Measures
from models.drift.season import cell_shares, cells_of, hours_of, sums_by, usual_rows
from models.drift.signals import Window
from models.drift.spec import Drift
from models.drift.tallies import Group, Tallies
from models.drift.time_slice import OTHER, Counting, TimeSlice, empty_slice

# The newest spans of time that are kept, of a 24th of a window or a slice each: four months of hours.
MOST_SPANS: Final = 3_000
SPANS_OF_A_WINDOW: Final = 24
# Values of segments that are watched, over all segments: those with most rows, and enough of them in an ordinary window.
MOST_GROUPS: Final = 24
# Fewer windows than that say nothing about what is usual.
FEWEST_WINDOWS: Final = 3

Parts = tuple[Ints, Ints]


class _Stored(msgspec.Struct, array_like=True):
    """`columns`: names and kinds; `histograms`, `tallies`, `largest`: arrays as bytes."""

    columns: list[tuple[str, str]]
    start_us: int
    step_us: int
    window_us: int
    histograms: list[tuple[bytes, bytes]]
    names: list[dict[int, str]]
    groups: list[tuple[str, str]]
    tallies: bytes
    largest: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


@dataclass(frozen=True, eq=False)
class Reference:
    """What was usual: `tallies` int64[spans, numbers] by spans of `step_us` from `start_us` on.

    `histograms`: buckets and counts of each column over all spans, `names` its categories by bucket. `largest` float64[spans,
    entities]: the share of the largest value of each entity within `window_us` up to the end of the span.
    """

    columns: tuple[Column, ...]
    start_us: int
    step_us: int
    window_us: int
    histograms: tuple[Histogram, ...]
    names: tuple[dict[int, str], ...]
    groups: tuple[Group, ...]
    tallies: Ints
    largest: Floats

    @classmethod
    def of(cls, columns: Sequence[Column], slices: Sequence[TimeSlice], drift: Drift) -> Reference:
        """The reference of these slices; where one is missing nothing came.

        Slices are counted together to a 24th of the window where they are shorter; the newest `MOST_SPANS` count.
        Raises ValueError when there is no slice.
        """
        if not slices:
            raise ValueError("a reference needs at least one time slice")
        step_us = max(drift.window_us // SPANS_OF_A_WINDOW // drift.slice_us, 1) * drift.slice_us
        ordered = sorted(slices, key=lambda one: one.start_us)
        spans = _spans(tuple(columns), ordered, step_us)
        histograms = tuple(_histogram(spans, place) for place in range(len(columns)))
        groups = _groups(spans, drift.window_us // step_us)
        tallies = Tallies(Bins.of(columns, histograms), groups)
        names: list[dict[int, str]] = [{} for _ in columns]
        for span in spans:
            for known, new in zip(names, span.names, strict=True):
                known.update({bucket: min(known.get(bucket, name), name) for bucket, name in new.items()})
        return cls(
            tuple(columns),
            spans[0].start_us,
            step_us,
            drift.window_us,
            histograms,
            tuple(names),
            groups,
            np.array([tallies.of(span) for span in spans]),
            largest_shares(columns, spans, drift.window_us // step_us),
        )

    def encoded(self) -> bytes:
        """The reference as bytes, compressed."""
        stored = _Stored(
            [(column.name, column.kind) for column in self.columns],
            self.start_us,
            self.step_us,
            self.window_us,
            [
                (buckets.astype("<i4").tobytes(), counts.astype("<i8").tobytes())
                for buckets, counts in self.histograms
            ],
            [dict(sorted(names.items())) for names in self.names],
            list(self.groups),
            self.tallies.astype("<i8").tobytes(),
            self.largest.astype("<f8").tobytes(),
        )
        return zlib.compress(_encode(stored), 6)

    @classmethod
    def decoded(cls, data: bytes, columns: Sequence[Column]) -> Reference:
        """The reference in these bytes, for these columns. Raises ValueError when there is none, or one of other columns."""
        try:
            stored = _decode(zlib.decompress(data))
        except zlib.error as error:
            raise ValueError(f"these bytes are no reference: {error}") from error
        known = [(column.name, column.kind) for column in columns]
        if stored.columns != known:
            changed = sorted({name for name, _ in set(known) ^ set(stored.columns)})
            raise ValueError(
                f"the reference was made of other columns: {', '.join(changed)[:200] or 'in another order'}"
            )
        histograms = tuple(
            (np.frombuffer(buckets, "<i4").astype(np.int64), np.frombuffer(counts, "<i8"))
            for buckets, counts in stored.histograms
        )
        groups = tuple(stored.groups)
        width = Tallies(Bins.of(columns, histograms), groups).count
        tallies = np.frombuffer(stored.tallies, "<i8").reshape(-1, width)
        return cls(
            tuple(columns),
            stored.start_us,
            stored.step_us,
            stored.window_us,
            histograms,
            tuple(stored.names),
            groups,
            tallies,
            np.frombuffer(stored.largest, "<f8").reshape(len(tallies), -1),
        )

    @cached_property
    def measures(self) -> Measures:
        """What is measured against it."""
        layout = Tallies(Bins.of(self.columns, self.histograms), self.groups)
        return Measures(layout, self.histograms, self.tallies.sum(axis=0))

    @property
    def layout(self) -> Tallies:
        """What stands where in its tallies."""
        return self.measures.tallies

    @cached_property
    def starts_us(self) -> Ints:
        """The start of each span."""
        return self.start_us + self.step_us * np.arange(len(self.tallies), dtype=np.int64)

    @property
    def end_us(self) -> int:
        """The first moment behind it."""
        return self.start_us + self.step_us * len(self.tallies)

    @property
    def days(self) -> float:
        """Its length in days."""
        return (self.end_us - self.start_us) / DAY_US

    @property
    def ready(self) -> bool:
        """Whether it is long enough to say what is usual: three windows, and `FEWEST_ROWS` rows in each on average."""
        windows = (self.end_us - self.start_us) / self.window_us
        return windows >= FEWEST_WINDOWS and int(self.rows) >= FEWEST_ROWS * windows

    @property
    def rows(self) -> int:
        """All its rows."""
        return int(self.tallies[:, self.layout.rows].sum())

    @property
    def window(self) -> Window:
        """Its span of time, and its rows."""
        return Window(self.start_us, self.end_us, self.rows)

    @cached_property
    def shares(self) -> Floats:
        """float64[cells, numbers]: what each number usually is of its denominator."""
        sums = sums_by(cells_of(self.starts_us), self.tallies.astype(np.float64), 42)
        return cell_shares(sums, self.layout.parts_of, self.days)

    @cached_property
    def hourly(self) -> Floats:
        """float64[168]: usual rows an hour, by hour of the week."""
        rows = self.tallies[:, self.layout.rows].astype(np.float64)
        return usual_rows(hours_of(self.starts_us), rows, self.step_us / 3_600e6)

    @cached_property
    def usual_largest(self) -> Floats:
        """float64[entities]: the usual share of an entity's largest value in a window."""
        return np.median(self.largest, axis=0) if len(self.largest) else self.largest.sum(axis=0)


def largest_shares(columns: Sequence[Column], spans: Sequence[TimeSlice], window: int) -> Floats:
    """float64[spans, entities]: the share of the largest value among the rows of the `window` spans up to each."""
    places = [place for place, column in enumerate(columns) if not column.compared]
    found = np.zeros((len(spans), len(places)))
    for number, place in enumerate(places):
        sums = np.zeros(1_025)
        for index, span in enumerate(spans):
            _put(sums, span, place, 1)
            if index >= window:
                _put(sums, spans[index - window], place, -1)
            # Missing values are no value that could be the largest one.
            found[index, number] = sums[1:].max() / max(sums.sum(), 1.0)
    return found


def largest_in(columns: Sequence[Column], slices: Sequence[TimeSlice]) -> Floats:
    """float64[entities]: the share of the largest value of each entity among the rows of these slices."""
    found = []
    for place in [place for place, column in enumerate(columns) if not column.compared]:
        sums = np.zeros(1_025)
        for one in slices:
            if len(one.buckets) == len(columns):
                _put(sums, one, place, 1)
        found.append(sums[1:].max() / max(sums.sum(), 1.0))
    return np.array(found)


def _put(sums: Floats, span: TimeSlice, place: int, sign: int) -> None:
    buckets, counts = span.column(place)
    sums[buckets] += sign * counts


def _spans(columns: tuple[Column, ...], slices: Sequence[TimeSlice], step_us: int) -> list[TimeSlice]:
    """The slices counted together by spans of `step_us`, without gaps."""
    last = slices[-1].start_us // step_us * step_us
    first = max(slices[0].start_us // step_us * step_us, last - (MOST_SPANS - 1) * step_us)
    by_start: dict[int, TimeSlice] = {}
    for start, parts in groupby(slices, key=lambda one: one.start_us // step_us * step_us):
        counting = Counting(columns, start, step_us)
        for part in parts if start >= first else ():
            counting.merge(part)
        by_start[start] = counting.closed()
    return [
        by_start.get(start) or empty_slice(columns, start, step_us)
        for start in range(first, last + 1, step_us)
    ]


def _histogram(spans: Sequence[TimeSlice], place: int) -> Histogram:
    buckets = np.frombuffer(b"".join(span.buckets[place] for span in spans), np.int32)
    counts = np.frombuffer(b"".join(span.counts[place] for span in spans), np.int64)
    kept, places = np.unique(buckets, return_inverse=True)
    sums = np.bincount(places, weights=counts, minlength=len(kept)).astype(np.int64)
    return kept.astype(np.int64), sums


def _groups(spans: Sequence[TimeSlice], window: int) -> tuple[Group, ...]:
    """The values of segments with most rows, at least `FEWEST_ROWS` in an ordinary window."""
    rows: dict[Group, int] = {}
    for span in spans:
        for field, values in span.segments.items():
            for value, counts in values.items():
                rows[field, value] = rows.get((field, value), 0) + counts.rows
    enough = FEWEST_ROWS * len(spans) / window
    known = [group for group, count in rows.items() if group[1] != OTHER and count >= enough]
    return tuple(sorted(sorted(known, key=lambda group: (-rows[group], group))[:MOST_GROUPS]))
