"""The parts of publishing that need no broker."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DeliveryError, DeveloperError
from streams.producer import Outgoing, Publisher, partition_of, settings_for

NOWHERE = "127.0.0.1:1"  # nothing listens there: what a broker that is gone looks like


async def until(condition: Callable[[], bool]) -> None:
    """Poll for at most ten seconds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


@given(st.binary(min_size=1), st.integers(min_value=1, max_value=1000))
def test_a_key_always_has_the_same_partition_within_range(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
    assert partition_of(key, partitions) == zlib.crc32(key) % partitions


def test_the_settings_never_give_a_message_up_and_never_leave_one_out() -> None:
    settings = settings_for("a:1", **{"compression.type": "lz4"})
    assert settings["message.timeout.ms"] == 0
    assert settings["enable.idempotence"] is True
    assert settings["enable.gapless.guarantee"] is True
    assert settings["acks"] == "all"
    assert settings["compression.type"] == "lz4"


def test_messages_over_the_limit_are_named_and_nothing_of_their_batch_is_sent() -> None:
    async def scenario() -> None:
        publisher = Publisher(settings_for(NOWHERE, **{"message.max.bytes": 100_000}))
        small = Outgoing("t", 0, b"k", b"x" * 99_000, [("h", b"v")])
        large = Outgoing("t", 0, b"k", b"x" * 100_000)
        long_headers = Outgoing("t", 0, b"k", b"x" * 99_000, [("h", b"v" * 1_000)])
        messages = [small, large, small, long_headers]
        assert publisher.oversized(messages) == [1, 3]
        with pytest.raises(DeveloperError, match="2 messages are over 100000 bytes"):
            await publisher.deliver(messages)
        assert publisher.waiting_bytes == 0
        assert await publisher.close(0.1) == 0

    asyncio.run(scenario())


def test_closing_ends_in_time_when_the_broker_is_gone_and_tells_whoever_waits() -> None:
    async def scenario() -> None:
        publisher = Publisher(settings_for(NOWHERE))
        waiting = asyncio.create_task(publisher.deliver([Outgoing("t", 0, None, b"x")]))
        await until(lambda: publisher.waiting_bytes > 0)
        async with asyncio.timeout(60):
            assert await publisher.close(0.2) == 1
        with pytest.raises(DeliveryError, match="closed before the broker had acknowledged"):
            await waiting
        with pytest.raises(DeliveryError, match="closed before"):
            await publisher.deliver([Outgoing("t", 0, None, b"y")])

    asyncio.run(scenario())


def test_the_bytes_in_memory_are_bounded_while_the_broker_is_gone() -> None:
    async def scenario() -> None:
        publisher = Publisher(settings_for(NOWHERE, **{"queue.buffering.max.kbytes": 1024}))
        message = Outgoing("t", 0, None, b"x" * 10_000)
        tasks = [asyncio.create_task(publisher.deliver([message] * 10)) for _ in range(50)]
        await until(lambda: publisher.waiting_bytes > 400_000)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert publisher.waiting_bytes <= 512 * 1024
        await publisher.close(0.0)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, DeliveryError) for answer in answers)

    asyncio.run(scenario())


def test_a_batch_larger_than_the_queue_waits_and_can_be_cancelled() -> None:
    async def scenario() -> None:
        publisher = Publisher(settings_for(NOWHERE, **{"queue.buffering.max.messages": 10}))
        task = asyncio.create_task(publisher.deliver([Outgoing("t", 0, None, b"x")] * 50))
        await until(lambda: publisher.waiting_bytes > 0)
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert publisher.waiting_bytes == 0
        assert await publisher.close(0.1) == 0

    asyncio.run(scenario())
