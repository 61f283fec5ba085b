"""A log in memory and a driver: the very stages of the predict road, without a broker, in an order that the test picks."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from features.store import Claim, Claimed, Commit, Committed, Loaded, PartitionId, Refused, StateStore
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.assembly import Ground, assemble
from streams.entity_batch import Memory, stage_plans
from streams.metrics import Metrics
from streams.predict_road import EntityStage, Publishing
from streams.producer import Outgoing, partition_of
from streams.serving import Serving
from streams.settings import Settings
from streams.snapshot_watch import SnapshotFeed
from streams.stage import Stage
from streams.topics import pipeline_topics
from streams.worker import Stages

Place = tuple[str, int]


@dataclass(frozen=True)
class LogRecord:
    """A record as the road reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()

    def header(self, name: str) -> bytes | None:
        """The header of this name, looked up without the product's help."""
        return dict(self.headers).get(name)


@dataclass
class Log:
    """Topics as lists of records. `deliver` is what the road's publisher does; `clock_ms` stamps records."""

    partitions: dict[str, int]
    clock_ms: Callable[[], int] = lambda: 0
    records: dict[Place, list[LogRecord]] = field(default_factory=lambda: defaultdict(list))

    async def deliver(self, messages: Sequence[Outgoing]) -> dict[Place, int]:
        """Append the messages."""
        offsets: dict[Place, int] = {}
        for message in messages:
            place = (message.topic, message.partition)
            self.append(*place, message.key, message.value, message.headers)
            offsets[place] = len(self.records[place]) - 1
        return offsets

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """One more record at the end of a partition."""
        stored = self.records[topic, partition]
        stored.append(LogRecord(len(stored), self.clock_ms(), key, value, headers))

    def topic(self, name: str) -> list[LogRecord]:
        """All records of a topic, partition by partition."""
        return [
            record for partition in range(self.partitions[name]) for record in self.records[name, partition]
        ]


class CrashedError(Exception):
    """Stands for a killed worker: whatever it did last is done, and it does nothing more."""


@dataclass
class CrashingLog:
    """A publisher that writes only the first `keep` messages of a delivery and crashes, once `armed` is set."""

    log: Log
    armed: bool = False
    keep: int = 0

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Place, int]:
        """As the log does, unless armed."""
        if not self.armed:
            return await self.log.deliver(messages)
        self.armed = False
        await self.log.deliver(messages[: self.keep])
        raise CrashedError


@dataclass
class CrashingStore:
    """A store whose next commit crashes, once `armed` is "before" it has its effect, or "after" it had.

    Where it is "claimed", the next claim crashes after its effect.
    """

    store: StateStore
    armed: str = ""

    async def load(self, partition: PartitionId) -> Loaded:
        """As the store does."""
        return await self.store.load(partition)

    async def claim(self, claim: Claim) -> Claimed | Refused:
        """As the store does, unless armed."""
        answer = await self.store.claim(claim)
        if self.armed == "claimed":
            self.armed = ""
            raise CrashedError
        return answer

    async def commit(self, commit: Commit) -> Committed | Refused:
        """As the store does, unless armed."""
        armed, self.armed = self.armed, ""
        if armed != "before":
            answer = await self.store.commit(commit)
        if armed:
            raise CrashedError
        return answer


class Road:
    """The predict road of a pipeline over a log in memory, with any store: one worker that runs all stages.

    `log` is shared with other workers, or made. `reads` is a log to read hop topics from instead: a recorded order.
    `publisher` writes to the log. `capacity` stands for `hot_entities`, which does not go below 1,000. `feed` is where
    the worker of a pipeline that learns hears of snapshots.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: StateStore,
        models: Path,
        partitions: int = 2,
        *,
        log: Log | None = None,
        reads: Log | None = None,
        publisher: Publishing | None = None,
        capacity: int | None = None,
        feed: SnapshotFeed | None = None,
        **settings: Any,
    ) -> None:
        self.pipeline, self.store = pipeline, store
        chosen = Settings(partitions=partitions, **settings)
        entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
        self.topics = pipeline_topics(pipeline.name, entities, chosen, learns=pipeline.learns)
        self.log = log or Log({topic.name: topic.partitions for topic in self.topics})
        self.reads = reads or self.log
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
        identities = dict.fromkeys(self.log.partitions, "memory")
        self.serving = Serving(pipeline, ModelStore(models), feed)
        ground = Ground(
            pipeline,
            chosen,
            self.topics,
            identities,
            store,
            self.serving,
            publisher or self.log,
            self.metrics,
        )
        self.stages = _with_capacity(assemble(ground), capacity)
        self.read: dict[Place, int] = defaultdict(int)
        self.memories: dict[Place, Memory] = {}

    # ---- events in

    def send(self, events: Iterable[Mapping[str, Any] | bytes], partition: int | None = None) -> None:
        """Into `events`: by the hash of the record, as a producer without any key would, or into one partition."""
        topic = self.topics.events
        for event in events:
            value = event if isinstance(event, bytes) else json.dumps(event).encode()
            place = partition_of(value, topic.partitions) if partition is None else partition
            self.log.append(topic.name, place, None, value)

    # ---- driving

    def places(self) -> list[Place]:
        """The partitions of the stages' input topics."""
        return [
            (topic, number) for topic in self.stages.topics for number in range(self.log.partitions[topic])
        ]

    def unread(self) -> list[Place]:
        """Those in which records wait."""
        return [place for place in self.places() if self.read[place] < len(self.reads.records[place])]

    def run(self, batch: int = 1_000_000) -> None:
        """Drive every stage until nothing is unread, `batch` records at a time."""
        asyncio.run(self.drain(batch))

    async def drain(self, batch: int = 1_000_000) -> None:
        """As `run`, in a loop of the caller's (a Redis client belongs to one)."""
        await self.open()
        while unread := self.unread():
            for place in unread:
                await self.step(place, batch)

    def run_randomly(self, source: random.Random, most: int = 20) -> None:
        """Until nothing is unread: any partition next, any number of records up to `most`."""

        async def drain() -> None:
            await self.open()
            while unread := self.unread():
                await self.step(source.choice(unread), source.randint(1, most))

        asyncio.run(drain())

    async def step(self, place: Place, batch: int = 1_000_000) -> int | Refused | None:
        """One batch of one partition."""
        topic, number = place
        if topic in self.stages.ingest:
            records = self._next(place, batch)
            await self.stages.ingest[topic].process(number, records)
            self.read[place] += len(records)
            return None
        memory = await self.memory(place)
        outcome = await self.stages.entities[topic].process(memory, self._next(place, batch))
        if isinstance(outcome, Refused):
            self.forget(place)
            self.read[place] = outcome.applied + 1
        else:
            self.read[place] = outcome + 1
        return outcome

    def _next(self, place: Place, batch: int) -> list[LogRecord]:
        return self.reads.records[place][self.read[place] : self.read[place] + batch]

    async def open(self) -> None:
        """Take all partitions over, as a worker does when they are assigned to it."""
        for place in self.places():
            if place[0] not in self.stages.ingest:
                await self.memory(place)

    async def memory(self, place: Place) -> Memory:
        """What this worker remembers of a partition; it takes the partition over when it remembers nothing."""
        if place not in self.memories:
            stage, identity = self.stages.entities[place[0]], "memory"
            self.memories[place] = await stage.open(PartitionId(self.pipeline.name, *place, identity))
            self.read[place] = self.memories[place].applied + 1
        return self.memories[place]

    def forget(self, place: Place) -> None:
        """The partition is not ours any more, or the batch was abandoned: the next step takes it over."""
        self.memories.pop(place, None)

    # ---- what came out

    def answers(self) -> dict[str, list[bytes]]:
        """By position the distinct predictions, as bytes; there should be one."""
        return distinct(self.log.topic(self.topics.predictions.name))

    def predictions(self) -> dict[str, dict[str, Any]]:
        """By event id the one prediction."""
        documents = [[json.loads(value) for value in values] for values in self.answers().values()]
        assert all(len(copies) == 1 for copies in documents)
        found = {copies[0]["event_id"]: copies[0] for copies in documents}
        assert len(found) == len(documents)
        return found

    def dead(self) -> list[LogRecord]:
        """The dead letters."""
        return self.log.topic(self.topics.dead_letters.name)

    def counted(self, name: str, **labels: str) -> float:
        """A counter of this worker, 0 where it never counted."""
        return self.metrics.registry.get_sample_value(f"driftwood_{name}_total", labels) or 0.0


def distinct(predictions: Iterable[LogRecord]) -> dict[str, list[bytes]]:
    """By position the distinct values of these records."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for record in predictions:
        position = (record.header("position") or b"").decode()
        assert record.value is not None
        if record.value not in found[position]:
            found[position].append(record.value)
    return dict(found)


def _with_capacity(stages: Stages, capacity: int | None) -> Stages:
    if capacity is None:
        return stages

    def narrowed(stage: Stage) -> Stage:
        assert isinstance(stage, EntityStage)
        return replace(stage, batches=replace(stage.batches, capacity=capacity))

    return replace(stages, entities={topic: narrowed(stage) for topic, stage in stages.entities.items()})
