"""Plain clients of a broker, as users of the product have them: confluent-kafka, nothing of ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

LARGEST = 16_000_000  # bytes of a message: beyond the 10 MB that tests send

_quiet = logging.getLogger("tests.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Sender:
    """Sends records to chosen partitions, in order."""

    def __init__(self, address: str, topic: str) -> None:
        config: dict[str, Any] = {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "message.max.bytes": LARGEST,
            "linger.ms": 2,
        }
        self._producer, self._topic = Producer(config, logger=_quiet), topic
        self.offsets: list[tuple[int, int]] = []
        self._failed: list[str] = []

    def send(self, records: Iterable[tuple[int, bytes | None]]) -> None:
        """Send (partition, value) pairs and wait for all acknowledgements."""
        for partition, value in records:
            self.produce(partition, value)
        self.flush()

    def produce(self, partition: int, value: bytes | None) -> None:
        """Send one record; `flush` waits for the acknowledgements."""
        while True:
            try:
                self._producer.produce(self._topic, value, partition=partition, on_delivery=self._told)
                self._producer.poll(0)
                break
            except BufferError:
                self._producer.poll(0.1)

    def flush(self, within_s: float = 120.0) -> None:
        """Wait for all acknowledgements; `offsets` has (partition, offset) of the records, by arrival of those."""
        assert self._producer.flush(within_s) == 0, "the broker did not take everything"
        assert not self._failed, self._failed[0]

    def _told(self, error: Any, message: Message) -> None:
        if error is not None:
            self._failed.append(str(error))
        else:
            self.offsets.append((message.partition() or 0, message.offset() or 0))


class Reader:
    """Reads all partitions of a topic from their beginnings; `messages` has what came so far."""

    def __init__(self, address: str, topic: str, partitions: int) -> None:
        config: dict[str, Any] = {
            "bootstrap.servers": address,
            "group.id": f"reader of {topic}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": LARGEST,
        }
        self._consumer = Consumer(config, logger=_quiet)
        self._consumer.assign(
            [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)]
        )
        self.topic, self.messages = topic, list[Message]()

    def read(self, within_s: float = 0.0) -> list[Message]:
        """All that has come, after one wait of at most `within_s` for more."""
        for message in self._consumer.consume(10_000, within_s):
            error = message.error()
            assert error is None or error.retriable(), f"{self.topic}: {error}"
            if error is None:
                self.messages.append(message)
        return self.messages

    def wait_for(self, count: int, within_s: float = 120.0) -> list[Message]:
        """At least this many messages; fails when they have not come in time."""
        deadline = time.monotonic() + within_s
        while len(self.read(0.05)) < count:
            assert time.monotonic() < deadline, f"{self.topic}: {len(self.messages)} of {count} messages came"
        return self.messages

    def end(self) -> int:
        """How many records stand in the topic now, when nothing was deleted from it."""
        return sum(self._consumer.get_watermark_offsets(tp, 10.0)[1] for tp in self._consumer.assignment())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()


def headers(message: Message) -> dict[str, str]:
    """The headers of a record, as texts."""
    found: Any = message.headers() or []
    return {name: value.decode() for name, value in found}
