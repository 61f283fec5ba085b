"""What is remembered of the newest slices, so that an alert can say what is probably behind it.

Two rows of spans of event time, the newest last. *Fine* ones, 24 a window, for two windows: rows, missing values, dead letters,
and of each entity its largest keys; they say since when something is so. *Coarse* ones, 4 a window, for one window, and
everything before as one: the counts of each value of the declared segments; they say whose change it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from models.drift.buckets import MISSING
from models.drift.columns import Column
from models.drift.spec import Drift
from models.drift.time_slice import NO_VERSION, SegmentCounts, TimeSlice, add_counts, bound_values

FINE: Final = 24
COARSE: Final = 4
WINDOWS: Final = 2

# Largest keys of an entity that are kept of each fine span: one that stands out is among them.
MOST_KEYS: Final = 8

# What was before is halved when it covers so many coarse spans (four weeks of days): older traffic counts less and less.
MOST_BEFORE: Final = 112

# What counts as now among the coarse spans: the newest, which may have just begun, and the one before it.
NOW: Final = 2

Key = TypeVar("Key", str, int)
SegmentTable = dict[str, dict[str, SegmentCounts]]


class Fine(msgspec.Struct, array_like=True):
    """`missing` by column; `keys` by entity column: bucket and rows; `dead` letters by reason."""

    start_us: int
    end_us: int
    rows: int
    missing: list[int]
    dead: dict[str, int]
    keys: dict[int, dict[int, int]]


class Coarse(msgspec.Struct, array_like=True):
    """The segments' counts of some time; `spans`: how many coarse spans are in it."""

    start_us: int
    segments: SegmentTable
    spans: int = 1


class _State(msgspec.Struct, array_like=True):
    fine: list[Fine]
    coarse: list[Coarse]
    before: Coarse
    version: str
    version_us: int | None


class Recent:
    """Bounded: 48 fine spans, and of each segment 64 values in five coarse tables (some 0.5 MB for thirty columns).

    `version` is the champion that answers, `version_us` the event time from which on it does; None: from the first on.
    """

    def __init__(self, columns: Sequence[Column], drift: Drift) -> None:
        self.columns = columns
        self.window_us = drift.window_us
        self.version = NO_VERSION
        self.version_us: int | None = None
        self.fine: list[Fine] = []
        self._coarse: list[Coarse] = []
        self._before = Coarse(0, {}, 0)
        self._fine_us = max(drift.window_us // FINE, drift.slice_us)
        self._coarse_us = max(drift.window_us // COARSE, drift.slice_us)
        self._entities = [place for place, column in enumerate(columns) if not column.compared]

    def add(self, slice_: TimeSlice, dead: Mapping[str, int], version: str) -> None:
        """The next slice, the dead letters of its time, and the champion that answers."""
        if version != self.version:
            self.version_us = None if self.version == NO_VERSION else slice_.start_us
            self.version = version
        self._add_fine(slice_, dead)
        self._add_coarse(slice_)

    def segments(self) -> tuple[SegmentTable, SegmentTable]:
        """The segments' counts before, and now: of the newest quarter of a window or two."""
        older = self._coarse[:-NOW]
        before = [self._before] if self._before.spans >= COARSE else [self._before, *older]
        return _summed(before), _summed(self._coarse[-NOW:])

    def state(self) -> bytes:
        """All of it."""
        return msgspec.msgpack.encode(
            _State(self.fine, self._coarse, self._before, self.version, self.version_us)
        )

    def restore(self, state: bytes) -> None:
        """Go on from there. Raises ValueError when it is no state."""
        found = msgspec.msgpack.decode(state, type=_State)
        self.fine, self._coarse, self._before = found.fine, found.coarse, found.before
        self.version, self.version_us = found.version, found.version_us

    def _add_fine(self, slice_: TimeSlice, dead: Mapping[str, int]) -> None:
        if not self.fine or slice_.start_us >= self.fine[-1].start_us + self._fine_us:
            none: dict[int, dict[int, int]] = {place: {} for place in self._entities}
            self.fine.append(Fine(slice_.start_us, slice_.end_us, 0, [0] * len(self.columns), {}, none))
            del self.fine[: -FINE * WINDOWS]
        span = self.fine[-1]
        span.end_us = slice_.end_us
        span.rows += slice_.rows
        span.dead = _added(span.dead, dead)
        span.missing = [count + _missing(slice_, place) for place, count in enumerate(span.missing)]
        for place in self._entities:
            span.keys[place] = _largest(_added(span.keys[place], _keys(slice_, place)))

    def _add_coarse(self, slice_: TimeSlice) -> None:
        if not self._coarse or slice_.start_us >= self._coarse[-1].start_us + self._coarse_us:
            self._coarse.append(Coarse(slice_.start_us, {}))
            if len(self._coarse) > COARSE + 1:
                self._age(self._coarse.pop(0))
        newest = self._coarse[-1]
        newest.segments = _summed([newest, Coarse(0, slice_.segments)])

    def _age(self, oldest: Coarse) -> None:
        self._before = Coarse(0, _summed([self._before, oldest]), self._before.spans + 1)
        if self._before.spans >= MOST_BEFORE:
            halved = {
                name: {value: _halved(counts) for value, counts in found.items()}
                for name, found in self._before.segments.items()
            }
            self._before = Coarse(0, halved, MOST_BEFORE // 2)


def _missing(slice_: TimeSlice, place: int) -> int:
    buckets, counts = slice_.column(place)  # in ascending order, and MISSING is the first of all
    return int(counts[0]) if len(buckets) and buckets[0] == MISSING else 0


def _keys(slice_: TimeSlice, place: int) -> dict[int, int]:
    """The largest keys of an entity in one slice."""
    buckets, counts = slice_.column(place)
    counted = dict(zip(buckets.tolist(), counts.tolist(), strict=True))
    counted.pop(MISSING, None)
    return _largest(counted)


def _largest(counts: Mapping[int, int]) -> dict[int, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_KEYS])


def _added(one: Mapping[Key, int], other: Mapping[Key, int]) -> dict[Key, int]:
    total = dict(one)
    for key, count in other.items():
        total[key] = total.get(key, 0) + count
    return total


def _summed(tables: Iterable[Coarse]) -> SegmentTable:
    """The tables of segments as one. What stands in it is new: nothing that was handed in is changed."""
    total: SegmentTable = {}
    for table in tables:
        for name, found in table.segments.items():
            known = total.setdefault(name, {})
            for value, counts in found.items():
                add_counts(known, value, counts)
            bound_values(known)
    return total


def _halved(counts: SegmentCounts) -> SegmentCounts:
    return SegmentCounts(
        counts.rows // 2,
        [count // 2 for count in counts.missing],
        [count // 2 for count in counts.outside],
        [count // 2 for count in counts.bucket_sums],
    )
