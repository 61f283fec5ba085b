"""Random entity plans and awkward events for them, for property tests of whatever walks a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from features.label_rows import NO_TIME, LabelRows
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
from features.state import EntityBatch, EntityState

NUMBERS = 2  # input columns of every plan
HASHED = 1
LABEL_INPUTS = 2  # of every plan over labels
AGGREGATES = {
    GroupKind.COUNT: [Aggregate.COUNT],
    GroupKind.MOMENTS: [Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD],
    GroupKind.EXTREMES: [Aggregate.MIN, Aggregate.MAX],
    GroupKind.DISTINCT: [Aggregate.DISTINCT],
}
OF_POINT = {
    PointKind.LAST: [Aggregate.LAST, Aggregate.SINCE_LAST],
    PointKind.SEEN: [Aggregate.SINCE_LAST],
    PointKind.DECAYED: [Aggregate.EWM, Aggregate.SINCE_LAST],
}


class Events(NamedTuple):
    """n events in their order."""

    keys: Sequence[str | None]
    times_us: Ints
    inputs: Floats
    hashes: Hashes

    def cut(self, begin: int, end: int) -> Events:
        return Events(
            self.keys[begin:end], self.times_us[begin:end], self.inputs[begin:end], self.hashes[begin:end]
        )


# Narrow ones often, so that events stand exactly at their ends.
widths = st.one_of(st.integers(1, 12), st.integers(1, 300))


@st.composite
def plans(draw: st.DrawFn) -> EntityPlan:
    """Every kind of group and point at least now and then; tiles of 7 to 60 us, windows shorter and longer than them."""
    groups: list[WindowGroup] = []
    points: list[Point] = []
    outputs: list[tuple[Aggregate, int, int]] = []
    for kind in draw(st.lists(st.sampled_from(list(AGGREGATES)), min_size=1, max_size=4)):
        windows = draw(st.lists(widths, min_size=1, max_size=3))
        tile = draw(st.sampled_from([7, 10, 60]))
        ring = max(-(-window // tile) for window in windows) + 1 + draw(st.sampled_from([0, 0, 3]))
        distinct = kind == GroupKind.DISTINCT
        column = draw(st.integers(0, (HASHED if distinct else NUMBERS) - 1))
        bound = draw(st.integers(1, 6)) if distinct else 0
        outputs += [
            (aggregate, len(groups), window)
            for window in windows
            for aggregate in draw(st.lists(st.sampled_from(AGGREGATES[kind]), unique=True, min_size=1))
        ]
        groups.append(WindowGroup(kind, column, tile, ring, bound, 100 + len(groups)))
    for point_kind in draw(st.lists(st.sampled_from(PointKind), min_size=1, max_size=4)):
        within = draw(widths)
        half_life = draw(st.integers(1, 200)) if point_kind == PointKind.DECAYED else 0
        outputs += [
            (aggregate, len(points), draw(st.sampled_from([within, max(1, within // 2)])))
            for aggregate in OF_POINT[point_kind]
        ]
        points.append(
            Point(point_kind, draw(st.integers(0, NUMBERS - 1)), within, half_life, 200 + len(points))
        )
    order = draw(st.permutations(outputs))
    features = [
        Output(f"f{i}", aggregate, source, window, draw(st.sampled_from([math.nan, 0.0, -1.0])))
        for i, (aggregate, source, window) in enumerate(order)
    ]
    inputs = tuple(Input(f"x{i}") for i in range(NUMBERS))
    return EntityPlan(
        "card", ("card",), inputs, (Input("place"),), tuple(groups), tuple(points), tuple(features)
    )


@st.composite
def plans_over_labels(draw: st.DrawFn) -> EntityPlan:
    """As `plans`, with windows over labels beside the others."""
    plan = draw(plans())
    groups, outputs = list(plan.groups), list(plan.outputs)
    for number in range(draw(st.integers(1, 3))):
        windows = draw(st.lists(widths, min_size=1, max_size=3))
        tile = draw(st.sampled_from([7, 10, 60]))
        ring = max(-(-window // tile) for window in windows) + 1 + draw(st.sampled_from([0, 0, 3]))
        chosen = draw(st.lists(st.sampled_from(AGGREGATES[GroupKind.MOMENTS]), unique=True, min_size=1))
        default = draw(st.sampled_from([math.nan, -1.0]))
        outputs += [
            Output(f"l{number}_{window}_{aggregate}", aggregate, len(groups), window, default)
            for window in windows
            for aggregate in chosen
        ]
        column = draw(st.integers(0, LABEL_INPUTS - 1))
        groups.append(WindowGroup(GroupKind.SUMS, column, tile, ring, 0, 300 + number))
    names = ("late", "delay")[:LABEL_INPUTS]
    return replace(plan, groups=tuple(groups), outputs=tuple(outputs), label_inputs=names)


@st.composite
def known_labels(draw: st.DrawFn, rows: Events) -> tuple[LabelRows, Ints]:
    """Label rows of some of these events, in one order with them, and the number of events before each.

    They become known after a while, earlier or later than it is their turn; some are corrected, some twice.
    """
    pace = draw(st.sampled_from([3, 30, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lines: list[tuple[int, str, int, Floats, int, Floats]] = []
    for row, (key, time_us) in enumerate(zip(rows.keys, rows.times_us.tolist(), strict=True)):
        place, said_us, said = row, NO_TIME, np.full(LABEL_INPUTS, math.nan)
        while key is not None and rng.random() < 0.6:
            place += 1 + int(rng.integers(0, 12))
            turn_us = int(rows.times_us[min(place, len(rows.keys) - 1)])
            known_us = int(rng.choice([turn_us, time_us])) + int(rng.integers(-pace, 2 * pace))
            values = np.array([_numbers(rng, 3)[0] for _ in range(LABEL_INPUTS)])
            lines.append((min(place, len(rows.keys)), key, known_us, values, said_us, said))
            said_us, said = known_us, values
    lines.sort(key=lambda line: line[0])
    shape = (len(lines), LABEL_INPUTS)
    label_rows = LabelRows(
        [key for _, key, *_ in lines],
        np.array([known_us for _, _, known_us, *_ in lines], np.int64),
        np.array([values for _, _, _, values, _, _ in lines], np.float64).reshape(shape),
        np.array([said_us for *_, said_us, _ in lines], np.int64),
        np.array([said for *_, said in lines], np.float64).reshape(shape),
    )
    return label_rows, np.array([place for place, *_ in lines], np.int64)


@st.composite
def events(draw: st.DrawFn, most: int = 80) -> Events:
    """Events of a few entities and of none, times around the epoch going forth and back.

    Hypothesis draws their number, their pace and a seed, not each event: lists that it draws are mostly short, and then
    nothing ever stands in a window. A failing example still shrinks to few events.
    """
    n, pace = draw(st.integers(1, most)), draw(st.sampled_from([3, 30, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keys = rng.choice(np.array(["a", "b", "c", "d", None]), n, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    times = rng.integers(-100, 100) + np.cumsum(_steps(rng, n, pace))
    inputs = np.column_stack([_numbers(rng, n) for _ in range(NUMBERS)])
    return Events(keys.tolist(), times, inputs, _hashes(rng, n)[:, np.newaxis])


def _steps(rng: np.random.Generator, n: int, pace: int) -> Ints:
    """Mostly forward; ties, late ones, and now and then beyond every ring, in both directions."""
    steps = rng.integers(0, pace, n)
    kind = rng.random(n)
    steps[kind < 0.2] = 0
    steps[kind > 0.75] = rng.integers(-3 * pace, 3 * pace, int((kind > 0.75).sum()))
    steps[kind > 0.97] = rng.choice([-5_000, 5_000], int((kind > 0.97).sum()))
    return steps.astype(np.int64)


def _numbers(rng: np.random.Generator, n: int) -> Floats:
    """Small ones, great ones, great ones that hardly differ, and what is no number or none to count with."""
    special = rng.choice([0.0, -0.0, 1.0, -1.0, 1e9, -1e9, math.nan, math.nan, math.inf, -math.inf, 1e300], n)
    families = [special, rng.normal(size=n), rng.uniform(-1e9, 1e9, n), 1e9 + rng.uniform(0.0, 0.001, n)]
    chosen = np.where(rng.random(n) < 0.3, 0, rng.integers(1, 4))  # one family and the special ones
    mixed = rng.integers(0, 4, n)
    return np.choose(mixed if rng.random() < 0.3 else chosen, families)


def _hashes(rng: np.random.Generator, n: int) -> Hashes:
    """From few and from many values, so that sketches are exact, full and overfull; 0 is missing."""
    few = rng.integers(1, 2**64 - 1, int(rng.integers(1, 12)), dtype=np.uint64)
    many = rng.integers(1, 2**64 - 1, n, dtype=np.uint64)
    return np.choose(rng.choice(3, n, p=[0.1, 0.7, 0.2]), [np.zeros(n, np.uint64), rng.choice(few, n), many])


def run(state: EntityState, batch: Events, stored: dict[str, bytes]) -> EntityBatch:
    """One batch the way a stage runs it, with what `stored` holds of the keys that are not in memory."""
    assert state.fits(batch.keys)
    state.load({key: stored.get(key) for key in state.missing(batch.keys)})
    return state.update_batch(batch.keys, batch.times_us, batch.inputs, batch.hashes)


def run_with_labels(
    state: EntityState, batch: Events, labels: LabelRows, before: Ints, stored: dict[str, bytes]
) -> EntityBatch:
    """As `run`, with label rows among the events."""
    keys = [*batch.keys, *labels.keys]
    assert state.fits(keys)
    state.load({key: stored.get(key) for key in state.missing(keys)})
    return state.update_batch(
        batch.keys, batch.times_us, batch.inputs, batch.hashes, labels=labels, labels_before=before
    )
