"""Two workers on a real Kafka, of which one turns slow: the sources wait, and in the end every event has its answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.real_kafka import RealKafka
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.card_payments import Payments, encoded, payments, payments_pipeline
from tests.kafka_records import headers
from tests.slow_worker import SlowWorker, Traffic, look, owner_of, wait_for_answers
from tests.worker_process import until

PARTITIONS = 2
EVENTS, FEW = 12_000, 1_000
TEXT = "x" * 900  # stands in the event, in the frames and in the prediction
UNREAD_BYTES_MAX = 512 << 10
# The limit, a batch of each partition of `events` (500 events of a kilobyte), and what the other worker sends between two
# looks, which come late on a machine that is busy. Without a bound it would be all that is sent: 14 MB.
UNREAD_BYTES = UNREAD_BYTES_MAX + PARTITIONS * (512 << 10) + (2 << 20)
MEMORY_GROWS = 192 << 20


@pytest.fixture
def workers(
    tmp_path: Path, kafka: RealKafka, redis_url: str
) -> Iterator[tuple[Payments, Settings, list[SlowWorker]]]:
    """Two of them, with topics of their own."""
    made = payments_pipeline(tmp_path)
    shared: dict[str, Any] = {
        "brokers": kafka.address,
        "redis_url": redis_url,
        "partitions": PARTITIONS,
        "models_dir": tmp_path / "models",
        "session_timeout": "6s",
        "batch_max_records": 500,
    }
    settings = Settings(**shared, unread_bytes_max=UNREAD_BYTES_MAX)
    shared["unread_bytes_max"] = "512KiB"  # as a person writes it
    TopicAdmin(settings).create(made.topics(PARTITIONS))
    started = [SlowWorker(made.path, tmp_path / "workers", **shared) for _ in range(2)]
    try:
        yield made, settings, [worker.started() for worker in started]
    finally:
        for worker in started:
            worker.kill()


def records(count: int, first: int) -> tuple[list[bytes], list[bytes]]:
    """Events and their keys."""
    events = [dict(event, country=TEXT) for event in payments(count, first=first)]
    return [encoded(event) for event in events], [str(event["card"]).encode() for event in events]


def test_one_of_two_workers_slowed_a_hundredfold_holds_up_the_sources_and_every_event_is_answered_once(
    workers: tuple[Payments, Settings, list[SlowWorker]],
) -> None:
    made, settings, both = workers
    traffic, sent = Traffic(made, made.topics(PARTITIONS), settings), 0

    def both_work() -> bool:
        nonlocal sent
        traffic.send(*records(FEW, sent))
        sent += traffic.finish()
        wait_for_answers(traffic, sent)
        return all(worker.metrics().value("driftwood_rows_total", stage="terminal") > 0 for worker in both)

    until(both_work, "both have joined and work")
    before = max(worker.resident_bytes for worker in both)
    slow = owner_of(both, "terminal")
    slow.slow("terminal")
    traffic.send(*records(EVENTS, sent))
    sent += EVENTS
    until(lambda: traffic.is_held, "the sender waits for the slow one")
    seen = look(both, traffic)
    until(lambda: traffic.is_held, "the sender waits still, or again")
    assert traffic.answered < sent
    slow.hurry()
    traffic.finish()
    wait_for_answers(traffic, sent)
    assert seen.unread_bytes < UNREAD_BYTES
    assert max(seen.resident_bytes) - before < MEMORY_GROWS
    predictions = traffic.predictions.wait_for(sent)
    assert len({headers(message)["position"] for message in predictions}) == len(predictions) == sent
