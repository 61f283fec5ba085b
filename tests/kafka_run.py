"""What is left of a run on a real Kafka and Redis, and the same run undisturbed: its recorded order, in one process.

The undisturbed run reads the very hop topics that the disturbed one left, so it takes the rows in the order that counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.store import Position, StateStore
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.frames import Frame, FrameCodec
from streams.topics import PipelineTopics, Topic
from tests.in_process import Log, LogRecord, Road, distinct
from tests.kafka_records import Reader

# In these two runs may differ: which topic it is, how often a partition was loaded and when.
OF_THE_RUN = (b"epoch", b"identity", b"active_s")
# Not the state: what the workers that run tell each other, and must agree on.
OF_THE_WORKERS = (b":pressure", b":version", b":partitions", b":begun")
# The learner's snapshots are compared by themselves: `tests/learnt_run.py`.
ELSEWHERE = (b":pressure:", b":snapshot", b":figures", b".outcomes")

Dump = Mapping[bytes, object]


@dataclass(frozen=True)
class KafkaRun:
    """The records of all topics of a pipeline, as a consumer reads them (`tests.recorded_order.Run`)."""

    pipeline: Pipeline
    topics: PipelineTopics
    log: Log

    def answers(self) -> dict[str, list[bytes]]:
        """By position the distinct predictions."""
        return distinct(self.log.topic(self.topics.predictions.name))


def read_run(address: str, pipeline: Pipeline, topics: PipelineTopics) -> KafkaRun:
    """Read everything that stands in the topics now."""
    log = Log({topic.name: topic.partitions for topic in topics})
    for topic in topics:
        _read(address, topic, log)
    return KafkaRun(pipeline, topics, log)


def _read(address: str, topic: Topic, log: Log) -> None:
    with Reader(address, topic.name, topic.partitions) as reader:
        messages = reader.wait_for(reader.end())
    for message in sorted(messages, key=lambda message: message.offset() or 0):
        stored = log.records[topic.name, message.partition() or 0]
        assert message.offset() == len(stored), "a log without gaps"
        _, timestamp = message.timestamp()
        headers: Any = message.headers() or ()
        stored.append(LogRecord(len(stored), timestamp, message.key(), message.value(), headers))


def undisturbed(run: KafkaRun, models: Path, store: StateStore | None = None) -> Road:
    """One worker, never killed, that takes the rows as the hop topics of `run` recorded them; its champion is `models`'s."""
    partitions = run.topics.events.partitions
    road = Road(run.pipeline, store or MemoryStore(), models, partitions, reads=run.log)
    road.run(batch=50)
    return road


def undisturbed_state(run: KafkaRun, models: Path, redis_url: str) -> Dump:
    """What such a worker leaves in a Redis that knew nothing of the pipeline before."""

    async def work() -> None:
        store = RedisStore.connect(redis_url)
        road = Road(run.pipeline, store, models, run.topics.events.partitions, reads=run.log)
        await road.drain(50)
        await store.aclose()

    assert not stored(redis_url, run.pipeline.name), "a Redis that knows nothing of this pipeline"
    asyncio.run(work())
    return stored(redis_url, run.pipeline.name)


def predicted_by(run: KafkaRun, version: str, folder: Path) -> dict[str, list[bytes]]:
    """The predictions of an undisturbed run with this version of the model; `folder` has it."""
    ModelStore(folder).promote(run.pipeline.name, version)
    return undisturbed(run, folder).answers()


def stored(redis_url: str, pipeline: str) -> Dump:
    """All that Redis holds of a pipeline, Feast's rows included; but for what differs from run to run."""
    client = Redis(
        host=urlsplit(redis_url).hostname or "",
        port=urlsplit(redis_url).port or 0,
        db=int(urlsplit(redis_url).path[1:] or 0),
    )
    try:
        keys = [key for key in client.scan_iter(f"*{pipeline}*") if not key.endswith(OF_THE_WORKERS)]
        return {key: _value(client, key) for key in keys if not any(part in key for part in ELSEWHERE)}
    finally:
        client.close()


def _value(client: Any, key: bytes) -> object:
    kind = client.type(key)
    if kind == b"string":
        return client.get(key)
    if kind == b"set":
        return client.smembers(key)
    assert kind == b"hash", f"{key!r} is a {kind!r}"
    return {name: value for name, value in client.hgetall(key).items() if name not in OF_THE_RUN}


# The hop topics, as the next stage sees them.

Place = tuple[int, Position]  # a row of a hop topic: its partition, the record and the row there
Rows = dict[Place, tuple[Frame, int]]


def next_stage_sees(run: KafkaRun, number: int) -> tuple[Rows, int]:
    """The rows in the topic of stage `number` whose position is new, by place and in order; and how many were copies.

    Fails when a copy is not the same row, or when new rows of one upstream partition do not come in order.
    """
    plan = stage_plans(run.pipeline.feature_set)[number]
    topic, codec = run.topics.hops[plan.entity], FrameCodec(run.pipeline.feature_set, number)
    rows: Rows = {}
    copies = 0
    for partition in range(topic.partitions):
        known: dict[tuple[bytes | None, Position], str] = {}
        newest: dict[bytes | None, Position] = {}
        for record in run.log.records[topic.name, partition]:
            upstream, frame = record.header("upstream"), codec.decode(record.value or b"")
            for row, line in enumerate(
                map(repr, codec.encode(frame).to_pylist())
            ):  # as text, NaN equals itself
                position = Position(int(frame.upstream_offsets[row]), int(frame.upstream_rows[row]))
                if (upstream, position) in known:
                    assert known[upstream, position] == line, "a copy of a row differs"
                    copies += 1
                    continue
                assert position > newest.get(upstream, Position(-1, -1)), "a new row came behind a later one"
                known[upstream, position], newest[upstream] = line, position
                rows[partition, Position(record.offset, row)] = frame, row
    return rows, copies
