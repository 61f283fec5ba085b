"""Sends a pipeline's events into its `events` topic: at a rate, at the speed of their event times, or as fast as the
workers read.

Every record goes to the partition of its first entity's key, so that the events of one entity keep their order. Records
that cannot be decoded are sent as they are: judging them is the worker's job.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from driftwood.backlog import Backlog
from features.decode import Decoder
from features.errors import DeliveryError
from features.plan import Floats
from features.rows import entity_keys
from models.pipeline import Pipeline
from streams.producer import partition_of
from streams.settings import Settings
from streams.topics import Topic, predict_group

# Between two looks at what the group has committed. The limit can be overrun by what one look lets through, and
# `Production` hands out at most `SLICE` records between two checks of what it knows.
LOOK_EVERY_S = 0.1
SLICE = 500

# Records of one chunk are decoded together for their times and keys: large enough to be cheap, small enough to start.
CHUNK = 20_000

# A broker that is away this long ends the command: whoever watches it can start it again, with nothing sent twice.
DELIVER_WITHIN_S = 60.0

_quiet = logging.getLogger("driftwood.kafka.produce")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True)
class Sent:
    """How far it has come. `waiting_for` is the partition that holds the sender up, or None."""

    events: int
    size: int
    seconds: float
    unread_bytes: int
    waiting_for: str | None


@dataclass(frozen=True)
class Summary:
    """What was sent. `out_of_order` events are older than one before them, by up to `oldest_s` seconds.

    `undecodable` were sent all the same and become dead letters; `waited_s` was spent waiting for the workers.
    """

    topic: str
    events: int
    size: int
    seconds: float
    waited_s: float
    out_of_order: int
    oldest_s: float
    undecodable: int


@dataclass(frozen=True)
class Chunk:
    """Records in order, with the event time of each (NaN where it cannot be decoded) and the partition key."""

    values: Sequence[bytes]
    times_s: Floats
    keys: Sequence[bytes | None]


def chunks(records: Iterable[bytes], pipeline: Pipeline, now_ms: Callable[[], float]) -> Iterator[Chunk]:
    """The records with their times and keys, as the pipeline's own decoder reads them."""
    decoder = Decoder(pipeline.feature_set)
    entities = pipeline.feature_set.entities
    for part in _batched(records):
        decoded = decoder.decode([(value, int(now_ms())) for value in part])
        times_s = np.full(len(part), np.nan)
        times_s[decoded.index] = decoded.rows.times_us / 1e6
        keys: list[bytes | None] = [None] * len(part)
        if entities:
            for index, key in zip(decoded.index, entity_keys(decoded.rows, entities[0].keys), strict=True):
                keys[index] = None if key is None else key.encode()
        yield Chunk(part, times_s, keys)


def in_order(found: Iterable[Chunk]) -> Iterator[Chunk]:
    """All of them by event time, those of one time (and those without any, first) as they stood. Needs them in memory."""
    every = list(found)
    if not every:
        return
    times_s = np.concatenate([chunk.times_s for chunk in every])
    values = [value for chunk in every for value in chunk.values]
    keys = [key for chunk in every for key in chunk.keys]
    order = np.argsort(np.nan_to_num(times_s, nan=-np.inf), kind="stable")
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        yield Chunk([values[row] for row in part], times_s[part], [keys[row] for row in part])


class Schedule:
    """When each event is due, in seconds since the start: all at once, `rate` a second, or event time / `speed`.

    Example:
        >>> Schedule(rate=100.0).due(np.array([5.0, 5.0, 9.0]))
        array([0.  , 0.01, 0.02])
        >>> Schedule(speed=2.0).due(np.array([100.0, np.nan, 90.0, 104.0]))
        array([0., 0., 0., 2.])
    """

    def __init__(self, rate: float | None = None, speed: float | None = None) -> None:
        self._rate, self._speed = rate, speed
        self._events = 0
        self._first_s: float | None = None
        self._newest_s = -np.inf

    def due(self, times_s: Floats) -> Floats:
        """When the next events are due; an event is never due before the one in front of it."""
        numbers = np.arange(self._events, self._events + len(times_s))
        self._events += len(times_s)
        if self._rate is not None:
            return numbers / self._rate
        if self._speed is None:
            return np.zeros(len(times_s))
        newest = np.maximum.accumulate(np.nan_to_num(np.append(self._newest_s, times_s), nan=-np.inf))[1:]
        known = newest[np.isfinite(newest)]
        if self._first_s is None and len(known):
            self._first_s = float(known[0])
        self._newest_s = float(newest[-1]) if len(newest) else self._newest_s
        due: Floats = np.maximum(newest - (self._first_s or 0.0), 0.0) / self._speed
        return due


class Disorder:
    """Counts the events that are older than one before them."""

    def __init__(self) -> None:
        self.events, self.oldest_s, self.undecodable = 0, 0.0, 0
        self._newest_s = -np.inf

    def see(self, times_s: Floats) -> None:
        """The event times of the next events; NaN for those that cannot be decoded."""
        known = times_s[~np.isnan(times_s)]
        self.undecodable += len(times_s) - len(known)
        newest = np.maximum.accumulate(np.append(self._newest_s, known))
        behind = newest[:-1] - known
        self.events += int((behind > 0).sum())
        self.oldest_s = max(self.oldest_s, float(behind.max(initial=0.0)))
        self._newest_s = float(newest[-1])


class Production:
    """One run of sending into `topic`. `clock` and `sleep` are monotonic seconds; `told` hears of progress.

    `group` is whoever reads the topic: it is waited for while more than `unread_bytes_max` of a partition is unread
    (default: the workers of the predict road). `held` may ask for a wait of its own: it is told how many events were sent,
    and says whether to wait.

    Raises:
        DeliveryError: the broker did not take an event within `DELIVER_WITHIN_S`, or refused it.
    """

    def __init__(
        self,
        pipeline: str,
        topic: Topic,
        settings: Settings,
        *,
        group: str | None = None,
        told: Callable[[Sent], None] = lambda sent: None,
        held: Callable[[int], bool] = lambda events: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._topic, self._told, self._held = topic, told, held
        self._clock, self._sleep = clock, sleep
        self._limit = settings.unread_bytes_max
        self._group = Consumer(
            {**_config(settings), "group.id": group or predict_group(pipeline)}, logger=_quiet
        )
        self._producer = Producer(_producing(settings), logger=_quiet)
        self._partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        self._backlog = Backlog(self._standing())
        self._spread = itertools.count()
        self._failure: str | None = None
        self._started = clock()
        self._looked = self._started
        self._events = self._size = 0
        self._waited_s = 0.0

    def run(self, found: Iterable[Chunk], schedule: Schedule) -> Summary:
        """Send everything, wait for the broker's acknowledgements, and say what was sent."""
        disorder = Disorder()
        try:
            for chunk in found:
                disorder.see(chunk.times_s)
                self._send(chunk, schedule.due(chunk.times_s))
            self._finish()
        finally:
            self._producer.purge()
            self._group.close()
        seconds = self._clock() - self._started
        counted = (self._events, self._size, seconds, self._waited_s)
        return Summary(self._topic.name, *counted, disorder.events, disorder.oldest_s, disorder.undecodable)

    def _send(self, chunk: Chunk, due: Floats) -> None:
        sent = 0
        while sent < len(chunk.values):
            ready = min(int(np.searchsorted(due, self._clock() - self._started, side="right")), sent + SLICE)
            if ready <= sent:
                # At least 5 ms at a time: at 10,000 events a second one sleep for each would be all that happens.
                self._sleep(min(max(due[sent] - (self._clock() - self._started), 0.005), LOOK_EVERY_S))
            for row in range(sent, ready):
                self._produce(chunk.values[row], chunk.keys[row])
            sent = max(sent, ready)
            self._step()

    def _produce(self, value: bytes, key: bytes | None) -> None:
        count = self._topic.partitions
        partition = next(self._spread) % count if key is None else partition_of(key, count)
        while not self._taken(value, key, partition):
            self._producer.poll(LOOK_EVERY_S)  # the queue is full: reports make room
            self._check()
        self._backlog.sent(partition, len(value))
        self._events += 1
        self._size += len(value)

    def _taken(self, value: bytes, key: bytes | None, partition: int) -> bool:
        report = self._delivered(partition, len(value))
        try:
            self._producer.produce(self._topic.name, value, key, partition, on_delivery=report)
        except BufferError:
            return False
        except KafkaException as error:
            raise DeliveryError(f"an event was not taken: {error.args[0].str()}") from error
        return True

    def _delivered(self, partition: int, size: int) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failure = error.str()
            else:
                self._backlog.acknowledged(partition, message.offset() or 0, size)

        return report

    def _step(self) -> None:
        """Between two slices: reports, a look at the group now and then, and a wait while too much is unread."""
        self._producer.poll(0)
        self._check()
        self._look()
        while self._is_full() or self._held(self._events):
            partition, _ = self._backlog.fullest()
            self._tell(f"{self._topic.name}/{partition}")
            before = self._clock()
            self._producer.poll(LOOK_EVERY_S / 2)
            self._sleep(LOOK_EVERY_S / 2)
            self._waited_s += self._clock() - before
            self._check()
            self._look()

    def _is_full(self) -> bool:
        return bool(self._limit) and self._backlog.fullest()[1] > self._limit

    def _look(self) -> None:
        if self._clock() - self._looked >= LOOK_EVERY_S:
            self._looked = self._clock()
            self._backlog.committed(self._committed())

    def _tell(self, waiting_for: str | None) -> None:
        seconds = self._clock() - self._started
        self._told(Sent(self._events, self._size, seconds, self._backlog.fullest()[1], waiting_for))

    def _check(self) -> None:
        if self._failure is not None:
            raise DeliveryError(
                f"events were not taken by {self._topic.name} ({self._failure}): {self._events:,} had been handed over, "
                "the last of them may be missing. Look at the broker, then produce again: ids that came before are dropped"
            )

    def _finish(self) -> None:
        deadline = self._clock() + DELIVER_WITHIN_S
        while len(self._producer) and self._clock() < deadline:
            self._producer.poll(LOOK_EVERY_S)
            self._check()
        self._tell(None)
        if len(self._producer):
            raise DeliveryError(
                f"{len(self._producer):,} events were not acknowledged within {DELIVER_WITHIN_S:g} s"
            )

    def _standing(self) -> dict[int, tuple[int, int]]:
        standing = {}
        committed = self._committed()
        for partition in self._partitions:
            low, high = self._group.get_watermark_offsets(partition, timeout=DELIVER_WITHIN_S)
            standing[partition.partition] = (high, max(committed.get(partition.partition, low), low))
        return standing

    def _committed(self) -> dict[int, int]:
        """The group's committed offsets; nothing for a partition of which it has committed none."""
        try:
            offsets = self._group.committed(self._partitions, timeout=DELIVER_WITHIN_S)
        except KafkaException as error:
            raise DeliveryError(f"the broker does not say what was read: {error.args[0].str()}") from error
        return {one.partition: one.offset for one in offsets if one.offset >= 0}


def _config(settings: Settings) -> dict[str, Any]:
    return {**settings.kafka_client(), "enable.auto.commit": False, "error_cb": lambda error: None}


def _producing(settings: Settings) -> dict[str, Any]:
    return {
        **settings.kafka_client(),
        "enable.idempotence": True,
        "linger.ms": 5,
        "message.timeout.ms": int(DELIVER_WITHIN_S * 1000),
        # Records over the worker's limit are sent too: the worker makes dead letters of them.
        "message.max.bytes": settings.max_message_bytes,
        "queue.buffering.max.kbytes": 64 * 1024,
        "error_cb": lambda error: None,
    }


def _batched(records: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    """As `itertools.batched` of Python 3.12."""
    remaining = iter(records)
    while part := list(itertools.islice(remaining, CHUNK)):
        yield part
