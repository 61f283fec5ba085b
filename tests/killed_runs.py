"""Pipelines on a real Kafka and Redis whose workers are killed, one after another, at each point of one stage.

Between two workers another model is promoted. Events come all the time, some of them twice, and some records are none.
The last worker lives and finishes.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.model_store import ModelStore
from tests.card_payments import Payments, encoded, payments
from tests.dying_worker import ENTITY_POINTS, INGEST, INGEST_POINTS, Death, DyingWorkers
from tests.kafka_records import Reader, Sender
from tests.kafka_run import KafkaRun, read_run
from tests.small_models import save_model
from tests.worker_process import WITHIN_S, WorkerProcess, until

PARTITIONS = 2
DEATHS = {
    INGEST: [Death(INGEST, point) for point in INGEST_POINTS],
    "card": [Death("card", point) for point in ENTITY_POINTS],
    "terminal": [Death("terminal", point) for point in ENTITY_POINTS],
}
DIES_WITHIN_S = 2 * WITHIN_S  # three of them start at a time, and the group waits 6 s for the one before


@dataclass
class Killed:
    """A pipeline whose workers were killed in one stage, and what is left of it."""

    payments: Payments
    models: Path
    redis_url: str
    address: str
    sent: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    # At each death: the champion of that time, and how many records each partition of `predictions` had.
    champions: list[str] = field(default_factory=list)
    predictions: list[dict[int, int]] = field(default_factory=list)

    @property
    def versions(self) -> list[str]:
        """The two models, of which now one, now the other is the champion."""
        return ModelStore(self.models).versions(self.payments.name)

    def run(self) -> KafkaRun:
        """Everything in the topics."""
        return read_run(self.address, self.payments.pipeline, self.payments.topics(PARTITIONS))


class Feed:
    """Sends events, some twice and some that are none, a few at a time."""

    def __init__(self, killed: Killed, seed: int) -> None:
        self._killed, self._random = killed, np.random.default_rng(seed)
        self._sender = Sender(killed.address, f"{killed.payments.name}.events")
        self._source = iter(payments(50_000, seed=seed))

    def send(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            event = next(self._source)
            self._killed.sent.append(event)
            self._produce(encoded(event))
            if self._random.random() < 0.05:
                earlier = self._killed.sent[-self._random.integers(1, min(len(self._killed.sent), 40) + 1)]
                self._produce(encoded(earlier))
            if self._random.random() < 0.02:
                self._produce(b'{"payment_id": ')
        self._sender.flush()

    def _produce(self, value: bytes) -> None:
        self._sender.produce(int(self._random.integers(PARTITIONS)), value)


def kill_at_each_point(stage: str, killed: Killed) -> None:
    """Kill workers at each point of the stage; then one finishes everything that was sent."""
    store = ModelStore(killed.models)
    models = [save_model(store, killed.payments.pipeline, seed) for seed in (1, 2)]
    store.promote(killed.payments.name, models[0])
    settings: dict[str, Any] = {
        "brokers": killed.address,
        "redis_url": killed.redis_url,
        "partitions": PARTITIONS,
        "models_dir": killed.models,
        "session_timeout": "6s",
        # Small batches, so that some hundred events are many of them.
        "batch_max_records": 2,
    }
    feed = Feed(killed, seed=len(stage))
    folder = killed.models.parent
    with ExitStack() as ending:
        workers = DyingWorkers(killed.payments.path, folder, **settings)
        ending.callback(workers.kill)
        for number, death in enumerate(DEATHS[stage]):
            _die(workers, death, feed)
            killed.notes.append(workers.note)
            killed.champions.append(models[number % 2])
            killed.predictions.append(_ends(killed))
            store.promote(killed.payments.name, models[(number + 1) % 2])
        last = WorkerProcess(killed.payments.path, folder, **settings | {"batch_max_records": 100})
        ending.callback(last.kill)
        _finish(last.started(), killed)


def _die(workers: DyingWorkers, death: Death, feed: Feed) -> None:
    """A worker begins, and is sent events until it is dead."""
    workers.begin(death)
    deadline = time.monotonic() + DIES_WITHIN_S
    while (code := workers.exit_code(within_s=0.25)) is None:
        assert time.monotonic() < deadline, f"it lives on: {death}\n{workers.stderr}"
        feed.send(10)
    assert code == -signal.SIGKILL, f"{death}\n{workers.stderr}"


def _finish(worker: WorkerProcess, killed: Killed) -> None:
    with Reader(killed.address, f"{killed.payments.name}.predictions", PARTITIONS) as reader:
        until(
            lambda: len({message.key() for message in reader.read(0.1)}) >= len(killed.sent),
            "an answer to every event",
            DIES_WITHIN_S,
        )
    assert worker.stop() == 0


def _ends(killed: Killed) -> dict[int, int]:
    with Reader(killed.address, f"{killed.payments.name}.predictions", PARTITIONS) as reader:
        messages = reader.wait_for(reader.end())
    return dict(Counter(message.partition() or 0 for message in messages))
