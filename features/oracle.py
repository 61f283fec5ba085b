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


class Label(NamedTuple):
    """One label row of an entity: when it became known, its values, and what it replaces (time None: nothing)."""

    known_us: int
    values: Sequence[float]
    replaced_us: int | None = None
    replaced: Sequence[float] = ()


class Said(NamedTuple):
    """A value that a label said, by the place of its name in `EntityPlan.label_inputs`."""

    known_us: int
    column: int
    value: float


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
    said: dict[str, list[Said]] = field(default_factory=dict)
    known_us: dict[str, int] = field(default_factory=dict)  # the newest time at which a label became known

    def know(self, key: str, label: Label) -> int:
        """Take a label row; returns for how many window groups it came too late."""
        said = self.said.setdefault(key, [])
        groups = [group for group in self.plan.groups if group.kind == GroupKind.SUMS]
        if any(abs(label.values[group.column]) <= LARGEST for group in groups):
            self.known_us[key] = max(label.known_us, self.known_us.get(key, label.known_us))
        newest_us = self.known_us.get(key, label.known_us)
        if label.replaced_us is not None:
            for column, value in enumerate(label.replaced):
                if Said(label.replaced_us, column, value) in said:
                    said.remove(Said(label.replaced_us, column, value))
        said += [
            Said(label.known_us, column, value)
            for column, value in enumerate(label.values)
            if abs(value) <= LARGEST
        ]
        return sum(
            abs(label.values[group.column]) <= LARGEST
            and label.known_us // group.tile_us <= newest_us // group.tile_us - group.ring
            for group in groups
        )

    def answer(self, key: str | None, row: Row) -> Answer:
        """The features of an event, before it counts; then it does."""
        if key is None:
            return Answer([output.default for output in self.plan.outputs], math.nan, 0)
        earlier = self.rows.setdefault(key, [])
        newest_us = max((other.time_us for other in earlier), default=None)
        latest_us = row.time_us if newest_us is None else max(newest_us, row.time_us)
        features = [self._feature(output, key, row.time_us, latest_us) for output in self.plan.outputs]
        age_s = math.nan if newest_us is None else (row.time_us - newest_us) / 1e6
        dropped = self._dropped(earlier, row, latest_us)
        earlier.append(row)
        return Answer(features, age_s, dropped)

    def _feature(self, output: Output, key: str, time_us: int, latest_us: int) -> float:
        earlier = self.rows[key]
        if output.aggregate in (Aggregate.LAST, Aggregate.SINCE_LAST, Aggregate.EWM):
            value = _of_point(output, self.plan.points[output.source], earlier, time_us)
        elif self.plan.groups[output.source].kind == GroupKind.SUMS:
            group = self.plan.groups[output.source]
            oldest = self.known_us.get(key, 0) // group.tile_us - group.ring + 1
            said = [one for one in self.said.get(key, []) if one.known_us // group.tile_us >= oldest]
            value = _over_labels(output, group, said, time_us, latest_us)
        else:
            value = _of_window(output, self.plan.groups[output.source], earlier, time_us, latest_us)
        return output.default if value is None else value

    def _dropped(self, earlier: list[Row], row: Row, latest_us: int) -> int:
        count = 0
        for group in self.plan.groups:
            if group.kind == GroupKind.SUMS:
                continue
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


def _tiles(output: Output, group: WindowGroup, time_us: int, latest_us: int) -> tuple[int, int]:
    """The first and the last tile of a window."""
    tile, window = group.tile_us, output.window_us
    return max((time_us - window) // tile, (latest_us - window) // tile), time_us // tile


def _over_labels(
    output: Output, group: WindowGroup, said: list[Said], time_us: int, latest_us: int
) -> float | None:
    first, last = _tiles(output, group, time_us, latest_us)
    values = [
        one.value
        for one in said
        if one.column == group.column and first <= one.known_us // group.tile_us <= last
    ]
    return _aggregate(output.aggregate, values) if values else None


def _of_window(
    output: Output, group: WindowGroup, earlier: list[Row], time_us: int, latest_us: int
) -> float | None:
    tile = group.tile_us
    first, last = _tiles(output, group, time_us, latest_us)
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
