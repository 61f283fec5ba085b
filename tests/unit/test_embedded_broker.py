from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from driftwood.embedded import EmbeddedBroker
from driftwood.embedded.broker import RETAINED_BYTES_PER_PARTITION, librdkafka_path
from features.errors import OperatorError

WITHIN_S = 120.0


def produce(address: str, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value=value, key=b"key", partition=partition, headers=[("position", b"1")])
    assert producer.flush(WITHIN_S) == 0


def consume(address: str, topic: str, group: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 2_000,  # a second consumer of the group waits for this, less 1 s
            "heartbeat.interval.ms": 300,
        }
    )
    consumer.subscribe([topic])
    records = consumer.consume(count, WITHIN_S)
    consumer.commit(asynchronous=False)
    consumer.close()
    return [record.value() or b"" for record in records]


async def produce_and_consume_with_aiokafka(
    address: str, topic: str, values: list[bytes]
) -> list[bytes | None]:
    async with AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id=topic, auto_offset_reset="earliest"
    )
    async with consumer, asyncio.timeout(WITHIN_S):
        seen = [(await consumer.getone()).value for _ in values]
        await consumer.commit()
        return seen


def test_what_confluent_kafka_produces_its_consumer_group_reads_in_order(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 1)
    values = [b"%d" % number for number in range(500)]
    produce(embedded_broker.address, unique_name, values)
    assert consume(embedded_broker.address, unique_name, unique_name, len(values)) == values


def test_a_group_goes_on_behind_what_it_committed(embedded_broker: EmbeddedBroker, unique_name: str) -> None:
    embedded_broker.create_topic(unique_name, 1)
    produce(embedded_broker.address, unique_name, [b"first", b"second", b"third"])
    assert consume(embedded_broker.address, unique_name, unique_name, 2) == [b"first", b"second"]
    assert consume(embedded_broker.address, unique_name, unique_name, 1) == [b"third"]


def test_aiokafka_produces_and_reads_through_a_group(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 2)
    values = [b"one", b"two", b"three"]
    seen = asyncio.run(produce_and_consume_with_aiokafka(embedded_broker.address, unique_name, values))
    assert seen == values


def test_topics_have_the_partitions_that_were_asked_for() -> None:
    with EmbeddedBroker().start({"one": 1}) as broker:
        broker.create_topic("seven", 7)
        topics = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=WITHIN_S).topics
    assert {name: len(topic.partitions) for name, topic in topics.items()} == {"one": 1, "seven": 7}


def test_creating_a_topic_again_is_nothing_and_changing_it_is_an_error(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 2)
    embedded_broker.create_topic(unique_name, 2)
    with pytest.raises(OperatorError, match="has 2 partitions and cannot get 3"):
        embedded_broker.create_topic(unique_name, 3)


def test_a_topic_that_a_client_named_too_early_is_explained(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    produce(embedded_broker.address, unique_name, [b"too early"])
    with pytest.raises(
        OperatorError, match=r"default of 4 partitions. Create topics before clients use them"
    ):
        embedded_broker.create_topic(unique_name, 2)


@pytest.mark.parametrize(
    ("name", "partitions"), [("none", 0), ("no/slash", 1), ("", 1), ("..", 1), ("n" * 250, 1)]
)
def test_a_topic_that_cannot_be_is_refused_and_the_broker_stays(
    embedded_broker: EmbeddedBroker, name: str, partitions: int, unique_name: str
) -> None:
    with pytest.raises(OperatorError, match="expected at least 1 partition"):
        embedded_broker.create_topic(name, partitions)
    embedded_broker.create_topic(unique_name, 1)


def test_the_oldest_records_are_dropped_at_the_documented_size(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 1)
    size = 500_000
    count = 2 * RETAINED_BYTES_PER_PARTITION // size
    produce(embedded_broker.address, unique_name, [b"%06d" % number * (size // 6) for number in range(count)])
    kept = RETAINED_BYTES_PER_PARTITION // size
    seen = consume(embedded_broker.address, unique_name, unique_name, kept)
    assert [int(value[:6]) for value in seen] == list(range(count - kept, count))


def test_a_broker_that_was_stopped_starts_again_empty() -> None:
    broker = EmbeddedBroker().start({"events": 1})
    broker.stop()
    broker.stop()
    with pytest.raises(OperatorError, match="not running"):
        broker.create_topic("labels", 1)
    with broker.start({"events": 3}):
        assert broker.topics == {"events": 3}


def test_a_failing_start_leaves_no_process_and_tells_the_remedy() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(OperatorError, match="'events' with 0 partitions"):
        broker.start({"events": 0})
    with pytest.raises(OperatorError, match="not running"):
        broker.create_topic("events", 1)


def test_a_confluent_kafka_without_librdkafka_inside_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.machinery.ModuleSpec(
        "confluent_kafka", None, origin=str(tmp_path / "confluent_kafka/__init__.py")
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    with pytest.raises(OperatorError, match="not installed from a wheel"):
        librdkafka_path()


def test_the_library_of_a_macos_wheel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "confluent_kafka" / ".dylibs" / "librdkafka.1.dylib"
    library.parent.mkdir(parents=True)
    library.touch()
    spec = importlib.machinery.ModuleSpec(
        "confluent_kafka", None, origin=str(tmp_path / "confluent_kafka/__init__.py")
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    assert librdkafka_path() == library
