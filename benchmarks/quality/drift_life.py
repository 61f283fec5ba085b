"""A world under watch: features by the backfill, time slices counted from them, labels as they become known; then the watch.

    World ─ backfill ─> features ─ model ─> scores ─> time slices, hour by hour ─┐
                                     labels, when they become known ─────────────┴─> DriftWatch ─> alerts

What is left out of the roads is transport alone: `counted_and_read` drives a world through them, for comparison.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.drift_world import CUT, World
from examples.payments.simulation import DAY_US
from features.plan import Floats, Ints
from features.rows import Rows
from models.drift.alert import Alert
from models.drift.label_counting import LabelCounting
from models.drift.reference import Reference
from models.drift.time_slice import TimeSlice, empty_slice, merged
from models.drift.watch import DriftWatch
from models.drift.watching import RowWatch
from models.fallback import FallbackScorer
from models.lightgbm_model import LightGBMScorer, fit
from models.matured import Matured
from models.online_model import taken
from models.pipeline import Pipeline
from models.scoring import Scorer
from offline.backfill import Backfill, backfill_chunks, joined
from offline.drift_reference import Scored, TrainingCounts, alike, counted_slices
from offline.in_process import InProcess
from offline.monitor_in_process import MonitorInProcess
from offline.one_order import Sent
from streams.settings import Settings

VERSION = "0123456789ab"
CHUNK_ROWS = 65_536
HOUR_US = DAY_US // 24

# Days before the watch whose labels it has heard of: as much as it takes until it says something of them.
LABELS_BEFORE = 21


@dataclass(frozen=True)
class Answered:
    """A world with its features and scores, and what was counted of it by hours."""

    world: World
    features: Backfill
    scores: Floats
    slices: list[TimeSlice]


@dataclass(frozen=True)
class Trained:
    """A model, and what it was trained on."""

    scorer: LightGBMScorer
    threshold: float
    reference: Reference


def chunks(made: Pipeline, world: World) -> Iterator[Rows]:
    """The payments, decoded."""
    for first in range(0, len(world), CHUNK_ROWS):
        yield world.rows(made, first, min(first + CHUNK_ROWS, len(world)))


def featured(made: Pipeline, world: World) -> Backfill:
    """The features of all payments."""
    return joined(made.feature_set, backfill_chunks(made.feature_set, chunks(made, world)))


def trained(made: Pipeline, world: World, features: Backfill, start_us: int) -> Trained:
    """Fitted on the first half of the days before `CUT`, with a reference of all of them, as `driftwood train` makes one."""
    assert made.decide is not None
    cut_us = start_us + CUT * DAY_US
    half, end = np.searchsorted(world.times_us, (start_us + CUT * DAY_US // 2, cut_us)).tolist()
    early = np.arange(half, dtype=np.int64)
    fitted = fit(made.batch, "binary", taken(features.matrix, early), world.fraud[:half].astype(np.float64))
    threshold = made.decide.threshold(np.array([0.5]), 1.0)
    scorer = LightGBMScorer(fitted, VERSION, made.feature_set.hash, threshold)
    scores = scorer.score(taken(features.matrix, np.arange(end, dtype=np.int64)))
    scores[:half] = alike(scores[:half], scores[half:])
    counts, done = TrainingCounts(made), 0
    for rows in chunks(made, world):
        part = np.arange(done, done + len(rows), dtype=np.int64)
        counts.add(rows, taken(features.matrix, part))
        done += len(rows)
    slices = counts.slices(start_us, cut_us, Scored(0, world.times_us[:end], scores), threshold, VERSION)
    return Trained(scorer, threshold, Reference.of(counts.columns, slices, made.drift))


def answered(
    made: Pipeline, world: World, features: Backfill, scorer: Scorer, threshold: float, since_us: int
) -> Answered:
    """Scores of all payments, and the slices from `since_us` on; those without payments as well."""
    watch, length_us = RowWatch(made), made.drift.slice_us
    scores = scorer.score(features.matrix)
    by_start: dict[int, TimeSlice] = {}
    done = 0
    for rows in chunks(made, world):
        part = np.arange(done, done + len(rows), dtype=np.int64)
        done += len(rows)
        part = part[rows.times_us >= since_us]
        if len(part):
            chosen = rows.take(part - (done - len(rows)))
            watched = watch.rows(
                chosen, taken(features.matrix, part), scores[part], threshold, scorer.version
            )
            for one in counted_slices(watch.columns, watched, length_us):
                before = by_start.get(one.start_us)
                by_start[one.start_us] = one if before is None else merged(watch.columns, [before, one])
    slices = [
        by_start.get(start) or empty_slice(watch.columns, start, length_us)
        for start in range(since_us, int(world.times_us[-1]) // length_us * length_us, length_us)
    ]
    return Answered(world, features, scores, slices)


def matured(one: Answered, rows: Ints) -> Matured:
    """The labels of these payments, as they stand on `outcomes`."""
    count, scores = len(rows), one.scores[rows]
    nothing, ones = np.full(count, np.nan), np.ones(count)
    world = one.world
    return Matured(
        [world.ids[row] for row in rows.tolist()],
        world.times_us[rows],
        world.known_us[rows],
        ["matched"] * count,
        world.fraud[rows].astype(np.float64),
        nothing,
        taken(one.features.matrix, rows),
        scores,
        {"lightgbm": scores},
        0.1 * ones,
        ones,
        [VERSION] * count,
    )


class Life:
    """A watch that hears of labels and slices in the order in which they come to be. `deepcopy` it where worlds part."""

    def __init__(self, made: Pipeline, reference: Reference) -> None:
        self._length_us, self._reference = made.drift.slice_us, reference
        self._counting = LabelCounting(made)
        self._watch = DriftWatch(made, RowWatch(made).columns, lambda version: reference)

    def live(self, one: Answered, since_us: int, until_us: int) -> list[Alert]:
        """Everything from one moment to another: slices as far as there are any, and labels that become known."""
        slices = {slice_.start_us: slice_ for slice_ in one.slices}
        known_us, alerts = one.world.known_us, list[Alert]()
        for start in range(since_us, until_us, self._length_us):
            first, end = np.searchsorted(known_us, (start, start + self._length_us)).tolist()
            if first < end:
                for report in self._counting.step(matured(one, np.arange(first, end, dtype=np.int64))):
                    alerts += self._watch.labels(report)
            if start in slices:
                alerts += self._watch.served(slices[start], {})
        return alerts

    def __deepcopy__(self, memo: dict[int, Any]) -> Life:
        memo[id(self._reference)] = self._reference  # it never changes
        made = object.__new__(Life)
        made.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        return made


# ---- the same through the roads


def counted_and_read(
    made: Pipeline, world: World, span_us: int = HOUR_US // 4
) -> tuple[list[TimeSlice], list[TimeSlice]]:
    """The slices of a world as they are counted here, and as the monitor counts them from the records of the real roads.

    The declared fallback answers. The slice that is open at the end is in neither.
    """
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        monitor = MonitorInProcess(made, Path(folder))
        road = InProcess(made, Path(folder), monitor.watch, settings=Settings(partitions=1))
        road.mode = "champion"
        asyncio.run(_driven(road, world, span_us))
    features, scorer = featured(made, world), FallbackScorer(made)
    read = monitor.slices
    counted = answered(made, world, features, scorer, scorer.threshold, read[0].start_us).slices
    return counted[: len(read)], read


async def _driven(road: InProcess, world: World, span_us: int) -> None:
    await road.open()
    times = world.times_us.tolist()
    sent = (Sent(at, "events", value) for at, value in zip(times, world.events(), strict=True))
    await road.run(sent, span_us)
