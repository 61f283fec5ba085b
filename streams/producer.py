"""Publishing: a batch of messages goes out, and the caller hears when the broker has ALL of them.

An idempotent producer of librdkafka with the gapless guarantee: the broker refuses a message of a partition unless it
has every one before it, and librdkafka stops for good rather than leave one out. So one delivery report for the last
message of a batch in each partition speaks for all before it, and only that one calls into Python. A report for every
message costs 0.5 microseconds of CPU each, measured on batches of 500, where sending itself costs 1.0 to 1.2.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from features.errors import DeliveryError, DeveloperError
from features.plan import Ints
from streams.batch import Partition

RECORD_OVERHEAD_BYTES = 160
"""Most that the record format adds to key, value and headers: 61 bytes of a record batch of one, about 40 of the record
itself, and room to spare."""

HEADER_OVERHEAD_BYTES = 10
"""Most that the lengths of one header's name and value take: two variable-length integers of five bytes."""

NEARLY = 64 * 1024
"""Headers are only added up for messages within this many bytes of the limit: adding them up costs as much as sending.
No header of ours is that long; the broker refuses what is over the limit all the same."""

POLL_S = 0.5
"""How long the thread waits for reports before it looks whether it should end, in seconds; a report wakes it at once."""

FULL_S = 0.05
"""How long `deliver` waits for a report before it tries again to put a message into a full queue, in seconds."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)
# librdkafka warns of this at every start; we rely on it knowingly, and an operator can do nothing about it.
_log.addFilter(lambda record: "enable.gapless.guarantee is experimental" not in record.getMessage())


class Outgoing(NamedTuple):
    """A message to be published. `timestamp_ms` None: now.

    The partition is the caller's to work out (`partition_of`): asking the broker for its number of partitions would be one
    more thing that fails while it is away.
    """

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: CRC-32 modulo the number of partitions, as librdkafka's default partitioner has it.

    Example:
        >>> partition_of(b"JFK", 8)
        7
    """
    return zlib.crc32(key) % partitions


def partitions_of(keys: Iterable[str], partitions: int) -> Ints:
    """int64[n]: the partitions of keys that are texts.

    Example:
        >>> partitions_of(["JFK", "EWR"], 8).tolist()
        [7, 2]
    """
    return np.fromiter(map(zlib.crc32, map(str.encode, keys)), np.int64) % partitions


def settings_for(servers: str, **more: str | float | bool) -> dict[str, str | float | bool]:
    """librdkafka's settings of a publisher; `more` overrides or adds (security, compression, limits).

    `linger.ms` gathers what is produced in one go into one request; it is waited once per hop. In memory at most
    `queue.buffering.max.kbytes` wait for acknowledgement; beyond, `deliver` waits.
    """
    return {
        "bootstrap.servers": servers,
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "acks": "all",
        # Never give a message up by itself: a broker that is away for a minute is waited for, and whoever watches the
        # worker's progress decides when that has been too long.
        "message.timeout.ms": 0,
        "linger.ms": 1,
        "compression.type": "none",
        "message.max.bytes": 1_000_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "queue.buffering.max.messages": 200_000,
        # Default is 10 s: that long nothing would happen after the broker is back.
        "reconnect.backoff.max.ms": 1000,
        **more,
    }


class Publisher:
    """The process's one producer. `deliver` belongs to one event loop; one thread of its own waits for the reports."""

    def __init__(
        self,
        settings: Mapping[str, str | float | bool],
        troubled: Callable[[], None] = lambda: None,
    ) -> None:
        """`troubled` is called, in the reporting thread, for each trouble with a broker that may pass by itself."""
        self._troubled = troubled
        # error_cb is called by poll, in the reporting thread.
        config: dict[str, Any] = {**settings, "error_cb": self._on_error}
        self._producer = Producer(config, logger=_log)
        self._max_bytes = int(settings.get("message.max.bytes", 1_000_000))
        self._max_waiting = int(settings.get("queue.buffering.max.kbytes", 64 * 1024)) * 1024 // 2
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._unfinished: set[_Delivery] = set()
        self._waiting_bytes = 0
        self._failure: DeliveryError | None = None
        self._ending = threading.Event()
        self._reports = threading.Thread(target=self._poll, name="delivery reports", daemon=True)
        self._reports.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were produced and are not acknowledged yet."""
        return self._waiting_bytes

    def oversized(self, messages: Sequence[Outgoing]) -> list[int]:
        """Which of the messages (their indices) are over `message.max.bytes`: they must not be given to `deliver`."""
        nearly = self._max_bytes - NEARLY
        return [
            index
            for index, message in enumerate(messages)
            if len(message.value) + len(message.key or b"") > nearly and _size(message) > self._max_bytes
        ]

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """Publish the messages in this order and return when the broker has acknowledged every one.

        The answer is the offset of the last message in each partition.

        It waits for as long as the broker is away. Batches go out in the order of the calls.

        Raises:
            DeliveryError: a message was refused, now or in any batch before. Some of the batch may have been taken. The
                process must end and repeat the batch from its recorded position; this publisher does nothing more.
            DeveloperError: a message is `oversized`; nothing was sent.
        """
        if not messages:
            return {}
        self._loop = asyncio.get_running_loop()
        if too_large := self.oversized(messages):
            raise DeveloperError(
                f"{len(too_large)} messages are over {self._max_bytes} bytes; ask `oversized` first"
            )
        async with self._turn:
            size = sum([len(message.value) + RECORD_OVERHEAD_BYTES for message in messages])
            await self._wait_for_room(size)
            self._check()
            last = {(message.topic, message.partition): index for index, message in enumerate(messages)}
            reported = set(last.values())
            delivery = _Delivery(size, len(reported), self._finish_later, self._fail_later)
            self._unfinished.add(delivery)
            self._waiting_bytes += size
            try:
                await self._produce(messages, reported, delivery)
            except BaseException:
                self._finish(delivery)  # its last messages are not out, so no report would ever finish it
                raise
        # A caller that is cancelled leaves the messages on their way; their bytes are counted until they are reported.
        await asyncio.shield(delivery.done)
        return delivery.offsets

    async def close(self, deadline_s: float) -> int:
        """Wait up to `deadline_s` for what is on its way, then give it up; the number of batches given up.

        Returns in time also when the broker is gone. Whoever still waits in `deliver` gets a DeliveryError.
        """
        waiting = [delivery.done for delivery in self._unfinished]
        if waiting:
            await asyncio.wait(waiting, timeout=deadline_s)
        abandoned = len(self._unfinished)
        self._fail("the publisher was closed before the broker had acknowledged everything")
        self._ending.set()
        await asyncio.to_thread(self._end)
        return abandoned

    def _end(self) -> None:
        self._producer.purge()
        self._reports.join()
        self._producer.poll(0)

    async def _wait_for_room(self, size: int) -> None:
        while self._waiting_bytes and self._waiting_bytes + size > self._max_waiting:
            await self._next_report()

    async def _next_report(self) -> None:
        self._check()
        self._room.clear()
        try:
            async with asyncio.timeout(FULL_S):
                await self._room.wait()
        except TimeoutError:
            pass  # a batch larger than librdkafka's queue gets no report before its last message is in: try again

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _produce(self, messages: Sequence[Outgoing], reported: set[int], delivery: _Delivery) -> None:
        produce = self._producer.produce
        for index, (topic, partition, key, value, headers, timestamp_ms) in enumerate(messages):
            report = delivery if index in reported else None
            while True:
                try:
                    produce(topic, value, key, partition, report, None, timestamp_ms or 0, list(headers))
                    break
                except BufferError:
                    await self._next_report()
                except KafkaException as error:
                    self._fail(f"topic {topic}, partition {partition}: {error}")
                    self._check()

    # In the reporting thread.

    def _poll(self) -> None:
        while not self._ending.is_set():
            self._producer.poll(POLL_S)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fail_later(f"the producer stopped for good: {error}")
        else:
            self._troubled()
            _log.warning("Kafka producer: %s", error)

    def _finish_later(self, delivery: _Delivery) -> None:
        self._in_loop(self._finish, delivery)

    def _fail_later(self, what: str) -> None:
        self._in_loop(self._fail, what)

    def _in_loop(self, call: Callable[[_T], None], argument: _T) -> None:
        # Reports still come while the process ends and its loop is closed already.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, argument)

    # Back in the loop.

    def _fail(self, what: str) -> None:
        if self._failure is None:
            self._failure = DeliveryError(
                f"{what}. The process has to end; it repeats the batch when started again"
            )
        for delivery in list(self._unfinished):
            self._finish(delivery)

    def _finish(self, delivery: _Delivery) -> None:
        if delivery in self._unfinished:
            self._unfinished.discard(delivery)
            self._waiting_bytes -= delivery.size
            self._room.set()
            if self._failure is None:
                delivery.done.set_result(None)
            else:
                delivery.done.set_exception(self._failure)
                delivery.done.exception()  # heard, also when the caller was cancelled meanwhile


def _size(message: Outgoing) -> int:
    headers = sum(HEADER_OVERHEAD_BYTES + len(name) + len(value or b"") for name, value in message.headers)
    return RECORD_OVERHEAD_BYTES + len(message.key or b"") + len(message.value) + headers


class _Delivery:
    """One batch on its way: what librdkafka calls with the report of the last message in each partition."""

    __slots__ = ("_fail", "_finish", "_reports", "done", "offsets", "size")

    def __init__(
        self, size: int, reports: int, finish: Callable[[_Delivery], None], fail: Callable[[str], None]
    ) -> None:
        self.size, self._reports, self._finish, self._fail = size, reports, finish, fail
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.offsets: dict[Partition, int] = {}

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            place = f"topic {message.topic()}, partition {message.partition()}"
            self._fail(f"{place}: the broker did not take a message: {error}")
            return
        # A message that was taken has all three; the stubs know only of messages that may not have been.
        self.offsets[message.topic(), message.partition()] = message.offset()  # type: ignore[index, assignment]
        self._reports -= 1
        if not self._reports:
            self._finish(self)
