"""The monitor says the same however partitions are spread, batches are cut, and wherever it is killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.store import PartitionId, Refused
from features.watch_store import MemoryWatch, Watched, WatchState, WatchStore
from models.drift.alert import encoded
from models.drift.columns import watched_columns
from models.drift.time_slice import encoded as slice_bytes
from streams.control import RetrainRequest, decoded
from tests.in_process import CrashedError, CrashingLog, Log, Place
from tests.monitor_world import WATCHED, Monitor, ShopWorld, changed_world, without_watch


@pytest.fixture(scope="module")
def worlds() -> dict[int, ShopWorld]:
    return {partitions: changed_world(partitions) for partitions in (1, 2, 4)}


def alerts_of(world: ShopWorld, log: Log | None = None) -> list[bytes]:
    return [encoded(alert) for alert in world.alerts(log)]


def monitored(world: ShopWorld) -> Log:
    log = without_watch(world.log, world.topics)
    Monitor(WATCHED, log).run()
    return log


@pytest.fixture(scope="module")
def undisturbed(worlds: dict[int, ShopWorld]) -> dict[int, Log]:
    return {partitions: monitored(world) for partitions, world in worlds.items()}


def test_slices_of_one_two_and_four_partitions_merge_to_the_same_bytes_and_raise_the_same_alerts(
    worlds: dict[int, ShopWorld], undisturbed: dict[int, Log]
) -> None:
    columns = watched_columns(WATCHED)
    merged = {
        partitions: [slice_bytes(one) for one in worlds[partitions].merged(columns, log)]
        for partitions, log in undisturbed.items()
    }
    assert len(merged[1]) >= 4 * 12
    assert merged[1] == merged[2] == merged[4]
    alerts = {partitions: alerts_of(worlds[partitions], log) for partitions, log in undisturbed.items()}
    assert len(alerts[1]) >= 2
    assert alerts[1] == alerts[2] == alerts[4]


def test_several_monitors_that_share_the_partitions_say_what_one_says(
    worlds: dict[int, ShopWorld], undisturbed: dict[int, Log]
) -> None:
    world = worlds[4]
    log, store = without_watch(world.log, world.topics), MemoryWatch()

    def owned_by(number: int) -> Callable[[Place], bool]:
        return lambda place: place[1] % 3 == number

    monitors = [Monitor(WATCHED, log, store, own=owned_by(number)) for number in range(3)]
    source = random.Random(3)

    async def all_at_a_time() -> None:
        while busy := [one for one in monitors if one.unread()]:
            one = source.choice(busy)
            await one.step(source.choice(one.unread()), source.randint(1, 40))

    asyncio.run(all_at_a_time())
    assert alerts_of(world, log) == alerts_of(world, undisturbed[4])


@dataclass
class CrashingWatch:
    """A store whose next call crashes, once `armed` is "before" it has its effect, or "after" it had."""

    inner: WatchStore
    armed: str = ""

    async def load(self, partition: PartitionId) -> Watched:
        """As the store does."""
        return await self.inner.load(partition)

    async def store(self, state: WatchState) -> Refused | None:
        """As the store does, unless armed."""
        armed, self.armed = self.armed, ""
        refused = await self.inner.store(state) if armed != "before" else None
        if armed:
            raise CrashedError
        return refused


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_whoever_is_killed_anywhere_leaves_the_same_alerts_once_and_their_triggers_once(
    worlds: dict[int, ShopWorld], undisturbed: dict[int, Log], seed: int
) -> None:
    world, source = worlds[2], random.Random(seed)
    log, inner = without_watch(world.log, world.topics), MemoryWatch()
    deaths = 0

    async def lives() -> None:
        nonlocal deaths
        while True:
            publisher = CrashingLog(log)
            how = source.choice(["before", "after", "deliver", "deliver", "live"]) if deaths < 12 else "live"
            store = CrashingWatch(inner)
            monitor = Monitor(WATCHED, log, store, publisher=publisher, alter=_sometimes_stored(source))
            steps = source.randint(0, 60)
            try:
                while unread := monitor.unread():
                    steps -= 1
                    if steps == 0 and how == "deliver":
                        publisher.armed, publisher.keep = True, source.randint(0, 2)
                    elif steps == 0 and how != "live":
                        store.armed = how
                    await monitor.step(source.choice(unread), source.randint(1, 200))
            except CrashedError:
                deaths += 1
                continue
            return

    asyncio.run(lives())
    assert alerts_of(world, log) == alerts_of(world, undisturbed[2])
    columns = watched_columns(WATCHED)
    assert world.merged(columns, log) == world.merged(columns, undisturbed[2])
    assert triggered(log) == triggered(undisturbed[2])


def triggered(log: Log) -> list[Any]:
    """What stands on control, in order."""
    found = [decoded(record.value) for record in log.records["orders.control", 0]]
    assert any(isinstance(one, RetrainRequest) for one in found)
    return found


def _sometimes_stored(source: random.Random) -> Any:
    """States are stored now and then, by a clock of the test."""

    def alter(stages: Any) -> Any:
        return replace(
            stages,
            entities={
                topic: replace(
                    stage,
                    clock=lambda: source.random() * 10,
                    store_every_s=1.0,
                    store_quietly_every_s=5.0,
                )
                for topic, stage in stages.entities.items()
            },
        )

    return alter


def test_a_replay_of_the_finished_topics_raises_the_same_alerts_at_the_same_event_times(
    worlds: dict[int, ShopWorld], undisturbed: dict[int, Log]
) -> None:
    """Live: each record is read as it comes. The replay finds everything there."""
    world = worlds[2]
    every = without_watch(world.log, world.topics)
    live, monitor = Log(dict(every.partitions)), None
    monitor = Monitor(WATCHED, live)
    waiting = [(place, record) for place, records in every.records.items() for record in records]
    order: dict[Any, int] = {}
    waiting.sort(key=lambda pair: (pair[1].offset, pair[0]))
    for count, (place, record) in enumerate(waiting):
        live.append(*place, record.key, record.value, record.headers)
        order[place] = count
        if count % 7 == 0:
            monitor.run()
    monitor.run()
    assert alerts_of(world, live) == alerts_of(world, undisturbed[2])


def test_a_store_that_lost_everything_lets_the_same_alerts_stand_there_once(
    worlds: dict[int, ShopWorld], undisturbed: dict[int, Log]
) -> None:
    world = worlds[2]
    log = without_watch(world.log, world.topics)
    Monitor(WATCHED, log).run()
    before = alerts_of(world, log)
    again = Monitor(WATCHED, log, MemoryWatch())
    again.run()
    assert alerts_of(world, log) == before
    assert again.counted("copies", stage="watch-alerts") > 0
    assert triggered(log) == triggered(undisturbed[2])
