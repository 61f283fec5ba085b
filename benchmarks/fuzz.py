"""A million records that a sender should not send, through the whole predict road in this process: nothing crashes, and
every bad one is a dead letter with its reason and offset.

    python -m benchmarks.fuzz --records 1000000 --json

`missed` counts bad records without a dead letter, `wronged` good ones with one, `unanswered` good ones without an
answer that are no repeats, `damaged` dead letters that are not what was sent. All of them should be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from benchmarks.fuzz_records import MAX_BYTES, PAYMENTS, Fuzzed, fuzzed, is_good
from benchmarks.machine import machine
from benchmarks.memory_log import LogRecord, MemoryLog, Place
from features.memory_store import MemoryStore
from features.store import PartitionId, Refused
from models.model_store import ModelStore
from streams.assembly import Ground, assemble
from streams.dead_letters import HEAD_BYTES
from streams.entity_batch import Memory
from streams.metrics import Metrics
from streams.predict_road import EntityStage, Ingest
from streams.serving import Serving
from streams.settings import Settings
from streams.topics import Topic, pipeline_topics

PARTITIONS = 2


class Road:
    """The stages of the pipeline, driven batch by batch, with their state in memory."""

    def __init__(self) -> None:
        settings = Settings(partitions=PARTITIONS, max_record_bytes=MAX_BYTES, hot_entities=5_000)
        entities = [plan.entity for plan in PAYMENTS.feature_set.entities]
        self.topics = pipeline_topics(PAYMENTS.name, entities, settings)
        self.publisher = MemoryLog()
        self.metrics = Metrics(CollectorRegistry(), clock=time.monotonic, now_ms=lambda: time.time() * 1000)
        identities = {topic.name: "memory" for topic in self.topics}
        serving = Serving(PAYMENTS, ModelStore(Path("no-models")))
        ground = Ground(
            PAYMENTS, settings, self.topics, identities, MemoryStore(), serving, self.publisher, self.metrics
        )
        self.stages = assemble(ground)
        self.memories: dict[Place, Memory] = {}

    @property
    def ingest(self) -> Ingest:
        """The first stage."""
        ingest = self.stages.ingest[self.topics.events.name]
        assert isinstance(ingest, Ingest)
        return ingest

    async def carry(self) -> None:
        """What waits in the hop topics, stage by stage."""
        for topic, stage in self.stages.entities.items():
            assert isinstance(stage, EntityStage)
            for number in range(PARTITIONS):
                records = self.publisher.take((topic, number))
                while records:
                    applied = await self._batch(stage, (topic, number), records)
                    records = [record for record in records if record.offset > applied]

    async def _batch(self, stage: EntityStage, place: Place, records: Sequence[LogRecord]) -> int:
        if place not in self.memories:
            self.memories[place] = await stage.open(PartitionId(PAYMENTS.name, *place, "memory"))
        applied = await stage.process(self.memories[place], records)
        assert not isinstance(applied, Refused), "nobody else is here"
        return applied

    def repeats(self) -> float:
        """Events dropped because their id had been there."""
        labels = {"stage": PAYMENTS.feature_set.entities[0].entity}
        return self.metrics.registry.get_sample_value("driftwood_repeated_ids_total", labels) or 0.0


@dataclass
class Count:
    """What became of the records."""

    records: int = 0
    crashes: int = 0
    good: int = 0
    bad: int = 0
    dead_letters: int = 0
    missed: int = 0
    wronged: int = 0
    damaged: int = 0
    predictions: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def example(self, what: str, value: object) -> None:
        """Keep the first few of what went wrong."""
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {value!r}"[:600])


async def run(total: int, seed: int, batch: int) -> dict[str, Any]:
    """Fuzz, and count."""
    source, road, count = random.Random(seed), Road(), Count()
    started = time.monotonic()
    for partition, records in _batches(source, total, batch):
        await _through(road, partition, records, count)
        if count.records % (50 * batch) < batch:
            speed = count.records / (time.monotonic() - started)
            print(
                f"{count.records:,} records, {count.bad:,} bad, {count.missed} missed, {count.crashes} crashes, "
                f"{speed:,.0f}/s, {psutil.Process().memory_info().rss >> 20} MiB",
                file=sys.stderr,
            )
    unanswered = count.good - count.wronged - count.predictions - int(road.repeats())
    return {
        **{name: value for name, value in vars(count).items() if name not in ("reasons", "examples")},
        "repeats": int(road.repeats()),
        "unanswered": unanswered,
        "reasons": dict(count.reasons.most_common()),
        "examples": count.examples,
        "seconds": round(time.monotonic() - started, 1),
        "memory_mib": psutil.Process().memory_info().rss >> 20,
        "seed": seed,
        "machine": machine(["driftwood", "msgspec"]),
    }


def _batches(source: random.Random, total: int, batch: int) -> Iterator[tuple[int, list[LogRecord]]]:
    ends = [0] * PARTITIONS
    for first in range(0, total, batch):
        partition = source.randrange(PARTITIONS)
        made: list[Fuzzed] = [fuzzed(source, number) for number in range(first, min(first + batch, total))]
        records = [
            LogRecord(ends[partition] + at, one.timestamp_ms, source.choice([None, b"k"]), one.value)
            for at, one in enumerate(made)
        ]
        ends[partition] += len(records)
        yield partition, records


async def _through(road: Road, partition: int, records: list[LogRecord], count: Count) -> None:
    try:
        await road.ingest.process(partition, records)
    except Exception as error:  # noqa: BLE001  that is what is looked for
        count.crashes += 1
        count.example("crash in ingest", error)
    try:
        await road.carry()
    except Exception as error:  # noqa: BLE001  likewise
        count.crashes += 1
        count.example("crash in a stage", error)
        road.memories.clear()
    _judge(road, partition, records, count)


def _judge(road: Road, partition: int, records: list[LogRecord], count: Count) -> None:
    letters = {_text(letter, "offset"): letter for letter in _published(road, road.topics.dead_letters)}
    count.predictions += len(_published(road, road.topics.predictions))
    count.records += len(records)
    count.dead_letters += len(letters)
    for record in records:
        letter = letters.get(str(record.offset))
        good = is_good(record.value, record.timestamp)
        count.good, count.bad = count.good + good, count.bad + (not good)
        if letter is None:
            count.missed += not good
        else:
            count.wronged += good
            count.reasons[_text(letter, "reason")] += 1
            intact = _intact(letter, record) and _text(letter, "partition") == str(partition)
            count.damaged += not intact
            if not intact:
                count.example("damaged", record.value)
        if good is not (letter is None):
            count.example(
                "missed" if letter is None else f"wronged ({_text(letter, 'reason')})", record.value
            )


def _published(road: Road, topic: Topic) -> list[LogRecord]:
    return [record for number in range(PARTITIONS) for record in road.publisher.take((topic.name, number))]


def _intact(letter: LogRecord, record: LogRecord) -> bool:
    value = record.value or b""
    if not _text(letter, "reason") or letter.key != record.key:
        return False
    if len(value) <= MAX_BYTES:
        return letter.value == value
    digest = hashlib.sha256(value).hexdigest()
    told = (_text(letter, "length"), _text(letter, "sha256"))
    return letter.value == value[:HEAD_BYTES] and told == (str(len(value)), digest)


def _text(record: LogRecord, name: str) -> str:
    return dict(record.headers).get(name, b"").decode()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=500, help="records a batch")
    parser.add_argument("--seed", type=int, default=20130401)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.parse_args()
    figures = asyncio.run(run(asked.records, asked.seed, asked.batch))
    if asked.json:
        json.dump(figures, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        for name, value in figures.items():
            print(f"{name:14} {value}")
    wrong = ("crashes", "missed", "wronged", "unanswered", "damaged")
    sys.exit(1 if any(figures[name] for name in wrong) else 0)


if __name__ == "__main__":
    main()
