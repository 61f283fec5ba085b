"""The batched transport on a real Kafka: partitions move between workers, workers die, the log loses its head."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.kafka.real_kafka import RealKafka
from features.errors import PositionError
from streams.batch import Partition
from streams.mailbox import MailboxLimits, Piece
from streams.transport import BEGINNING, FetchSettings
from tests.faust_worker import FaustWorker, Store, until

PARTITIONS = 6


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(280):
            await scenario

    asyncio.run(limited())


def create_topic(address: str, name: str, partitions: int = PARTITIONS) -> None:
    admin = AdminClient({"bootstrap.servers": address})  # has to outlive its answer
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(120)


def produce(address: str, topic: str, count: int, start: int = 0, partitions: int = PARTITIONS) -> None:
    """`count` records into each partition, their values their offsets."""
    # Small record sets, because a fetch brings whole ones, whatever its limit.
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "batch.num.messages": 10})
    for number in range(start, start + count):
        for partition in range(partitions):
            producer.produce(topic, b"%d" % number, partition=partition)
        producer.poll(0)
    assert producer.flush(120) == 0


def values(start: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, end)]


class Traffic:
    """Produces to every partition until it is stopped; `count` is how many records each has got."""

    def __init__(self, address: str, topic: str) -> None:
        self.address, self.topic = address, topic
        self.count = 0
        self.stopped = False

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[Traffic]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            self.stopped = True
            await task

    async def _run(self) -> None:
        while not self.stopped:
            await asyncio.to_thread(produce, self.address, self.topic, 50, self.count)
            self.count += 50


def owned(store: Store, name: str) -> int:
    return sum(owner == name for owner in store.owners.values())


def test_workers_join_and_leave_while_records_flow_and_nothing_is_lost_or_double(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name)
    store = Store()

    async def work(piece: Piece) -> None:
        await asyncio.sleep(0.02)  # so that pieces are in hand, and others wait, whenever partitions move

    def worker(name: str) -> FaustWorker:
        return FaustWorker(name, unique_name, kafka.address, unique_name, store, tmp_path, work=work)

    async def scenario() -> None:
        workers = {name: worker(name) for name in "abc"}
        async with AsyncExitStack() as third_runs, AsyncExitStack() as second_runs:
            async with Traffic(kafka.address, unique_name).flowing() as traffic:
                async with workers["a"].running():
                    await until(lambda: owned(store, "a") == PARTITIONS and store.total() > 100)
                    await second_runs.enter_async_context(workers["b"].running())
                    await until(lambda: owned(store, "a") == owned(store, "b") == PARTITIONS // 2)
                    await third_runs.enter_async_context(workers["c"].running())
                    await until(lambda: all(owned(store, name) == PARTITIONS // 3 for name in "abc"))
                await until(lambda: owned(store, "b") == owned(store, "c") == PARTITIONS // 2)
                await second_runs.aclose()
                await until(lambda: owned(store, "c") == PARTITIONS)
            await until(lambda: store.total() >= traffic.count * PARTITIONS)
        assert not store.wrong
        assert not any(worker.fatal or worker.app.crash_reason for worker in workers.values())
        for partition in range(PARTITIONS):
            assert store.values[unique_name, partition] == values(0, traffic.count)

    run(scenario())


def test_a_new_owner_starts_where_the_store_stands_and_not_at_the_committed_offset(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name)
    produce(kafka.address, unique_name, 100)
    store, rolled_back = Store(), Store()

    async def scenario() -> None:
        first = FaustWorker("a", unique_name, kafka.address, unique_name, store, tmp_path)
        async with first.running():
            await until(lambda: store.total() == 100 * PARTITIONS)
        second = FaustWorker("b", unique_name, kafka.address, unique_name, rolled_back, tmp_path)
        rolled_back.applied.update(dict.fromkeys(store.applied, 93))
        async with second.running():
            await until(lambda: rolled_back.total() == 7 * PARTITIONS)
        assert set(second.started_at.values()) == {93}
        assert not rolled_back.wrong

        committed = FaustWorker("c", unique_name, kafka.address, unique_name, Store(), tmp_path)

        async def from_kafka(partition: Partition) -> int | None:
            return None

        committed.position = from_kafka
        async with committed.running():
            await until(lambda: len(committed.started_at) == PARTITIONS)
        assert set(committed.started_at.values()) == {100}

    run(scenario())


def test_what_waits_at_a_revocation_is_forgotten_and_read_by_the_next_owner(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name)
    produce(kafka.address, unique_name, 200)
    store = Store()
    begun: set[Partition] = set()

    async def stuck(piece: Piece) -> None:
        begun.add(piece.partition)
        await asyncio.Event().wait()

    async def scenario() -> None:
        first = FaustWorker(
            "a",
            unique_name,
            kafka.address,
            unique_name,
            store,
            tmp_path,
            FetchSettings(max_records=50),
            work=stuck,
        )
        second = FaustWorker("b", unique_name, kafka.address, unique_name, store, tmp_path)
        async with first.running():
            await until(lambda: len(begun) == PARTITIONS)
            await until(lambda: all(box.waiting_records for box in first.tasks.mailboxes()))
            async with second.running():
                await until(lambda: owned(store, "b") == PARTITIONS // 2)
                await until(lambda: store.total() == 200 * (PARTITIONS // 2))
            assert first.revocations >= 1
        assert not store.wrong
        assert not first.fatal
        assert all(store.values[place] == values(0, 200) for place in second.started_at)

    run(scenario())


CHILD = """
import asyncio, json, os, sys
from pathlib import Path
from tests.faust_worker import FaustWorker, Store

class FileStore(Store):
    def take(self, name, piece):
        super().take(name, piece)
        path = Path(sys.argv[4], str(piece.partition[1]))
        path.with_suffix(".new").write_text(json.dumps(piece.end))
        path.with_suffix(".new").rename(path)

async def work(piece):
    await asyncio.sleep(0.01)

async def main():
    _, address, topic, datadir, folder = sys.argv
    worker = FaustWorker("child", topic, address, topic, FileStore(), Path(datadir), work=work)
    async with worker.running():
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.crash
def test_a_killed_worker_s_partitions_go_on_where_its_store_stands(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name)
    folder = tmp_path / "applied"
    folder.mkdir()
    store = Store()

    def applied() -> dict[int, int]:
        return {int(path.name): json.loads(path.read_text()) for path in folder.iterdir() if not path.suffix}

    async def position(partition: Partition) -> int | None:
        if partition in store.applied:
            return store.applied[partition]
        return applied().get(partition[1], BEGINNING)

    async def scenario() -> None:
        command = [sys.executable, "-c", CHILD, kafka.address, unique_name, str(tmp_path), str(folder)]
        child = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        try:
            second = FaustWorker("b", unique_name, kafka.address, unique_name, store, tmp_path)
            second.position = position
            async with AsyncExitStack() as runs:
                async with Traffic(kafka.address, unique_name).flowing() as traffic:
                    await until(lambda: len(applied()) == PARTITIONS and min(applied().values()) > 50)
                    child.kill()
                    await child.wait()
                    await runs.enter_async_context(second.running())
                    await until(lambda: len(second.started_at) == PARTITIONS)
                assert second.started_at == {(unique_name, number): end for number, end in applied().items()}
                await until(lambda: set(store.applied.values()) == {traffic.count})
            assert not store.wrong
            for (_, number), found in store.values.items():
                assert found == values(applied()[number], traffic.count)
        finally:
            if child.returncode is None:
                child.kill()

    run(scenario())


def test_records_that_were_deleted_before_they_were_read_end_the_worker(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name, 1)
    produce(kafka.address, unique_name, 2000, partitions=1)
    gate = asyncio.Event()

    async def work(piece: Piece) -> None:
        await gate.wait()

    async def scenario() -> None:
        worker = FaustWorker(
            "a",
            unique_name,
            kafka.address,
            unique_name,
            Store(),
            tmp_path,
            FetchSettings(partition_bytes=1000, max_records=20),
            MailboxLimits(waiting_records=50, piece_records=20),
            work=work,
        )
        async with worker.running():
            await until(lambda: any(box.waiting_records > 50 for box in worker.tasks.mailboxes()))
            admin = AdminClient({"bootstrap.servers": kafka.address})
            place = TopicPartition(unique_name, 0, 1900)
            await asyncio.to_thread(lambda: admin.delete_records([place])[place].result(120))
            gate.set()
            error = await worker.crash()
        assert isinstance(error, PositionError)
        assert "but the log holds [1900, 2000)" in str(error)
        assert worker.store.values[unique_name, 0] == values(0, worker.store.total())

    run(scenario())


def test_what_a_sender_aborted_does_not_come_and_its_marks_leave_no_gap(
    kafka: RealKafka, unique_name: str, tmp_path: Path
) -> None:
    create_topic(kafka.address, unique_name, 1)
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": unique_name})
    producer.init_transactions(30)
    store = Store()

    async def scenario() -> None:
        worker = FaustWorker("a", unique_name, kafka.address, unique_name, store, tmp_path)
        async with worker.running():
            for name, keep in [(b"one", True), (b"two", False), (b"three", True)]:
                producer.begin_transaction()
                for _ in range(5):
                    producer.produce(unique_name, name, partition=0)
                # An abort drops what still waits in the sender; only what is in the log can leave a mark.
                assert await asyncio.to_thread(producer.flush, 30) == 0
                await asyncio.to_thread(
                    producer.commit_transaction if keep else producer.abort_transaction, 30
                )
            await until(lambda: store.total() >= 10)
        assert store.values[unique_name, 0] == [b"one"] * 5 + [b"three"] * 5
        assert not store.wrong
        assert not worker.fatal

    run(scenario())


@pytest.mark.crash
def test_a_broker_that_dies_and_returns_is_waited_for_and_one_that_is_gone_does_not_hold_up_the_end(
    kafka_data_dir: Path, unique_name: str, tmp_path: Path
) -> None:
    broker = RealKafka().start(kafka_data_dir)
    try:
        create_topic(broker.address, unique_name)
        store = Store()

        async def scenario() -> None:
            worker = FaustWorker(
                "a", unique_name, broker.address, unique_name, store, tmp_path, FetchSettings(stop_s=1.0)
            )
            await worker.app.start()
            produce(broker.address, unique_name, 100)
            await until(lambda: store.total() == 100 * PARTITIONS)
            broker.kill()
            await asyncio.to_thread(broker.start, kafka_data_dir)
            await asyncio.to_thread(produce, broker.address, unique_name, 100, 100)
            await until(lambda: store.total() >= 200 * PARTITIONS)
            broker.kill()
            async with asyncio.timeout(60):  # a hang would be the request time-out, 90 s
                await worker.app.stop()
            assert worker.app.crash_reason is None
            assert not store.wrong
            assert all(store.values[unique_name, number] == values(0, 200) for number in range(PARTITIONS))

        run(scenario())
    finally:
        broker.stop()
