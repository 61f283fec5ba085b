from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.kafka.real_kafka import RealKafka

WITHIN_S = 120.0

PARENT = """
import json, signal, sys
from pathlib import Path
from deploy.kafka.real_kafka import RealKafka
kafka = RealKafka().start(Path(sys.argv[1]))
print(json.dumps(kafka.pid), flush=True)
signal.pause()
"""


def create_topic(address: str, name: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(WITHIN_S)


def produce(address: str, topic: str, value: bytes) -> None:
    producer = Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "message.max.bytes": 16_000_000,
            "linger.ms": 0,
        }
    )
    producer.produce(topic, value=value)
    assert producer.flush(WITHIN_S) == 0


def read(address: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    records = consumer.consume(count, WITHIN_S)
    consumer.close()
    return [record.value() or b"" for record in records]


def test_it_takes_records_of_ten_megabytes(kafka: RealKafka, unique_name: str) -> None:
    create_topic(kafka.address, unique_name)
    produce(kafka.address, unique_name, b"x" * 10_000_000)
    assert [len(value) for value in read(kafka.address, unique_name, 1)] == [10_000_000]


def test_a_topic_that_a_client_merely_names_is_not_created(kafka: RealKafka, unique_name: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    assert admin.list_topics(unique_name, timeout=WITHIN_S).topics[unique_name].error is not None


@pytest.mark.crash
def test_records_and_address_are_the_same_after_a_stop_and_after_a_crash(
    kafka_data_dir: Path, unique_name: str
) -> None:
    kafka = RealKafka().start(kafka_data_dir, extra_properties={"log.flush.interval.messages": "1"})
    address = kafka.address
    create_topic(address, unique_name)
    produce(address, unique_name, b"before the stop")
    kafka.stop()
    with kafka.start(kafka_data_dir):
        produce(address, unique_name, b"before the crash")
        kafka.kill()
    with kafka.start(kafka_data_dir):
        assert kafka.address == address
        assert read(address, unique_name, 2) == [b"before the stop", b"before the crash"]


@pytest.mark.crash
def test_kafka_ends_when_its_parent_is_killed(kafka_data_dir: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, kafka_data_dir], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    kafka = json.loads(parent.stdout.readline())
    assert psutil.pid_exists(kafka)
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=WITHIN_S)
    deadline = time.monotonic() + WITHIN_S
    while psutil.pid_exists(kafka) and psutil.Process(kafka).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
