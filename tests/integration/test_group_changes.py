"""Workers join, leave, sleep and wake on a real Kafka while events flow, with batches in hand and more of them waiting."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from redis import Redis

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from features.errors import OperatorError
from tests.card_payments import payments
from tests.delaying_proxy import DelayingProxy
from tests.kafka_records import Reader, headers
from tests.kafka_run import next_stage_sees
from tests.payments_on_kafka import (
    PARTITIONS,
    Place,
    Traffic,
    assert_answered_as_recorded,
    assert_nothing_lost_or_double,
    payments_place,
)
from tests.worker_process import Start, WorkerProcess, until

OPERATOR = OperatorError.exit_code


@contextmanager
def frozen(redis: EmbeddedRedis) -> Iterator[None]:
    """Redis stands still: a batch in hand stays in hand."""
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.pid, signal.SIGCONT)


def waiting(worker: WorkerProcess) -> float:
    return worker.metrics().value("driftwood_waiting_records")


def flows(worker: WorkerProcess) -> bool:
    """It owns partitions and has worked."""
    return worker.metrics().value("driftwood_rows_total") > 0


def lets_go(worker: WorkerProcess) -> bool:
    """It is leaving and has forgotten what waited."""
    try:
        return waiting(worker) == 0
    except OSError:
        return True  # its metrics have ended


def leaves_with_a_batch_in_hand(worker: WorkerProcess, redis: EmbeddedRedis) -> None:
    with frozen(redis):
        until(lambda: waiting(worker) > 0, "batches wait behind the one in hand")
        worker.terminate()
        until(lambda: lets_go(worker), "what waited is let go")
    assert worker.ended() == 0


def refusals(worker: WorkerProcess) -> float:
    return worker.metrics().value("driftwood_refused_batches_total", why="epoch")


def is_refused(worker: WorkerProcess, before: float) -> None:
    until(lambda: refusals(worker) > before, "its commits are refused")


def arrives_late(proxy: DelayingProxy, before: int) -> None:
    until(lambda: proxy.late > before, "what was held back goes on")


def ends(place: Place, topics: list[str]) -> dict[str, int]:
    """How many records stand in these topics."""
    found = {}
    for topic in topics:
        with place.reader(topic.rpartition(".")[2]) as reader:
            found[topic] = reader.end()
    return found


def drained(place: Place) -> bool:
    """Whether everything in the hop topics was applied, first of the first."""
    with Redis.from_url(place.settings["redis_url"]) as redis:
        for kind in ("hop-card", "hop-terminal"):
            topic = place.topic(kind)
            key = f"driftwood:{place.payments.name}:partition:{topic}"
            applied = [int(redis.hget(f"{key}:{number}", "applied") or -1) for number in range(PARTITIONS)]
            if sum(applied) + PARTITIONS < ends(place, [topic])[topic]:
                return False
    return True


def commit_wrongly(place: Place) -> None:
    """The group's offsets: of one stage far ahead of everything, of the other and of ingest at the beginning."""
    offsets = {"hop-card": 1 << 40, "hop-terminal": 0, "events": 0}
    wrong = [
        TopicPartition(place.topic(kind), number, offset)
        for kind, offset in offsets.items()
        for number in range(PARTITIONS)
    ]
    group = ConsumerGroupTopicPartitions(f"{place.payments.name}.predict", wrong)
    admin = AdminClient({"bootstrap.servers": place.address})
    for future in admin.alter_consumer_group_offsets([group]).values():
        assert all(tp.error is None for tp in future.result(120).topic_partitions)


def test_workers_join_and_leave_with_batches_in_hand_and_committed_offsets_mislead_no_stage_with_state(
    tmp_path: Path, kafka: RealKafka, embedded_redis: EmbeddedRedis, start: Start
) -> None:
    place = payments_place(tmp_path, kafka.address, embedded_redis.url, batch_max_records=50)
    workers = [place.worker(start).started(), place.worker(start).started()]
    with place.answers() as answers, Traffic(place) as traffic:
        answers.wait_for(200)
        for _ in range(2):
            workers.append(place.worker(start).started())
            until(lambda: flows(workers[-1]), "the newcomer has work")
            leaves_with_a_batch_in_hand(workers.pop(0), embedded_redis)
            answers.wait_for_all(traffic.events)
        assert [worker.stop() for worker in workers] == [0, 0]
        commit_wrongly(place)
        last = place.worker(start).started()
        until(lambda: flows(last), "it has work")
    with place.answers() as answers:
        answers.wait_for(len(traffic.events))
    assert last.stop() == 0
    assert_nothing_lost_or_double(place, traffic.events)


def test_a_worker_that_wakes_after_it_was_replaced_changes_nothing_and_neither_does_what_it_had_sent(
    tmp_path: Path, kafka: RealKafka, kafka_proxy: DelayingProxy, embedded_redis: EmbeddedRedis, start: Start
) -> None:
    place = payments_place(tmp_path, kafka.address, embedded_redis.url, stall_timeout="5m")
    sleeper = place.worker(start, brokers=kafka_proxy.address).started()
    successor = place.worker(start).started()
    with place.answers() as answers, Traffic(place) as traffic:
        until(lambda: flows(sleeper) and flows(successor), "the partitions are shared")
        for kind in ("hop-terminal", "predictions"):
            kafka_proxy.hold(place.topic(kind))
            until(lambda: kafka_proxy.held, "it has sent something that does not arrive")
            refused, late = refusals(sleeper), kafka_proxy.late
            sleeper.suspend()
            answers.wait_for_all(traffic.events)  # without the sleeper: its partitions have moved
            kafka_proxy.release()
            arrives_late(kafka_proxy, late)
            sleeper.resume()
            is_refused(sleeper, refused)
    with place.answers() as answers:
        answers.wait_for(len(traffic.events))
        assert answers.copies > 0
    assert [sleeper.stop(), successor.stop()] == [0, 0]
    run = assert_nothing_lost_or_double(place, traffic.events)
    assert next_stage_sees(run, 1)[1] > 0, "its rows stand twice in the hop topic"


def test_partitions_that_are_added_are_noticed_and_no_row_goes_there(
    tmp_path: Path, kafka: RealKafka, embedded_redis: EmbeddedRedis, start: Start
) -> None:
    place = payments_place(tmp_path, kafka.address, embedded_redis.url)
    worker, events = place.worker(start).started(), payments(900)
    with place.answers() as answers:
        place.send(events[:300])
        answers.wait_for(300)
        admin = AdminClient({"bootstrap.servers": kafka.address})
        grown = [NewPartitions(topic.name, 2 * PARTITIONS) for topic in place.payments.topics(PARTITIONS)]
        for future in admin.create_partitions(grown).values():
            future.result(120)
        until(lambda: worker.stderr.count("has 8 partitions now") == len(grown), "it says so, of each topic")
        place.send(events[300:600])
        answers.wait_for(600)
        assert worker.stop() == 0
        worker = place.worker(start, partitions=2 * PARTITIONS)
        assert worker.ended() == OPERATOR
        assert "begun with 4. Set partitions back to 4" in worker.stderr.strip().splitlines()[-1]
        worker = place.worker(start).started()
        place.send(events[600:])
        answers.wait_for(900)
        assert worker.stop() == 0
    assert_answered_as_recorded(place, events)
    for kind in ("hop-card", "hop-terminal", "predictions"):
        with Reader(place.address, place.topic(kind), 2 * PARTITIONS) as grown_topic:
            messages = grown_topic.wait_for(grown_topic.end())
        assert {message.partition() for message in messages} <= set(range(PARTITIONS))


def test_a_worker_of_another_pipeline_version_does_not_start_beside_those_that_run_but_after_them(
    tmp_path: Path, kafka: RealKafka, embedded_redis: EmbeddedRedis, start: Start
) -> None:
    place = payments_place(tmp_path, kafka.address, embedded_redis.url)
    changed = tmp_path / "changed" / place.payments.path.name
    changed.parent.mkdir()
    changed.write_text(
        place.payments.path.read_text().replace('terminal.count("30m")', 'terminal.count("2h")')
    )
    newer = replace(place, payments=replace(place.payments, path=changed))
    older = place.worker(start).started()
    with place.answers() as answers:
        with Traffic(place) as traffic:
            answers.wait_for(100)
            refused = newer.worker(start)
            assert refused.ended() == OPERATOR
            assert "neither could read the other's frames" in refused.stderr.strip().splitlines()[-1]
            answers.wait_for(len(traffic.events))
            assert older.stop() == 0
            # As docs/recipes/production.md says: what stands in the hop topics is for the old version to finish.
            older = place.worker(start, ["card", "terminal"]).started()
            until(lambda: drained(place), "nothing is unread in the hop topics")
            assert older.stop() == 0
            current = newer.worker(start).started()
            answers.wait_for(len(traffic.events))
        assert answers.wait_for(len(traffic.events)) == {event["payment_id"] for event in traffic.events}
        assert answers.copies == 0
    assert current.stop() == 0
    with place.reader("hop-terminal") as reader:
        frames = reader.wait_for(reader.end())
    for number in range(PARTITIONS):
        versions = [headers(message)["frame"] for message in frames if message.partition() == number]
        assert len({*versions}) == 2 and len([*groupby(versions)]) == 2, (
            "first the old version's, then the new one's"
        )
