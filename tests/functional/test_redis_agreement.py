"""What workers agree on, on a real Redis: one version at a time, one number of partitions for ever."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from features.errors import StoreError, UnreachableError
from features.redis_agreement import LEASE_MS, RedisAgreement

EVENTS, HOP = "shop.events@c/1", "shop.hop-card@c/2"
VERSION = "driftwood:shop:version"


def test_the_first_version_holds_the_lease_until_it_expires(redis_url: str) -> None:
    async def run() -> None:
        agreement, client = RedisAgreement.connect(redis_url, "shop"), Redis.from_url(redis_url)
        assert await agreement.agree("v1", {}) == ("v1", {})
        assert await agreement.agree("v2", {EVENTS: 4}) == ("v1", {})
        assert await agreement.begun() == {}, "who does not agree leaves nothing behind"
        assert 0 < int(str(client.pttl(VERSION))) <= LEASE_MS
        client.delete(VERSION)  # as the expiry does
        assert await agreement.agree("v2", {EVENTS: 4}) == ("v2", {EVENTS: 4})
        await agreement.aclose()
        client.close()

    asyncio.run(run())


def test_the_first_number_of_partitions_stays(redis_url: str) -> None:
    async def run() -> None:
        agreement = RedisAgreement.connect(redis_url, "shop")
        assert await agreement.agree("v", {EVENTS: 4, HOP: 4}) == ("v", {EVENTS: 4, HOP: 4})
        anew = "shop.hop-card@c/3"
        assert await agreement.agree("v", {HOP: 8, anew: 8}) == ("v", {HOP: 4, anew: 8})
        assert await agreement.begun() == {EVENTS: 4, HOP: 4, anew: 8}
        await agreement.aclose()

    asyncio.run(run())


def test_a_redis_that_is_away_or_refuses_is_an_error_that_names_it(redis_url: str) -> None:
    async def run() -> None:
        away, foreign = RedisAgreement.connect("redis://127.0.0.1:1/0", "shop"), Redis.from_url(redis_url)
        for ask in (away.begun(), away.agree("v", {})):
            with pytest.raises(UnreachableError, match=r"Redis does not answer at redis://127\.0\.0\.1:1/0"):
                await ask
        foreign.rpush(VERSION, "a foreign value")
        agreement = RedisAgreement.connect(redis_url, "shop")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await agreement.agree("v", {})
        await away.aclose()
        await agreement.aclose()
        foreign.close()

    asyncio.run(run())
