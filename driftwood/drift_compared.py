"""A column as it is now beside what it was in the reference: shares by bin, quantiles and rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from features.plan import Floats
from models.drift.buckets import MISSING, bucket_values
from models.drift.columns import Column
from models.drift.reference import Reference
from models.drift.time_slice import TimeSlice

BINS: Final = 16
"""Of a number: each holds a sixteenth of the reference, where single values do not hold more."""

MOST_CATEGORIES: Final = 12
"""That are shown by name: the most frequent ones of the reference and of now; the others are one bar."""

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)

FEW_VALUES: Final = 3
"""Of so few different values quantiles say nothing that their shares do not."""

REST: Final = "all others"
MISSING_ROW: Final = "missing"

NONE: Final = np.zeros(0)
LARGEST: Final = 1 << 31
"""Above every bucket."""
LARGE: Final = 1e9
"""From here on numbers are written with their power of ten."""

Counts = Mapping[int, int]
Pair = tuple[float, float]
"""Before (in the reference), and now."""


@dataclass(frozen=True)
class Compared:
    """A column; every pair is before and now. `bars` are shares of all rows, by the name of the bin.

    `rates` are shares of all rows: missing, outside (of the declared range), unseen (a category that the reference lacks).
    `quantiles` by share; empty for categories, for hidden columns, and of few different values.
    """

    column: Column
    rows: tuple[int, int]
    bars: Mapping[str, Pair] = field(default_factory=dict)
    quantiles: Mapping[float, Pair] = field(default_factory=dict)
    rates: Mapping[str, Pair] = field(default_factory=dict)
    psi: float = 0.0


@dataclass(frozen=True)
class Side:
    """What was counted of a column: values by bucket, missing ones among them, and how many were out of range."""

    rows: int
    counts: Counts
    outside: int
    names: Mapping[int, str]

    @property
    def known(self) -> dict[int, int]:
        """The values that are not missing."""
        return {bucket: count for bucket, count in self.counts.items() if bucket != MISSING}

    @property
    def missing(self) -> int:
        """How many are missing."""
        return self.counts.get(MISSING, 0)


def of_slice(one: TimeSlice, place: int) -> Side:
    """A column of a time slice, by its place among the `watched_columns`."""
    counts = dict(zip(*(found.tolist() for found in one.column(place)), strict=True))
    return Side(one.rows, counts, one.outside[place], one.names[place])


def of_reference(reference: Reference, place: int) -> Side:
    """A column of a reference."""
    counts = dict(zip(*(found.tolist() for found in reference.histograms[place]), strict=True))
    outside = int(reference.tallies[:, reference.layout.outside.start + place].sum())
    return Side(reference.rows, counts, outside, reference.names[place])


def compared(column: Column, before: Side, now: Side, psi: float) -> Compared:
    """A column of two times in which rows came. `psi` is measured elsewhere: like hours are compared for it."""
    sides = (before, now)
    binned = _by_category(column, sides) if column.kind == "category" else _by_bin(column, sides)
    if before.missing or now.missing:
        binned[MISSING_ROW] = (before.missing, now.missing)
    shares = [_shares(np.array(counts, float)) for counts in zip(*binned.values(), strict=True)] or [NONE] * 2
    rates = {
        "missing": _pair(_share(side.missing, side.rows) for side in sides),
        "outside": _pair(_share(side.outside, side.rows) for side in sides),
    }
    if column.kind == "category":
        unseen = sum(count for bucket, count in now.known.items() if bucket not in before.counts)
        rates["unseen"] = (0.0, _share(unseen, now.rows))
    return Compared(
        column,
        (before.rows, now.rows),
        {name: _pair(side[row] for side in shares) for row, name in enumerate(binned)},
        {} if column.hidden or column.kind == "category" else _quantiles(column, sides),
        rates,
        psi,
    )


def _by_bin(column: Column, sides: Sequence[Side]) -> dict[str, tuple[int, int]]:
    """Counts by bin of a number, the bins in their order."""
    before, now = (side.known for side in sides)
    lasts = _last_buckets(before or now)
    found = {}
    first = -1
    for row, last in enumerate(lasts, 1):
        # The outermost bins take in what lies beyond them.
        top = LARGEST if row == len(lasts) else last
        held = sorted(bucket for bucket in {**before, **now} if first < bucket <= top)
        name = f"bin {row}" if column.hidden else _range_name(column, held)
        found[name] = (_sum(before, held), _sum(now, held))
        first = last
    return found


def _last_buckets(counts: Counts) -> list[int]:
    """The last bucket of each bin, so that every bin has about as many rows; a value with more of them has its own."""
    buckets = sorted(counts)
    reached = np.cumsum([counts[bucket] for bucket in buckets])
    wanted = np.arange(1, BINS + 1) * reached[-1] / BINS if buckets else NONE
    return sorted({buckets[place] for place in np.searchsorted(reached, wanted)})


def _range_name(column: Column, held: Sequence[int]) -> str:
    """Of the values that lie in a bin: "3", or "3 to 7"."""
    ends = bucket_values(column.kind, np.array([held[0], held[-1]])).tolist()
    low, high = (number(end, digits=2) for end in ends)  # a bucket knows no more of its values
    return low if low == high else f"{low} to {high}"


def _by_category(column: Column, sides: Sequence[Side]) -> dict[str, tuple[int, int]]:
    """Counts by category: the most frequent ones, and all others together."""
    before, now = (side.known for side in sides)
    wholes = [max(sum(known.values()), 1) for known in (before, now)]
    size = {
        bucket: max(before.get(bucket, 0) / wholes[0], now.get(bucket, 0) / wholes[1])
        for bucket in {**before, **now}
    }
    shown = sorted(size, key=lambda bucket: (-size[bucket], bucket))[:MOST_CATEGORIES]
    found: dict[str, tuple[int, int]] = {}
    for row, bucket in enumerate(shown, 1):
        named = sides[0].names.get(bucket) or sides[1].names.get(bucket)
        name = f"category {row}" if column.hidden or named is None else named
        if (
            name in (MISSING_ROW, REST) or name in found
        ):  # a category may be called so, or two be cut to the same text
            name = f"“{name}” ({row})"
        found[name] = (before.get(bucket, 0), now.get(bucket, 0))
    rest = size.keys() - set(shown)
    return found | ({REST: (_sum(before, rest), _sum(now, rest))} if rest else {})


def _sum(counts: Counts, buckets: Iterable[int]) -> int:
    return sum(counts.get(bucket, 0) for bucket in buckets)


def _quantiles(column: Column, sides: Sequence[Side]) -> dict[float, Pair]:
    if (
        not all(side.known for side in sides)
        or len(sides[0].known.keys() | sides[1].known.keys()) <= FEW_VALUES
    ):
        return {}
    found = []
    for counts in (side.known for side in sides):
        buckets = np.array(sorted(counts))
        reached = np.cumsum([counts[bucket] for bucket in buckets.tolist()])
        places = np.searchsorted(reached, np.array(QUANTILES) * reached[-1])
        found.append(bucket_values(column.kind, buckets[places]).tolist())
    return {share: _pair(side[row] for side in found) for row, share in enumerate(QUANTILES)}


def _shares(counts: Floats) -> Floats:
    shares: Floats = counts / max(counts.sum(), 1)
    return shares


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _pair(values: Iterable[float]) -> Pair:
    before, now = values
    return float(before), float(now)


def number(value: float, digits: int = 3) -> str:
    """As people read it: so many digits, thousands with their mark.

    Example:
        >>> [number(value) for value in (0.00012, 0.5, 12.34, 1234.5, 2.5e7, float("inf"))]
        ['0.00012', '0.5', '12.3', '1,230', '25,000,000', 'infinite']
    """
    if np.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    short = round(value, places)
    if abs(short) >= LARGE:
        return f"{short:.2e}"
    return f"{short:,.0f}" if places <= 0 or short == int(short) else f"{short:.{places}f}".rstrip("0")
