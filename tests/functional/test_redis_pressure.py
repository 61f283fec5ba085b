"""What workers tell each other about unread bytes, on a real Redis."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from features.errors import StoreError, UnreachableError
from features.redis_pressure import FORGOTTEN_AFTER_MS, RedisPressure

HOP = "shop.hop-card"


def test_unread_bytes_are_summed_over_workers(redis_url: str) -> None:
    async def run() -> None:
        pressure = RedisPressure.connect(redis_url, "shop")
        assert await pressure.share("one", {(HOP, 0): 5, (HOP, 1): 7}) == {(HOP, 0): 5, (HOP, 1): 7}
        assert await pressure.share("two", {(HOP, 0): 3}) == {(HOP, 0): 8, (HOP, 1): 7}
        assert await pressure.share("one", {(HOP, 0): 0, (HOP, 1): 0}) == {(HOP, 0): 3, (HOP, 1): 0}
        await pressure.aclose()

    asyncio.run(run())


def test_a_worker_that_is_gone_is_forgotten_while_others_live_on(redis_url: str) -> None:
    async def run() -> None:
        pressure, client = RedisPressure.connect(redis_url, "shop"), Redis.from_url(redis_url)
        await pressure.share("gone", {(HOP, 0): 3_000_000})
        await pressure.share("alive", {(HOP, 0): 1})
        left_ms = client.pttl("driftwood:shop:pressure:gone")
        assert 0 < int(str(left_ms)) <= FORGOTTEN_AFTER_MS
        client.delete("driftwood:shop:pressure:gone")  # as the expiry does
        assert await pressure.share("alive", {(HOP, 0): 1}) == {(HOP, 0): 1}
        assert client.smembers("driftwood:shop:pressure") == {b"alive"}
        await pressure.aclose()
        client.close()

    asyncio.run(run())


def test_what_was_applied_is_read_where_the_store_keeps_it(redis_url: str) -> None:
    async def run() -> None:
        pressure, client = RedisPressure.connect(redis_url, "shop"), Redis.from_url(redis_url)
        client.hset(f"driftwood:shop:partition:{HOP}:1", "applied", "41")
        assert await pressure.applied([(HOP, 0), (HOP, 1)]) == [-1, 41]
        assert await pressure.applied([]) == []
        await pressure.aclose()
        client.close()

    asyncio.run(run())


def test_a_redis_that_is_away_is_named_with_its_setting() -> None:
    async def run() -> None:
        pressure = RedisPressure.connect("redis://:secret@127.0.0.1:1/0", "shop")
        with pytest.raises(
            UnreachableError, match=r"Redis does not answer at redis://:\*\*\*@127.0.0.1:1/0"
        ) as raised:
            await pressure.applied([(HOP, 0)])
        assert "secret" not in str(raised.value)
        await pressure.aclose()

    asyncio.run(run())


def test_a_redis_that_answers_and_refuses_is_not_said_to_be_away(redis_url: str) -> None:
    async def run() -> None:
        address = redis_url.removeprefix("redis://")
        stranger = RedisPressure.connect(f"redis://nobody:wrong@{address}", "shop")
        with pytest.raises(UnreachableError, match=r"another user or password.*correct the setting"):
            await stranger.applied([(HOP, 0)])
        pressure, client = RedisPressure.connect(redis_url, "shop"), Redis.from_url(redis_url)
        client.set("driftwood:shop:pressure", "a foreign value")
        with pytest.raises(StoreError, match=r"refused: .*WRONGTYPE.*Another program wrote there"):
            await pressure.share("one", {(HOP, 0): 5})
        for used in (stranger, pressure):
            await used.aclose()
        client.close()

    asyncio.run(run())
