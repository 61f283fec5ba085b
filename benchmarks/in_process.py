"""The stages of a pipeline in this process, over a real Redis and a broker that is only a list: CPU step by step.

For what a worker's process as a whole cannot show: equal batches, and nothing beside them on the machine's clock.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from benchmarks.memory_log import ARRIVED_MS, LogRecord, MemoryLog
from driftwood.pipelines import topics_of
from features.redis_store import RedisStore
from features.store import PartitionId, Refused
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.assembly import Ground, assemble
from streams.entity_batch import Memory
from streams.metrics import Metrics
from streams.serving import Serving
from streams.settings import Settings
from streams.stage import Stage

Steps = dict[str, dict[str, float]]


class Road:
    """One partition of each topic, driven batch by batch."""

    def __init__(self, pipeline: Pipeline, store: RedisStore, models: Path, hot_entities: int) -> None:
        settings = Settings(partitions=1, hot_entities=hot_entities, hot_memory=1 << 44)
        self.topics = topics_of(pipeline, settings)
        self.log = MemoryLog()
        # CPU of this process instead of the time of day: what the steps cost it, without their waits.
        self.metrics = Metrics(CollectorRegistry(), clock=time.process_time, now_ms=lambda: float(ARRIVED_MS))
        identities = {topic.name: "here" for topic in self.topics}
        serving = Serving(pipeline, ModelStore(models))
        self._pipeline = pipeline
        self._stages = assemble(
            Ground(pipeline, settings, self.topics, identities, store, serving, self.log, self.metrics)
        )
        self.memories: dict[str, Memory] = {}
        self._events = 0

    async def run(self, values: Sequence[bytes]) -> int:
        """One batch of events through every stage; how many predictions came out."""
        first, self._events = self._events, self._events + len(values)
        records = [LogRecord(first + at, ARRIVED_MS, None, value) for at, value in enumerate(values)]
        await self._stages.ingest[self.topics.events.name].process(0, records)
        for topic, stage in self._stages.entities.items():
            await self._advance(stage, topic, self.log.take((topic, 0)))
        return len(self.log.take((self.topics.predictions.name, 0)))

    async def _advance(self, stage: Stage, topic: str, records: list[LogRecord]) -> None:
        if topic not in self.memories:
            self.memories[topic] = await stage.open(PartitionId(self._pipeline.name, topic, 0, "here"))
        while records:
            applied = await stage.process(self.memories[topic], records)
            assert not isinstance(applied, Refused), "nobody else is here"
            records = [record for record in records if record.offset > applied]

    def loaded(self) -> int:
        """How many entities were taken into memory so far, from the store or as new."""
        states = [memory.state for memory in self.memories.values()]
        return sum(state.entities + state.evictions for state in states)

    def steps_s(self) -> Steps:
        """CPU seconds so far, by stage and step."""
        return steps_s(self.metrics)


def steps_s(metrics: Metrics) -> Steps:
    """Seconds so far, by stage and step, on the clock of these metrics."""
    found: Steps = defaultdict(dict)
    for family in metrics.steps.collect():
        for sample in family.samples:
            if sample.name.endswith("_sum"):
                found[sample.labels["stage"]][sample.labels["step"]] = sample.value
    return dict(found)


def steps_us(before: Steps, after: Steps, events: int) -> Steps:
    """Microseconds of CPU for each event, by stage and step, between two readings."""
    return {
        stage: {
            step: round(1e6 * (spent - before.get(stage, {}).get(step, 0.0)) / events, 2)
            for step, spent in row.items()
        }
        for stage, row in after.items()
    }
