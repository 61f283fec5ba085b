"""A monitor over topics in memory: what was served, labels and dead letters as the roads write them, in an order that a test picks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry

from driftwood import Drift, Entity, Label, categorical, scaled_logistic
from features.store import PartitionId, Refused
from features.watch_store import MemoryWatch, WatchStore
from models.drift.alert import Alert
from models.drift.alert import decoded as read_alert
from models.drift.time_slice import TimeSlice
from models.pipeline import Pipeline
from streams.batch import Partition, Record
from streams.join_frames import SERVED, Idle, idle_messages
from streams.metrics import Metrics
from streams.predict_road import Publishing
from streams.served import JoinHop, ServedCodec
from streams.settings import Settings
from streams.slice_merge import SliceMerge
from streams.topics import PipelineTopics, pipeline_topics
from streams.watch_frames import Seen, SliceFrames, read_slice
from streams.watch_run import WatchGround, watch_stages
from streams.watch_stage import WatchMemory, WatchStage
from streams.worker import Stages
from tests.in_process import Log, Place
from tests.join_world import Event, served_of
from tests.shop_events import START, orders

HOUR = 3_600_000_000
MINUTE = HOUR // 60
START_US = int(START.timestamp()) * 1_000_000

customer, shop = Entity("customer"), Entity("shop")


def watched_orders(drift: Drift | None = None, *, features_more: Sequence[Any] = (), **more: Any) -> Pipeline:
    """A pipeline that learns, with features of two entities."""
    features = [
        "amount",
        categorical("country"),
        customer.rate("returned", "1h"),
        customer.mean("minutes", "30m"),
        shop.rate("returned", "1h"),
        shop.count("1h"),
        *features_more,
    ]
    label = Label("returned", horizon="1h", when_silent=0, values=("minutes",))
    declared: dict[str, Any] = {"label": label, "online": [scaled_logistic()], "drift": drift, **more}
    return orders(features, **declared)


def topics_of(pipeline: Pipeline, partitions: int) -> PipelineTopics:
    """Its topics; those that have one partition have one."""
    entities = [plan.entity for plan in pipeline.feature_set.entities]
    return pipeline_topics(pipeline.name, entities, Settings(partitions=partitions), learns=True)


@dataclass
class MemoryLogs:
    """Reads partitions of a log; those in `deleted` begin at that offset."""

    log: Log
    deleted: dict[Place, int] = field(default_factory=dict)

    def bounds(self, place: Partition) -> tuple[int, int]:
        """Oldest record, and the next one."""
        return self.deleted.get(place, 0), len(self.log.records[place])

    def read(self, place: Partition, first: int, end: int) -> Iterable[Sequence[Record]]:
        """All at once."""
        return [self.log.records[place][first:end]]


@dataclass
class NoReferences:
    """Models without references."""

    known: dict[str, bytes] = field(default_factory=dict)

    def reference(self, pipeline: str, version: str) -> bytes | None:
        """That of a version."""
        return self.known.get(version)


class Monitor:
    """One monitor process: the stages, and what it remembers of its partitions (all of them, or `own`)."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        store: WatchStore | None = None,
        *,
        publisher: Publishing | None = None,
        own: Callable[[Place], bool] = lambda place: True,
        alter: Callable[[Stages], Stages] = lambda stages: stages,
        logs: MemoryLogs | None = None,
        references: NoReferences | None = None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.pipeline, self.log, self.store = pipeline, log, store or MemoryWatch()
        partitions = log.partitions[f"{pipeline.name}.hop-join"]
        self.topics = topics_of(pipeline, partitions)
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
        self.logs = logs or MemoryLogs(log)
        ground = WatchGround(
            *(pipeline, self.topics, identities or dict.fromkeys(log.partitions, "memory"), self.store),
            *(publisher or log, self.metrics, references or NoReferences(), self.logs),
        )
        self.stages = alter(_storing_always(watch_stages(ground)))
        self._own, self._identities = own, identities or dict.fromkeys(log.partitions, "memory")
        self.memories: dict[Place, WatchMemory[Any]] = {}
        self.read: dict[Place, int] = {}

    def places(self) -> list[Place]:
        """Its partitions."""
        every = [
            (topic, number) for topic in self.stages.topics for number in range(self.log.partitions[topic])
        ]
        return [place for place in every if self._own(place)]

    def unread(self) -> list[Place]:
        """Those in which records wait; all before they are taken over."""
        return [place for place in self.places() if self.read.get(place, -1) < len(self.log.records[place])]

    async def step(self, place: Place, most: int) -> int | Refused:
        """One batch of one partition, which is taken over if need be."""
        stage: Any = self.stages.entities[place[0]]
        if place not in self.memories:
            identity = self._identities[place[0]]
            memory = await stage.open(PartitionId(self.pipeline.name, *place, identity))
            self.memories[place], self.read[place] = memory, memory.applied + 1
        records = self.log.records[place][self.read[place] : self.read[place] + most]
        if not records:
            return self.read[place] - 1
        outcome: int | Refused = await stage.process(self.memories[place], records)
        if isinstance(outcome, Refused):
            self.forget(place)
        else:
            self.read[place] = outcome + 1
        return outcome

    def forget(self, place: Place) -> None:
        """It is taken over anew."""
        self.memories.pop(place, None)
        self.read.pop(place, None)

    def run(self, source: random.Random | None = None, most: int = 1_000) -> None:
        """Until nothing is unread: one partition after another, or any next (`source`) with up to `most` records."""
        asyncio.run(self.drain(source, most))

    async def drain(self, source: random.Random | None = None, most: int = 1_000) -> None:
        """As `run`."""
        while unread := self.unread():
            if source is None:
                for place in unread:
                    await self.step(place, most)
            else:
                await self.step(source.choice(unread), source.randint(1, most))

    def counted(self, name: str, **labels: str) -> float:
        """A counter of this monitor."""
        return self.metrics.registry.get_sample_value(f"driftwood_{name}_total", labels) or 0.0


def _storing_always(stages: Stages) -> Stages:
    """The state of every batch is stored: a test has no seconds to wait."""

    def always(stage: Any) -> Any:
        assert isinstance(stage, WatchStage)
        return replace(stage, store_every_s=0.0, store_quietly_every_s=0.0, budget_s=float("inf"))

    return replace(stages, entities={topic: always(stage) for topic, stage in stages.entities.items()})


@dataclass
class ShopWorld:
    """Writes hop-join as the last stage does; `log` has the topics of the pipeline with so many partitions.

    `identities` are those of the topics by name, where they are others than "memory".
    """

    pipeline: Pipeline
    partitions: int = 1
    identities: Mapping[str, str] = field(default_factory=dict)
    log: Log = field(init=False)
    first: int = 0

    def __post_init__(self) -> None:
        self.log = Log({topic.name: topic.partitions for topic in topics_of(self.pipeline, self.partitions)})
        self.topics = topics_of(self.pipeline, self.partitions)
        last = self.topics.hops[self.pipeline.feature_set.entities[-1].entity].name
        identity = self.identities.get(last, "memory")
        self.upstreams = [f"{last}@{identity}/{number}" for number in range(self.partitions)]

    def served(
        self, events: Sequence[Event], upstream: int = 0, first: int | None = None, model: str = "m1"
    ) -> None:
        """Answers; `first` repeats what began at this position."""
        start = self.first if first is None else first
        self.first = max(self.first, start + len(events))
        hop = JoinHop(self.topics.learning.hop_join, ServedCodec(self.pipeline), self.pipeline.version)
        served = served_of(self.pipeline, list(events), start)
        told = replace(served, versions=served.versions.replace(f"champion-{start}", model))
        asyncio.run(self.log.deliver(hop.messages(told, self.upstreams[upstream])))

    def idle(
        self, mark_us: int, wall_ms: int | None = None, upstream: int | None = None, *, idle: bool = True
    ) -> None:
        """Idle frames of the last stage: of one of its partitions, or of all."""
        wall = mark_us // 1_000 if wall_ms is None else wall_ms
        chosen = self.upstreams if upstream is None else [self.upstreams[upstream]]
        topic = self.topics.learning.hop_join
        for name in chosen:
            said = Idle(SERVED, mark_us, wall, idle)
            asyncio.run(self.log.deliver(idle_messages(topic.name, topic.partitions, name, said)))

    def alerts(self, log: Log | None = None) -> list[Alert]:
        """What stands on drift-alerts."""
        return [
            read_alert(record.value or b"")
            for record in (log or self.log).topic(self.topics.learning.drift_alerts.name)
        ]

    def slices(self, log: Log | None = None) -> dict[str, list[TimeSlice]]:
        """By partition of hop-join what stands on drift-slices, copies dropped."""
        frames = SliceFrames(self.pipeline, self.topics.learning.drift_slices.name)
        seen, found = Seen({}), dict[str, list[TimeSlice]]()
        for record in (log or self.log).topic(self.topics.learning.drift_slices.name):
            one = frames.read(record)
            if one is not None and one.kind == "slice" and seen.is_new(one.upstream, one.position):
                assert one.pieces == 1
                found.setdefault(one.upstream.rpartition("/")[2], []).append(read_slice(one.value))
        return found

    def merged(self, columns: Any, log: Log | None = None) -> list[TimeSlice]:
        """The slices of all partitions as one."""
        merge = SliceMerge(columns, self.partitions)
        by_partition = self.slices(log)
        return [
            whole
            for number, slices in by_partition.items()
            for one in slices
            for whole in merge.take(int(number), one)
        ]


def day_of_orders(
    source: random.Random, start_us: int, minutes: int, rate: float = 1.0, amount: float = 1.0
) -> list[list[Event]]:
    """Orders minute by minute, in batches of a minute."""
    batches = []
    for minute in range(minutes):
        n = int(rate) + (source.random() < rate % 1)
        events = [
            Event(
                f"o{start_us // MINUTE + minute}-{place}",
                start_us + minute * MINUTE + source.randint(0, MINUTE - 1),
                source.choice(["ann", "ben", None]),
                source.randint(1, 3),
                round(source.lognormvariate(3, 1) * amount, 2),
            )
            for place in range(n)
        ]
        batches.append(events)
    return batches


WATCHED = watched_orders(
    Drift(
        reference="2d",
        window="8h",
        time_slice="2h",
        segments=["country"],
        triggers={"data": ["retrain-requested", "freeze"]},
    )
)
"""A pipeline whose alerts trigger something."""


def changed_world(
    partitions: int, identities: Mapping[str, str] | None = None, days: int = 4, changed: int = 3
) -> ShopWorld:
    """Days of orders, the last of which have other amounts: the same rows, however many partitions they are spread over."""
    world, source = ShopWorld(WATCHED, partitions, identities or {}), random.Random(11)
    for day in range(days):
        start_us = START_US + day * 24 * HOUR
        minutes = day_of_orders(source, start_us, 24 * 60, 1.0, 4.0 if day >= changed else 1.0)
        for minute in range(0, 24 * 60, 10):
            events = [event for batch in minutes[minute : minute + 10] for event in batch]
            world.served(events, upstream=minute // 10 % partitions)
            world.idle(start_us + (minute + 10) * MINUTE)
    # Late by more than the grace of any partition.
    world.served([Event("late", START_US + 24 * HOUR)])
    world.idle(START_US + days * 24 * HOUR + 2 * HOUR)
    return world


def copied(log: Log) -> Log:
    """The same records, for another monitor."""
    other = Log(dict(log.partitions))
    for place, records in log.records.items():
        other.records[place] = list(records)
    return other


def without_watch(log: Log, topics: PipelineTopics) -> Log:
    """What a monitor reads, without what one has written."""
    other = copied(log)
    for topic in (topics.learning.drift_slices, topics.learning.drift_alerts):
        other.records.pop((topic.name, 0), None)
    return other
