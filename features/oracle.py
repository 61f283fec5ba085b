"""The same features by brute force: every row is kept, every feature of every event is worked out anew from all of them.

Written from the sentences in `features/plan.py`, without tiles in memory, rings, running totals or anything else of the
kernel. Tests and `python -m benchmarks.kernel` compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from features.plan import Aggregate, EntityPlan, GroupKind, Output, Point, WindowGroup

LARGEST = 1e150  # inputs beyond this count as missing, like NaN and infinities


class Row(NamedTuple):
    """One event of an entity."""

    time_us: int
    inputs: Sequence[float]
    hashes: Sequence[int]


class Answer(NamedTuple):
    """What is said of one event: its features as of it, seconds since the newest earlier event, and what it missed."""

    features: list[float]
    age_s: float
    dropped: int


@dataclass
class Oracle:
    """All rows of every entity, in order.

    Example:
        >>> count = Output("n", Aggregate.COUNT, source=0, window_us=60, default=0.0)
        >>> group = WindowGroup(GroupKind.COUNT, column=0, tile_us=10, ring=7, bound=0, identity=1)
        >>> oracle = Oracle(EntityPlan("card", ("card",), (), (), (group,), (), (count,)))
        >>> [oracle.answer("c1", Row(time_us, [1.0], [])).features for time_us in (0, 69, 5, 70)]
        [[0.0], [1.0], [1.0], [1.0]]
    """

    plan: EntityPlan
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def answer(self, key: str | None, row: Row) -> Answer:
        """The features of an event, before it counts; then it does."""
        if key is None:
            return Answer([output.default for output in self.plan.outputs], math.nan, 0)
        earlier = self.rows.setdefault(key, [])
        newest_us = max((other.time_us for other in earlier), default=None)
        latest_us = row.time_us if newest_us is None else max(newest_us, row.time_us)
        features = [self._feature(output, earlier, row.time_us, latest_us) for output in self.plan.outputs]
        age_s = math.nan if newest_us is None else (row.time_us - newest_us) / 1e6
        dropped = self._dropped(earlier, row, latest_us)
        earlier.append(row)
        return Answer(features, age_s, dropped)

    def _feature(self, output: Output, earlier: list[Row], time_us: int, latest_us: int) -> float:
        if output.aggregate in (Aggregate.LAST, Aggregate.SINCE_LAST, Aggregate.EWM):
            value = _of_point(output, self.plan.points[output.source], earlier, time_us)
        else:
            value = _of_window(output, self.plan.groups[output.source], earlier, time_us, latest_us)
        return output.default if value is None else value

    def _dropped(self, earlier: list[Row], row: Row, latest_us: int) -> int:
        count = 0
        for group in self.plan.groups:
            present = (
                _hash_of(row, group)
                if group.kind == GroupKind.DISTINCT
                else _number(row, group.column) is not None
            )
            too_old = row.time_us // group.tile_us <= latest_us // group.tile_us - group.ring
            count += bool(present and too_old)
        for point in self.plan.points:
            times = [other.time_us for other in earlier if _number(other, point.column) is not None]
            present = _number(row, point.column) is not None and bool(times)
            count += present and row.time_us < max(times) - point.within_us
        return count


def _number(row: Row, column: int) -> float | None:
    value = row.inputs[column]
    return value if abs(value) <= LARGEST else None


def _hash_of(row: Row, group: WindowGroup) -> int:
    return row.hashes[group.column]


def _of_window(
    output: Output, group: WindowGroup, earlier: list[Row], time_us: int, latest_us: int
) -> float | None:
    tile, window = group.tile_us, output.window_us
    first, last = max((time_us - window) // tile, (latest_us - window) // tile), time_us // tile
    within = [row for row in earlier if first <= row.time_us // tile <= last]
    if group.kind == GroupKind.DISTINCT:
        return _distinct({_hash_of(row, group) for row in within} - {0}, group.bound)
    values = [value for row in within if (value := _number(row, group.column)) is not None]
    return _aggregate(output.aggregate, values) if values else None


def _aggregate(aggregate: Aggregate, values: list[float]) -> float | None:
    if aggregate == Aggregate.COUNT:
        return float(len(values))
    if aggregate == Aggregate.MIN:
        return min(values)
    if aggregate == Aggregate.MAX:
        return max(values)
    total = math.fsum(values)
    if aggregate == Aggregate.SUM:
        return total
    mean = total / len(values)
    if aggregate == Aggregate.MEAN:
        return mean
    return _std(values, mean) if len(values) > 1 else None


def _std(values: list[float], mean: float) -> float:
    """In two passes; the second term takes back what the rounded mean has added to the first."""
    apart = [value - mean for value in values]
    squares = math.fsum(x * x for x in apart) - math.fsum(apart) ** 2 / len(values)
    return math.sqrt(max(squares, 0.0) / (len(values) - 1))


def _distinct(hashes: set[int], bound: int) -> float | None:
    """Exact up to `bound`, then from the (bound + 1)th smallest hash u of [0, 1): bound / u (Bar-Yossef et al. 2002)."""
    if len(hashes) <= bound:
        return float(len(hashes)) if hashes else None
    return bound / (sorted(hashes)[bound] / 2**64)


def _of_point(output: Output, point: Point, earlier: list[Row], time_us: int) -> float | None:
    rows = [row for row in earlier if _number(row, point.column) is not None]
    if not rows:
        return None
    newest = max(
        reversed(rows), key=lambda row: row.time_us
    )  # of equals, `max` takes the first: the latest one
    gap_us = time_us - newest.time_us
    if gap_us > (min(point.within_us, output.window_us) if output.window_us > 0 else point.within_us):
        return None
    if output.aggregate == Aggregate.EWM:
        return _weighted_mean(point, rows)
    if gap_us < 0:
        return None
    return gap_us / 1e6 if output.aggregate == Aggregate.SINCE_LAST else newest.inputs[point.column]


def _weighted_mean(point: Point, rows: list[Row]) -> float:
    """Weights relative to the newest row; the time of the event itself cancels out."""
    newest_us, counted = rows[0].time_us, [rows[0]]
    for row in rows[1:]:
        if row.time_us - newest_us > point.within_us:
            counted = [row]
        elif row.time_us >= newest_us - point.within_us:
            counted.append(row)
        newest_us = max(newest_us, row.time_us)
    weights = [2.0 ** ((row.time_us - newest_us) / point.half_life_us) for row in counted]
    values = [row.inputs[point.column] for row in counted]
    return math.fsum(w * x for w, x in zip(weights, values, strict=True)) / math.fsum(weights)
