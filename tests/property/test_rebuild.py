"""Redis is lost at any moment, models are exchanged, the state is rebuilt, work goes on: nobody can tell from what came out.

The log and the store are in memory. What is rebuilt must be what was lost, byte for byte, and what is answered again after
it the bytes of the first answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwood import scaled_logistic
from features.errors import PositionError
from features.memory_store import MemoryStore
from features.store import Commit, Committed, Refused
from models.model_store import ModelStore
from offline.rebuild import NotEmptyError, Rebuild, Rebuilt
from offline.rebuilt_partition import TakenOverError
from streams.prediction import position_text
from streams.producer import partition_of
from streams.served import ServedCodec
from streams.settings import Settings
from streams.versions import read_versions
from tests.in_process import CrashedError, CrashingLog, CrashingStore, Log, LogRecord, Place, Road
from tests.learnt_snapshots import Shelf, scoring
from tests.recorded_order import assert_as_recorded
from tests.shop_events import customer, orders, random_orders, shop
from tests.small_models import save_model

ORDERS = orders()
LEARNS = orders(
    ["amount", customer.count("1h", "7d"), shop.sum("amount", "2h")], fallback=0.1, online=[scaled_logistic()]
)
PAYLOADS = [scoring(LEARNS, seed) for seed in range(3)]
ONE_STAGE = orders(["amount", customer.count("1d")], fallback=0.1)
NO_MODELS = Path("no-models-here")

seeds = st.integers(0, 2**32 - 1)


@dataclass
class Logs:
    """The log of a road as a rebuild reads it; what stands before `begins` was deleted."""

    log: Log
    begins: dict[Place, int] = field(default_factory=dict)

    def bounds(self, place: Place) -> tuple[int, int]:
        return self.begins.get(place, 0), len(self.log.records[place])

    def read(self, place: Place, first: int, end: int) -> Iterator[Sequence[LogRecord]]:
        assert first >= self.begins.get(place, 0), "these records are gone"
        for start in range(first, end, 7):
            yield self.log.records[place][start : min(start + 7, end)]


def rebuild_of(
    road: Road, store: MemoryStore, committed: dict[Place, int], begins: dict[Place, int] | None = None
) -> Rebuild:
    identities = dict.fromkeys(road.log.partitions, "memory")
    logs = Logs(road.log, begins or {})
    settings = Settings(partitions=road.topics.events.partitions)
    return Rebuild(road.pipeline, settings, road.topics, identities, store, logs, committed)


def rebuilt(road: Road, store: MemoryStore, committed: dict[Place, int], **more: Any) -> Rebuilt:
    """Rebuild, and see that nothing was published by it."""
    before = sum(map(len, road.log.records.values()))
    done = asyncio.run(rebuild_of(road, store, committed, **more).run())
    assert sum(map(len, road.log.records.values())) == before
    return done


def stages_of(road: Road) -> list[Place]:
    """The partitions with state."""
    return [place for place in road.places() if place[0] in road.stages.entities]


def contents(store: MemoryStore) -> dict[str, Any]:
    """Everything but the epochs."""
    partitions = {
        name: (known.applied, known.identity, known.watermark_us, known.seen, known.pins)
        for name, known in store._partitions.items()
        if known.applied >= 0
    }
    states = {name: fields for name, fields in store._states.items() if fields}
    return {"partitions": partitions, "states": states, "rows": store.feature_rows, "ids": store.ids}


def with_repeats(source: random.Random, n: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for order in random_orders(source, n):
        events.append(order)
        if source.random() < 0.2:
            events.append(dict(source.choice(events[-10:])))
    return events


@given(seeds, st.integers(1, 60), st.integers(1, 3))
def test_what_is_rebuilt_is_what_was_lost_and_nothing_is_answered_again(seed, n, partitions):
    source = random.Random(seed)
    lost = MemoryStore()
    road = Road(ORDERS, lost, NO_MODELS, partitions)
    road.send(with_repeats(source, n))
    road.run_randomly(source, most=6)
    committed = {place: road.read[place] for place in stages_of(road)}
    store = MemoryStore()
    done = rebuilt(road, store, committed)
    assert contents(store) == contents(lost)
    assert all(stage.whole and not stage.to_answer for stage in done.stages)
    assert sum(stage.records for stage in done.stages) == sum(road.read[place] for place in stages_of(road))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, Path, list[str]]:
    """A model store with two versions, and its folder."""
    folder = tmp_path_factory.mktemp("models")
    models = ModelStore(folder)
    return models, folder, [save_model(models, ORDERS, number) for number in (1, 2)]


@given(seeds, st.integers(1, 40), st.integers(1, 2))
def test_redis_lost_at_any_moment_changes_no_answer_also_when_the_model_is_another(
    two_models, seed, n, partitions
):
    source = random.Random(seed)
    models, folder, versions = two_models
    models.promote("orders", versions[0])
    life = _Life(source, folder, partitions)
    life.worker.send(with_repeats(source, n))
    losses = 2

    async def work() -> None:
        nonlocal losses
        while unread := life.worker.unread():
            if losses and source.random() < 0.05:
                losses -= 1
                models.promote("orders", source.choice(versions))
                await life.lose_redis()
            else:
                await life.step(source.choice(unread))

    asyncio.run(work())
    assert_as_recorded(life.worker)  # one set of bytes for each position, too


@given(seeds, st.integers(1, 30), st.integers(1, 2))
def test_redis_lost_at_any_moment_keeps_nothing_that_was_served_from_the_join_stage(seed, n, partitions):
    source = random.Random(seed)
    shelf = Shelf(LEARNS, payloads=PAYLOADS)
    life = _Life(source, NO_MODELS, partitions, shelf)
    life.worker.send(with_repeats(source, n))
    losses = 3

    async def work() -> None:
        nonlocal losses
        while unread := life.worker.unread():
            shelf.publish(len(shelf.sealed))
            await life.worker.serving.refresh()
            crashes = life.crashes
            await life.step(source.choice(unread))
            if losses and life.crashes > crashes:  # a batch may have been written in part
                losses -= 1
                await life.lose_redis()

    asyncio.run(work())
    answers = life.worker.answers()
    assert all(len(copies) == 1 for copies in answers.values())
    assert served(life.worker) == {
        position: {(one["score"], -2 if one["snapshot"] is None else one["snapshot"])}
        for position, [value] in answers.items()
        for one in [json.loads(value)]
    }


def served(road: Road) -> dict[str, set[tuple[float, int]]]:
    """By position the distinct scores on hop-join, with the snapshots that they were made with."""
    codec, found = ServedCodec(road.pipeline), defaultdict(set)
    for record in road.log.topic("orders.hop-join"):
        one = codec.decode(record.value or b"")
        places = (one.frame.origin_topics, one.frame.origin_partitions, one.frame.origin_offsets)
        for row, origin in enumerate(zip(*(column.tolist() for column in places), strict=True)):
            position = position_text("orders.events", *origin)
            found[position].add((float(one.score[row]), read_versions(one.versions).snapshot))
    return dict(found)


class _Life:
    """A worker that crashes now and then; of what it has done a part is committed to its group."""

    def __init__(
        self, source: random.Random, models: Path, partitions: int, shelf: Shelf | None = None
    ) -> None:
        self._source, self._models, self._partitions = source, models, partitions
        self._pipeline = ORDERS if shelf is None else shelf.pipeline
        self._feed = None if shelf is None else shelf.feed
        self._log = Road(self._pipeline, MemoryStore(), models, partitions).log
        self.committed: dict[Place, int] = {}
        self.crashes = 0
        self._start(MemoryStore())

    def _start(self, store: MemoryStore) -> None:
        self.redis, self.store = store, CrashingStore(store)
        self.publisher = CrashingLog(self._log)
        read: dict[Place, int] = dict(self.worker.read) if hasattr(self, "worker") else {}
        self.worker: Road = Road(
            self._pipeline,
            self.store,
            self._models,
            self._partitions,
            log=self._log,
            publisher=self.publisher,
            feed=self._feed,
        )
        for place in self.worker.places():
            if place[0] in self.worker.stages.ingest:
                self.worker.read[place] = max(0, read.get(place, 0) - self._source.randint(0, 10))

    async def step(self, place: Place) -> None:
        self.publisher.armed = self._source.random() < 0.1
        self.publisher.keep = self._source.randint(0, 6)
        self.store.armed = self._source.choice(["before", "after"]) if self._source.random() < 0.1 else ""
        try:
            await self.worker.step(place, self._source.randint(1, 5))
        except CrashedError:
            self.crashes += 1
            self._start(self.redis)
            for crashed in stages_of(self.worker):
                await self.worker.memory(crashed)
        if place in stages_of(self.worker) and self._source.random() < 0.5:
            self.committed[place] = max(self.worker.read[place], self.committed.get(place, 0))

    async def lose_redis(self) -> None:
        store = MemoryStore()
        if self._source.random() < 0.2:
            self.committed.clear()  # the group's offsets have expired
        before = sum(map(len, self._log.records.values()))
        await rebuild_of(self.worker, store, self.committed).run()
        assert sum(map(len, self._log.records.values())) == before
        self._start(store)
        for place in stages_of(self.worker):
            await self.worker.memory(place)
            assert self.worker.read[place] >= self.committed.get(place, 0)


@dataclass
class _Interrupted(MemoryStore):
    """Ends the process that uses it at its `left`th commit from now, before or after that is done."""

    left: int = 0
    after: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    async def commit(self, commit: Commit) -> Committed | Refused:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise CrashedError
        answer = await super().commit(commit)
        if self.left == 0:
            raise CrashedError
        return answer


@given(seeds, st.integers(1, 40), st.booleans())
def test_a_rebuild_that_was_interrupted_is_closed_to_workers_and_goes_on_where_it_stopped(seed, n, after):
    source = random.Random(seed)
    lost = MemoryStore()
    road = Road(ORDERS, lost, NO_MODELS, 2)
    road.send(with_repeats(source, n))
    road.run_randomly(source, most=6)
    committed = {place: road.read[place] for place in stages_of(road) if road.read[place]}
    store = _Interrupted(after=after)
    while True:
        store.left = source.randint(1, 12)
        try:
            asyncio.run(rebuild_of(road, store, committed).run())
            break
        except NotEmptyError:  # the last call had its effect, and only its answer got lost
            break
        except CrashedError:
            worker = Road(ORDERS, store, NO_MODELS, 2, log=road.log)
            for place, done_before in committed.items():
                _refused_or_whole(worker, place, done_before)
    assert contents(store) == contents(lost)


def _refused_or_whole(worker: Road, place: Place, done: int) -> None:
    """A worker that comes meanwhile finds the whole state of a partition, or none that it goes on from."""
    try:
        memory = asyncio.run(worker.memory(place))
    except PositionError as error:
        said = str(error)
        assert "is being rebuilt: wait until 'driftwood rebuild orders' has ended" in said
    else:
        assert memory.applied in (done - 1, -1)  # -1 with something committed: the worker refuses it


def test_a_store_that_is_not_empty_is_only_discarded_when_told(tmp_path):
    store = MemoryStore()
    road = Road(ORDERS, store, tmp_path, 1)
    road.send(random_orders(random.Random(1), 30))
    road.run()
    committed = {place: road.read[place] for place in stages_of(road)}
    whole = contents(store)
    with pytest.raises(
        NotEmptyError, match=r"the state of orders\.hop-customer/0 up to offset 0, .*--discard"
    ):
        asyncio.run(rebuild_of(road, store, committed).run())
    assert contents(store) == whole
    store._states[("orders", "customer", "ann")] = {b"garbage": b"that somebody wrote"}
    store._states[("others", "customer", "ann")] = kept = {b"of another": b"pipeline"}
    asyncio.run(rebuild_of(road, store, committed).run(discard=True))
    assert store._states.pop(("others", "customer", "ann")) == kept
    assert contents(store) == whole


def test_where_the_log_begins_later_windows_begin_empty_and_it_is_said_from_when_they_are_complete(tmp_path):
    road = Road(ORDERS, MemoryStore(), tmp_path, 1)
    road.send(random_orders(random.Random(1), 60))
    road.run(batch=5)
    *_, last = places = stages_of(road)
    committed = {place: road.read[place] for place in places}
    assert road.read[last] > 5
    store = MemoryStore()
    done = rebuilt(road, store, committed, begins={last: 5})
    first, *_, place = done.stages
    assert first.whole and first.complete_from is None
    assert (place.entity, place.whole, place.records) == ("place", False, road.read[last] - 5)
    assert place.reaches_back_to is not None and place.complete_from is not None
    assert place.reaches_back_to[:10] == "2024-05-01" and place.reaches_back_to < place.complete_from
    again = Road(ORDERS, store, tmp_path, 1, log=road.log)
    assert asyncio.run(again.memory(last)).applied == road.read[last] - 1


def test_a_log_of_which_nothing_is_left_opens_behind_what_was_there(tmp_path):
    road = Road(ORDERS, MemoryStore(), tmp_path, 1)
    road.send(random_orders(random.Random(1), 10))
    road.run()
    (first, *_) = places = stages_of(road)
    committed = {place: road.read[place] for place in places}
    store = MemoryStore()
    done = rebuilt(road, store, committed, begins={first: road.read[first]})
    assert not done.stages[0].whole and done.stages[0].complete_from is None
    again = Road(ORDERS, store, tmp_path, 1, log=road.log)
    assert asyncio.run(again.memory(first)).applied == road.read[first] - 1


def test_records_that_were_deleted_before_anybody_worked_on_them_are_counted(tmp_path):
    road = Road(ORDERS, MemoryStore(), tmp_path, 1)
    road.send(random_orders(random.Random(1), 10))
    road.run(batch=1)
    place = stages_of(road)[0]
    done = rebuilt(road, MemoryStore(), {place: 3}, begins={place: 7})
    assert done.stages[0].deleted_unread == 4


def test_a_log_that_ends_before_what_was_committed_is_refused(tmp_path):
    road = Road(ORDERS, MemoryStore(), tmp_path, 1)
    with pytest.raises(PositionError, match=r"ends at 0, and the workers had done all before 5"):
        rebuilt(road, MemoryStore(), {stages_of(road)[0]: 5})


def test_somebody_who_takes_a_partition_over_ends_the_rebuild(tmp_path):
    class Disturbed(MemoryStore):
        async def commit(self, commit: Commit) -> Committed | Refused:
            if commit.states:
                await self.load(commit.partition)
            return await super().commit(commit)

    road = Road(ORDERS, MemoryStore(), tmp_path, 1)
    road.send(random_orders(random.Random(1), 10))
    road.run()
    committed = {place: road.read[place] for place in stages_of(road)}
    with pytest.raises(TakenOverError, match=r"orders\.hop-customer/0 was taken over by a worker"):
        rebuilt(road, Disturbed(), committed)


def test_a_batch_that_was_half_answered_is_repeated_with_the_versions_of_its_first_answers(tmp_path):
    models = ModelStore(tmp_path)
    old, new = save_model(models, ORDERS, 1), save_model(models, ORDERS, 2)
    models.promote("orders", old)
    log = Road(ORDERS, MemoryStore(), tmp_path, 1).log
    publisher = CrashingLog(log)
    road = Road(ORDERS, MemoryStore(), tmp_path, 1, log=log, publisher=publisher)
    road.send(random_orders(random.Random(1), 20))
    *before, last = road.places()

    async def half() -> None:
        for place in before:
            await road.step(place)
        publisher.armed, publisher.keep = True, 7
        with pytest.raises(CrashedError):
            await road.step(last)

    asyncio.run(half())
    models.promote("orders", new)
    store = MemoryStore()
    done = rebuilt(road, store, {place: road.read[place] for place in stages_of(road) if place != last})
    assert done.stages[-1].to_answer == 1
    again = Road(ORDERS, store, tmp_path, 1, log=log)
    assert again.serving.in_service == new
    again.send(random_orders(random.Random(2), 5, first=20))
    again.run()
    versions = [
        json.loads(record.value or b"")["parts"]["lightgbm"]["version"]
        for record in log.topic("orders.predictions")
    ]
    assert versions == [old] * 27 + [new] * 5
    assert_as_recorded(again)


def same_id_in_two_partitions(first_in: int, road: Road) -> tuple[Place, Place]:
    """Send an event to the stage's partition `first_in`, and one with its id to the other; the partitions in this order."""
    by_partition = {partition_of(name.encode(), 2): name for name in ("ann", "ben", "cleo", "dora")}
    (order,) = random_orders(random.Random(3), 1)
    for number in (first_in, 1 - first_in):
        road.send([order | {"customer": by_partition[number], "country": str(number)}], partition=0)
    topic = road.topics.hops["customer"].name
    return (topic, first_in), (topic, 1 - first_in)


@pytest.mark.parametrize("first_in", [0, 1])
@pytest.mark.parametrize("pipeline", [ORDERS, ONE_STAGE], ids=["several stages", "one stage"])
def test_an_event_that_was_not_answered_yet_does_not_lose_its_id_to_one_that_was_dropped_as_its_repeat(
    tmp_path, pipeline, first_in
):
    log = Road(pipeline, MemoryStore(), tmp_path, 2).log
    publisher = CrashingLog(log)
    road = Road(pipeline, MemoryStore(), tmp_path, 2, log=log, publisher=publisher)
    first, second = same_id_in_two_partitions(first_in, road)

    async def work() -> None:
        await road.step((road.topics.events.name, 0), 1)
        await road.step((road.topics.events.name, 0), 1)
        publisher.armed, publisher.keep = True, 0
        with pytest.raises(CrashedError):
            await road.step(first)  # has the id, and its output is not out
        await road.step(second)  # dropped as a repeat, and done

    asyncio.run(work())
    store = MemoryStore()
    rebuilt(road, store, {second: 1})
    again = Road(pipeline, store, tmp_path, 2, log=log)
    again.run()
    (answer,) = again.predictions().values()
    assert answer["position"].endswith("/0/0")


@pytest.mark.parametrize("first_in", [0, 1])
@pytest.mark.parametrize(
    "unproven", [None, 0, 1], ids=["all proven", "the first is not", "the second is not"]
)
def test_of_two_events_with_one_id_in_two_partitions_the_one_that_came_first_has_it_again(
    tmp_path, first_in, unproven
):
    lost = MemoryStore()
    now = itertools.count(1_720_000_000_000, 5_000)  # after all event times
    log = Log(dict(Road(ORDERS, lost, tmp_path, 2).log.partitions), clock_ms=lambda: next(now))
    road = Road(ORDERS, lost, tmp_path, 2, log=log)
    places = same_id_in_two_partitions(first_in, road)

    async def work() -> None:
        for place in places:
            await road.step((road.topics.events.name, 0), 1)
            await road.step(place)
        await road.drain()

    asyncio.run(work())
    committed = {place: road.read[place] for place in stages_of(road)}
    if unproven is not None:
        del committed[places[unproven]]
    store = MemoryStore()
    rebuilt(road, store, committed)
    again = Road(ORDERS, store, tmp_path, 2, log=log)
    again.read[road.topics.events.name, 0] = 2
    again.run()
    assert contents(store) == contents(lost)
