"""The predict road on a real Kafka: several workers, several partitions, workers that come and go.

The order in the hop topics is the truth: they are read back, and every prediction must be what that order gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from features.errors import OperatorError
from models.model_store import ModelStore
from streams.frames import Frame, FrameCodec
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.card_payments import (
    Payments,
    as_served,
    bits,
    encoded,
    entity_features,
    feast_has,
    payments,
    payments_pipeline,
    served,
)
from tests.kafka_records import Reader, Sender, headers
from tests.payments_on_kafka import Traffic
from tests.worker_process import Start, WorkerProcess, until

PARTITIONS = 4
OPERATOR = OperatorError.exit_code


@dataclass(frozen=True)
class Place:
    """A pipeline with its topics on a Kafka, and the settings of its workers."""

    payments: Payments
    address: str
    settings: dict[str, Any]

    def sender(self) -> Sender:
        return Sender(self.address, f"{self.payments.name}.events")

    def reader(self, kind: str) -> Reader:
        return Reader(self.address, f"{self.payments.name}.{kind}", PARTITIONS)

    @contextmanager
    def answers(self) -> Iterator[Answers]:
        with self.reader("predictions") as reader:
            yield Answers(reader)

    def worker(self, start: Start, stages: Sequence[str] = (), **settings: object) -> WorkerProcess:
        return start(self.payments.path, stages, **self.settings | settings)


@pytest.fixture
def place(tmp_path: Path, kafka: RealKafka, embedded_redis: EmbeddedRedis) -> Place:
    payments = payments_pipeline(tmp_path)
    TopicAdmin(Settings(brokers=kafka.address)).create(payments.topics(PARTITIONS))
    settings = {
        "brokers": kafka.address,
        "redis_url": embedded_redis.url,
        "partitions": PARTITIONS,
        "models_dir": tmp_path / "models",
        "session_timeout": "6s",
    }
    return Place(payments, kafka.address, settings)


class Answers:
    """Predictions by event id, as a consumer has them that drops copies by their position."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._read = reader, 0
        self._values: dict[str, bytes] = {}
        self.by_event: dict[str, dict[str, Any]] = {}

    @property
    def copies(self) -> int:
        return self._read - len(self._values)

    def wait_for(self, count: int) -> dict[str, dict[str, Any]]:
        until(lambda: self._look() >= count, f"{count} answers")
        return self.by_event

    def _look(self) -> int:
        for message in self._reader.read(0.1)[self._read :]:
            self._take(headers(message)["position"], message.value() or b"")
            self._read += 1
        return len(self.by_event)

    def _take(self, position: str, value: bytes) -> None:
        if position in self._values:
            assert self._values[position] == value, "a copy differs"
            return
        self._values[position] = value
        answer = json.loads(value)
        assert answer["event_id"] not in self.by_event, "an event was answered twice"
        self.by_event[answer["event_id"]] = answer


# What the hop topics recorded, and what it must come to.


def recorded(place: Place, number: int) -> list[Frame]:
    """The rows that stand in each partition of a hop topic, in order, each position once."""
    plan = place.payments.feature_set.entities[number]
    codec = FrameCodec(place.payments.feature_set, number)
    with place.reader(f"hop-{plan.entity}") as reader:
        messages = reader.wait_for(reader.end())
    frames: list[list[Frame]] = [[] for _ in range(PARTITIONS)]
    known: set[tuple[int, str, int, int]] = set()
    for message in sorted(messages, key=lambda message: message.offset() or 0):
        partition, frame = message.partition() or 0, codec.decode(message.value() or b"")
        pairs = zip(frame.upstream_offsets.tolist(), frame.upstream_rows.tolist(), strict=True)
        places = [(partition, headers(message)["upstream"], *pair) for pair in pairs]
        new = [row for row, at in enumerate(places) if at not in known]
        known.update(places)
        frames[partition].append(frame.take(np.array(new, np.int64)))
    return [codec.join(found) if found else codec.empty() for found in frames]


def equal_to_the_recorded_order(
    place: Place, answers: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Assert that features and scores are what the hop topics' order gives; the newest answer by entity and key."""
    feature_set = place.payments.feature_set
    known: dict[str, list[float]] = {}
    newest: dict[str, dict[str, Any]] = {plan.entity: {} for plan in feature_set.entities}
    for number, plan in enumerate(feature_set.entities):
        for frame in recorded(place, number):
            found = entity_features(plan, frame.rows)
            for row, name in enumerate(frame.rows.event_ids.to_pylist()):
                assert bits(known.get(name, [])) == bits(frame.windows[row].tolist())
                known[name] = [*frame.windows[row].tolist(), *found.features[row].tolist()]
            for key, row in found.newest:
                newest[plan.entity][key] = answers[frame.rows.event_ids[row].as_py()]
            if number == len(feature_set.entities) - 1:
                equal(place, answers, frame, np.hstack([frame.windows, found.features]))
    assert known.keys() == answers.keys()
    return newest


def equal(place: Place, answers: dict[str, dict[str, Any]], frame: Frame, windows: Any) -> None:
    matrix = place.payments.feature_set.assemble(frame.rows, windows)
    pipeline = place.payments.pipeline
    for row, name in enumerate(frame.rows.event_ids.to_pylist()):
        answer = answers[name]
        assert bits(served(matrix.names, answer)) == bits(as_served(matrix, row))
        assert answer["position"].endswith(f"/{frame.origin_partitions[row]}/{frame.origin_offsets[row]}")
    if len(frame):
        version = answers[frame.rows.event_ids[0].as_py()]["parts"]["fallback"]["version"]
        scores = ModelStore(Path()).load(pipeline, version).score(matrix).tolist()
        assert bits([answers[name]["score"] for name in frame.rows.event_ids.to_pylist()]) == bits(scores)


def test_workers_come_and_go_and_every_event_has_one_answer_as_the_hop_topics_recorded(
    place: Place, start: Start, tmp_path: Path
) -> None:
    first, second = place.worker(start), place.worker(start)
    first.started(), second.started()
    assert first.said["metrics_url"] != second.said["metrics_url"]
    with place.answers() as answers:
        with Traffic(place, rate=200) as traffic:
            answers.wait_for(500)
            third = place.worker(start)  # takes some seconds until it joins; the events go on
            assert first.stop() == 0
            answers.wait_for(len(traffic.events) + 200)
            third.started()
            until(lambda: third.metrics().value("driftwood_events_total") > 100, "the newcomer has work")
            answers.wait_for(len(traffic.events) + 200)
        answered = answers.wait_for(len(traffic.events))
        assert answered.keys() == {event["payment_id"] for event in traffic.events}
        assert [second.stop(), third.stop()] == [0, 0]
        answers.wait_for(len(traffic.events))
        print(f"{len(traffic.events)} events, {answers.copies} copies of predictions")
    newest = equal_to_the_recorded_order(place, answered)
    feast_has(tmp_path / "feast", place.payments, place.settings["redis_url"], newest)


def test_workers_that_run_different_stages_give_the_same_together(place: Place, start: Start) -> None:
    some, others = place.worker(start, ["ingest"]), place.worker(start, ["card", "terminal"])
    some.started(), others.started()
    events = payments(3_000)
    with place.answers() as answers:
        place.sender().send((number % PARTITIONS, encoded(event)) for number, event in enumerate(events))
        answered = answers.wait_for(len(events))
    assert answered.keys() == {event["payment_id"] for event in events}
    assert some.metrics().value("driftwood_events_total", stage="ingest") == len(events)
    assert some.metrics().value("driftwood_rows_total", stage="card") == 0
    assert others.metrics().value("driftwood_events_total", stage="ingest") == 0
    assert others.metrics().value("driftwood_rows_total", stage="terminal") == len(events)
    assert [some.stop(), others.stop()] == [0, 0]
    equal_to_the_recorded_order(place, answered)


@pytest.mark.crash
def test_a_worker_whose_redis_has_stopped_for_good_ends_with_a_named_error(
    place: Place, start: Start
) -> None:
    with EmbeddedRedis().start() as redis:
        worker = place.worker(start, redis_url=redis.url, stall_timeout="10s").started()
        with place.answers() as answers, Traffic(place, rate=200):
            answers.wait_for(50)
            redis.stop()
            assert worker.ended() == OPERATOR
    last = worker.stderr.strip().splitlines()[-1]
    assert last.startswith(f"driftwood: Redis does not answer at {redis.url} (setting redis_url)")


@pytest.mark.crash
def test_a_worker_that_was_killed_is_followed_by_one_that_goes_on(place: Place, start: Start) -> None:
    first = place.worker(start).started()
    events = payments(2_000)
    records = [(number % PARTITIONS, encoded(event)) for number, event in enumerate(events)]
    with place.answers() as answers:
        place.sender().send(records[:1_000])
        answers.wait_for(100)
        first.kill()
        second = place.worker(start).started()
        place.sender().send(records[1_000:])
        answered = answers.wait_for(len(events))
        assert second.stop() == 0
    equal_to_the_recorded_order(place, answered)


def test_a_hop_topic_that_was_made_anew_is_refused_with_the_remedy(place: Place, start: Start) -> None:
    first = place.worker(start).started()
    with place.answers() as answers:
        place.sender().send(
            (number % PARTITIONS, encoded(event)) for number, event in enumerate(payments(200))
        )
        answers.wait_for(200)
    assert first.stop() == 0
    name = f"{place.payments.name}.hop-card"
    deleting = AdminClient({"bootstrap.servers": place.address})
    deleting.delete_topics([name])[name].result(120)
    admin = TopicAdmin(Settings(brokers=place.address))
    until(lambda: name not in admin.cluster().topics, "the topic is gone")
    admin.create(place.payments.topics(PARTITIONS))
    second = place.worker(start)
    assert second.ended() == OPERATOR
    last = second.stderr.strip().splitlines()[-1]
    assert last.startswith(f"driftwood: the state of {name}/")
    assert "the topic was made again or another broker is configured. Point `brokers` at the old one" in last
