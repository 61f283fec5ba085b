"""What an event costs as entities and windows grow: the road in this process, over a real Redis.

Every batch has as many distinct entities as rows, each entity pays four times a day whatever their number, and a batch
is measured when every entity has a past. So a batch does the same work everywhere, and a difference is one of size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.card_payments import CHANNELS, START_US, Payments, records
from benchmarks.card_pipeline import Payment
from benchmarks.in_process import Road, Steps, steps_us
from benchmarks.machine import loop_ms
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
USUAL_EVENTS = 20_000  # measured at each point


class Point(NamedTuple):
    """One measurement. CPU in microseconds an event: of the whole road, and of its one stage by step."""

    entities: int
    window: str
    tiles: int  # that a window is read from
    misses: float  # entities a row that were not in memory
    cpu_us: float
    loop_ms: float  # of `benchmarks.machine`, just before and just after
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
    return [await _point(count, window, EVERY_US, 2, count, events) for count in counts]


async def over_windows(windows: Sequence[str], entities: int, events: int = USUAL_EVENTS) -> list[Point]:
    """Every tile of the window filled: an entity pays once in each."""
    points = []
    for window in windows:
        width_us = duration_us(window, "window")
        tile, tiles = tile_us(width_us), ring_length(width_us)
        points.append(await _point(entities, window, tile, tiles, entities, events))
    return points


async def without_memory(entities: int, window: str = "1d", events: int = USUAL_EVENTS) -> Point:
    """A tenth of the entities fits into memory, and they come in turn: nearly every row is a miss."""
    return await _point(entities, window, EVERY_US, 2, max(entities // 10, 1_000), events)


async def _point(entities: int, window: str, every_us: int, filling: int, hot: int, events: int) -> Point:
    say(f"{entities:,} entities, a window of {window}")
    pipeline = pipeline_with(window)
    (plan,) = pipeline.feature_set.entities
    with (
        tempfile.TemporaryDirectory(prefix="driftwood-growth-") as folder,
        EmbeddedRedis().start(Path(folder)) as redis,
    ):
        store = RedisStore.connect(redis.url)
        road = Road(pipeline, store, Path(folder) / "models", max(hot, 1_000))
        warm_up(pipeline)
        coming = rounds(entities, every_us)
        for _ in range(filling):
            await _through(road, next(coming), min(POPULATING_ROWS, max(hot // 2, 500)))
        slow_ms = loop_ms()
        cpu_us, steps, misses = await _measured(road, coming, min(ROWS, entities), events)
        slow_ms = round((slow_ms + loop_ms()) / 2, 1)
        await store.aclose()
    ring = ring_length(duration_us(window, "window"))
    return Point(entities, window, ring, misses, cpu_us, slow_ms, steps["card"], bytes_per_entity(plan))


async def _measured(
    road: Road, coming: Iterator[Payments], rows: int, wanted: int
) -> tuple[float, Steps, float]:
    await _through(road, _cut(next(coming), 0, 10 * rows), rows)  # caches of this batch size
    events, cpu_s, before = 0, 0.0, road.steps_s()
    known = road.loaded()
    while events < wanted:
        made = records(_cut(next(coming), 0, wanted - events))
        started = time.process_time()
        for at in range(0, len(made), rows):
            await road.run([value for _, value in made[at : at + rows]])
        cpu_s += time.process_time() - started
        events += len(made)
    misses = (road.loaded() - known) / events
    return round(1e6 * cpu_s / events, 2), steps_us(before, road.steps_s(), events), round(misses, 3)


async def _through(road: Road, made: Payments, rows: int) -> None:
    for at in range(0, len(made.numbers), rows):
        await road.run([value for _, value in records(_cut(made, at, at + rows))])


def _cut(made: Payments, start: int, end: int) -> Payments:
    return Payments._make(column[start:end] for column in made)
