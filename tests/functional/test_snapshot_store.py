"""Any store of snapshots, in Redis and in memory: one suite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from features.errors import StoreError, UnreachableError
from features.redis_snapshots import RedisSnapshots
from features.redis_store import RedisStore
from features.snapshot_store import MemorySnapshots, Published, Snapshot, SnapshotStore
from features.snapshots_kept import DAY_S, Kept
from features.store import Claim, Commit, PartitionId, Position, Refused
from streams.versions import versions_text

PLACE = PartitionId("shop", "shop.outcomes", 0, "cluster/topic")
Use = Callable[[Callable[[SnapshotStore], Awaitable[Any]]], Any]
SMALL = Kept(most_bytes=100, fewest=2, most=5)


def snapshot(epoch: int, applied: int, version: int, size: int = 10, **more: Any) -> Snapshot:
    """`size` bytes to score with and as many of state, which name the version."""
    return Snapshot(
        PLACE, epoch, applied, version, b"s%d".ljust(size) % version, b"t%d".ljust(size) % version, **more
    )


@asynccontextmanager
async def in_redis(url: str, kept: Kept) -> AsyncIterator[SnapshotStore]:
    store = RedisSnapshots(Redis.from_url(url), url, kept)
    yield store
    await store.aclose()


@pytest.fixture(params=["memory", "redis"])
def use(request: pytest.FixtureRequest) -> Use:
    """Runs a coroutine over an empty store that keeps `SMALL`."""
    if request.param == "memory":
        store = MemorySnapshots(SMALL)
        return lambda body: asyncio.run(_awaited(body(store)))
    url = request.getfixturevalue("redis_url")

    async def over_redis(body: Callable[[SnapshotStore], Awaitable[Any]]) -> Any:
        async with in_redis(url, SMALL) as store:
            return await body(store)

    return lambda body: asyncio.run(over_redis(body))


async def _awaited(coming: Awaitable[Any]) -> Any:
    return await coming


async def published(store: SnapshotStore, *versions: int, size: int = 10) -> list[Published | Refused]:
    """One owner publishes these one after another."""
    loaded = await store.load(PLACE)
    applied, answers = loaded.applied, []
    for version in versions:
        answers.append(await store.publish(snapshot(loaded.epoch, applied, version, size, at_s=version)))
        applied = version
    return answers


def test_before_the_first_there_is_none(use):
    async def body(store):
        return (
            await store.latest("shop"),
            await store.scoring("shop", 0),
            await store.state("shop", 0),
            await store.versions("shop"),
        )

    assert use(body) == (None, None, None, [])


def test_what_was_published_is_the_newest_and_the_next_owner_begins_behind_it(use):
    async def body(store):
        first = await store.load(PLACE)
        seen = {"up/0": Position(3, 1), "old/0": Position(9, 0)}
        await store.publish(snapshot(first.epoch, -1, 4, seen=seen))
        at = replace(
            snapshot(first.epoch, 4, 7),
            figures=b'{"auc": 0.7}',
            seen={"up/0": Position(5, 2)},
            superseded=["old/0"],
        )
        await store.publish(at)
        loaded = await store.load(PLACE)
        bytes_of = [(await store.scoring("shop", v), await store.state("shop", v)) for v in (4, 7)]
        figures = await store.figures("shop")
        return await store.latest("shop"), figures, loaded, bytes_of, loaded.epoch > first.epoch

    newest, figures, loaded, bytes_of, raised = use(body)
    assert figures == b'{"auc": 0.7}'
    assert newest == 7 and raised
    assert (loaded.applied, loaded.identity, loaded.seen) == (7, PLACE.identity, {"up/0": Position(5, 2)})
    assert [tuple(text.strip() for text in pair) for pair in bytes_of] == [(b"s4", b"t4"), (b"s7", b"t7")]


def test_an_owner_that_was_replaced_publishes_nothing(use):
    async def body(store):
        zombie = await store.load(PLACE)
        owner = await store.load(PLACE)
        refused = await store.publish(snapshot(zombie.epoch, -1, 5))
        before = await store.latest("shop")
        await store.publish(snapshot(owner.epoch, -1, 3))
        return refused, before, await store.publish(snapshot(zombie.epoch, 3, 5)), await store.latest("shop")

    assert use(body) == (Refused("epoch", -1), None, Refused("epoch", 3), 3)


def test_who_is_not_where_the_store_stands_is_refused_and_a_call_sent_twice_shows_that_it_was_done(use):
    async def body(store):
        loaded = await store.load(PLACE)
        done = snapshot(loaded.epoch, -1, 4)
        return (
            await store.publish(snapshot(loaded.epoch, 2, 4)),
            await store.publish(done),
            await store.publish(done),
            await store.versions("shop"),
        )

    assert use(body) == (Refused("applied", -1), Published(0), Refused("applied", 4), [4])


def test_of_more_than_the_limit_the_one_goes_that_is_missed_least_and_it_is_counted(use):
    async def body(store):
        answers = await published(store, 1, 2, 3, 4, 5, 6, 7)  # 20 bytes each: five fit into 100
        return (
            answers[-1],
            await store.versions("shop"),
            await store.state("shop", 4),
            await store.scoring("shop", 3),
        )

    last, versions, gone, kept = use(body)
    assert (last, versions, gone) == (Published(2), [1, 3, 5, 6, 7], None) and kept.startswith(b"s3")


def test_two_stay_however_large_they_are(use):
    async def body(store):
        await published(store, 1, 2, 3, size=1000)
        return await store.versions("shop")

    assert use(body) == [2, 3]


def test_very_many_small_ones_are_bounded_by_their_number(use):
    async def body(store):
        await published(store, *range(8), size=2)
        return await store.versions("shop")

    assert use(body) == [0, 4, 5, 6, 7]


def test_all_of_the_last_minute_stay_then_one_a_minute_an_hour_a_day_and_none_after_thirty(redis_url):
    async def body() -> Any:
        async with in_redis(redis_url, Kept()) as store:
            loaded = await store.load(PLACE)
            applied = -1
            for at_s in range(40 * DAY_S, 0, -1_800):  # every half an hour, then every ten seconds
                applied += 1
                one = snapshot(loaded.epoch, applied - 1, applied, 1, at_s=1_000 * DAY_S - at_s)
                await store.publish(one)
            for at_s in range(7_200, -1, -10):
                applied += 1
                one = snapshot(loaded.epoch, applied - 1, applied, 1, at_s=1_000 * DAY_S - at_s)
                await store.publish(one)
            return await store.versions("shop"), applied

    versions, newest = asyncio.run(body())
    assert versions[-6:] == list(range(newest - 5, newest + 1))
    ages_s = [10 * (newest - version) for version in versions if version >= newest - 720]
    assert [age for age in ages_s if 60 <= age < 3_600] == list(range(3_600 - 60, 0, -60))
    assert len(versions) == pytest.approx(30 + 23 + 59 + 6, abs=3)


def test_a_snapshot_that_a_batch_in_flight_is_pinned_to_stays_until_it_is_committed(redis_url):
    hop = PartitionId("shop", "shop.hop-customer", 1, "cluster/hop")

    async def body(store: SnapshotStore) -> Any:
        state = RedisStore.connect(redis_url)
        owner = await state.load(hop)
        await published(store, 1)
        await state.claim(Claim(hop, owner.epoch, -1, 0, 9, versions_text("m", "p", "blend", 1), "customer"))
        holders = [("shop.hop-customer", 0), ("shop.hop-customer", 1)]
        applied, epoch = 1, (await store.load(PLACE)).epoch
        found = []
        for version in range(2, 9):
            if version == 6:
                await state.commit(Commit(hop, owner.epoch, -1, 9, {}, 0, "customer", ()))
            made = snapshot(epoch, applied, version, size=60, at_s=version, pinned_by=holders)
            assert isinstance(await store.publish(made), Published)
            applied = version
            found.append(await store.versions("shop"))
        await state.aclose()
        return found

    async def with_pins() -> Any:
        async with in_redis(redis_url, SMALL) as store:
            return await body(store)

    assert asyncio.run(with_pins()) == [
        *([1, 2], [1, 2, 3], [1, 3, 4], [1, 4, 5]),
        *([5, 6], [6, 7], [7, 8]),
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 7, 50, 900, 20_000, 90_000]), st.integers(1, 60)), max_size=40),
    st.sets(st.integers(-1, 40), max_size=3),
)
def test_redis_and_memory_keep_the_same(redis_url, published_after, pinned):
    kept = Kept(most_bytes=400, fewest=2, most=12, all_s=5, steps=((60, 10), (3_600, 600), (DAY_S, 7_200)))
    hop = PartitionId("shop", "shop.hop-customer", 0, "cluster/hop")

    async def body() -> None:
        await (client := Redis.from_url(redis_url)).flushdb()
        pins = [[9, versions_text("m", "p", "blend", version)] for version in pinned]
        key = f"driftwood:shop:partition:{hop.topic}:{hop.partition}"
        await cast("Awaitable[int]", client.hset(key, "pins", json.dumps(pins)))
        twin = MemorySnapshots(kept, lambda _: pinned)
        async with in_redis(redis_url, kept) as store:
            epochs = [(await one.load(PLACE)).epoch for one in (store, twin)]
            at_s, applied = 0, -1
            for version, (after_s, size) in enumerate(published_after, start=-1):
                at_s += after_s
                more = {"at_s": at_s, "pinned_by": [(hop.topic, hop.partition)]}
                made = [snapshot(epoch, applied, version, size, **more) for epoch in epochs]
                assert await store.publish(made[0]) == await twin.publish(made[1])
                assert await store.standing("shop") == await twin.standing("shop")
                applied = version
        await client.aclose()

    asyncio.run(body())


def test_a_state_that_is_held_stays_when_its_snapshot_is_dropped(use):
    async def body(store):
        await published(store, 1)
        held = await store.hold("shop", 1, seconds=60)
        await published(store, 2, 3, size=1000)
        return (
            held,
            await store.versions("shop"),
            await store.state("shop", 1),
            await store.hold("shop", 0, seconds=60),
        )

    held, versions, state, unknown = use(body)
    assert held and versions == [2, 3] and state.startswith(b"t1") and not unknown


def test_versions_that_come_again_replace_those_that_are_kept(redis_url):
    """After the positions were forgotten (a rebuild) the learner learns anew, from the beginning."""

    async def body() -> Any:
        async with in_redis(redis_url, SMALL) as store:
            await published(store, 1, 2)
            await RedisStore(client := Redis.from_url(redis_url), redis_url).forget("shop")
            await published(store, 2, 3)
            counts: Any = client.hget("driftwood:shop:snapshot_counts", "bytes")
            size = await counts
            await client.aclose()
            return await store.versions("shop"), size

    assert asyncio.run(body()) == ([1, 2, 3], b"54")


def test_a_key_that_holds_something_else_is_named_and_nothing_is_written(redis_url):
    async def body() -> Any:
        client = Redis.from_url(redis_url)
        await client.set("driftwood:shop:snapshots", "foreign")
        async with in_redis(redis_url, SMALL) as store:
            with pytest.raises(StoreError, match="driftwood:shop:snapshots"):
                await published(store, 1)
            await client.aclose()
            return await store.latest("shop"), (await store.load(PLACE)).applied

    assert asyncio.run(body()) == (None, -1)


def test_no_answer_is_an_error_that_names_the_setting():
    async def body() -> Any:
        url = "redis://127.0.0.1:1"
        async with in_redis(url, SMALL) as store:
            await store.latest("shop")

    with pytest.raises(UnreachableError, match="redis_url"):
        asyncio.run(body())
