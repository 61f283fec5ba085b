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
        assert (await store.load(PARTITION)).epoch == first.epoch + 1

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
        assert await committed(store, commit(epoch, 9, 9)) == Committed(0)
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


def test_ids_are_found_in_their_bucket_and_its_neighbours_of_their_own_partition(run: Run) -> None:
    def ids(*numbers: int) -> list[bytes]:
        return [struct.pack(">QQ", 2**64 - 1 - number, number) for number in numbers]

    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        known = [(10, ids(1)[0], b"0:1"), (11, ids(2)[0], b"0:2"), (-1, ids(3)[0], b"\x00\xff")]
        assert await committed(store, commit(epoch, 1, ids=known)) == Committed(0)
        asked = claim(epoch, 2, 2, 1, ids=ids(1, 1, 1, 1, 2, 3, 4), id_buckets=[8, 9, 10, 11, 10, 0, 10])
        expected = [None, b"0:1", b"0:1", b"0:1", b"0:2", b"\x00\xff", None]
        assert (await claimed(store, asked)).known_ids == expected
        other = replace(PARTITION, partition=9)
        elsewhere = replace(asked, partition=other, epoch=(await store.load(other)).epoch, applied=-1)
        assert (await claimed(store, elsewhere)).known_ids == [None] * 7

    run(body)


def test_a_full_bucket_and_one_before_the_oldest_remember_no_more_ids_and_say_so(run: Run) -> None:
    def ids(count: int, bucket: int, start: int = 0) -> list[tuple[int, bytes, bytes]]:
        return [(bucket, b"%016d" % number, b"%d" % number) for number in range(start, start + count)]

    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        assert await committed(store, commit(epoch, 1, ids=ids(60, 5) + ids(60, 9, 1_000))) == Committed(0)
        assert await committed(store, commit(epoch, 2, 1, ids=ids(60, 5, 60))) == Committed(20)
        last = commit(epoch, 3, 2, ids=ids(3, 5) + ids(1, 7, 500), oldest_bucket=6)
        assert await committed(store, last) == Committed(3)
        asked = [b"%016d" % number for number in (0, 500, 1_000)]
        answer = await claimed(store, claim(epoch, 4, 4, 3, ids=asked, id_buckets=[5, 7, 9]))
        assert answer.known_ids == [None, b"500", b"1000"]

    run(body)


def test_ten_thousand_ids_are_one_batch(run: Run) -> None:
    async def body(store: StateStore) -> None:
        epoch = (await store.load(PARTITION)).epoch
        ids = [(number % 200, b"%016d" % number, b"%d" % number) for number in range(10_000)]
        assert await committed(store, commit(epoch, 1, ids=ids)) == Committed(0)
        digests, buckets = [digest for _, digest, _ in ids], [bucket for bucket, _, _ in ids]
        answer = await claimed(store, claim(epoch, 2, 2, 1, ids=digests, id_buckets=buckets))
        assert answer.known_ids == [position for _, _, position in ids]

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
