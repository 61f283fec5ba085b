"""The plans that the kernel is measured with, and events for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from features.plan import (
    Aggregate,
    EntityPlan,
    Floats,
    GroupKind,
    Hashes,
    Input,
    Ints,
    Output,
    Point,
    PointKind,
    WindowGroup,
)

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
BOUND = 20  # of distinct; the comparison with brute force takes a small one, to be beyond it often

INPUTS = (Input("amount"), Input("meter"), Input(None))  # columns of numbers, see `events`
AMOUNT, METER, ONE = range(3)

Group = tuple[GroupKind, int, Sequence[int], Sequence[Aggregate]]  # kind, column, windows, aggregates
A = Aggregate


class Events(NamedTuple):
    """n events in their order."""

    keys: list[str]
    times_us: Ints
    inputs: Floats
    hashes: Hashes


def tile_us(window_us: int) -> int:
    """Tiles as the declaration cuts them."""
    steps = [(12 * DAY, DAY), (12 * HOUR, HOUR), (HOUR, 5 * MINUTE), (12 * MINUTE, MINUTE)]
    return next((tile for least, tile in steps if window_us >= least), 15 * SECOND)


def plan(
    groups: Sequence[Group],
    points: Sequence[tuple[PointKind, Sequence[Aggregate], int]] = (),
    bound: int = BOUND,
) -> EntityPlan:
    """Windows of one kind, column and tile size share a group; points keep the amount for `within` microseconds."""
    built: list[WindowGroup] = []
    outputs: list[tuple[Aggregate, int, int]] = []
    for kind, column, windows, aggregates in groups:
        for tile in sorted({tile_us(window) for window in windows}):
            widths = [window for window in windows if tile_us(window) == tile]
            outputs += [(aggregate, len(built), width) for width in widths for aggregate in aggregates]
            ring, exact = -(-max(widths) // tile) + 1, bound if kind == GroupKind.DISTINCT else 0
            built.append(WindowGroup(kind, column, tile, ring, exact, len(built) + 1))
    kept: list[Point] = []
    for point_kind, aggregates, within in points:
        outputs += [(aggregate, len(kept), within) for aggregate in aggregates]
        kept.append(
            Point(
                point_kind, AMOUNT, within, HOUR if point_kind == PointKind.DECAYED else 0, 1_000 + len(kept)
            )
        )
    named = tuple(Output(f"f{i}", *output, default=np.nan) for i, output in enumerate(outputs))
    return EntityPlan("card", ("card",), INPUTS, (Input("shop"),), tuple(built), tuple(kept), named)


ONE_GROUP = plan(
    [(GroupKind.MOMENTS, AMOUNT, [23 * HOUR], [A.COUNT, A.MEAN, A.STD])]
)  # 24 tiles, 3 aggregates

# Windows shorter than a tile, no multiple of it, and many tiles wide; every aggregate.
EVERYTHING = plan(
    [
        (GroupKind.COUNT, ONE, [40 * SECOND, 2 * HOUR + 7 * MINUTE], [A.COUNT]),
        (GroupKind.MOMENTS, AMOUNT, [HOUR, 5 * HOUR], [A.SUM, A.MEAN]),
        (GroupKind.MOMENTS, METER, [3 * HOUR], [A.STD, A.MEAN]),
        (GroupKind.EXTREMES, AMOUNT, [20 * MINUTE, DAY], [A.MIN, A.MAX]),
        (GroupKind.DISTINCT, 0, [12 * HOUR, DAY], [A.DISTINCT]),
    ],
    [(PointKind.LAST, [A.LAST, A.SINCE_LAST], 2 * HOUR), (PointKind.DECAYED, [A.EWM], 3 * HOUR)],
    bound=3,
)

TYPICAL = {
    "one window, 24 tiles, 3 aggregates": ONE_GROUP,
    "flights: 1, 3, 12 h, count and mean": plan(
        [
            (GroupKind.COUNT, ONE, [HOUR, 3 * HOUR, 12 * HOUR], [A.COUNT]),
            (GroupKind.MOMENTS, AMOUNT, [3 * HOUR, 12 * HOUR], [A.MEAN]),
        ],
        [(PointKind.LAST, [A.LAST, A.SINCE_LAST], 12 * HOUR)],
    ),
    "payments: 1, 7, 30 d, 24 features": plan(
        [
            (GroupKind.MOMENTS, AMOUNT, [DAY, 7 * DAY, 30 * DAY], [A.COUNT, A.SUM, A.MEAN, A.STD]),
            (GroupKind.EXTREMES, AMOUNT, [DAY, 7 * DAY, 30 * DAY], [A.MIN, A.MAX]),
            (GroupKind.DISTINCT, 0, [DAY, 7 * DAY, 30 * DAY], [A.DISTINCT]),
        ],
        [(PointKind.LAST, [A.LAST, A.SINCE_LAST], 30 * DAY), (PointKind.DECAYED, [A.EWM], 30 * DAY)],
    ),
}


def events(n: int, entities: int, seed: int, hours: float = 48.0) -> Events:
    """n random events of so many entities over so many hours: one in seven late, one in seven tied, some repeated.

    An amount is missing one time in twenty; a meter stands near 10^9 and hardly moves; shops come from few and many.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, entities, n)
    times_us = np.sort(rng.integers(0, int(hours * HOUR), n))
    kind = rng.random(n)
    late = kind < 1 / 7
    times_us[late] -= rng.integers(0, 30 * HOUR, int(late.sum()))
    tied = kind > 6 / 7
    times_us[tied] -= times_us[tied] % (30 * MINUTE)
    amounts = np.where(rng.random(n) < 0.05, np.nan, np.round(rng.lognormal(3.0, 1.5, n), 2))
    meters = 1e9 + rng.random(n) / 1_000
    shops = np.where(rng.random(n) < 0.7, numbers % 7 + rng.integers(1, 5, n), rng.integers(1, 2**40, n))
    columns = [numbers, times_us, amounts, meters, shops]
    repeated = np.flatnonzero(rng.random(n) < 0.02)
    repeated = repeated[repeated > 0]
    for column in columns:
        column[repeated] = column[repeated - 1]
    hashes = columns[4].astype(np.uint64) * np.uint64(
        0x9E37_79B9_7F4A_7C15
    )  # spread over 64 bits; never 0 below 2^40
    keys = [f"card-{number}" for number in numbers.tolist()]
    return Events(
        keys, times_us.astype(np.int64), np.column_stack([amounts, meters, np.ones(n)]), hashes[:, np.newaxis]
    )
