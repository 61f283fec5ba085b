"""Where the monitor keeps what it has counted: the same in memory and in Redis, fenced by epoch and position."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from features.errors import StoreError, UnreachableError
from features.redis_watch import RedisWatch
from features.store import PartitionId, Refused
from features.watch_store import MemoryWatch, WatchState

PARTITION = PartitionId("shop", "shop.hop-join", 1, "cluster/topic")


def on(kind, redis_url, steps):
    async def run():
        store = MemoryWatch() if kind == "memory" else RedisWatch.connect(redis_url)
        try:
            return await steps(store)
        finally:
            if isinstance(store, RedisWatch):
                await store.aclose()

    return asyncio.run(run())


def state(epoch, applied, last, data=b"state"):
    return WatchState(PARTITION, epoch, applied, last, data)


@pytest.fixture(params=["memory", "redis"])
def stored(request, redis_url):
    return lambda steps: on(request.param, redis_url, steps)


def test_what_was_stored_is_there_for_the_next_owner(stored):
    async def steps(store):
        first = await store.load(PARTITION)
        assert (first.applied, first.identity, first.state) == (-1, None, None)
        assert await store.store(state(first.epoch, -1, 7, bytes(range(256)))) is None
        return first, await store.load(PARTITION)

    first, second = stored(steps)
    assert (second.applied, second.identity, second.state) == (7, "cluster/topic", bytes(range(256)))
    assert second.epoch > first.epoch


def test_an_owner_that_was_replaced_is_refused(stored):
    async def steps(store):
        old, new = await store.load(PARTITION), await store.load(PARTITION)
        assert await store.store(state(new.epoch, -1, 3)) is None
        assert await store.store(state(old.epoch, 3, 9, b"of the old one")) == Refused("epoch", 3)
        return await store.load(PARTITION)

    found = stored(steps)
    assert (found.applied, found.state) == (3, b"state")


def test_who_believes_another_position_is_refused_and_a_call_sent_twice_says_that_it_is_done(stored):
    async def steps(store):
        mine = await store.load(PARTITION)
        assert await store.store(state(mine.epoch, 4, 9)) == Refused("applied", -1)
        assert await store.store(state(mine.epoch, -1, 9)) is None
        assert await store.store(state(mine.epoch, -1, 9)) == Refused("applied", 9)

    stored(steps)


def test_partitions_do_not_know_of_each_other(stored):
    other = PartitionId("shop", "shop.hop-join", 2, "cluster/topic")

    async def steps(store):
        mine = await store.load(PARTITION)
        await store.store(state(mine.epoch, -1, 9))
        return await store.load(other)

    assert stored(steps).state is None


def test_nothing_of_the_other_roads_is_written(redis_url):
    async def steps(store):
        mine = await store.load(PARTITION)
        await store.store(state(mine.epoch, -1, 9))

    on("redis", redis_url, steps)
    with Redis.from_url(redis_url) as client:
        assert client.keys("*") == [b"driftwood:shop:watch:shop.hop-join:1"]


def test_a_store_that_is_away_or_holds_something_else_is_one_sentence(redis_url):
    async def load(store):
        return await store.load(PARTITION)

    with Redis.from_url(redis_url) as client:
        client.set("driftwood:shop:watch:shop.hop-join:1", "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        on("redis", redis_url, load)
    with pytest.raises(UnreachableError, match="redis_url"):
        on("redis", "redis://127.0.0.1:1/0", load)
