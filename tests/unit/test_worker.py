"""The worker's loop over its partitions: start, refusals, cut batches, back-pressure, stalls, revocation. No Faust, no broker."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import random
import re
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from features.errors import DeliveryError, StateLostError
from features.memory_store import MemoryStore
from features.store import PartitionId
from streams.batch import FetchedBatch, Partition
from streams.mailbox import MailboxLimits
from streams.pressure import Pressure
from streams.producer import Outgoing
from streams.taken import OtherVersionError
from streams.worker import Worker
from tests.in_process import LogRecord, Place, Road
from tests.shop_events import customer, orders, random_orders

PIPELINE = orders(["amount", customer.count("1d")], fallback=0.1)
EVENTS, HOP = ("orders.events", 0), ("orders.hop-customer", 0)


@dataclass
class Slow:
    """A publisher that can be stopped, or broken."""

    road: Road | None = None
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    broken: Exception | None = None
    started: int = 0

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Place, int]:
        self.started += 1
        await self.flows.wait()
        if self.broken is not None:
            raise self.broken
        assert self.road is not None
        return await self.road.log.deliver(messages)


@dataclass
class Shared:
    """What stands unread, as a test says."""

    unread: int = 0

    async def applied(self, partitions: Sequence[Partition]) -> list[int]:
        return [-1] * len(partitions)

    async def share(self, worker: str, unread: Mapping[Partition, int]) -> dict[Partition, int]:
        return {HOP: self.unread}


class Running:
    """A worker with its group, which hands it the log's records under the seek numbers that it asked for."""

    def __init__(self, store: MemoryStore | None = None, member: bool = True, **more: Any) -> None:
        self.publisher = Slow()
        self.publisher.flows.set()
        self.store = store or MemoryStore()
        self.road = Road(PIPELINE, self.store, Path("no-models"), 1, publisher=self.publisher, **more)
        self.publisher.road = self.road
        self.shared, self.now, self.member = Shared(), 0.0, member
        self.fatal: list[BaseException] = []
        self.pressure = Pressure(self.shared, "me", limit_bytes=1_000)
        self.worker = Worker(
            self.road.stages,
            self.pressure,
            limits=MailboxLimits(),
            grace_s=0.05,
            clock=lambda: self.now,
            fatal=self.fatal.append,
        )
        self.worker.join(self)
        self.read: dict[Partition, int] = {}
        self.seeks: dict[Partition, int] = {}
        self.done: list[tuple[Partition, int]] = []
        self.rewound: list[tuple[Partition, int]] = []
        self.group_committed: dict[Partition, int] = {}

    # The group.

    def hold(self, partition: Partition) -> None: ...
    def release(self, partition: Partition) -> None: ...

    def mark_done(self, partition: Partition, end: int, seek: int) -> bool:
        assert seek == self.seeks[partition]
        self.done.append((partition, end))
        return True

    async def rewind(self, partition: Partition, offset: int) -> int | None:
        self.rewound.append((partition, offset))
        if not self.member:
            return None
        self.seeks[partition] += 1
        self.read[partition] = offset
        return self.seeks[partition]

    async def still_ours(self, partition: Partition, offset: int) -> bool:
        return self.member

    async def committed(self, partition: Partition) -> int | None:
        return self.group_committed.get(partition)

    # The test.

    async def own(self, *partitions: Partition) -> None:
        for partition in partitions:
            at = await self.worker.position(partition)
            self.read[partition] = at or 0
            self.seeks[partition] = self.seeks.get(partition, 0) + 1
            self.worker.started(partition, self.read[partition], self.seeks[partition])

    def fetch(self, partition: Partition, most: int = 1_000_000) -> None:
        start, log = self.read[partition], self.road.log.records[partition]
        records = log[start : start + most]
        if records:
            self.read[partition] = start + len(records)
            seek, end = self.seeks[partition], self.read[partition]
            self.worker.receive(FetchedBatch(*partition, records, seek, start, end, len(log)))

    def ends(self, partition: Partition) -> list[int]:
        return [end for place, end in self.done if place == partition]

    async def flow(self, *partitions: Partition, most: int = 1_000_000) -> None:
        """Fetch until everything in these partitions is done."""
        async with asyncio.timeout(60):
            while any(self.ends(place)[-1:] != [len(self.road.log.records[place])] for place in partitions):
                assert not self.fatal, self.fatal
                for place in partitions:
                    self.fetch(place, most)
                await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.001)

    def send(self, n: int, first: int = 0) -> None:
        self.road.send(random_orders(random.Random(first), n, first))

    async def stop(self) -> None:
        await self.worker.revoked(frozenset(self.read))


def scenario(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 120))


def test_events_go_from_stage_to_stage_and_are_marked_as_done_when_their_effects_are_out():
    async def body() -> None:
        one = Running()
        one.send(30)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=7)
        await one.flow(HOP)
        assert len(one.road.predictions()) == 30
        assert one.ends(EVENTS)[-1] == 30
        assert one.worker.lags() == {EVENTS: 0, HOP: 0}
        await one.stop()

    scenario(body)


def test_reading_begins_behind_applied_or_at_the_beginning_and_for_ingest_where_the_group_says():
    async def body() -> None:
        one = Running()
        assert [await one.worker.position(place) for place in (EVENTS, HOP)] == [None, 0]
        one.send(5)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=1)
        await one.flow(HOP)
        assert await Running(one.store).worker.position(HOP) == len(one.road.log.records[HOP])
        await one.stop()

    scenario(body)


def test_a_store_that_was_rolled_back_is_noticed_and_the_partition_begins_again_where_it_stands(caplog):
    async def body() -> None:
        one = Running()
        one.send(20)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=2)
        one.fetch(HOP, most=4)
        await one.until(lambda: one.ends(HOP) == [4])
        earlier = copy.deepcopy(one.store.__dict__)
        one.fetch(HOP, most=3)
        await one.until(lambda: one.ends(HOP) == [4, 7])
        one.store.__dict__.update(earlier)  # Redis was restored from a copy a second old
        await one.flow(HOP)
        assert one.rewound == [(HOP, 4)]
        assert "refused a batch (applied)" in caplog.text
        assert len(one.road.predictions()) == 20  # those answered twice are the same bytes
        assert one.road.counted("refused_batches", stage="customer", why="applied") == 1
        await one.stop()

    with caplog.at_level(logging.WARNING):
        scenario(body)


LOST = r"Redis knows nothing of orders\.hop-customer/0, .* before offset (\d+): .*'driftwood rebuild orders'"


def test_a_store_that_is_emptied_under_a_worker_ends_it_before_it_publishes_anything_more():
    async def body() -> None:
        one = Running()
        one.send(20)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=2)
        one.fetch(HOP, most=4)
        await one.until(lambda: one.ends(HOP) == [4])
        published = dict(one.road.answers())
        one.store.__dict__.update(MemoryStore().__dict__)
        one.fetch(HOP, most=3)
        await one.until(lambda: one.fatal)
        assert isinstance(one.fatal[0], StateLostError)
        found = re.search(LOST, str(one.fatal[0]))
        assert found is not None and found[1] == "4"
        assert one.road.answers() == published and one.ends(HOP) == [4]
        await one.stop()

    scenario(body)


def _many(found: list[BaseException], count: int) -> bool:
    return len(found) == count


def test_a_worker_does_not_begin_from_nothing_what_its_group_has_worked_on():
    async def body() -> None:
        one = Running()
        one.group_committed[HOP] = 7
        for started in (1, 2):  # its supervisor starts it again and again
            asked = asyncio.create_task(one.worker.position(HOP))
            await one.until(partial(_many, one.fatal, started))
            asked.cancel()  # it never flows
        assert [type(error) for error in one.fatal] == [StateLostError] * 2
        assert re.search(LOST, str(one.fatal[0]))
        one.group_committed[HOP] = 0  # that much is committed of a partition of which nothing is done
        assert await one.worker.position(HOP) == 0

    scenario(body)


def test_what_waits_behind_a_refused_batch_is_fetched_again_with_it():
    async def body() -> None:
        one = Running()
        one.send(20)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=2)
        one.publisher.flows.clear()
        before = one.publisher.started
        one.fetch(HOP, most=3)
        await one.until(lambda: one.publisher.started > before)
        one.fetch(HOP, most=3)  # waits while the one before is in hand
        await one.store.load(PartitionId("orders", HOP[0], 0, "memory"))
        one.publisher.flows.set()
        await one.until(lambda: one.rewound)
        await asyncio.sleep(0.01)
        assert one.ends(HOP) == [] and one.fatal == []
        await one.flow(HOP)
        assert len(one.road.predictions()) == 20
        await one.stop()

    scenario(body)


def test_a_newer_epoch_is_taken_from_again_only_by_a_member_of_the_group():
    async def body(member: bool) -> None:
        one = Running(member=member)
        one.send(6)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS)
        await one.store.load(PartitionId("orders", HOP[0], 0, "memory"))  # somebody else took it over
        one.fetch(HOP)
        if member:
            await one.flow(HOP)
            assert one.rewound == [(HOP, 0)]
            assert len(one.road.predictions()) == 6
        else:
            await one.until(
                lambda: all(mailbox.closed for mailbox in one.worker.mailboxes() if mailbox.partition == HOP)
            )
            assert one.road.answers() == {} and one.rewound == []
        assert one.fatal == []
        await one.stop()

    scenario(lambda: body(member=True))
    scenario(lambda: body(member=False))


def test_a_partition_that_leaves_while_it_is_loaded_again_is_let_go():
    async def body() -> None:
        one = Running()
        one.send(6)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS)
        await one.store.load(PartitionId("orders", HOP[0], 0, "memory"))
        asked = asyncio.Event()

        async def gone(partition: Partition, offset: int) -> int | None:
            asked.set()
            return None

        one.rewind = gone  # type: ignore[method-assign]
        one.fetch(HOP)
        await asked.wait()
        await one.stop()
        assert one.fatal == []
        assert one.road.answers() == {}

    scenario(body)


def test_the_rest_of_a_batch_that_was_cut_is_taken_next_and_done_only_then():
    async def body() -> None:
        one = Running(capacity=2)  # two customers at a time
        one.send(40)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=1)
        await one.flow(HOP)
        assert len(one.ends(HOP)) > 5
        assert one.ends(HOP) == sorted(set(one.ends(HOP)))
        assert len(one.road.predictions()) == 40
        await one.stop()

    scenario(body)


def test_a_batch_in_hand_for_too_long_is_a_stall_until_it_is_done():
    async def body() -> None:
        one = Running()
        one.send(3)
        await one.own(EVENTS)
        one.publisher.flows.clear()  # the broker is away; nothing is fetched from it either
        one.now = 100.0
        one.fetch(EVENTS)
        await one.until(lambda: one.publisher.started)
        one.now = 160.0
        assert one.worker.stalled(60) == []
        one.now = 160.1
        assert one.worker.stalled(60) == [EVENTS]
        one.publisher.flows.set()
        await one.until(lambda: one.ends(EVENTS))
        assert one.worker.stalled(60) == []
        one.now = 1_000.0
        assert one.worker.stalled(60) == []  # nothing to do is no stall
        await one.stop()

    scenario(body)


def test_a_partition_that_never_begins_to_flow_is_a_stall():
    async def body() -> None:
        one = Running()
        for partition in (EVENTS, HOP):
            await one.worker.position(partition)  # and the broker does not say where it begins
        one.now += 61.0
        assert sorted(one.worker.stalled(60)) == [EVENTS, HOP]
        one.worker.started(HOP, 0, 1)
        assert one.worker.stalled(60) == [EVENTS]
        await one.worker.revoked(frozenset({EVENTS, HOP}))
        assert one.worker.stalled(60) == []
        await one.stop()

    scenario(body)


def test_ingest_waits_under_pressure_which_is_no_stall_and_goes_on_at_relief():
    async def body() -> None:
        one = Running()
        one.send(3)
        one.shared.unread = 5_000
        await one.pressure.look()
        await one.own(EVENTS)
        one.fetch(EVENTS)
        await asyncio.sleep(0.25)  # longer than a look takes
        one.now = 1_000.0
        assert one.publisher.started == 0
        assert one.worker.stalled(60) == []
        assert one.worker.lags() == {EVENTS: 3}  # what waits in memory is not done
        one.shared.unread = 0
        await one.pressure.look()
        await one.flow(EVENTS)
        assert one.worker.lags() == {EVENTS: 0}
        await one.stop()

    scenario(body)


def test_stages_with_state_work_on_under_pressure():
    async def body() -> None:
        one = Running()
        one.send(3)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS)
        one.shared.unread = 5_000
        await one.pressure.look()
        await one.flow(HOP)
        assert len(one.road.predictions()) == 3
        await one.stop()

    scenario(body)


def test_a_source_that_waits_for_room_lets_its_partition_go_without_being_cancelled():
    async def body() -> None:
        one = Running()
        one.worker._grace_s = 20.0
        one.send(3)
        one.shared.unread = 5_000
        await one.pressure.look()
        await one.own(EVENTS)
        one.fetch(EVENTS)
        await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await one.stop()
        assert one.publisher.started == 0 and one.done == [] and one.fatal == []

    scenario(body)


@pytest.mark.parametrize("place", [EVENTS, HOP])
def test_a_batch_that_the_broker_does_not_take_ends_the_process(place):
    async def body() -> None:
        one = Running()
        one.send(3)
        await one.own(EVENTS, HOP)
        if place == HOP:
            await one.flow(EVENTS)
        one.publisher.broken = DeliveryError("the broker is gone")
        one.fetch(place)
        await one.until(lambda: one.fatal)
        assert [str(error) for error in one.fatal] == ["the broker is gone"]
        assert len(one.ends(place)) == 0
        await one.stop()

    scenario(body)


def test_a_frame_of_another_version_ends_the_process_and_is_not_done():
    async def body() -> None:
        one = Running()
        one.road.log.records[HOP].append(LogRecord(0, 0, None, b"x", [("frame", b"0-0"), ("upstream", b"u")]))
        await one.own(HOP)
        one.fetch(HOP)
        await one.until(lambda: one.fatal)
        assert isinstance(one.fatal[0], OtherVersionError) and one.done == []
        await one.stop()

    scenario(body)


def test_a_revoked_partition_is_finished_and_then_nothing_of_it_is_kept():
    async def body() -> None:
        one = Running()
        one.send(30)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS, most=5)
        one.publisher.flows.clear()
        before = one.publisher.started
        one.fetch(HOP, most=2)
        await one.until(lambda: one.publisher.started > before)
        [memory] = one.worker.memories()
        state, at_work = weakref.ref(memory.state), memory
        del memory
        leaving = asyncio.create_task(one.worker.revoked(frozenset({HOP})))
        await asyncio.sleep(0)
        one.publisher.flows.set()
        await leaving
        assert one.ends(HOP) == [2]  # the batch in hand was finished
        assert at_work.applied == 1
        assert one.worker.memories() == [] and HOP not in one.worker.lags()
        assert [mailbox.partition for mailbox in one.worker.mailboxes()] == [EVENTS]
        del at_work
        gc.collect()
        assert state() is None
        one.fetch(HOP)  # was on its way: nobody takes it
        await asyncio.sleep(0.01)
        assert one.ends(HOP) == [2] and one.fatal == [] and HOP not in one.worker.lags()
        await one.own(HOP)  # and it comes back
        await one.flow(HOP)
        assert len(one.road.predictions()) == 30
        await one.stop()

    scenario(body)


def test_a_batch_that_cannot_be_finished_in_time_is_abandoned_and_repeated_by_the_next_owner():
    async def body() -> None:
        one = Running()
        one.send(10)
        await one.own(EVENTS, HOP)
        await one.flow(EVENTS)
        one.publisher.flows.clear()
        one.fetch(HOP)
        await asyncio.sleep(0.01)
        await one.worker.revoked(frozenset({HOP}))  # the broker does not answer within the grace
        assert one.ends(HOP) == [] and one.worker.memories() == [] and one.fatal == []
        one.now += 1.0
        assert one.worker.stalled(0) == []
        one.publisher.flows.set()
        await one.own(HOP)
        await one.flow(HOP)
        assert len(one.road.predictions()) == 10
        await one.stop()

    scenario(body)
