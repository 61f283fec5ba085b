"""Back-pressure: sources wait while somebody's hop partition holds too much, and go on when it was read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from features.errors import DeliveryError, UnreachableError
from streams.batch import Partition
from streams.pressure import MeasuredPublisher, Pressure
from streams.producer import Outgoing
from tests.in_process import Log

HOP, OTHER, NEXT = ("p.hop-a", 0), ("p.hop-a", 1), ("p.hop-b", 0)


@dataclass
class Shared:
    """What several workers share, in memory."""

    places: dict[Partition, int] = field(default_factory=dict)  # the last applied offset
    unread: dict[str, Mapping[Partition, int]] = field(default_factory=dict)
    away: bool = False

    async def applied(self, partitions: Sequence[Partition]) -> list[int]:
        if self.away:
            raise UnreachableError("Redis", "redis_url", "redis://x", "start it")
        return [self.places.get(place, -1) for place in partitions]

    async def share(self, worker: str, unread: Mapping[Partition, int]) -> dict[Partition, int]:
        self.unread[worker] = dict(unread)
        total: dict[Partition, int] = {}
        for mine in self.unread.values():
            for place, size in mine.items():
                total[place] = total.get(place, 0) + size
        return total


async def has_room(pressure: Pressure) -> bool:
    await pressure.look()
    return await pressure.relief(within_s=0.001)


def test_a_source_waits_above_the_limit_and_goes_on_when_enough_was_applied():
    async def scenario() -> None:
        shared = Shared()
        pressure = Pressure(shared, "one", limit_bytes=1_000)
        assert await has_room(pressure)
        pressure.sent(HOP, 0, 600)
        pressure.sent(HOP, 1, 400)
        assert await has_room(pressure)
        pressure.sent(HOP, 2, 1)
        assert not await has_room(pressure)
        assert pressure.fullest_bytes == 1_001
        shared.places[HOP] = 0
        assert await has_room(pressure)
        assert shared.unread["one"] == {HOP: 401}

    asyncio.run(scenario())


def test_the_fullest_partition_counts_not_their_sum():
    async def scenario() -> None:
        pressure = Pressure(Shared(), "one", limit_bytes=1_000)
        pressure.sent(HOP, 0, 900)
        pressure.sent(OTHER, 0, 900)
        assert await has_room(pressure)

    asyncio.run(scenario())


def test_the_fullest_partitions_of_several_hops_count_together():
    async def scenario() -> None:
        shared = Shared()
        pressure = Pressure(shared, "one", limit_bytes=1_000)
        pressure.sent(HOP, 0, 600)
        pressure.sent(OTHER, 0, 500)
        pressure.sent(NEXT, 0, 400)
        assert await has_room(pressure)
        pressure.sent(NEXT, 1, 1)
        assert not await has_room(pressure)
        assert pressure.fullest_bytes == 600
        shared.places[HOP] = 0
        assert await has_room(pressure)

    asyncio.run(scenario())


def test_what_is_sent_counts_at_once_and_not_from_the_next_look_on():
    async def scenario() -> None:
        pressure = Pressure(Shared(), "one", limit_bytes=1_000)
        pressure.sent(HOP, 0, 1_001)
        assert not await pressure.relief(within_s=0.001)

    asyncio.run(scenario())


def test_what_is_sent_while_others_are_asked_counts_on_top():
    class Slow(Shared):
        async def share(self, worker: str, unread: Mapping[Partition, int]) -> dict[Partition, int]:
            pressure.sent(HOP, 1, 300)
            return await super().share(worker, unread)

    async def scenario() -> None:
        pressure.sent(HOP, 0, 600)
        await pressure.look()
        assert pressure.fullest_bytes == 900
        await pressure.look()
        assert pressure.fullest_bytes == 1_200

    pressure = Pressure(Slow(), "one", limit_bytes=1_000)
    asyncio.run(scenario())


def test_what_other_workers_have_sent_into_a_partition_counts_too():
    async def scenario() -> None:
        shared = Shared()
        one, two = Pressure(shared, "one", 1_000), Pressure(shared, "two", 1_000)
        one.sent(HOP, 0, 700)
        two.sent(HOP, 1, 700)
        await one.look()
        assert not await has_room(two)
        shared.places[HOP] = 1
        assert await has_room(one) and await has_room(two)

    asyncio.run(scenario())


def test_a_source_that_waits_wakes_at_relief():
    async def scenario() -> None:
        shared = Shared()
        pressure = Pressure(shared, "one", limit_bytes=10)
        pressure.sent(HOP, 0, 11)
        await pressure.look()
        waiting = asyncio.create_task(pressure.relief(within_s=60))
        await asyncio.sleep(0)
        assert not waiting.done()
        shared.places[HOP] = 0
        await pressure.look()
        assert await waiting

    asyncio.run(scenario())


def test_without_a_limit_nothing_is_kept_and_nobody_waits():
    async def scenario() -> None:
        pressure = Pressure(Shared(), "one", limit_bytes=0)
        pressure.sent(HOP, 0, 1 << 40)
        await pressure.watch()  # ends at once
        assert await pressure.relief(within_s=0)
        assert not pressure._sent

    asyncio.run(scenario())


def test_a_store_that_is_away_is_said_and_looked_at_again(caplog, monkeypatch):
    monkeypatch.setattr("streams.pressure.LOOK_EVERY_S", 0.001)
    looks = 0

    def troubled() -> None:
        nonlocal looks
        looks += 1

    async def scenario() -> None:
        shared = Shared(away=True)
        pressure = Pressure(shared, "one", limit_bytes=10, troubled=troubled)
        pressure.sent(HOP, 0, 11)
        watch = asyncio.create_task(pressure.watch())
        async with asyncio.timeout(60):
            while looks < 5:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.001)
            shared.away = False
            while not pressure.fullest_bytes:  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.001)
        watch.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.text.count("not known") == 1  # not once a look: that would bury every other line


def test_only_what_was_delivered_into_hop_topics_is_measured():
    async def scenario() -> None:
        shared = Shared()
        pressure = Pressure(shared, "one", limit_bytes=1_000)
        log = Log({"p.hop-a": 2, "p.predictions": 1})
        publisher = MeasuredPublisher(log, pressure, ["p.hop-a"])
        messages = [Outgoing("p.hop-a", 0, None, b"x" * 10), Outgoing("p.hop-a", 1, None, b"x" * 20)]
        messages += [Outgoing("p.hop-a", 0, None, b"x" * 30), Outgoing("p.predictions", 0, b"k", b"x" * 40)]
        offsets = await publisher.deliver(messages)
        assert offsets == {HOP: 1, OTHER: 0, ("p.predictions", 0): 0}
        await pressure.look()
        assert shared.unread["one"] == {HOP: 40, OTHER: 20}

    asyncio.run(scenario())


def test_what_the_broker_did_not_take_is_not_measured():
    class Broken:
        async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
            raise DeliveryError("no")

    async def scenario() -> None:
        pressure = Pressure(Shared(), "one", limit_bytes=1_000)
        with pytest.raises(DeliveryError):
            await MeasuredPublisher(Broken(), pressure, ["p.hop-a"]).deliver(
                [Outgoing("p.hop-a", 0, None, b"x")]
            )
        assert not pressure._sent

    asyncio.run(scenario())
