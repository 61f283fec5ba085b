"""What every state store promises, asked of each of them: tests take a `store`, and do not know which one it is."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import pkgutil
import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import redis

import features
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.store import (
    BUCKETS,
    NOTHING_APPLIED,
    Claim,
    Claimed,
    Commit,
    Committed,
    PartitionId,
    Position,
    Refused,
    StateStore,
)

IMPLEMENTATIONS = (MemoryStore, RedisStore)
IDS_A_BUCKET = 100
PARTITION = PartitionId("p", "p.hop-origin", 3, "cluster/topic-1")
NO_TILE = -(2**63)
V1, V2 = '{"model":"1/a"}', '{"model":"2"}'

Body = Callable[[StateStore], Coroutine[Any, Any, None]]
Run = Callable[[Body], None]


@pytest.fixture(params=IMPLEMENTATIONS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on a fresh store, in an event loop of its own."""

    async def on_redis(body: Body) -> None:
        store = RedisStore.connect(request.getfixturevalue("redis_url"), IDS_A_BUCKET)
        try:
            await body(store)
        finally:
            await store.aclose()

    if request.param is RedisStore:
        return lambda body: asyncio.run(on_redis(body))
    return lambda body: asyncio.run(body(MemoryStore(IDS_A_BUCKET)))


def claim(epoch: int, first: int, last: int, applied: int = NOTHING_APPLIED, **more: Any) -> Claim:
    fields: dict[str, Any] = {"versions": V1, "entity": "origin", **more}
    return Claim(partition=PARTITION, epoch=epoch, applied=applied, first=first, last=last, **fields)


def commit(epoch: int, last: int, applied: int = NOTHING_APPLIED, **more: Any) -> Commit:
    fields: dict[str, Any] = {"seen": {}, "watermark_us": 0, "entity": "origin", "states": (), **more}
    return Commit(partition=PARTITION, epoch=epoch, applied=applied, last=last, **fields)


def change(identity: int, tile: int, payload: bytes, replaced: int = NO_TILE) -> bytes:
    return struct.pack("<IqqH", identity, tile, replaced, len(payload)) + payload


def stored(identity: int, tile: int, payload: bytes) -> bytes:
    return struct.pack("<IqH", identity, tile, len(payload)) + payload


def records(blob: bytes | None) -> dict[bytes, bytes]:
    """Field -> payload of a packed state; their order is the store's own affair."""
    found, at = {}, 0
    while blob and at < len(blob):
        (length,) = struct.unpack_from("<H", blob, at + 12)
        found[blob[at : at + 12]] = blob[at + 14 : at + 14 + length]
        at += 14 + length
    return found


async def claimed(store: StateStore, asked: Claim) -> Claimed:
    answer = await store.claim(asked)
    assert isinstance(answer, Claimed), answer
    return answer


async def committed(store: StateStore, asked: Commit) -> Committed:
    answer = await store.commit(asked)
    assert isinstance(answer, Committed), answer
    return answer


def test_every_state_store_of_the_package_is_in_this_suite() -> None:
    found = set()
    for module in pkgutil.iter_modules(features.__path__, "features."):
        if module.name.endswith("_store"):
            members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
            found |= {cls for _, cls in members if cls.__module__ == module.name and hasattr(cls, "claim")}
    assert found == set(IMPLEMENTATIONS)


def test_a_partition_never_seen_loads_empty_and_every_load_raises_the_epoch(run: Run) -> None:
    async def body(store: StateStore) -> None:
        first = await store.load(PARTITION)
        assert (first.applied, first.seen, first.watermark_us, first.identity) == (
            NOTHING_APPLIED,
            {},
            0,
            None,
        )
        assert (await store.load(PARTITION)).epoch > first.epoch

    run(body)


def test_an_upstream_partition_that_was_superseded_is_forgotten(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        old, other, new = ({f"p.events@c/{name}": Position(7, 2)} for name in ("1/0", "1/1", "2/0"))
        await committed(store, commit(epoch, 4, seen=old | other))
        await committed(store, commit(epoch, 5, 4, seen=other | new, superseded=list(old)))
        assert (await store.load(PARTITION)).seen == other | new

    run(body)


def test_what_a_commit_records_is_loaded_again_and_seen_is_merged(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        one, two = {"p.events@c/ä/0": Position(7, 2)}, {"p.events@c/ä/1": Position(2**50, 0)}
        await committed(store, commit(epoch, 4, seen=one, watermark_us=-5))
        await committed(store, commit(epoch, 2**50 + 1, 4, seen=two, watermark_us=253_402_300_799_000_000))
        loaded = await store.load(PARTITION)
        assert loaded.applied == 2**50 + 1
        assert loaded.seen == {**one, **two}
        assert loaded.watermark_us == 253_402_300_799_000_000
        assert loaded.identity == PARTITION.identity

    run(body)


def test_partitions_topics_pipelines_and_entities_do_not_touch_each_other(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await committed(store, commit(epoch, 4, states=[("JFK", change(1, 1, b"x"))]))
        for other in (
            replace(PARTITION, partition=4),
            replace(PARTITION, topic="p.hop-x"),
            replace(PARTITION, pipeline="q"),
        ):
            loaded = await store.load(other)
            assert loaded.applied == NOTHING_APPLIED
            asked = replace(claim(loaded.epoch, 0, 1, missing=["JFK"], entity="origin"), partition=other)
            answer = await claimed(store, asked)
            # Entities belong to the pipeline, not to a partition: the group may be given more partitions' keys.
            assert (answer.states["JFK"] is None) == (other.pipeline == "q")
        elsewhere = await claimed(store, claim(epoch, 5, 5, 4, missing=["JFK"], entity="carrier"))
        assert elsewhere.states == {"JFK": None}

    run(body)


def test_an_older_epoch_can_neither_claim_nor_commit(run: Run) -> None:
    async def body(store: StateStore) -> None:
        old = (await store.load(PARTITION)).epoch
        new = (await store.load(PARTITION)).epoch
        assert await store.claim(claim(old, 0, 9)) == Refused("epoch", NOTHING_APPLIED)
        await committed(store, commit(new, 9))
        late = commit(old, 9, states=[("JFK", change(1, 1, b"x"))])
        assert await store.commit(late) == Refused("epoch", 9)
        assert (await claimed(store, claim(new, 10, 19, 9, missing=["JFK"]))).states == {"JFK": None}

    run(body)


def test_a_partition_that_was_never_loaded_refuses_its_epoch(run: Run) -> None:
    async def body(store: StateStore) -> None:
        assert await store.claim(claim(7, 0, 9)) == Refused("epoch", NOTHING_APPLIED)
        assert await store.commit(commit(7, 9)) == Refused("epoch", NOTHING_APPLIED)

    run(body)


@pytest.mark.parametrize("believed", [3, 5])
def test_another_applied_than_the_callers_is_refused(run: Run, believed: int) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await committed(store, commit(epoch, 4))
        assert await store.claim(claim(epoch, believed + 1, 9, believed)) == Refused("applied", 4)
        assert await store.commit(commit(epoch, 9, believed)) == Refused("applied", 4)

    run(body)


def test_a_commit_sent_twice_changes_nothing_and_shows_that_it_was_done(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        once = commit(epoch, 4, states=[("JFK", change(1, 1, b"x"))])
        await committed(store, once)
        again = await store.commit(once)
        assert again == Refused("applied", 4)
        assert again.already_done(once)
        other = commit(epoch, 6)
        refused = await store.commit(other)
        assert isinstance(refused, Refused) and not refused.already_done(other)

    run(body)


def test_a_claim_pins_its_versions_until_it_is_committed(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        assert await claimed(store, claim(epoch, 0, 9, versions=V1)) == Claimed(V1, 9, {}, [])
        epoch = (await store.load(PARTITION)).epoch  # a crash, and a new model
        assert await claimed(store, claim(epoch, 0, 9, versions=V2)) == Claimed(V1, 9, {}, [])
        assert await claimed(store, claim(epoch, 0, 30, versions=V2)) == Claimed(V1, 9, {}, [])
        assert await claimed(store, claim(epoch, 0, 3, versions=V2)) == Claimed(V1, 9, {}, [])
        await committed(store, commit(epoch, 3))
        assert await claimed(store, claim(epoch, 4, 30, 3, versions=V2)) == Claimed(V1, 9, {}, [])
        await committed(store, commit(epoch, 9, 3))
        assert await claimed(store, claim(epoch, 10, 30, 9, versions=V2)) == Claimed(V2, 30, {}, [])

    run(body)


def test_a_batch_of_which_nothing_is_new_pins_nothing(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await committed(store, commit(epoch, 9))
        assert await claimed(store, claim(epoch, 10, 9, 9, versions=V1)) == Claimed(V1, 9, {}, [])
        assert await committed(store, commit(epoch, 9, 9)) == Committed()
        assert isinstance(await store.claim(claim(epoch, 10, 19, 9, versions=V2)), Claimed)
        assert isinstance(await store.claim(claim(epoch, 20, 29, 9, in_flight=19)), Claimed)

    run(body)


def test_batches_in_flight_are_claimed_before_the_one_before_is_committed(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await claimed(store, claim(epoch, 0, 9, versions=V1))
        second = await claimed(store, claim(epoch, 10, 19, in_flight=9, versions=V2))
        assert second == Claimed(V2, 19, {}, [])
        await committed(store, commit(epoch, 9))
        # The answer to that commit may still be on its way when the next batch is claimed, or have come.
        assert isinstance(await store.claim(claim(epoch, 20, 29, NOTHING_APPLIED, in_flight=19)), Claimed)
        assert isinstance(await store.claim(claim(epoch, 20, 29, 9, in_flight=19)), Claimed)
        await committed(store, commit(epoch, 19, 9))
        assert isinstance(await store.claim(claim(epoch, 20, 29, 9, in_flight=19)), Claimed)
        assert isinstance(await store.claim(claim(epoch, 20, 29, 19)), Claimed)

    run(body)


def test_pins_of_batches_in_flight_hold_after_a_crash_however_the_records_are_cut_then(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await claimed(store, claim(epoch, 0, 9, versions=V1))
        await claimed(store, claim(epoch, 10, 19, in_flight=9, versions=V2))
        epoch = (await store.load(PARTITION)).epoch
        assert await claimed(store, claim(epoch, 0, 14, versions="3")) == Claimed(V1, 9, {}, [])
        assert await claimed(store, claim(epoch, 10, 14, in_flight=9, versions="3")) == Claimed(
            V2, 19, {}, []
        )
        assert await claimed(store, claim(epoch, 15, 40, in_flight=14, versions="3")) == Claimed(
            V2, 19, {}, []
        )
        assert await claimed(store, claim(epoch, 20, 40, in_flight=19, versions="3")) == Claimed(
            "3", 40, {}, []
        )

    run(body)


def test_an_epoch_that_a_rolled_back_store_has_forgotten_is_not_given_out_again() -> None:
    async def body() -> None:
        store = MemoryStore()
        before = copy.deepcopy(store)
        zombie, owner = (await store.load(PARTITION)).epoch, (await before.load(PARTITION)).epoch
        assert zombie != owner
        await committed(before, commit(owner, 9))
        assert await before.claim(claim(zombie, 10, 19, 9)) == Refused("epoch", 9)

    asyncio.run(body())


def test_a_store_copied_at_an_earlier_moment_refuses_who_saw_a_later_one() -> None:
    async def body() -> None:
        store = MemoryStore()
        epoch = (await store.load(PARTITION)).epoch
        await committed(store, commit(epoch, 9))
        rolled_back = copy.deepcopy(store)
        await committed(store, commit(epoch, 19, 9))
        assert isinstance(await store.claim(claim(epoch, 20, 29, 19)), Claimed)
        assert await rolled_back.claim(claim(epoch, 20, 29, 19)) == Refused("applied", 9)

    asyncio.run(body())


def test_a_commit_is_refused_when_the_store_does_not_know_its_claim(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        asked = commit(epoch, 9, claimed=True)
        assert await store.commit(asked) == Refused("applied", NOTHING_APPLIED)
        await claimed(store, claim(epoch, 0, 4))
        assert await store.commit(asked) == Refused("applied", NOTHING_APPLIED)
        await claimed(store, claim(epoch, 5, 9, in_flight=4))
        await committed(store, asked)
        again = await store.commit(asked)
        assert isinstance(again, Refused) and again.already_done(asked)

    run(body)


def test_a_claim_is_refused_when_the_store_does_not_know_what_is_in_flight(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await claimed(store, claim(epoch, 0, 9))
        refused = await store.claim(claim(epoch, 20, 29, in_flight=19))
        assert refused == Refused("applied", NOTHING_APPLIED)
        await committed(store, commit(epoch, 9))
        await claimed(store, claim(epoch, 10, 19, 9))
        # The caller knows that 19 is committed; the store stands before it, as after a roll-back.
        assert await store.claim(claim(epoch, 30, 39, 19, in_flight=29)) == Refused("applied", 9)

    run(body)


def test_states_are_byte_exact_and_only_changed_tiles_change(run: Run) -> None:
    every_byte = bytes(range(256)) * 3
    key = "a|b\\|ß\N{SNOWMAN}\x00\r\n"

    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        first = [
            (key, change(1, -1, every_byte) + change(2**32 - 1, 2**62, b"\x00")),
            ("B", change(1, 5, b"b")),
        ]
        await committed(store, commit(epoch, 1, states=first))
        second = [(key, change(1, 0, b"new") + change(0, 0, b"m"))]
        await committed(store, commit(epoch, 2, 1, states=second))
        answer = await claimed(store, claim(epoch, 3, 3, 2, missing=[key, "never", "B"]))
        expected = stored(1, -1, every_byte) + stored(2**32 - 1, 2**62, b"\x00")
        expected += stored(1, 0, b"new") + stored(0, 0, b"m")
        assert list(answer.states) == [key, "never", "B"]
        assert records(answer.states[key]) == records(expected)
        assert answer.states["never"] is None
        assert answer.states["B"] == stored(1, 5, b"b")

    run(body)


def test_replaced_and_emptied_tiles_are_deleted(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        blob = b"".join(change(7, tile, b"t%d" % tile) for tile in range(4))
        await committed(store, commit(epoch, 1, states=[("k", blob), ("gone", change(7, 1, b"x"))]))
        changes = change(7, 4, b"t4", replaced=0) + change(7, 2, b"")
        await committed(store, commit(epoch, 2, 1, states=[("k", changes), ("gone", change(7, 1, b""))]))
        answer = await claimed(store, claim(epoch, 3, 3, 2, missing=["k", "gone"]))
        expected = stored(7, 1, b"t1") + stored(7, 3, b"t3") + stored(7, 4, b"t4")
        assert records(answer.states["k"]) == records(expected)
        assert answer.states["gone"] is None

    run(body)


def test_five_thousand_entities_and_one_of_ten_thousand_tiles_are_one_batch(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        many = [(f"k{i}", change(1, i, struct.pack("<d", i)) + change(2, i, bytes(40))) for i in range(5_000)]
        large = b"".join(change(3, tile, bytes(100)) for tile in range(10_000))
        await committed(store, commit(epoch, 1, states=[*many, ("large", large)]))
        answer = await claimed(store, claim(epoch, 2, 2, 1, missing=[key for key, _ in many] + ["large"]))
        assert len(records(answer.states["large"])) == 10_000
        assert records(answer.states["k4999"])[struct.pack("<Iq", 1, 4999)] == struct.pack("<d", 4999)
        shrunk = b"".join(change(3, tile, b"") for tile in range(10_000))
        await committed(store, commit(epoch, 2, 1, states=[("large", shrunk)]))
        assert (await claimed(store, claim(epoch, 3, 3, 2, missing=["large"]))).states == {"large": None}

    run(body)


def digests(*numbers: int) -> list[bytes]:
    return [struct.pack(">QQ", 2**64 - 1 - number, number) for number in numbers]


def at(*offsets: int, partition: int = 0) -> bytes:
    """Positions in `events`, joined."""
    return b"".join(struct.pack(">Iq", partition, offset) for offset in offsets)


def reserving(epoch: int, first: int, applied: int, ids: dict[int, tuple[int, int]], **more: Any) -> Claim:
    """A claim of one record that reserves ids: offset in `events` -> number of the id, bucket."""
    numbers, buckets = [number for number, _ in ids.values()], [bucket for _, bucket in ids.values()]
    asked = claim(epoch, first, first, applied, ids=digests(*numbers), id_buckets=buckets, **more)
    return replace(asked, id_positions=at(*ids))


def test_an_id_that_another_event_has_in_its_bucket_or_a_neighbouring_one_is_a_repeat(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        first = reserving(epoch, 0, -1, {1: (1, 10), 2: (2, 11), 3: (3, -1), 2**40: (4, 50)})
        assert await claimed(store, first) == Claimed(V1, 0, {}, [])
        await committed(store, commit(epoch, 0))
        asked = {10: (1, 8), 11: (1, 9), 12: (1, 12), 13: (2, 10), 14: (3, 0), 15: (4, 51), 16: (5, 10)}
        answer = await claimed(store, reserving(epoch, 1, 0, asked))
        # 1 in bucket 8 is too far from its first in 10, so it is reserved there, and again in 12.
        assert (answer.repeats, answer.ids_dropped) == ([1, 3, 4, 5], 0)

    run(body)


def test_the_first_of_two_rows_of_a_claim_has_the_id_in_its_bucket_and_its_neighbours(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        ids = {1: (1, 10), 2: (1, 10), 3: (1, 11), 4: (1, 12), 5: (1, 9), 6: (2, 9), 7: (2, 8)}
        answer = await claimed(store, reserving(epoch, 0, -1, ids))
        assert answer.repeats == [1, 2, 4, 6]

    run(body)


def test_a_claim_repeated_after_a_crash_finds_the_same_repeats_however_it_is_cut(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        ids = {1: (1, 10), 2: (2, 10), 3: (1, 10), 4: (3, 10), 5: (2, 11)}
        assert (await claimed(store, reserving(epoch, 0, -1, ids))).repeats == [2, 4]
        for _ in range(2):
            epoch = (await store.load(PARTITION)).epoch
            assert (await claimed(store, reserving(epoch, 0, -1, ids))).repeats == [2, 4]
        rest = {offset: ids[offset] for offset in (4, 5)}
        assert (await claimed(store, reserving(epoch, 0, -1, rest))).repeats == [1]

    run(body)


def test_an_id_is_reserved_for_all_partitions_of_a_pipeline_from_its_claim_on(run: Run) -> None:
    async def body(store: StateStore) -> None:
        for pipeline, expected in ((PARTITION.pipeline, [0]), ("q", [])):
            epoch = (await store.load(PARTITION)).epoch
            await claimed(store, reserving(epoch, 0, -1, {1: (1, 10)}))  # and a crash: no commit
            other = replace(PARTITION, partition=9, pipeline=pipeline)
            there = (await store.load(other)).epoch
            asked = replace(reserving(there, 0, -1, {2: (1, 11)}), partition=other)
            assert (await claimed(store, asked)).repeats == expected
            assert (await claimed(store, asked)).repeats == expected
            epoch = (await store.load(PARTITION)).epoch
            assert (await claimed(store, reserving(epoch, 0, -1, {1: (1, 10)}))).repeats == []

    run(body)


def test_a_refused_claim_reserves_nothing(run: Run) -> None:
    async def body(store: StateStore) -> None:
        old = (await store.load(PARTITION)).epoch
        epoch = (await store.load(PARTITION)).epoch
        assert isinstance(await store.claim(reserving(old, 0, -1, {1: (1, 10)})), Refused)
        assert isinstance(await store.claim(reserving(epoch, 9, 8, {1: (1, 10)})), Refused)
        assert (await claimed(store, reserving(epoch, 0, -1, {2: (1, 10)}))).repeats == []

    run(body)


def test_a_full_bucket_remembers_no_more_ids_and_says_so(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        answer = await claimed(store, reserving(epoch, 0, -1, {n: (n, 5) for n in range(60)}))
        assert answer.ids_dropped == 0
        more = {n: (n, 5) for n in range(60, 120)} | {500: (500, 6)}
        assert (await claimed(store, reserving(epoch, 0, -1, more))).ids_dropped == 20
        again = {n + 1_000: (n, 5) for n in range(120)} | {1_500: (500, 6)}
        answer = await claimed(store, reserving(epoch, 0, -1, again))
        assert answer.repeats == [*range(100), 120]
        assert answer.ids_dropped == 20

    run(body)


@pytest.mark.parametrize("both", [False, True])
def test_ids_are_kept_until_no_partition_needs_them_any_more(run: Run, both: bool) -> None:
    other, asker = replace(PARTITION, partition=9), replace(PARTITION, partition=1)

    async def body(store: StateStore) -> None:
        epoch, there = (await store.load(PARTITION)).epoch, (await store.load(other)).epoch
        await claimed(store, reserving(epoch, 0, -1, {n: (n, n) for n in (20, 30, 40)}))
        await committed(store, commit(epoch, 0, oldest_bucket=38))
        if both:  # else the other one may begin anywhere
            await committed(store, replace(commit(there, 0, oldest_bucket=25), partition=other))
        asked = reserving((await store.load(asker)).epoch, 0, -1, {100 + n: (n, n) for n in (20, 30, 40)})
        expected = [1, 2] if both else [0, 1, 2]
        assert (await claimed(store, replace(asked, partition=asker))).repeats == expected

    run(body)


def test_beyond_what_four_full_buckets_hold_the_oldest_are_forgotten_although_somebody_may_ask(
    run: Run,
) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        for bucket in range(1, 9):  # no commit says that any is needed no more
            ids = {1_000 * bucket + n: (1_000 * bucket + n, bucket) for n in range(IDS_A_BUCKET)}
            assert (await claimed(store, reserving(epoch, 0, -1, ids))).ids_dropped == 0
        # A bucket older than all that are held finds no room, one between them does.
        answer = await claimed(store, reserving(epoch, 0, -1, {1: (1, 2), 2: (2, 20)}))
        assert answer == Claimed(V1, 0, {}, [], 1)
        asked = {9_000 + bucket: (1_000 * bucket, bucket) for bucket in range(1, 9)}
        answer = await claimed(store, reserving(epoch, 0, -1, asked))
        assert [at + 1 for at in answer.repeats] == [6, 7, 8]

    run(body)


def test_there_are_never_more_than_so_many_buckets(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        for start in (0, 3_000):
            ids = {start + n: (start + n, start + 3 * n) for n in range(BUCKETS)}
            answer = await claimed(store, reserving(epoch, 0, -1, ids))
            assert answer == Claimed(V1, 0, {}, [])
        again = {9_000 + n: (3_000 + n, 3_000 + 3 * n) for n in range(BUCKETS)}
        assert len((await claimed(store, reserving(epoch, 0, -1, again))).repeats) == BUCKETS
        one = await claimed(store, reserving(epoch, 0, -1, {8_000: (999, 2_997)}))
        assert (one.repeats, one.ids_dropped) == ([], 1)

    run(body)


def test_ten_thousand_ids_are_one_batch(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        ids = {number: (number, number % 200) for number in range(10_000)}
        assert (await claimed(store, reserving(epoch, 0, -1, ids))).repeats == []
        again = {number + 20_000: place for number, place in ids.items()}
        assert (await claimed(store, reserving(epoch, 0, -1, again))).repeats == list(range(10_000))

    run(body)


def test_feature_rows_are_written_whole_and_the_last_write_stands(
    run: Run, request: pytest.FixtureRequest
) -> None:
    key = b"\x01\x00\x00\x00\x02\x00\x00\x00\xff\xfekey"

    def packed(*texts: bytes) -> bytes:
        return bytes([0x90 + len(texts)]) + b"".join(bytes([0xA0 + len(text)]) + text for text in texts)

    def written(store: StateStore) -> dict[bytes, bytes]:
        if isinstance(store, MemoryStore):
            return cells(store.feature_rows[key])
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            return dict(client.hgetall(key))

    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        await committed(
            store, commit(epoch, 1, feature_rows=[(key, packed(b"\xff\x00aa", b"old", b"b", b""))])
        )
        row = (key, packed(b"\xff\x00aa", b"\x29\x00\xff", b"b", b""))
        await committed(store, commit(epoch, 2, 1, feature_rows=[row, (key + b"2", packed(b"b", b"2"))]))
        assert written(store) == {b"\xff\x00aa": b"\x29\x00\xff", b"b": b""}

    run(body)


def cells(row: bytes) -> dict[bytes, bytes]:
    """Field -> value of a packed feature row of short texts."""
    found, at = [], 1
    while at < len(row):
        length = row[at] - 0xA0
        found.append(row[at + 1 : at + 1 + length])
        at += 1 + length
    return dict(zip(found[::2], found[1::2], strict=True))
