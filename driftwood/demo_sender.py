"""Events and labels in one order of time: a label is sent when it became known, behind the events before that.

At the speed of a demo a tenth of a second is hours of event time. So the sender keeps both in step: it waits while more
events are not answered, or more labels not joined, than a few batches. What skew is left is measured (`demo_labels.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

from features.errors import DeliveryError
from features.plan import Ints
from streams.producer import partition_of
from streams.settings import Settings
from streams.topics import Topic

# Between two looks at how far the workers are.
SLICE = 25
WAIT_S = 0.002

DELIVER_WITHIN_S = 60.0

# librdkafka reports connection troubles as log lines on stderr; what matters of them is the error that we raise.
_quiet = logging.getLogger("driftwood.kafka.demo")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True)
class Timed:
    """Records of one topic: int64[n] times in microseconds (event time, or when a label became known), values, keys."""

    topic: Topic
    times_us: Ints
    values: Sequence[bytes]
    keys: Sequence[bytes]


def merged(streams: Sequence[Timed]) -> Iterator[tuple[int, int]]:
    """(stream, row) in the order of time; of one time, the streams as they stand here: events before labels.

    Example:
        >>> topic = Topic("shop.events", 1)
        >>> events = Timed(topic, np.array([1, 3]), [b"", b""], [b"", b""])
        >>> list(merged([events, Timed(topic, np.array([2, 3]), [b"", b""], [b"", b""])]))
        [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    times_us = np.concatenate([stream.times_us for stream in streams])
    numbers = np.repeat(np.arange(len(streams)), [len(stream.times_us) for stream in streams])
    rows = np.concatenate([np.arange(len(stream.times_us)) for stream in streams])
    order = np.lexsort((rows, numbers, times_us))
    return iter(zip(numbers[order].tolist(), rows[order].tolist(), strict=True))


class MergedSender:
    """Sends several topics in one order. `sent` counts the records of each stream.

    `held` is told of these counts and says whether to wait; `told` hears of each record, its stream and its key, and says
    whether it is sent at all.
    """

    def __init__(
        self,
        settings: Settings,
        streams: Sequence[Timed],
        held: Callable[[Sequence[int]], bool],
        told: Callable[[int, bytes], bool],
    ) -> None:
        self._streams, self._held, self._told = streams, held, told
        self._producer = Producer({**_config(settings), "on_delivery": self._delivered}, logger=_quiet)
        self._failure: str | None = None
        self.sent = [0] * len(streams)

    def run(self) -> None:
        """Send everything. Raises `DeliveryError` when the broker does not take a record."""
        for count, (number, row) in enumerate(merged(self._streams)):
            if count % SLICE == 0:
                self._step()
            stream = self._streams[number]
            if self._told(number, stream.keys[row]):
                self.put(stream.topic, stream.keys[row], stream.values[row])
                self.sent[number] += 1
        deadline = time.monotonic() + DELIVER_WITHIN_S
        while len(self._producer) and time.monotonic() < deadline:
            self._producer.poll(WAIT_S)
        self._check(missing=len(self._producer))

    def put(self, topic: Topic, key: bytes, value: bytes) -> None:
        """One record now; from any thread."""
        self._producer.produce(topic.name, value, key, partition_of(key, topic.partitions))

    def _step(self) -> None:
        self._producer.poll(0)
        self._check()
        while self._held(self.sent):
            self._producer.poll(0)
            time.sleep(WAIT_S)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = error.str()

    def _check(self, missing: int = 0) -> None:
        if self._failure is not None or missing:
            raise DeliveryError(f"records were not taken: {self._failure or f'{missing} not acknowledged'}")


def _config(settings: Settings) -> dict[str, Any]:
    return {
        **settings.kafka_client(),
        "enable.idempotence": True,
        "linger.ms": 1,
        "message.timeout.ms": int(DELIVER_WITHIN_S * 1000),
        "error_cb": lambda error: None,
    }
