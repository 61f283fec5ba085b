"""Reads the log of a partition from one offset to another, outside any consumer group: nothing is committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.errors import PositionError, TopicError, UnreachableError
from streams.batch import Partition, Record
from streams.settings import Settings
from streams.topics import ANSWER_WITHIN_S

# Between two looks at whether the broker has been silent for too long.
POLL_S = 0.2

_quiet = logging.getLogger("driftwood.kafka.log")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it stands in the log; `timestamp` in milliseconds since the epoch, -1: none."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class TopicLog:
    """The logs of a broker's topics, read by `settings`.

    Raises:
        TopicError: the broker does not let the topic be read.
        PositionError: records were removed from the log while it was read.
        UnreachableError: nothing came from the broker for `stall_timeout`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def bounds(self, place: Partition) -> tuple[int, int]:
        """The offset of the oldest record, and the one that the next record will have."""
        consumer = self._consumer()
        try:
            oldest, following = consumer.get_watermark_offsets(
                TopicPartition(*place), timeout=ANSWER_WITHIN_S
            )
        except KafkaException as error:
            raise _failure(place, error.args[0]) from error
        finally:
            consumer.close()
        return oldest, following

    def read(self, place: Partition, first: int, end: int) -> Iterator[Sequence[Record]]:
        """The records from `first` to before `end`, at most a batch of them at a time (`batch_max_records`, `…_bytes`)."""
        if first >= end:
            return
        consumer = self._consumer()
        consumer.assign([TopicPartition(*place, first)])
        try:
            waiting: list[Record] = []
            size = 0
            for message in self._messages(consumer, place):
                record = _record(message)
                if record.offset >= end:
                    break
                waiting.append(record)
                size += len(record.value or b"")
                if len(waiting) >= self._settings.batch_max_records or size >= self._settings.batch_max_bytes:
                    yield waiting
                    waiting, size = [], 0
                if record.offset + 1 >= end:
                    break
            if waiting:
                yield waiting
        finally:
            consumer.close()

    def _messages(self, consumer: Consumer, place: Partition) -> Iterator[Message]:
        """To the present end of the partition."""
        patience_s = self._settings.stall_timeout.total_seconds()
        heard = time.monotonic()
        while time.monotonic() - heard < patience_s:
            for message in consumer.consume(self._settings.batch_max_records, POLL_S):
                heard = time.monotonic()
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # its public name has the underscore
                    return
                elif not error.retriable():
                    raise _failure(place, error)
        raise UnreachableError(
            "Kafka", "brokers", self._settings.brokers, f"nothing came for {patience_s:g} s"
        )

    def _consumer(self) -> Consumer:
        config: dict[str, Any] = {
            **self._settings.kafka_client(),
            "group.id": "driftwood-rebuild",  # librdkafka asks for one; it is never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "error_cb": lambda error: None,
        }
        return Consumer(config, logger=_quiet)


def _record(message: Message) -> StoredRecord:
    # A message without an error has all of these; the stubs know only of messages that may not have.
    offset: Any = message.offset()
    key: Any = message.key()
    value: Any = message.value()
    headers: Any = message.headers() or []
    return StoredRecord(offset, message.timestamp()[1], key, value, headers)


def _failure(place: Partition, error: KafkaError) -> Exception:
    topic, number = place
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001  # as above
        return PositionError(
            f"{topic}/{number}: records were removed from the log while it was read ({error.str()}): begin again"
        )
    return TopicError(f"{topic}/{number} cannot be read: {error.str()}")
