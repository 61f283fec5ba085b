"""The predict road in any order, cut anyhow, crashed anywhere: the recorded order alone decides what is answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from features.memory_store import MemoryStore
from features.store import Refused, StateStore
from streams.frames import Frame, FrameCodec
from streams.producer import Outgoing
from tests.in_process import CrashedError, CrashingLog, CrashingStore, Log, Place, Road
from tests.recorded_order import assert_as_recorded
from tests.shop_events import orders, random_orders

NO_MODELS = Path("no-models-here")
ORDERS = orders()

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)


def road(store: StateStore | None = None, partitions: int = 2, **more: Any) -> Road:
    return Road(ORDERS, store or MemoryStore(), NO_MODELS, partitions, **more)


def with_repeats(source: random.Random, n: int, other_keys: bool = True) -> list[dict[str, Any]]:
    """Orders of which some come again: at once or later, as they were or with another time or customer."""
    events: list[dict[str, Any]] = []
    for order in random_orders(source, n):
        events.append(order)
        if source.random() < 0.2:
            again = dict(source.choice(events[-10:]))
            if source.random() < 0.5:
                again["placed_at"] = order["placed_at"]
            if other_keys and source.random() < 0.3:
                again["customer"] = "dora"
            events.append(again)
    return events


def rows_of(one: Road, number: int, topic: str) -> dict[tuple[int, bytes], list[Any]]:
    """Rows of a hop topic by target partition and upstream, joined: how they were cut into frames is gone."""
    codec = FrameCodec(one.pipeline.feature_set, number)
    found: dict[tuple[int, bytes], list[Any]] = {}
    for partition in range(one.log.partitions[topic]):
        for record in one.log.records[topic, partition]:
            assert record.value is not None
            upstream = record.header("upstream") or b""
            found.setdefault((partition, upstream), []).append(codec.decode(record.value))
    return {place: values_of(codec.join(frames)) for place, frames in found.items()}


def values_of(frame: Frame) -> list[Any]:
    """Everything in a frame: numbers as their bytes, for NaN is not equal to itself."""
    numbers = (frame.rows.times_us, frame.rows.numbers, frame.windows, frame.ages_s, frame.flags)
    places = (frame.upstream_offsets, frame.upstream_rows, frame.origin_partitions, frame.origin_offsets)
    texts = (frame.rows.event_ids, *frame.rows.texts)
    return [column.tobytes() for column in (*numbers, *places)] + [column.to_pylist() for column in texts]


@given(seeds, sizes, st.integers(1, 3), st.integers(4, 8))
def test_how_batches_are_cut_and_partitions_interleaved_changes_no_byte_of_an_answer(
    seed, n, partitions, capacity
):
    source = random.Random(seed)
    first = road(partitions=partitions)
    # Of two events of one id in two partitions the one is answered that is claimed first.
    first.send(with_repeats(source, n, other_keys=partitions == 1))
    first.run(batch=3)
    again = road(partitions=partitions, reads=first.log, capacity=capacity)
    again.run_randomly(source, most=4)
    assert again.answers() == first.answers()
    for number, topic in enumerate(hop.name for hop in first.topics.hops.values()):
        if number:
            assert rows_of(again, number, topic) == rows_of(first, number, topic)


@given(seeds, sizes, st.integers(1, 3))
def test_any_order_of_work_gives_the_features_of_the_order_that_the_hop_topics_recorded(seed, n, partitions):
    source = random.Random(seed)
    one = road(partitions=partitions)
    one.send(with_repeats(source, n))
    one.run_randomly(source, most=6)
    assert_as_recorded(one)


@given(seeds, sizes, st.integers(1, 2))
def test_crashes_anywhere_lose_nothing_count_nothing_twice_and_repeat_the_same_bytes(seed, n, partitions):
    source = random.Random(seed)
    store = CrashingStore(MemoryStore())
    worker = road(store, partitions)
    publisher = CrashingLog(worker.log)
    worker = road(store, partitions, log=worker.log, publisher=publisher)
    events = with_repeats(source, n)
    worker.send(events)

    async def work() -> None:
        await worker.open()
        while unread := worker.unread():
            place = source.choice(unread)
            _arm(source, publisher, store)
            try:
                await worker.step(place, source.randint(1, 5))
            except CrashedError:
                # A new process: it reads on behind `applied`, and ingest somewhere before what was committed.
                worker.memories.clear()
                for crashed in worker.places():
                    if crashed[0] in worker.stages.ingest:
                        worker.read[crashed] = max(0, worker.read[crashed] - source.randint(0, 10))
                    else:
                        await worker.memory(crashed)

    asyncio.run(work())
    assert_as_recorded(worker)
    answered = {json.loads(values[0])["event_id"] for values in worker.answers().values()}
    assert answered == {event["order_id"] for event in events}


def _arm(source: random.Random, publisher: CrashingLog, store: CrashingStore) -> None:
    publisher.armed = source.random() < 0.1
    publisher.keep = source.randint(0, 3)
    store.armed = source.choice(["claimed", "before", "after"]) if source.random() < 0.1 else ""


class Gate:
    """A publisher of a worker that stops in the midst of publishing, and goes on when it is let."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def deliver(self, messages: Sequence[Outgoing]) -> dict[Place, int]:
        self.reached.set()
        await self.opened.wait()
        return await self.log.deliver(messages)


@given(seeds, sizes, st.integers(1, 2))
def test_a_worker_that_wakes_after_it_was_replaced_publishes_copies_and_changes_nothing(seed, n, partitions):
    source = random.Random(seed)
    store = MemoryStore()
    owner = road(store, partitions)
    owner.send(with_repeats(source, n))
    late: list[Any] = []

    async def work() -> None:
        await owner.open()
        while unread := owner.unread():
            place = source.choice(unread)
            if source.random() < 0.2:
                gate = Gate(owner.log)
                zombie = road(store, partitions, log=owner.log, publisher=gate)
                zombie.read[place] = owner.read[place]
                step = asyncio.create_task(zombie.step(place, source.randint(1, 6)))
                await asyncio.wait(
                    {step, asyncio.create_task(gate.reached.wait())}, return_when="FIRST_COMPLETED"
                )
                owner.forget(place)
                late.append((gate, step, place))
            await owner.step(place, source.randint(1, 5))
            if late and source.random() < 0.3:
                await _wake(late.pop(source.randrange(len(late))), owner)
        while late:
            await _wake(late.pop(), owner)
            await owner.drain()

    asyncio.run(work())
    assert_as_recorded(owner)


async def _wake(asleep: Any, owner: Road) -> None:
    gate, step, place = asleep
    gate.opened.set()
    outcome = await step
    if place[0] not in owner.stages.ingest:
        assert isinstance(outcome, Refused | int)
