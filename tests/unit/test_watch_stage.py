"""The stage of the monitor: what is delivered before what is stored, and what becomes of it when the store or the log fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from features.errors import UnreachableError
from features.store import PartitionId, Refused
from features.watch_store import MemoryWatch
from streams.metrics import Metrics
from streams.watch_stage import ROWS, WatchStage
from tests.in_process import LogRecord

PARTITION = PartitionId("shop", "shop.hop-join", 0, "cluster/topic")


class Adding:
    """Sums the values of records, and hands on each sum that is even."""

    def __init__(self, state):
        self.sum = int(state or 0)
        self.counts: Counter[str] = Counter()

    def take(self, record):
        self.sum += int(record.value)
        self.counts[ROWS] += 1
        return [] if self.sum % 2 else [self.sum]

    def rest(self):
        return []

    def state(self):
        return str(self.sum).encode()


class FailingWatch(MemoryWatch):
    """A store that is away while `away`."""

    away = False

    async def store(self, state):
        if self.away:
            raise UnreachableError("Redis", "redis_url", "redis://x", "is it running?")
        return await super().store(state)


class World:
    """A stage over a store in memory; `now_s` is its clock."""

    def __init__(self, **more: Any):
        self.store, self.now_s = FailingWatch(), 0.0
        self.delivered: list[int] = []
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
        self.stored_at_delivery: list[int] = []
        self.stage: Any = WatchStage(
            "adds",
            lambda partition, state: Adding(state),
            self.deliver,
            self.store,
            self.metrics,
            clock=lambda: self.now_s,
            **more,
        )

    async def deliver(self, emitted):
        self.delivered += emitted
        self.stored_at_delivery.append(self.store._of(PARTITION).applied)

    async def process(self, memory, first, *values):
        records = [LogRecord(first + at, 0, None, str(value).encode()) for at, value in enumerate(values)]
        return await self.stage.process(memory, records)


def test_what_comes_of_records_is_delivered_before_the_state_that_has_it_is_stored():
    world = World()

    async def run():
        memory = await world.stage.open(PARTITION)
        assert await world.process(memory, 0, 1, 1, 2) == 2
        return memory

    memory = asyncio.run(run())
    assert world.delivered == [2, 4] and world.stored_at_delivery == [-1]
    assert (memory.applied, world.store._of(PARTITION).state) == (2, b"4")


def test_states_are_stored_every_second_and_every_five_where_nothing_came_of_the_records():
    world = World()
    stored = []

    async def run():
        memory = await world.stage.open(PARTITION)
        for offset, (now_s, value) in enumerate(
            [(0, 1), (0.5, 1), (0.9, 2), (1.0, 2), (2.5, 1), (5.9, 0), (6.0, 0)]
        ):
            world.now_s = now_s
            await world.process(memory, offset, value)
            stored.append(memory.applied)

    asyncio.run(run())
    # The first at once; then after a second, as something came; then, with a sum that is odd, only after five.
    assert stored == [0, 0, 0, 3, 3, 3, 6]


def test_the_next_owner_goes_on_from_the_state_and_the_old_one_is_refused():
    world = World()

    async def run():
        old = await world.stage.open(PARTITION)
        await world.process(old, 0, 5)
        new = await world.stage.open(PARTITION)
        assert (new.applied, new.work.sum) == (0, 5)
        world.now_s = 10.0
        assert await world.process(new, 1, 1) == 1
        world.now_s = 20.0
        assert await world.process(old, 1, 1) == Refused("epoch", 1)
        # What stands in the record that it has taken already is not counted again.
        assert await world.process(new, 0, 5, 1, 3) == 2
        return new

    assert asyncio.run(run()).work.sum == 9


def test_a_store_that_is_away_stops_nothing_and_what_it_missed_is_stored_later(caplog):
    world = World()

    async def run():
        memory = await world.stage.open(PARTITION)
        world.store.away = True
        for offset in range(3):
            world.now_s += 10
            assert await world.process(memory, offset, 2) == offset
        world.store.away = False
        world.now_s += 10
        await world.process(memory, 3, 2)
        return memory

    memory = asyncio.run(run())
    assert world.delivered == [2, 4, 6, 8]
    assert (memory.applied, world.store._of(PARTITION).state) == (3, b"8")
    assert caplog.text.count("could not be stored") == 1
    assert world.metrics.registry.get_sample_value("driftwood_server_errors_total", {"server": "redis"}) == 3


def test_records_that_are_deleted_are_passed_over_with_a_line_in_the_log(caplog):
    world = World(oldest=lambda place: 100)

    async def run():
        first = await world.stage.open(PARTITION)
        assert first.applied == 99 and "deleted" not in caplog.text, (
            "a monitor that is new has missed nothing"
        )
        await world.process(first, 100, 1)
        object.__setattr__(world.stage, "oldest", lambda place: 200)
        again = await world.stage.open(PARTITION)
        assert (again.applied, again.work.sum) == (199, 1)
        world.now_s = 10.0
        assert await world.process(again, 200, 1) == 200
        return again

    assert asyncio.run(run()).applied == 200
    assert "records 101 to 199 are deleted" in caplog.text


def test_a_topic_that_was_made_anew_begins_again(caplog):
    world = World()

    async def run():
        await world.process(await world.stage.open(PARTITION), 0, 5)
        other = PartitionId("shop", "shop.hop-join", 0, "cluster/another")
        memory = await world.stage.open(other)
        assert (memory.applied, memory.work.sum) == (-1, 0)
        world.now_s = 10.0
        assert await world.process(memory, 0, 7) == 0
        return await world.stage.open(other)

    again = asyncio.run(run())
    assert (again.applied, again.work.sum) == (0, 7)
    assert "was made anew" in caplog.text


@pytest.mark.parametrize("budget_s", [0.0, 1e9])
def test_a_backlog_is_cut_so_that_the_worker_sees_it_move(budget_s):
    world = World(budget_s=budget_s)

    async def run():
        return await world.process(await world.stage.open(PARTITION), 0, 1, 1, 1)

    assert asyncio.run(run()) == (2 if budget_s else 0)
