"""The events of a chaos run: sent at a steady rate, some of them twice; and a reader that counts what was answered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.card_payments import payments, records
from features.plan import Ints
from streams.producer import partition_of
from streams.topics import Topic

CHUNK = 2_000  # events made at once
TURN_S = 0.02  # the sender's pace
REPEATED_SHARE = 0.002  # of events that are sent a second time, from among the last CHUNK

_quiet = logging.getLogger("benchmarks.chaos")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class _Background:
    """A thread that runs until the context ends; an error in it is raised by `check`."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def _run(self) -> None:
        raise NotImplementedError

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  # raised again where it can be seen
            self._error = error

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


class Sender(_Background):
    """Sends `count` events at `rate` a second to partitions at random; `sent` counts them, `repeated` the second ones.

    `terminal_partitions` int16[count]: the partition of the terminal's hop topic that answers each event.
    """

    def __init__(self, brokers: str, topic: Topic, count: int, rate: float, seed: int) -> None:
        super().__init__()
        self._topic, self._count, self._rate, self._seed = topic, count, rate, seed
        self._random = np.random.default_rng(seed)
        self._producer = Producer(
            {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 5}, logger=_quiet
        )
        self.terminal_partitions: Ints = np.full(count, -1, np.int64)
        self.sent = self.repeated = 0

    def _run(self) -> None:
        source, started = self._values(), time.monotonic()
        while self.sent < self._count and not self._over.is_set():
            due = min(self._count, int((time.monotonic() - started) * self._rate))
            for _ in range(due - self.sent):
                self._send(*next(source))
            self._producer.poll(0)
            time.sleep(TURN_S)
        if self._producer.flush(60.0):
            raise TimeoutError("the broker did not take every event")

    def _values(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The value of each event, and one to be sent again."""
        for first in range(0, self._count, CHUNK):
            made = payments(min(CHUNK, self._count - first), seed=self._seed, first=first)
            names = [partition_of(b"t%06d" % terminal, self._topic.partitions) for terminal in made.terminals]
            self.terminal_partitions[first : first + len(names)] = names
            values = [value for _, value in records(made)]
            for at, value in enumerate(values):
                again = self._random.random() < REPEATED_SHARE
                yield value, values[int(self._random.integers(at + 1))] if again else None

    def _send(self, value: bytes, again: bytes | None) -> None:
        self._produce(value)
        self.sent += 1
        if again is not None:
            self._produce(again)
            self.repeated += 1

    def _produce(self, value: bytes) -> None:
        while True:
            try:
                partition = int(self._random.integers(self._topic.partitions))
                self._producer.produce(self._topic.name, value, partition=partition)
                return
            except BufferError:
                self._producer.poll(0.1)


class Answered(_Background):
    """Reads predictions as they come: `count` of the events have one; `told` hears the number of each that is new."""

    def __init__(self, brokers: str, topic: Topic, events: int, told: Callable[[int], None]) -> None:
        super().__init__()
        self._told, self.count = told, 0
        self._known = bytearray(events)
        config: dict[str, Any] = {
            "bootstrap.servers": brokers,
            "group.id": "chaos-reader",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
        self._consumer = Consumer(config, logger=_quiet)
        self._consumer.assign(
            [TopicPartition(topic.name, at, OFFSET_BEGINNING) for at in range(topic.partitions)]
        )

    def _run(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(5_000, 0.05):
                if message.error() is None:
                    key: Any = message.key()
                    self._take(int(key[1:]))
        self._consumer.close()

    def _take(self, number: int) -> None:
        if not self._known[number]:
            self._known[number] = 1
            self.count += 1
            self._told(number)
