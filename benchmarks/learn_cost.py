"""What an outcome costs on the learn road: labels, join and learner in this process, over a real Redis, CPU step by step."""

from __future__ import annotations

import asyncio
import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.in_process import Steps, steps_s, steps_us
from driftwood.embedded import EmbeddedRedis
from examples.payments.frauds import simulated_payments
from examples.payments.records import Record, event_records
from examples.payments.switches import Switches
from features.redis_store import RedisStore
from models.learning import Learning
from models.loading import load_pipeline
from models.pipeline import Pipeline
from offline.in_process import InProcess
from offline.one_order import Sent, Slice
from offline.topic_lists import ListedRecord
from streams.mini_batches import MiniBatches
from streams.outcomes import OutcomeCodec

LEARN_STAGES = ("labels", "join")


@dataclass
class Outcomes:
    """The records of `outcomes` that came, whole: what the learners read."""

    records: list[ListedRecord] = field(default_factory=list)

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        """As the driver shows what came out."""
        if topic == "outcomes":
            self.records += records


def payments(count: int, seed: int = 1) -> list[Record]:
    """So many simulated payments, in order, as they are sent."""
    days = -(-count // 8_000) + 1
    switches = Switches(seed=seed, days=days)
    made = simulated_payments(switches)
    return list(event_records(made, switches))[:count]


def label_of(event: Record, number: int, known_us: int) -> Sent:
    """The label of an event: one in 120 is fraud."""
    payment = event.value.partition(b'"payment_id":"')[2].partition(b'"')[0]
    text = np.datetime_as_string(np.datetime64(known_us, "us"), timezone="UTC").encode()
    value = b'{"event_id":"%s","fraud":%d,"known_at":"%s"}' % (payment, number % 120 == 0, text)
    return Sent(known_us, "labels", value, payment)


def road_cost(count: int, rows: int) -> tuple[Steps, list[ListedRecord]]:
    """CPU us of labels and join for each outcome, by step, in batches of `rows`; and the outcomes. A tenth warms up."""
    outcomes = Outcomes()
    with (
        tempfile.TemporaryDirectory(prefix="driftwood-benchmark-") as models,
        EmbeddedRedis().start() as redis,
    ):
        steps = asyncio.run(_driven(count, rows, Path(models), redis.url, outcomes))
    return steps, outcomes.records


async def _driven(count: int, rows: int, models: Path, redis_url: str, outcomes: Outcomes) -> Steps:
    store = RedisStore.connect(redis_url)
    try:
        pipeline = load_pipeline("payments")
        road = InProcess(pipeline, models, outcomes.watch, store=store, seconds=time.process_time)
        await road.open()
        before, warm = steps_s(road.metrics), count // 10 // rows
        for number, one in enumerate(_slices(payments(count), rows)):
            if number == warm:
                before = steps_s(road.metrics)
            await road.step(one)
        found = steps_us(before, steps_s(road.metrics), count - warm * rows)
        return {stage: found[stage] for stage in LEARN_STAGES}
    finally:
        await store.aclose()


def _slices(events: Sequence[Record], rows: int) -> Iterator[Slice]:
    """Events, and then at once their labels."""
    for first in range(0, len(events), rows):
        some = events[first : first + rows]
        known_us = some[-1].at_us + 1_000
        asked = [Sent(event.at_us, "events", event.value, event.key) for event in some]
        yield Slice(known_us, asked, [label_of(event, first + at, known_us) for at, event in enumerate(some)])


def learner_cost(records: Sequence[ListedRecord], only: str | None = None) -> float:
    """CPU us in which one outcome is read, measured, weighed and learnt, by all learners or `only` one."""
    pipeline = load_pipeline("payments")
    if only is not None:
        pipeline = _with_one(pipeline, only)
    learner = MiniBatches(Learning(pipeline), OutcomeCodec(pipeline), -1, {})
    warm = len(records) // 10
    learner.step_all(records[:warm], {}, _stopped, 1.0)
    began_s = time.thread_time()
    done = learner.step_all(records[warm:], {}, _stopped, 1.0)
    return 1e6 * (time.thread_time() - began_s) / done.rows


_stopped: Callable[[], float] = lambda: 0.0  # noqa: E731  a clock by which no step takes long


def _with_one(pipeline: Pipeline, name: str) -> Pipeline:
    """The same with one learner."""
    alone: Any = copy.copy(pipeline)
    object.__setattr__(alone, "online", tuple(spec for spec in pipeline.online if spec.name == name))
    found: Pipeline = alone
    return found
