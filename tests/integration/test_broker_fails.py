"""The broker dies, stands still, fills its disk, loses its log; topics are made anew. Whole workers on a Kafka of their own."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from redis import Redis

from deploy.kafka.real_kafka import RealKafka
from features.errors import OperatorError
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.card_payments import payments
from tests.payments_on_kafka import Place, Traffic, assert_nothing_lost_or_double, payments_place
from tests.worker_process import Start, WorkerProcess, until

pytestmark = pytest.mark.crash

OPERATOR = OperatorError.exit_code
ROOM_BYTES = 20_000  # that the log still takes when its disk is almost full


@dataclass
class Broker:
    """A Kafka that tests break, each in its own way."""

    folder: Path
    kafka: RealKafka = field(default_factory=RealKafka)

    def start(self) -> None:
        """Start it, or start it again: same address, and the log that is left."""
        self.kafka.stop()
        self.kafka.start(self.folder)

    def away(self, how: signal.Signals) -> None:
        """SIGKILL or SIGSTOP."""
        os.kill(self.kafka.pid, how)

    def lose_everything(self) -> None:
        """It dies, and comes back with an empty disk."""
        self.kafka.kill()
        shutil.rmtree(self.folder / "log")
        self.start()

    def fill_its_disk(self) -> None:
        """From now on no file of its log gets much larger than the largest is."""
        largest = max(path.stat().st_size for path in self.folder.rglob("*.log"))
        resource.prlimit(self.kafka.pid, resource.RLIMIT_FSIZE, (largest + ROOM_BYTES, -1))

    def runs(self) -> bool:
        """Whether its process has not ended."""
        status = Path(f"/proc/{self.kafka.pid}/status")
        return status.exists() and "Z (zombie)" not in status.read_text()


@pytest.fixture(scope="module")
def servers(module_kafka_data_dir: Path) -> Iterator[Broker]:
    broker = Broker(module_kafka_data_dir)
    broker.start()
    yield broker
    broker.kafka.stop()


@pytest.fixture
def broker(servers: Broker) -> Broker:
    if not servers.runs():
        servers.start()
    return servers


@pytest.fixture
def place(tmp_path: Path, broker: Broker, redis_url: str) -> Place:
    return payments_place(tmp_path, broker.kafka.address, redis_url, stall_timeout="5m")


def last_line(worker: WorkerProcess) -> str:
    """What an ended worker said last, after the operator's exit code."""
    assert worker.ended() == OPERATOR, worker.stderr
    return worker.stderr.strip().splitlines()[-1]


def make_anew(place: Place, kind: str) -> None:
    """Delete a topic and create it again under its name."""
    name = place.topic(kind)
    admin = AdminClient({"bootstrap.servers": place.address})
    admin.delete_topics([name])[name].result(120)
    looking = TopicAdmin(Settings(brokers=place.address))
    until(lambda: name not in looking.cluster().topics, "the topic is gone")
    place.create_topics()


def test_a_broker_that_is_away_for_a_minute_is_waited_for_and_nothing_is_lost(
    place: Place, broker: Broker, start: Start
) -> None:
    worker = place.worker(start).started()
    with place.answers() as answers, Traffic(place) as traffic:
        answers.wait_for(200)
        broker.away(signal.SIGKILL)
        lines = len(worker.stderr.splitlines())
        time.sleep(60)  # the situation, not a wait for something
        assert worker.metrics().value("driftwood_broker_away_seconds") > 0
        assert "Kafka does not answer" in worker.stderr
        assert len(worker.stderr.splitlines()) - lines < 120, "clients that try again flood no log"
        broker.start()
        answers.wait_for_all(traffic.events)
        broker.away(signal.SIGSTOP)
        until(lambda: worker.metrics().value("driftwood_broker_away_seconds") > 10, "it is missed")
        broker.away(signal.SIGCONT)
        answers.wait_for(len(traffic.events))
    with place.answers() as answers:
        answers.wait_for(len(traffic.events))
    until(lambda: worker.metrics().value("driftwood_broker_away_seconds") == 0, "it is missed no more")
    assert worker.stop() == 0
    assert_nothing_lost_or_double(place, traffic.events)


def test_a_broker_whose_disk_is_full_is_waited_for_and_goes_on_when_it_has_room(
    place: Place, broker: Broker, start: Start
) -> None:
    worker = place.worker(start).started()
    with place.answers() as answers, Traffic(place, rate=600) as traffic:
        answers.wait_for(200)
        broker.fill_its_disk()
        until(lambda: not broker.runs(), "a broker that cannot write ends itself")
        until(lambda: "Kafka does not answer" in worker.stderr, "the worker says what it waits for")
        broker.start()
        answers.wait_for(len(traffic.events))
    with place.answers() as answers:
        answers.wait_for(len(traffic.events))
    assert worker.stop() == 0
    assert_nothing_lost_or_double(place, traffic.events)


def test_a_broker_that_lost_its_log_ends_the_worker_which_says_how_to_begin_afresh(
    place: Place, broker: Broker, start: Start
) -> None:
    worker = place.worker(start).started()
    with place.answers() as answers:
        place.send(payments(500))
        answers.wait_for(500)
    broker.lose_everything()
    line = last_line(worker)
    assert " is gone: it was deleted, or the broker has lost its log. Nothing was skipped" in line
    place.create_topics()
    line = last_line(place.worker(start))
    assert f"driftwood: the state of {place.payments.name}.hop-" in line
    assert "or begin afresh with an empty Redis database" in line
    with Redis.from_url(place.settings["redis_url"]) as redis:
        redis.flushdb()
    worker, events = place.worker(start).started(), payments(500, seed=2)
    with place.answers() as answers:
        place.send(events)
        answers.wait_for(500)
    assert worker.stop() == 0
    assert_nothing_lost_or_double(place, events)


def test_events_that_are_made_anew_are_read_from_their_beginning_and_are_no_copies_of_the_old_ones(
    place: Place, start: Start
) -> None:
    events: list[dict[str, object]] = []
    worker = place.worker(start).started()
    for number in range(3):
        new = payments(300, seed=number, first=300 * number)
        place.send(new)
        events += new
        with place.answers() as answers:
            answers.wait_for(len(events))
        if number == 0:  # while the worker runs
            make_anew(place, "events")
            line = last_line(worker)
            assert f"topic {place.topic('events')} " in line
            assert "was made anew while this worker ran" in line or " is gone: " in line
        elif number == 1:  # while none runs
            assert worker.stop() == 0
            make_anew(place, "events")
        if number < 2:
            worker = place.worker(start).started()
    assert worker.stop() == 0
    assert_nothing_lost_or_double(place, events)


def test_a_hop_topic_that_is_made_anew_ends_the_worker_that_runs(place: Place, start: Start) -> None:
    worker = place.worker(start).started()
    with place.answers() as answers:
        place.send(payments(300))
        answers.wait_for(300)
    make_anew(place, "hop-terminal")
    line = last_line(worker)
    assert f"topic {place.topic('hop-terminal')}" in line
    assert "Nothing was skipped" in line
