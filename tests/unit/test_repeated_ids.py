"""An event id that comes again is dropped and counted, wherever it comes, within the horizon and no further."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features.memory_store import MemoryStore
from streams.predict_road import Ingest
from tests.in_process import Road
from tests.recorded_order import assert_as_recorded
from tests.shop_events import START, customer, orders

PIPELINE = orders(["amount", customer.count("90d")], fallback=0.1, earliest="1900-01-01")
NO_MODELS = Path("no-models-here")


def order(name: str, hours: float = 0.0, since: datetime = START, **more: Any) -> dict[str, Any]:
    placed = (since + timedelta(hours=hours)).isoformat()
    return {"order_id": name, "placed_at": placed, "customer": "ann", "shop": 1, "amount": 5.0, **more}


def answered(events: list[dict[str, Any]], batch: int, store: MemoryStore | None = None, **more: Any) -> Road:
    road = Road(PIPELINE, store or MemoryStore(), NO_MODELS, 1, **more)
    road.send(events)
    road.run(batch)
    assert_as_recorded(road)
    return road


def offsets(road: Road) -> list[int]:
    """Which of the records were answered."""
    return sorted(int(position.rsplit("/", 1)[1]) for position in road.answers())


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_same_id_is_answered_once_in_one_batch_and_over_batches(batch):
    road = answered(
        [order("a"), order("b"), order("a"), order("b", amount=9.0), order("a"), order("c")], batch
    )
    assert offsets(road) == [0, 1, 5]
    assert road.counted("repeated_ids", stage="customer") == 3
    assert [one["features"]["customer_count_90d"] for one in road.predictions().values()] == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 100])
def test_ids_are_remembered_within_a_horizon_of_event_time_and_not_for_ever(batch):
    events = [order("a"), order("a", 23), order("a", 24), order("a", 72), order("b", 200), order("a", 201)]
    road = answered(events, batch)
    assert offsets(road) == [0, 3, 4, 5]


@pytest.mark.parametrize("batch", [1, 100])
def test_an_event_later_than_the_horizon_is_not_checked_however_batches_are_cut(batch):
    events = [order("a"), order("b", 71), order("a"), order("b", 40), order("b", 71)]
    road = answered(events, batch)
    assert offsets(road) == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 100])
def test_ids_of_events_before_1970_are_remembered_too(batch):
    old = datetime.fromisoformat("1955-11-05T06:00:00+00:00")
    road = answered([order("a", since=old), order("a", 1, since=old), order("b", 2, since=old)], batch)
    assert offsets(road) == [0, 2]
    assert road.counted("ids_not_remembered", stage="customer") == 0


def test_the_same_id_from_two_partitions_of_events_meets_where_its_key_belongs():
    road = Road(PIPELINE, MemoryStore(), NO_MODELS, 3)
    for partition in (0, 1, 2):
        road.send([order("a"), order(f"b{partition}")], partition=partition)
    road.run()
    assert sorted(road.predictions()) == ["a", "b0", "b1", "b2"]
    assert road.counted("repeated_ids", stage="customer") == 2


def test_the_same_position_again_is_the_event_itself_and_no_repeat():
    store = MemoryStore()
    road = answered([order("a"), order("b")], 100, store)
    again = Road(PIPELINE, store, NO_MODELS, 1, log=road.log)
    ingest, hop = again.places()

    async def once_more() -> None:
        await again.step(ingest)
        memory = await again.memory(hop)
        memory.seen = {}  # as if nothing had been seen: only the ids are left to tell
        await again.step(hop)

    asyncio.run(once_more())
    assert again.counted("repeated_ids", stage="customer") == 0
    assert again.counted("copies", stage="customer") == 0
    assert again.counted("rows", stage="customer") == 2


def test_an_event_at_the_same_place_of_a_topic_that_was_made_anew_is_another_one():
    store = MemoryStore()
    road = answered([order("a"), order("b")], 100, store)
    road.log.records["orders.events", 0].clear()
    anew = Road(PIPELINE, store, NO_MODELS, 1, log=road.log)
    ingest = {
        name: replace(stage, source="made anew")
        for name, stage in anew.stages.ingest.items()
        if isinstance(stage, Ingest)
    }
    anew.stages = replace(anew.stages, ingest=ingest)
    anew.send([order("a"), order("c")])
    anew.run()
    assert sorted(anew.predictions()) == ["a", "b", "c"]
    assert anew.counted("repeated_ids", stage="customer") == 1


def test_ids_beyond_what_a_horizon_holds_are_not_remembered_and_counted():
    road = answered([order(f"o{at}") for at in range(8)] + [order("x", 1)], 4, MemoryStore(ids_a_bucket=5))
    assert road.counted("ids_not_remembered", stage="customer") == 4


def test_what_is_remembered_is_bounded_by_the_horizon():
    store = MemoryStore()
    answered([order(f"o{at}", hours=6 * at) for at in range(200)], 7, store)
    buckets = store.ids["orders"].buckets
    assert len(buckets) <= 4
    assert sum(map(len, buckets.values())) <= 4 * 4


def test_a_shorter_horizon_remembers_for_a_shorter_time():
    events = [order("a"), order("a", 0.5), order("a", 3)]
    road = Road(PIPELINE, MemoryStore(), NO_MODELS, 1, repeat_horizon=timedelta(hours=1))
    road.send(events)
    road.run()
    assert offsets(road) == [0, 2]
