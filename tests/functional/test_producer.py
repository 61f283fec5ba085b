"""Publishing to the embedded broker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka import Producer as PlainProducer

from driftwood.embedded import EmbeddedBroker
from streams.producer import Outgoing, Publisher, partition_of, settings_for


def read(address: str, topic: str, partitions: int, count: int) -> list[Message]:
    """`count` messages of all partitions from the beginning, or fewer after a minute."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        found += [message for message in consumer.consume(1000, timeout=0.2) if message.error() is None]
    consumer.close()
    return found


@pytest.fixture
def own_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker().start() as broker:
        yield broker


def test_what_was_delivered_is_in_the_log_in_order_with_keys_headers_and_times(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 2)
    messages = [
        Outgoing(
            unique_name, number % 2, b"k%d" % number, b"v%d" % number, [("h", b"%d" % number)], 1000 + number
        )
        for number in range(1000)
    ]

    async def scenario() -> None:
        publisher = Publisher(settings_for(embedded_broker.address, **{"compression.type": "lz4"}))
        await asyncio.gather(
            *(publisher.deliver(messages[start : start + 100]) for start in range(0, 1000, 100))
        )
        assert publisher.waiting_bytes == 0
        assert await publisher.close(5) == 0

    asyncio.run(scenario())
    found = read(embedded_broker.address, unique_name, 2, 1000)
    for partition in (0, 1):
        got = [
            (message.key(), message.value(), message.headers(), message.timestamp()[1])
            for message in found
            if message.partition() == partition
        ]
        expected = [message for message in messages if message.partition == partition]
        assert got == [(m.key, m.value, list(m.headers), m.timestamp_ms) for m in expected]


def test_our_partition_of_a_key_is_the_one_that_librdkafka_chooses(
    embedded_broker: EmbeddedBroker, unique_name: str
) -> None:
    embedded_broker.create_topic(unique_name, 7)
    keys = [b"key-%d" % number for number in range(500)] + ["ключ".encode(), b"\x00\xff"]
    producer = PlainProducer({"bootstrap.servers": embedded_broker.address, "partitioner": "consistent"})
    for key in keys:
        producer.produce(unique_name, key=key, value=b"theirs")
    producer.flush(60)
    found = read(embedded_broker.address, unique_name, 7, len(keys))
    assert len(found) == len(keys)
    for message in found:
        assert message.partition() == partition_of(message.key() or b"", 7)


@pytest.mark.crash
def test_deliver_waits_for_a_broker_that_is_away_and_goes_on_when_it_is_back(
    own_broker: EmbeddedBroker, unique_name: str
) -> None:
    own_broker.create_topic(unique_name, 1)

    async def scenario() -> None:
        publisher = Publisher(settings_for(own_broker.address))
        await publisher.deliver([Outgoing(unique_name, 0, None, b"before")])
        os.kill(own_broker.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(publisher.deliver([Outgoing(unique_name, 0, None, b"while")]))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        os.kill(own_broker.pid, signal.SIGCONT)
        await asyncio.wait_for(waiting, 60)
        await publisher.close(5)

    asyncio.run(scenario())
    values = [message.value() for message in read(own_broker.address, unique_name, 1, 2)]
    assert values == [b"before", b"while"]
