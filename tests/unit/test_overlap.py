"""Two batches of a partition in flight: that they do overlap, go in order, and are abandoned together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from features.errors import DeliveryError
from features.memory_store import MemoryStore
from features.store import PartitionId, Refused
from streams.entity_batch import Memory
from streams.mailbox import Mailbox, MailboxLimits, Piece
from streams.overlap import IN_FLIGHT, Overlap
from streams.predict_road import EntityStage
from streams.producer import Outgoing
from tests.in_process import Log, Place, Road
from tests.shop_events import customer, orders

PIPELINE = orders(["amount", customer.count("1d")], fallback=0.1)
HOP = ("orders.hop-customer", 0)
MAILBOX = MailboxLimits(piece_records=1)


@dataclass
class Gates:
    """A publisher that waits at each delivery until it is let through, or fails."""

    log: Log
    open: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    arrived: int = 0
    failure: Exception | None = None

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Place, int]:
        self.arrived += 1
        await self.open.acquire()
        if self.failure is not None:
            raise self.failure
        return await self.log.deliver(messages)


class Flown:
    """One partition of the one entity's stage, with `records` frames of one event each in its mailbox."""

    def __init__(self, events: Sequence[dict[str, Any]], capacity: int | None = None) -> None:
        self.store = MemoryStore()
        plain = Road(PIPELINE, self.store, Path("no-models"), 1)
        self.gates = Gates(plain.log)
        self.road = Road(
            PIPELINE,
            self.store,
            Path("no-models"),
            1,
            log=plain.log,
            publisher=self.gates,
            capacity=capacity,
        )
        self.events = events
        self.plain = plain
        self.ended: list[tuple[int, int]] = []
        self.began = 0

    async def begin(self) -> asyncio.Task[Refused | None]:
        for event in self.events:
            self.plain.send([event])
            await self.plain.step(("orders.events", 0))
        stage = self.road.stages.entities[HOP[0]]
        assert isinstance(stage, EntityStage)
        self.stage = stage
        self.memory: Memory = await self.stage.open(PartitionId("orders", *HOP, "memory"))
        self.mailbox = Mailbox(HOP, 0, 1, MAILBOX, lambda _: None, lambda _: None)
        records = self.road.log.records[HOP]
        self.mailbox.put_back(Piece(HOP, records, 1, 0, len(records)))
        overlap = Overlap(self.stage, self.memory, self.mailbox, self._began, self._ended)
        return asyncio.create_task(overlap.run())

    def _began(self, partition: Place) -> None:
        self.began += 1

    def _ended(self, piece: Piece, in_flight: int) -> None:
        self.ended.append((piece.end, in_flight))

    def let(self, deliveries: int) -> None:
        for _ in range(deliveries):
            self.gates.open.release()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0)


def order(number: int, customer_id: str = "ada") -> dict[str, Any]:
    placed_at = f"2026-03-01T10:{number:02d}:00Z"
    return {
        "order_id": f"o{number}",
        "placed_at": placed_at,
        "customer": customer_id,
        "shop": 1,
        "amount": 10.0,
    }


def scenario(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 120))


def counts(flown: Flown) -> dict[str, float]:
    return {
        name: prediction["features"]["customer_count_1d"]
        for name, prediction in flown.road.predictions().items()
    }


def test_the_next_batch_is_worked_out_while_one_is_delivered_and_builds_on_it():
    async def body() -> None:
        flown = Flown([order(number) for number in range(5)])
        working = await flown.begin()
        await flown.until(lambda: len(flown.memory.in_flight) == IN_FLIGHT)
        await asyncio.sleep(0.01)
        # The second stands after its step 5, nothing of the first is committed, and a third was not begun.
        assert (flown.began, flown.gates.arrived, flown.memory.taken, flown.memory.applied) == (2, 1, 1, -1)
        flown.let(5)
        await flown.until(lambda: len(flown.ended) == 5)
        assert [end for end, _ in flown.ended] == [1, 2, 3, 4, 5]
        assert flown.ended[-1] == (5, 0)
        flown.mailbox.close()
        assert await working is None
        assert counts(flown) == {f"o{number}": float(number) for number in range(5)}

    scenario(body)


def test_a_repeat_of_an_id_that_is_still_in_flight_has_no_effect():
    async def body() -> None:
        flown = Flown([order(1), order(1), order(2)])
        working = await flown.begin()
        await flown.until(lambda: len(flown.memory.in_flight) == IN_FLIGHT)
        flown.let(3)
        await flown.until(lambda: len(flown.ended) == 3)
        flown.mailbox.close()
        assert await working is None
        assert counts(flown) == {"o1": 0.0, "o2": 1.0}
        assert flown.road.counted("repeated_ids", stage="customer") == 1

    scenario(body)


def test_a_batch_whose_entities_do_not_fit_beside_those_in_flight_waits_for_them():
    async def body() -> None:
        flown = Flown([order(number, f"customer {number}") for number in range(4)], capacity=1)
        working = await flown.begin()
        await flown.until(lambda: flown.began == 2)
        await asyncio.sleep(0.01)
        assert len(flown.memory.in_flight) == 1
        flown.let(4)
        await flown.until(lambda: len(flown.ended) == 4)
        flown.mailbox.close()
        assert await working is None
        assert len(counts(flown)) == 4

    scenario(body)


@pytest.mark.parametrize("at", [0, 1])
def test_a_refusal_of_either_batch_ends_both(at):
    async def body() -> None:
        flown = Flown([order(number) for number in range(4)])
        flown.let(at)
        working = await flown.begin()
        await flown.until(lambda: flown.gates.arrived == at + 1 and len(flown.memory.in_flight) == 2)
        await flown.store.load(PartitionId("orders", *HOP, "memory"))
        flown.let(4)
        refused = await working
        assert isinstance(refused, Refused) and refused.why == "epoch"
        assert len(flown.ended) == at
        assert flown.memory.applied == at - 1

    scenario(body)


def test_a_failure_in_the_background_surfaces_although_nothing_more_comes():
    async def body() -> None:
        flown = Flown([order(1)])
        flown.gates.failure = DeliveryError("the broker is gone")
        working = await flown.begin()
        await flown.until(lambda: flown.gates.arrived == 1)
        assert not working.done()
        flown.let(1)
        with pytest.raises(DeliveryError, match="the broker is gone"):
            await working

    scenario(body)


def test_a_cancel_leaves_no_lane_behind():
    async def body() -> None:
        flown, others = Flown([order(number) for number in range(3)]), asyncio.all_tasks()
        working = await flown.begin()
        await flown.until(lambda: len(flown.memory.in_flight) == IN_FLIGHT)
        working.cancel()
        await asyncio.wait([working])
        assert working.cancelled()
        assert asyncio.all_tasks() == others
        assert flown.memory.applied == -1 and flown.ended == []

    scenario(body)
