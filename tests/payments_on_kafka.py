"""The payments pipeline on a real Kafka: topics, workers, traffic, and what everything must have come to at the end.

At the end the topics are read back. From nothing but the raw events and the order of the rows on the hop topics follows
what every prediction, every entity's state and every Feast row must be (`tests/kafka_run.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.card_payments import Payments, encoded, payments, payments_pipeline
from tests.kafka_records import Reader, Sender
from tests.kafka_run import KafkaRun, read_run, stored, undisturbed, undisturbed_state
from tests.worker_process import WITHIN_S, Start, WorkerProcess, until

PARTITIONS = 4


@dataclass(frozen=True)
class Place:
    """A pipeline with its topics on a Kafka, and the settings of its workers."""

    payments: Payments
    address: str
    settings: dict[str, Any]

    @property
    def models(self) -> Path:
        """Where the workers look for models."""
        return Path(self.settings["models_dir"])

    def topic(self, kind: str) -> str:
        """The full name of a topic."""
        return f"{self.payments.name}.{kind}"

    def create_topics(self) -> None:
        """Create those that are missing."""
        TopicAdmin(Settings(brokers=self.address)).create(self.payments.topics(PARTITIONS))

    def sender(self) -> Sender:
        """Sends events."""
        return Sender(self.address, self.topic("events"))

    def reader(self, kind: str) -> Reader:
        """Reads a topic from its beginning."""
        return Reader(self.address, self.topic(kind), PARTITIONS)

    def worker(self, start: Start, stages: Sequence[str] = (), **settings: object) -> WorkerProcess:
        """A worker, which takes some seconds until it has `started`."""
        return start(self.payments.path, stages, **self.settings | settings)

    def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Send events, spread over the partitions, and wait for the broker's acks."""
        self.sender().send((number % PARTITIONS, encoded(event)) for number, event in enumerate(events))

    @contextmanager
    def answers(self) -> Iterator[Answers]:
        """What stands in `predictions`, as it comes."""
        with self.reader("predictions") as reader:
            yield Answers(reader)


def payments_place(folder: Path, address: str, redis_url: str, **settings: object) -> Place:
    """A pipeline of the test's own, with its topics."""
    ours = {
        "brokers": address,
        "redis_url": redis_url,
        "partitions": PARTITIONS,
        "models_dir": folder / "models",
        "session_timeout": "6s",
    }
    place = Place(payments_pipeline(folder), address, ours | settings)
    place.create_topics()
    return place


class Answers:
    """The events that were answered so far; a prediction that stands twice counts once."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._read = reader, 0
        self.ids: set[str] = set()

    @property
    def copies(self) -> int:
        """How many predictions stood there before."""
        return self._read - len(self.ids)

    def wait_for(self, count: int, within_s: float = WITHIN_S) -> set[str]:
        """The ids of at least so many events."""
        until(lambda: self.look() >= count, f"{count} answers; there are {len(self.ids)}", within_s)
        return self.ids

    def wait_for_all(self, events: Sequence[dict[str, Any]]) -> None:
        """Wait until each of these events is answered, whatever comes after them."""
        missing = {event["payment_id"] for event in list(events)}
        until(lambda: self.look() and missing <= self.ids, "an answer to every event so far")

    def look(self) -> int:
        """How many there are now."""
        new = self._reader.read(0.1)[self._read :]
        self._read += len(new)
        self.ids.update((message.key() or b"").decode() for message in new)
        return len(self.ids)


class SendsEvents(Protocol):
    """A place whose events topic can be sent to."""

    def sender(self) -> Sender: ...


class Traffic:
    """Sends `rate` events a second in the background until the context ends; `events` are those that were sent."""

    def __init__(self, place: SendsEvents, rate: int = 150, seed: int = 7) -> None:
        self._sender, self._over = place.sender(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # For a quarter of an hour: it must not end before a test on a busy machine does.
        self._source, self._burst = payments(120_000, seed), rate // 10
        self._random = np.random.default_rng(seed)
        self.events: list[dict[str, Any]] = []

    def _run(self) -> None:
        for event in self._source:
            if self._over.wait(0.0 if len(self.events) % self._burst else 0.1):
                return
            self.events.append(event)
            self._sender.produce(int(self._random.integers(PARTITIONS)), encoded(event))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sender.flush(120.0)


# What everything must have come to.


def assert_answered_as_recorded(place: Place, events: Sequence[dict[str, Any]]) -> KafkaRun:
    """Every event has one answer, which is what the order of the hop topics gives; nothing became a dead letter."""
    run = read_run(place.address, place.payments.pipeline, place.payments.topics(PARTITIONS))
    expected = undisturbed(run, place.models)
    _assert_equal(run.answers(), expected.answers())
    assert set(expected.predictions()) == {event["payment_id"] for event in events}
    assert not run.log.topic(run.topics.dead_letters.name)
    return run


def assert_nothing_lost_or_double(place: Place, events: Sequence[dict[str, Any]]) -> KafkaRun:
    """The same, and state and Feast rows are what that order gives, as well."""
    run, redis_url = assert_answered_as_recorded(place, events), place.settings["redis_url"]
    expected = undisturbed_state(run, place.models, redis_url.removesuffix("0") + "9")
    _assert_equal(stored(redis_url, place.payments.name), expected)
    return run


def _assert_equal(found: Mapping[Any, object], expected: Mapping[Any, object]) -> None:
    """As `==`, but a failure shows the first of what differs, and not thousands of lines."""
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())[:5]
    different = [name for name, value in expected.items() if found[name] != value]
    shown = different[0] if different else None
    assert not different, f"{len(different)} differ, such as {shown}: {found[shown]} for {expected[shown]}"
