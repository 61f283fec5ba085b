"""Event ids are reserved in a real Redis: across partitions, workers and crashes, in bounded memory."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.store import (
    FULL_BUCKETS,
    IDLE_S,
    NOTHING_APPLIED,
    Claim,
    Claimed,
    Commit,
    Committed,
    PartitionId,
    Refused,
    StateStore,
)
from tests.in_process import CrashedError, CrashingStore, Place, Road
from tests.recorded_order import assert_as_recorded
from tests.shop_events import START, customer, orders, random_orders

PIPELINE = orders(["amount", customer.count("90d")], fallback=0.1)
NO_MODELS = Path("no-models-here")
IDS_A_BUCKET = 20


@pytest.fixture
def server(redis_url: str):
    """A plain client, to look and to interfere."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@asynccontextmanager
async def opened(url: str, ids_a_bucket: int = IDS_A_BUCKET) -> AsyncIterator[RedisStore]:
    store = RedisStore.connect(url, ids_a_bucket)
    try:
        yield store
    finally:
        await store.aclose()


def order(name: str, buyer: str, **more: Any) -> dict[str, Any]:
    return {
        "order_id": name,
        "placed_at": START.isoformat(),
        "customer": buyer,
        "shop": 1,
        "amount": 5.0,
        **more,
    }


# ---- the road


@pytest.mark.crash
@pytest.mark.parametrize("moment", ["claimed", "before", "after"])
def test_of_two_events_with_one_id_and_other_first_keys_the_first_claimed_is_answered_also_after_a_crash(
    redis_url: str, moment: str
) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            crashing = CrashingStore(store)
            road = Road(PIPELINE, crashing, NO_MODELS, 2)
            first, second = places_of_two_keys(road)
            road.send([order("a", first[1]), order("b", first[1])], partition=0)
            road.send([order("a", second[1]), order("c", second[1])], partition=1)
            await road.open()
            for place in road.places()[:2]:
                await road.step(place)
            crashing.armed = moment
            with pytest.raises(CrashedError):
                await road.step(first[0])
            again = Road(PIPELINE, store, NO_MODELS, 2, log=road.log)
            again.read.update({place: len(road.log.records[place]) for place in again.places()[:2]})
            await again.step(second[0])  # the other partition goes on before the one that crashed
            await again.drain()
            assert sorted(again.predictions()) == ["a", "b", "c"]
            assert {"0/0", "0/1", "1/1"} == {position.partition("/")[2] for position in again.answers()}
            assert_as_recorded(again)

    asyncio.run(body())


def places_of_two_keys(road: Road) -> list[tuple[Place, str]]:
    """Two customers whose orders go to different partitions, each with its partition."""
    found: dict[Place, str] = {}
    probe = Road(PIPELINE, MemoryStore(), NO_MODELS, 2)
    for buyer in ("ann", "ben", "cleo", "dora", "emil", "fay"):
        probe.log.records.clear()
        probe.read.clear()
        probe.send([order("x", buyer)], partition=0)
        asyncio_step(probe)
        [place] = [place for place in probe.places()[2:] if probe.log.records[place]]
        found.setdefault(place, buyer)
    return list(found.items())


def asyncio_step(probe: Road) -> None:
    """The one event through ingest, from within a loop: nothing in it waits."""
    try:
        probe.step(probe.places()[0]).send(None)
    except StopIteration:
        return
    raise AssertionError("the log in memory waits for nothing")


@pytest.mark.parametrize("seed", range(5))
def test_ids_that_wander_between_keys_are_answered_once_while_workers_crash(
    redis_url: str, seed: int
) -> None:
    source = random.Random(seed)

    async def body() -> None:
        # With room for all: an id that is not remembered would be answered twice.
        async with opened(redis_url, 1_000) as store:
            crashing = CrashingStore(store)
            road = Road(PIPELINE, crashing, NO_MODELS, 3)
            events = [
                dict(event, order_id=f"o{source.randrange(40)}", placed_at=START.isoformat())
                for event in random_orders(source, 120)
            ]
            road.send(events)
            await road.open()
            while unread := road.unread():
                crashing.armed = source.choice(["", "", "claimed", "before", "after"])
                try:
                    await road.step(source.choice(unread), source.randint(1, 5))
                except CrashedError:
                    road.memories.clear()
                    await road.open()
            assert len(road.answers()) == len({event["order_id"] for event in events})
            assert_as_recorded(road)

    asyncio.run(body())


# ---- the map


@pytest.mark.parametrize("seed", range(8))
def test_redis_and_memory_give_the_same_answers_to_any_claims_and_commits(redis_url: str, seed: int) -> None:
    source = random.Random(seed)

    async def body() -> None:
        async with opened(redis_url) as store:
            ours, theirs = MemoryStore(IDS_A_BUCKET), store
            partitions = [PartitionId("p", "p.hop-a", number, "c/t") for number in range(3)]
            here = [_Partition(ours, partition) for partition in partitions]
            there = [_Partition(theirs, partition) for partition in partitions]
            for one in (*here, *there):
                await one.load()
            offsets, now = 0, 0
            for _ in range(150):
                at, now = source.randrange(3), now + source.choice([0, 0, 0, 1, 5])
                n = source.randint(1, 12)
                ids = [(source.randrange(60), now + source.randint(-2, 2), offsets + row) for row in range(n)]
                offsets += n
                expected = await here[at].claim(ids)
                assert await there[at].claim(ids) == expected
                if source.random() < 0.8:
                    oldest = None if source.random() < 0.1 else now - 4
                    await here[at].commit(oldest)
                    await there[at].commit(oldest)
                else:
                    assert await there[at].claim(ids) == await here[at].claim(ids)

    asyncio.run(body())


class _Partition:
    """An owner of a partition who claims ids and commits one record at a time."""

    def __init__(self, store: StateStore, partition: PartitionId) -> None:
        self.store, self.partition, self.epoch, self.applied = store, partition, 0, NOTHING_APPLIED

    async def load(self) -> None:
        self.epoch = (await self.store.load(self.partition)).epoch

    async def claim(self, ids: list[tuple[int, int, int]]) -> tuple[list[int], int]:
        digests = [struct.pack(">QQ", number, 7) for number, _, _ in ids]
        positions = b"".join(struct.pack(">Iq", 0, offset) for _, _, offset in ids)
        buckets, next_record = [bucket for _, bucket, _ in ids], self.applied + 1
        answer = await self.store.claim(
            Claim(
                *(self.partition, self.epoch, self.applied, next_record, next_record, "{}", "a"),
                ids=digests,
                id_buckets=buckets,
                id_positions=positions,
            )
        )
        assert isinstance(answer, Claimed)
        return list(answer.repeats), answer.ids_dropped

    async def commit(self, oldest: int | None) -> None:
        last = self.applied + 1
        commit = Commit(self.partition, self.epoch, self.applied, last, {}, 0, "a", (), oldest_bucket=oldest)
        assert await self.store.commit(commit) == Committed()
        self.applied = last


def test_a_partition_without_events_holds_no_ids_back_after_an_hour(
    server: redis.Redis, redis_url: str
) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            busy, idle = (_Partition(store, PartitionId("p", "p.hop-a", number, "c/t")) for number in (0, 1))
            await busy.load()
            await idle.load()
            for bucket in range(10):
                await busy.claim([(bucket, bucket, bucket)])
                await busy.commit(bucket - 2)
            assert len(buckets(server)) == 10
            server.hincrby("driftwood:p:partition:p.hop-a:1", "active_s", -IDLE_S - 60)
            await busy.claim([(10, 10, 10)])
            await busy.commit(8)
            assert buckets(server) == {8, 9, 10}

    asyncio.run(body())


def test_a_partition_without_events_holds_no_ids_back_in_memory_either() -> None:
    async def body() -> None:
        now = 0.0
        store = MemoryStore(IDS_A_BUCKET, clock=lambda: now)
        busy, idle = (_Partition(store, PartitionId("p", "p.hop-a", number, "c/t")) for number in (0, 1))
        await busy.load()
        await idle.load()
        for bucket in range(10):
            await busy.claim([(bucket, bucket, bucket)])
            await busy.commit(bucket - 2)
        assert len(store.ids["p"].buckets) == 10
        now += IDLE_S + 60
        await busy.claim([(10, 10, 10)])
        await busy.commit(8)
        assert set(store.ids["p"].buckets) == {8, 9, 10}

    asyncio.run(body())


def test_what_redis_keeps_of_ids_is_bounded_whatever_comes(server: redis.Redis, redis_url: str) -> None:
    source = random.Random(1)

    async def body() -> None:
        async with opened(redis_url) as store:
            busy, idle = (_Partition(store, PartitionId("p", "p.hop-a", number, "c/t")) for number in (0, 1))
            await busy.load()
            await idle.load()
            for batch in range(200):
                ids = [
                    (10 * batch + row, batch + source.randint(-1, 1), 10 * batch + row) for row in range(10)
                ]
                await busy.claim(ids)
                await busy.commit(batch - 2)
                held = [
                    int(server.execute_command("HLEN", f"driftwood:p:ids:{bucket}"))
                    for bucket in buckets(server)
                ]
                assert max(held) <= IDS_A_BUCKET
                assert sum(held) <= FULL_BUCKETS * IDS_A_BUCKET

    asyncio.run(body())


def buckets(server: redis.Redis) -> set[int]:
    """The buckets that are there."""
    names = [key.decode().rsplit(":", 1)[1] for key in server.scan_iter("driftwood:p:ids:*")]
    return {int(name) for name in names if name != "buckets"}


def test_a_worker_that_was_replaced_can_reserve_nothing_any_more(redis_url: str) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            zombie, owner = (_Partition(store, PartitionId("p", "p.hop-a", 0, "c/t")) for _ in range(2))
            await zombie.load()
            await owner.load()
            late = Claim(
                zombie.partition, zombie.epoch, -1, 0, 0, "{}", "a", (), [b"i" * 16], [7], b"position-of1"
            )
            assert isinstance(await store.claim(late), Refused)
            asked = replace(late, epoch=owner.epoch, id_positions=b"position-of2")
            answer = await store.claim(asked)
            assert isinstance(answer, Claimed) and answer.repeats == []

    asyncio.run(body())
