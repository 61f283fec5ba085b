"""What an outcome costs on the learn road: labels, join and learner in this process, over a real Redis, CPU step by step.

Everything is measured in the state in which it stays: labels follow their events at once, and the first `WARM_DAYS` of
payments do not count. By then cohorts are mature, so that every outcome moves weights and calibrator as well, and as many
rows of the ledger fall due as come.
"""

from __future__ import annotations

import asyncio
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

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
from streams.learner_states import Sealing
from streams.mini_batches import MiniBatches
from streams.outcomes import OutcomeCodec
from streams.settings import Settings

LEARN_STAGES = ("labels", "join")

# Few customers: the days that have to pass before anything is measured have few payments.
CUSTOMERS = 1_000
PAYMENTS_A_DAY = 1_900
# The label's horizon is 8 days, and a cohort is mature after 7.
WARM_DAYS = 10

# Labels are silent at night, which stops no payment here.
SETTINGS = Settings(partitions=1, label_silence=timedelta(days=365))


class LearnerCost(NamedTuple):
    """CPU of the learner: us an outcome, ms a snapshot (one a second), and how large that is in MiB."""

    outcome_us: float
    snapshot_ms: float
    snapshot_mib: float

    @property
    def left(self) -> float:
        """The share of a second that snapshots leave for outcomes."""
        return 1 - self.snapshot_ms / 1e3


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
    switches = Switches(seed=seed, days=count // PAYMENTS_A_DAY + 3, customers=CUSTOMERS)
    return list(event_records(simulated_payments(switches), switches))[:count]


def label_of(event: Record, number: int, known_us: int) -> Sent:
    """The label of an event: one in 120 is fraud."""
    payment = event.value.partition(b'"payment_id":"')[2].partition(b'"')[0]
    text = np.datetime_as_string(np.datetime64(known_us, "us"), timezone="UTC").encode()
    value = b'{"event_id":"%s","fraud":%d,"known_at":"%s"}' % (payment, number % 120 == 0, text)
    return Sent(known_us, "labels", value, payment)


def road_cost(count: int, rows: int) -> tuple[Steps, list[ListedRecord]]:
    """CPU us of labels and join for each outcome, by step, in batches of `rows`; and the outcomes, the warm-up's too."""
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
        # One learner: what the others answer is a column more, and their time would be waited for here.
        pipeline = with_one(load_pipeline("payments"), "scaled_logistic")
        clock = time.process_time
        road = InProcess(pipeline, models, outcomes.watch, settings=SETTINGS, store=store, seconds=clock)
        await road.open()
        warm = warm_rows() // rows
        before, slices = steps_s(road.metrics), list(_slices(payments(warm * rows + count), rows))
        for number, one in enumerate(slices):
            if number == warm:
                before = steps_s(road.metrics)
            await road.step(one)
        found = steps_us(before, steps_s(road.metrics), count)
        return {stage: found[stage] for stage in LEARN_STAGES}
    finally:
        await store.aclose()


def warm_rows() -> int:
    """Payments that come before anything is measured."""
    return WARM_DAYS * PAYMENTS_A_DAY


def _slices(events: Sequence[Record], rows: int) -> Iterator[Slice]:
    """Events, and then at once their labels."""
    for first in range(0, len(events), rows):
        some = events[first : first + rows]
        known_us = some[-1].at_us + 1_000
        asked = [Sent(event.at_us, "events", event.value, event.key) for event in some]
        yield Slice(known_us, asked, [label_of(event, first + at, known_us) for at, event in enumerate(some)])


def learner_cost(records: Sequence[ListedRecord], count: int, only: str | None = None) -> LearnerCost:
    """What reading, measuring, weighing and learning the last `count` outcomes costs all learners, or `only` one."""
    pipeline = load_pipeline("payments")
    if only is not None:
        pipeline = with_one(pipeline, only)
    learning = Learning(pipeline)
    learner = MiniBatches(learning, OutcomeCodec(pipeline), -1, {})
    done, began_s = learner.step_all([], {}, _stopped, 1.0), 0.0
    rows = 0
    for record in records:
        if not began_s and rows >= warm_rows():
            began_s, rows = time.thread_time(), 0
        done = learner.step_all([record], {}, _stopped, 1.0)
        rows += done.rows
    spent_s = time.thread_time() - began_s
    return LearnerCost(1e6 * spent_s / rows, *_snapshot(learning, pipeline))


def _snapshot(learning: Learning, pipeline: Pipeline) -> tuple[float, float]:
    """ms and MiB of what is published every second: two sealed parts, and the figures."""
    sealing, began_s = Sealing(pipeline.feature_set.hash, b"of a benchmark"), time.thread_time()
    parts = (
        sealing.sealed("scoring", 1, learning.scoring()),
        sealing.sealed("state", 1, learning.state()),
        json.dumps(learning.figures()).encode(),
    )
    return 1e3 * (time.thread_time() - began_s), sum(map(len, parts)) / (1 << 20)


_stopped: Callable[[], float] = lambda: 0.0  # noqa: E731  a clock by which no step takes long


def with_one(pipeline: Pipeline, name: str) -> Pipeline:
    """The same with one learner."""
    alone: Any = copy.copy(pipeline)
    object.__setattr__(alone, "online", tuple(spec for spec in pipeline.online if spec.name == name))
    found: Pipeline = alone
    return found
