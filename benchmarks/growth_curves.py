"""What an event costs as entities and windows grow: the road in this process, over a real Redis.

Every batch has as many distinct entities as rows, each entity pays four times a day whatever their number, and a batch
is measured when every entity has a past. So a batch does the same work everywhere, and a difference is one of size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.card_payments import CHANNELS, START_US, Payments, records
from benchmarks.card_pipeline import Payment
from benchmarks.in_process import Road, steps_us
from benchmarks.printing import say
from driftwood import Entity, Label, Pipeline
from driftwood.embedded import EmbeddedRedis
from features.durations import DAY_US, duration_us
from features.layout import bytes_per_entity
from features.redis_store import RedisStore
from features.windows import ring_length, tile_us
from streams.run import warm_up

ROWS = 500  # of a measured batch, as DESIGN's figures are made
POPULATING_ROWS = 4_000
EVERY_US = DAY_US // 4  # of an entity, in the curve over entities
USUAL_EVENTS = 40_000  # measured at each point
TURN_EVENTS = 1_000  # some 30 ms


class Point(NamedTuple):
    """One measurement. CPU in microseconds an event: of the whole road, and of its one stage by step."""

    entities: int
    window: str
    tiles: int  # that a window is read from
    misses: float  # entities a row that were not in memory
    cpu_us: float  # the median of the turns
    steps_us: dict[str, float]
    bytes_per_entity: int


def pipeline_with(window: str) -> Pipeline:
    """Three aggregates of one window, and no model: its answer time does not grow with anything."""
    card = Entity("card")
    return Pipeline(
        f"growth_{window}",
        event=Payment,
        id="payment_id",
        time="at",
        earliest="2024-01-01",
        label=Label("fraud", horizon="7d"),
        features=["amount", card.count(window), card.mean("amount", window), card.std("amount", window)],
        fallback=0.02,
    )


def rounds(entities: int, every_us: int, first: int = 0) -> Iterator[Payments]:
    """Round after round: every entity pays once, in another order each time, `every_us` after its last payment or so."""
    number = first
    while True:
        order = np.random.default_rng(number).permutation(entities)
        numbers = np.arange(number * entities, (number + 1) * entities)
        times_us = START_US + number * every_us + np.arange(entities) * every_us // entities
        amounts = np.round(20.0 + order % 97 + number % 7 / 10, 2)
        yield Payments(numbers, times_us, order, order % 2_000, amounts, order % len(CHANNELS))
        number += 1


async def over_entities(counts: Sequence[int], window: str = "1d", events: int = USUAL_EVENTS) -> list[Point]:
    """All entities in memory."""
    return await _measured([Shape(count, window, EVERY_US, 2, count) for count in counts], events)


async def over_windows(windows: Sequence[str], entities: int, events: int = USUAL_EVENTS) -> list[Point]:
    """Every tile of the window filled: an entity pays once in each."""
    return await _measured([_filled(window, entities) for window in windows], events)


async def without_memory(entities: int, window: str = "1d", events: int = USUAL_EVENTS) -> Point:
    """A tenth of the entities fits into memory, and they come in turn: nearly every row is a miss."""
    (point,) = await _measured([Shape(entities, window, EVERY_US, 2, max(entities // 10, 1_000))], events)
    return point


class Shape(NamedTuple):
    """What a point is of: `filling` rounds of all entities, `every_us` apart, before it is measured; `hot` fit into memory."""

    entities: int
    window: str
    every_us: int
    filling: int
    hot: int


def _filled(window: str, entities: int) -> Shape:
    width_us = duration_us(window, "window")
    return Shape(entities, window, tile_us(width_us), ring_length(width_us), entities)


class Subject:
    """A road whose entities have a past, and what is measured of it turn by turn."""

    def __init__(self, shape: Shape, road: Road, coming: Iterator[Payments]) -> None:
        self._shape, self._road, self._coming = shape, road, coming
        self._round, self._at = next(coming), 0
        self._rows = min(ROWS, shape.entities)
        self._before, self._known = road.steps_s(), road.loaded()
        self._events = 0
        self._turns: list[float] = []

    async def turn(self, wanted: int) -> None:
        """Measure this many events, in batches of equal size."""
        events, cpu_s = 0, 0.0
        while events < wanted:
            made = records(self._next(wanted - events))
            started = time.process_time()
            for at in range(0, len(made), self._rows):
                await self._road.run([value for _, value in made[at : at + self._rows]])
            cpu_s += time.process_time() - started
            events += len(made)
        self._events += events
        self._turns.append(1e6 * cpu_s / events)

    def _next(self, wanted: int) -> Payments:
        """At most so many, where the round stands: whoever left rounds out would find every entity's tiles out of date."""
        if self._at == len(self._round.numbers):
            self._round, self._at = next(self._coming), 0
        start, self._at = self._at, min(self._at + wanted, len(self._round.numbers))
        return _cut(self._round, start, self._at)

    def warmed(self) -> None:
        """What was measured so far does not count."""
        self._before, self._known = self._road.steps_s(), self._road.loaded()
        self._events, self._turns = 0, []

    def point(self) -> Point:
        """What it came to."""
        width_us = duration_us(self._shape.window, "window")
        (plan,) = pipeline_with(self._shape.window).feature_set.entities
        steps = steps_us(self._before, self._road.steps_s(), self._events)["card"]
        misses = round((self._road.loaded() - self._known) / self._events, 3)
        cpu_us = round(median(self._turns), 2)
        return Point(*self._shape[:2], ring_length(width_us), misses, cpu_us, steps, bytes_per_entity(plan))


async def _measured(shapes: Sequence[Shape], events: int) -> list[Point]:
    """All in turns of `TURN_EVENTS`: a shared machine changes its speed within seconds, and for all of them alike so."""
    async with AsyncExitStack() as stack:
        subjects = [await _subject(shape, stack) for shape in shapes]
        for subject in subjects:
            await subject.turn(TURN_EVENTS)  # caches of this batch size
            subject.warmed()
        for _ in range(max(events // TURN_EVENTS, 1)):
            for subject in subjects:
                await subject.turn(min(TURN_EVENTS, events))
        return [subject.point() for subject in subjects]


async def _subject(shape: Shape, stack: AsyncExitStack) -> Subject:
    say(f"filling {shape.entities:,} entities, a window of {shape.window}")
    pipeline = pipeline_with(shape.window)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftwood-growth-")))
    redis = stack.enter_context(EmbeddedRedis().start(folder))
    store = RedisStore.connect(redis.url)
    stack.push_async_callback(store.aclose)
    road = Road(pipeline, store, folder / "models", max(shape.hot, 1_000))
    warm_up(pipeline)
    coming = rounds(shape.entities, shape.every_us)
    for _ in range(shape.filling):
        await _through(road, next(coming), min(POPULATING_ROWS, max(shape.hot // 2, 500)))
    return Subject(shape, road, coming)


async def _through(road: Road, made: Payments, rows: int) -> None:
    for at in range(0, len(made.numbers), rows):
        await road.run([value for _, value in records(_cut(made, at, at + rows))])


def _cut(made: Payments, start: int, end: int) -> Payments:
    return Payments._make(column[start:end] for column in made)
