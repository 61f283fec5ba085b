"""Label rows among the events of an entity stage: the recorded order alone decides, whatever is cut, copied or killed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from features.memory_store import MemoryStore
from features.store import StateStore
from tests.in_process import CrashedError, CrashingLog, CrashingStore, Road
from tests.landings import Answered, LabelSource, landings, random_landings
from tests.recorded_order import assert_as_recorded

NO_MODELS = Path("no-models-here")
LANDINGS = landings()

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 20)


def road(store: StateStore | None = None, partitions: int = 2, **more: Any) -> Road:
    return Road(LANDINGS, store or MemoryStore(), NO_MODELS, partitions, **more)


async def drain(one: Road, source: random.Random, count: int, after_step: Any = lambda: None) -> None:
    """Events come, are answered, and get labels, in an order that the source picks."""
    labels = LabelSource(one, source)
    waiting = random_landings(source, count)
    answered = Answered(one, {event["flight_id"]: event for event in waiting})
    await one.open()
    while waiting or one.unread():
        if waiting and source.random() < 0.5:
            one.send([waiting.pop(0)])
        if labels.offset < 2 * count and (known := answered.now()) and source.random() < 0.3:
            labels.say_something(known)
        if unread := one.unread():
            after_step()
            try:
                await one.step(source.choice(unread), source.randint(1, 6))
            except CrashedError:
                await _restart(one, source)


async def _restart(one: Road, source: random.Random) -> None:
    one.memories.clear()
    for place in one.places():
        if place[0] in one.stages.ingest:
            one.read[place] = max(0, one.read[place] - source.randint(0, 10))
        else:
            await one.memory(place)


@given(seeds, sizes, st.integers(1, 3))
def test_features_are_those_of_the_recorded_order_of_events_and_label_rows(seed, count, partitions):
    one = road(partitions=partitions)
    asyncio.run(drain(one, random.Random(seed), count))
    assert_as_recorded(one)


@given(seeds, sizes, st.integers(1, 2), st.integers(8, 12))
def test_how_batches_are_cut_around_label_rows_changes_no_byte_of_an_answer(
    seed, count, partitions, capacity
):
    source = random.Random(seed)
    first = road(partitions=partitions)
    asyncio.run(drain(first, source, count))
    again = road(partitions=partitions, reads=first.log, capacity=capacity)
    again.run_randomly(source, most=4)
    assert again.answers() == first.answers()


@given(seeds, sizes, st.integers(1, 2))
def test_crashes_anywhere_count_no_label_twice_and_repeat_the_same_bytes(seed, count, partitions):
    source = random.Random(seed)
    store = CrashingStore(MemoryStore())
    made = road(store, partitions)
    publisher = CrashingLog(made.log)
    worker = road(store, partitions, log=made.log, publisher=publisher)

    def arm() -> None:
        publisher.armed, publisher.keep = source.random() < 0.1, source.randint(0, 3)
        store.armed = source.choice(["claimed", "before", "after"]) if source.random() < 0.1 else ""

    asyncio.run(drain(worker, source, count, arm))
    assert_as_recorded(worker)


@settings(max_examples=1)
@given(st.just(7))
def test_the_random_runs_do_fill_windows_over_labels_and_copy_rows(seed):
    one = road()
    asyncio.run(drain(one, random.Random(seed), 60))
    over_labels = [prediction["features"]["origin_late_rate_6h"] for prediction in one.predictions().values()]
    assert sum(value is not None for value in over_labels) > 20
    assert one.counted("label_rows", stage="origin") > 20
    assert one.counted("copies", stage="origin") > 0
