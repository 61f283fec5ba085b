"""What can go wrong between a worker and Redis: out of memory, foreign keys, restarts, lost answers, no answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from features.errors import SettingError, StoreError, UnreachableError
from features.redis_store import RedisStore
from features.store import NOTHING_APPLIED, Claim, Claimed, Commit, Committed, PartitionId, Refused

PARTITION = PartitionId("p", "p.hop-origin", 0, "c/t")
STATE_KEY, ROW_KEY = "driftwood:p:state:origin:JFK", "feast-key"
LIST_KEY, BUCKET_KEY = "driftwood:p:ids:buckets", "driftwood:p:ids:7"
PARTITION_KEY = "driftwood:p:partition:p.hop-origin:0"
ROW = b"\x92\xa1f\xa1v"


def change(payload: bytes) -> bytes:
    return struct.pack("<IqqH", 1, 1, -(2**63), len(payload)) + payload


def commit(epoch: int, last: int = 9, applied: int = NOTHING_APPLIED) -> Commit:
    rows = [(ROW_KEY.encode(), ROW)]
    return Commit(PARTITION, epoch, applied, last, {}, 5, "origin", [("JFK", change(b"x"))], rows, 60, 5)


def claim(epoch: int, applied: int = NOTHING_APPLIED) -> Claim:
    first, ids = applied + 1, ([b"d" * 16], [7], b"position-of1")
    return Claim(PARTITION, epoch, applied, first, applied + 10, "{}", "origin", ["JFK"], *ids)


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client, to look and to interfere."""
    with redis.Redis.from_url(redis_url) as client:
        yield client
        client.config_set("maxmemory", 0)


@asynccontextmanager
async def opened(url: str, retries: int = 0) -> AsyncIterator[RedisStore]:
    client = Redis.from_url(url, retry=Retry(NoBackoff(), retries), socket_timeout=5)
    try:
        yield RedisStore(client, url)
    finally:
        await client.aclose()


def everything(server: redis.Redis) -> dict[bytes, object]:
    return {key: server.dump(key) for key in server.scan_iter()}


def test_out_of_memory_writes_nothing_and_the_same_commit_succeeds_later(
    server: redis.Redis, redis_url: str
) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            before = everything(server)
            server.config_set("maxmemory", 1)
            with pytest.raises(StoreError, match=r"refused: .*Raise its maxmemory"):
                await store.commit(commit(epoch))
            with pytest.raises(StoreError, match=r"refused: .*Raise its maxmemory"):
                await store.claim(claim(epoch))
            with pytest.raises(StoreError, match=r"refused: .*Raise its maxmemory"):
                await store.load(PARTITION)
            server.config_set("maxmemory", 0)
            assert everything(server) == before
            assert isinstance(await store.claim(claim(epoch)), Claimed)
            assert await store.commit(commit(epoch)) == Committed()

    asyncio.run(body())


@pytest.mark.parametrize("key", [STATE_KEY, LIST_KEY, BUCKET_KEY, ROW_KEY, PARTITION_KEY])
def test_a_key_that_holds_something_else_is_named_and_nothing_is_written(
    server: redis.Redis, redis_url: str, key: str
) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            server.delete(key)
            server.hset(key, "not", "ours") if key == LIST_KEY else server.set(key, "not ours")
            before = everything(server)
            named = rf"WRONGTYPE.*{key if key != PARTITION_KEY else ''}.*delete that key"
            if key not in (LIST_KEY, BUCKET_KEY):
                with pytest.raises(StoreError, match=named):
                    await store.commit(commit(epoch))
            if key != ROW_KEY:
                with pytest.raises(StoreError, match=named):
                    await store.claim(claim(epoch))
            assert everything(server) == before

    asyncio.run(body())


def test_scripts_are_sent_again_when_redis_has_forgotten_them(server: redis.Redis, redis_url: str) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            server.script_flush()
            assert isinstance(await store.claim(claim(epoch)), Claimed)
            server.script_flush()
            assert await store.commit(commit(epoch)) == Committed()

    asyncio.run(body())


def test_an_emptied_redis_refuses_everything_until_the_partition_is_loaded_again(
    server: redis.Redis, redis_url: str
) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            await store.commit(commit(epoch))
            server.flushall()
            assert await store.claim(claim(epoch, 9)) == Refused("epoch", NOTHING_APPLIED)
            assert await store.commit(commit(epoch, 19, 9)) == Refused("epoch", NOTHING_APPLIED)
            loaded = await store.load(PARTITION)
            assert (loaded.applied, loaded.identity) == (NOTHING_APPLIED, None)
            # Counted from 0 again, the new owner's epoch would be the old one's.
            assert await store.claim(claim(epoch)) == Refused("epoch", NOTHING_APPLIED)
            assert await store.claim(replace(claim(epoch, 9), epoch=loaded.epoch)) == Refused(
                "applied", NOTHING_APPLIED
            )

    asyncio.run(body())


def test_a_commit_whose_answer_got_lost_is_sent_again_and_shows_that_it_was_done(redis_url: str) -> None:
    async def body() -> None:
        async with answers_lost(redis_url, b"committed") as (url, lost), opened(url, retries=1) as store:
            epoch = (await store.load(PARTITION)).epoch
            asked = commit(epoch)
            answer = await store.commit(asked)
            assert lost == [b"committed"]
            assert isinstance(answer, Refused) and answer.already_done(asked)
            assert isinstance(await store.claim(claim(epoch, 9)), Claimed)

    asyncio.run(body())


def test_a_claim_whose_answer_got_lost_is_sent_again_and_answered_alike(redis_url: str) -> None:
    async def body() -> None:
        async with answers_lost(redis_url, b"claimed") as (url, lost), opened(url, retries=1) as store:
            epoch = (await store.load(PARTITION)).epoch
            answer = await store.claim(claim(epoch))
            assert lost == [b"claimed"]
            assert answer == Claimed("{}", 9, {"JFK": None}, [])

    asyncio.run(body())


def test_a_cancelled_call_does_not_leave_its_answer_to_the_next_one(redis_url: str) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            for steps in range(30):  # of the event loop, before a revocation cancels the call
                call = asyncio.create_task(store.claim(claim(epoch)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                answer = await store.claim(claim(epoch - 1))
                assert answer == Refused("epoch", NOTHING_APPLIED), (steps, answer)

    asyncio.run(body())


def test_no_answer_is_an_error_that_names_the_setting_and_hides_the_password() -> None:
    with (
        socket.socket() as taken
    ):  # bound, not listening: connections are refused, and nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"redis://worker:secret@127.0.0.1:{taken.getsockname()[1]}/0"

        async def body() -> None:
            async with opened(url) as store:
                await store.load(PARTITION)

        with pytest.raises(UnreachableError) as raised:
            asyncio.run(body())
    text = str(raised.value)
    assert "redis://worker:***@127.0.0.1" in text and "setting redis_url" in text and "is it running" in text
    assert "secret" not in text


def test_a_wrong_password_is_said_to_be_one(server: redis.Redis, redis_url: str) -> None:
    address = urlsplit(redis_url)
    server.acl_setuser("worker", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])

    async def body(password: str) -> None:
        url = f"redis://worker:{password}@{address.hostname}:{address.port}/0"
        async with opened(url) as store:
            await store.load(PARTITION)

    try:
        asyncio.run(body("right"))
        with pytest.raises(UnreachableError, match="another user or password"):
            asyncio.run(body("wrong"))
    finally:
        server.acl_deluser("worker")


def test_a_replica_is_waited_for_like_a_redis_that_is_away(server: redis.Redis, redis_url: str) -> None:
    async def body() -> None:
        async with opened(redis_url) as store:
            epoch = (await store.load(PARTITION)).epoch
            server.replicaof(
                "127.0.0.1", 1
            )  # nothing listens on port 1: a replica without its primary keeps its data
            with pytest.raises(UnreachableError, match="wait for the failover"):
                await store.commit(commit(epoch))

    try:
        asyncio.run(body())
    finally:
        server.replicaof("NO", "ONE")


def test_a_user_without_rights_is_told_which_are_needed(server: redis.Redis, redis_url: str) -> None:
    address = urlsplit(redis_url)
    server.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], commands=["+@read"])

    async def body() -> None:
        async with opened(f"redis://reader:p@{address.hostname}:{address.port}/0") as store:
            await store.load(PARTITION)

    try:
        with pytest.raises(StoreError, match="Allow its user EVALSHA"):
            asyncio.run(body())
    finally:
        server.acl_deluser("reader")


def test_a_url_that_is_none_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match=r"setting redis_url = 'http://u:\*\*\*@x': expected redis://"):
        RedisStore.connect("http://u:secret@x")


@asynccontextmanager
async def answers_lost(url: str, word: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy before Redis that breaks the connection instead of delivering the first answer that has `word` in it."""
    address = urlsplit(url)
    lost: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(address.hostname, address.port)
        asked = asyncio.create_task(_pump(reader, back))
        while data := await there.read(65_536):
            if word in data and not lost:
                lost.append(word)
                break
            writer.write(data)
        asked.cancel()
        writer.close()
        back.close()

    proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0", lost
    finally:
        proxy.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()
