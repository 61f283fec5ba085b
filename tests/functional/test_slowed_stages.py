"""Anything slowed a hundredfold: the sources wait, memory and unread bytes stay bounded, and nothing is lost.

One worker on the embedded broker; tests/integration/test_slowed_on_kafka.py has two. Each partition of each topic gets
more than the broker keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from driftwood.embedded import Runtime
from driftwood.embedded.broker import RETAINED_BYTES_PER_PARTITION
from streams.settings import Settings
from tests.card_payments import encoded, payments, payments_pipeline
from tests.slow_worker import SlowWorker, Traffic, look, wait_for_answers
from tests.worker_process import until

PARTITIONS = 2
EVENTS = 20_000
TEXT = "x" * 900  # stands in the event, in the frames and in the prediction
WARM_UP = 4_000
MEMORY_GROWS = (
    192 << 20
)  # a few batches and full mailboxes; without a bound it would be all that is sent, many times


@dataclass
class Place:
    worker: SlowWorker
    traffic: Traffic
    sent: int = 0

    def send(self, count: int) -> None:
        events = [dict(event, country=TEXT) for event in payments(count, first=self.sent)]
        keys = [str(event.get("card")).encode() for event in events]
        self.traffic.send([encoded(event) for event in events], keys)
        self.sent += count


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A worker that has answered some events, so that everything is loaded and warm."""
    folder = tmp_path_factory.mktemp("slowed")
    made = payments_pipeline(folder)
    topics = made.topics(PARTITIONS)
    with Runtime().start({topic.name: topic.partitions for topic in topics}) as runtime:
        shared: dict[str, Any] = {
            "brokers": runtime.broker.address,
            "redis_url": runtime.redis.url,
            "partitions": PARTITIONS,
            "session_timeout": "6s",
        }
        settings = Settings(models_dir=folder / "models", **shared)
        worker = SlowWorker(made.path, folder / "workers", models_dir=folder / "models", **shared)
        traffic = Traffic(made, topics, settings)
        try:
            worker.started()
            here = Place(worker, traffic)
            here.send(WARM_UP)
            traffic.finish()
            wait_for_answers(traffic, here.sent)
            yield here
        finally:
            worker.kill()


@pytest.mark.parametrize("what", ["ingest", "card", "terminal", "broker", "redis"])
def test_what_is_slowed_a_hundredfold_holds_up_the_sources_and_loses_nothing(place: Place, what: str) -> None:
    before = place.worker.resident_bytes
    place.worker.slow(what)
    place.send(EVENTS)
    until(lambda: place.traffic.is_held, f"the sender waits for a slow {what}")
    seen = look([place.worker], place.traffic)
    until(lambda: place.traffic.is_held, "the sender waits still, or again")
    assert place.traffic.answered < place.sent
    place.worker.hurry()
    place.traffic.finish()
    wait_for_answers(place.traffic, place.sent)
    assert place.traffic.answered == place.sent
    assert max(seen.unread_bytes, seen.events_unread_bytes) < RETAINED_BYTES_PER_PARTITION
    assert max(seen.resident_bytes) - before < MEMORY_GROWS
    worked = place.worker.metrics()
    assert worked.value("driftwood_rows_total", stage="terminal") == place.sent
    assert worked.value("driftwood_copies_total") == 0
