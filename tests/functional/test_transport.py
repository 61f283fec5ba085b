"""The batched transport on the embedded broker: where it starts, what flows, what is committed, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import Producer, TopicPartition
from faust.transport.drivers import by_url

from driftwood.embedded import EmbeddedBroker
from features.errors import DeveloperError, PositionError
from streams import transport
from streams.batch import Partition
from streams.mailbox import MailboxLimits, Piece, Put
from streams.transport import BEGINNING, SOMETHING, FetchSettings
from tests.faust_worker import FaustWorker, Store, until

PARTITIONS = 3


@pytest.fixture
def make(embedded_broker: EmbeddedBroker, unique_name: str, tmp_path: Path) -> Callable[..., FaustWorker]:
    """Makes workers of one group on one topic of three partitions, sharing one store."""
    embedded_broker.create_topic(unique_name, PARTITIONS)
    store = Store()

    def worker(**more: Any) -> FaustWorker:
        name = more.pop("name", "first")
        address = more.pop("servers", embedded_broker.address)
        return FaustWorker(name, unique_name, address, unique_name, store, tmp_path, **more)

    return worker


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(240):
            await scenario

    asyncio.run(limited())


def produce(worker: FaustWorker, count: int, start: int = 0) -> None:
    """`count` records into each partition, their values their offsets."""
    producer = Producer({"bootstrap.servers": worker.servers})
    for number in range(start, start + count):
        for partition in range(PARTITIONS):
            producer.produce(worker.topic, b"%d" % number, partition=partition)
    assert producer.flush(60) == 0


def committed(worker: FaustWorker) -> list[int]:
    """The group's committed offsets, negative where there is none."""
    consumer = PlainConsumer({"bootstrap.servers": worker.servers, "group.id": worker.group})
    found = consumer.committed(
        [TopicPartition(worker.topic, number) for number in range(PARTITIONS)], timeout=60
    )
    consumer.close()
    return [place.offset for place in found]


def commit(worker: FaustWorker, offsets: list[int]) -> None:
    """Commit for the group from outside."""
    consumer = PlainConsumer({"bootstrap.servers": worker.servers, "group.id": worker.group})
    places = [TopicPartition(worker.topic, number, offset) for number, offset in enumerate(offsets)]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


def all_started(worker: FaustWorker) -> bool:
    return len(worker.started_at) == PARTITIONS


def values(start: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, end)]


@pytest.mark.parametrize("passes", [True, False])
def test_what_keeps_a_worker_out_of_its_group_is_tried_again_or_ends_it(make, monkeypatch, passes):
    worker: FaustWorker = make()
    join = GroupCoordinator.ensure_active_group
    error = KafkaError("InvalidRequestError()") if passes else GroupAuthorizationFailedError("group")
    refusals = [error]

    async def refused_once(self: GroupCoordinator, *arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await join(self, *arguments)

    monkeypatch.setattr(GroupCoordinator, "ensure_active_group", refused_once)

    async def scenario() -> None:
        produce(worker, 3)
        if passes:
            async with worker.running():
                await until(lambda: worker.store.total() == 3 * PARTITIONS)
        else:
            await worker.app.start()
            assert isinstance(await worker.crash(), GroupAuthorizationFailedError)
            await worker.app.stop()

    run(scenario())


def test_the_entry_point_makes_the_scheme_known_to_faust() -> None:
    assert by_url("batched://127.0.0.1:9092") is transport.Transport


def test_every_record_comes_once_in_order_and_is_committed(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        worker = make(fetch=FetchSettings(max_records=70))
        produce(worker, 500)
        async with worker.running():
            await until(lambda: worker.store.total() == 500 * PARTITIONS)
            produce(worker, 500, start=500)
            await until(lambda: worker.store.total() == 1000 * PARTITIONS)
        assert all(
            worker.store.values[worker.topic, number] == values(0, 1000) for number in range(PARTITIONS)
        )
        assert not worker.store.wrong
        assert not worker.fatal
        assert committed(worker) == [1000] * PARTITIONS

    run(scenario())


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_compressed_records_are_read(make: Callable[..., FaustWorker], codec: str) -> None:
    async def scenario() -> None:
        worker = make()
        producer = Producer({"bootstrap.servers": worker.servers, "compression.type": codec, "linger.ms": 50})
        for number in range(200):
            producer.produce(worker.topic, b"%d" % number, partition=0)
        assert producer.flush(60) == 0
        async with worker.running():
            await until(lambda: worker.store.total() == 200)
        assert worker.store.values[worker.topic, 0] == values(0, 200)

    run(scenario())


def test_an_offset_that_was_committed_for_a_topic_of_the_same_name_does_not_count(
    make: Callable[..., FaustWorker], unique_name: str
) -> None:
    async def from_kafka(partition: Partition) -> int | None:
        return None

    async def scenario() -> None:
        before = make(position=from_kafka, identities={unique_name: "cluster/one"})
        produce(before, 100)
        async with before.running():
            await until(lambda: before.store.total() == 100 * PARTITIONS)
        for identity, start in (("one", 100), ("two", 0)):
            after: FaustWorker = make(position=from_kafka, identities={unique_name: f"cluster/{identity}"})
            async with after.running():
                await until(partial(all_started, after))
            assert set(after.started_at.values()) == {start}

    run(scenario())


def test_reading_starts_where_the_hook_says_and_not_at_the_committed_offset(
    make: Callable[..., FaustWorker],
) -> None:
    async def scenario() -> None:
        async def position(partition: Partition) -> int | None:
            return {0: 40, 1: BEGINNING, 2: None}[partition[1]]

        worker = make(position=position)
        produce(worker, 100)
        commit(worker, [90, 90, 90])
        async with worker.running():
            await until(lambda: worker.store.total() == 60 + 100 + 10)
        starts = [worker.started_at[worker.topic, number] for number in range(PARTITIONS)]
        assert starts == [40, 0, 90]
        assert worker.store.values[worker.topic, 0] == values(40, 100)

    run(scenario())


def test_without_a_committed_offset_none_means_the_oldest_record(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        async def position(partition: Partition) -> int | None:
            return None

        worker = make(position=position)
        produce(worker, 20)
        async with worker.running():
            await until(lambda: worker.store.total() == 20 * PARTITIONS)
        assert set(worker.started_at.values()) == {0}

    run(scenario())


def test_a_slow_position_holds_back_its_own_partition_only(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        known = asyncio.Event()

        async def position(partition: Partition) -> int | None:
            if partition[1] == 0:
                await known.wait()
            return BEGINNING

        worker = make(position=position)
        produce(worker, 50)
        async with worker.running():
            await until(lambda: worker.store.total() == 100)
            assert worker.store.values[worker.topic, 0] == []
            known.set()
            await until(lambda: worker.store.total() == 150)

    run(scenario())


def test_a_full_partition_is_held_while_others_flow_and_resumes_at_once(
    make: Callable[..., FaustWorker],
) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def work(piece: Piece) -> None:
            if piece.partition[1] == 0:
                await gate.wait()

        worker = make(
            work=work,
            limits=MailboxLimits(waiting_records=300, piece_records=100),
            fetch=FetchSettings(max_records=100),
        )
        async with worker.running():
            for start in range(0, 3000, 500):
                produce(worker, 500, start)
                await until(lambda end=start + 500: worker.store.total() == 2 * end)  # type: ignore[misc]
            stuck = next(box for box in worker.tasks.mailboxes() if box.partition[1] == 0)
            assert 300 < stuck.waiting_records <= 500
            gate.set()
            await until(lambda: worker.store.total() == 9000)
        assert worker.store.values[worker.topic, 0] == values(0, 3000)
        assert not worker.store.wrong
        assert not worker.fatal

    run(scenario())


def test_a_partition_that_is_taken_away_while_it_is_held_flows_no_more(
    make: Callable[..., FaustWorker],
) -> None:
    async def scenario() -> None:
        never, held = asyncio.Event(), asyncio.Event()

        async def work(piece: Piece) -> None:
            held.set()
            await never.wait()

        worker = make(work=work, limits=MailboxLimits(waiting_records=10, piece_records=1))
        produce(worker, 100)
        async with worker.running():
            await held.wait()
            await until(lambda: all(box.waiting_records > 10 for box in worker.tasks.mailboxes()))
            flowing = worker.consumer.flowing
        # Its mailbox lets go of what waits, and with that of the hold: nothing may be delivered before it is positioned.
        assert flowing == {SOMETHING}

    run(scenario())


def test_a_rewind_drops_what_was_queued_before_it_and_reads_again(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        pieces: list[tuple[int, int, int]] = []
        worker = make(fetch=FetchSettings(max_records=10))

        async def work(piece: Piece) -> None:
            pieces.append((piece.seek, piece.start, piece.end))
            if len(pieces) == 1:
                await gate.wait()

        async def position(partition: Partition) -> int | None:
            return BEGINNING if partition[1] == 0 else 100

        worker.work, worker.position = work, position
        produce(worker, 100)
        async with worker.running():
            box_of = lambda: next(box for box in worker.tasks.mailboxes() if box.partition[1] == 0)  # noqa: E731
            await until(lambda: bool(pieces) and box_of().waiting_records == 100 - pieces[0][2])
            seek = await worker.consumer.rewind((worker.topic, 0), 5)
            assert seek is not None
            assert seek > pieces[0][0]
            box_of().reset(seek, 5)
            worker.store.applied[worker.topic, 0] = 0  # the piece in hand still ends under the old seek
            gate.set()
            await until(lambda: pieces[-1][2] == 100)
            await until(lambda: worker.store.applied[worker.topic, 0] == 100)
        again = [(start, end) for number, start, end in pieces if number == seek]
        assert again[0][0] == 5
        assert {number for number, _, _ in pieces[1:]} == {seek}
        assert committed(worker)[0] == 100

    run(scenario())


def test_work_done_under_an_older_seek_is_not_committed(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        worker = make()
        produce(worker, 10)
        async with worker.running():
            await until(lambda: worker.store.total() == 30)
            partition = (worker.topic, 1)
            seek = await worker.consumer.rewind(partition, 10)
            assert seek is not None
            assert worker.consumer.mark_done(partition, 99, seek - 1) is False
            assert worker.consumer.mark_done((worker.topic, 77), 99, seek) is False
            assert await worker.consumer.rewind((worker.topic, 77), 0) is None
        assert committed(worker)[1] in (-1001, 10)

    run(scenario())


def test_a_position_that_the_log_does_not_hold_ends_the_worker(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        async def position(partition: Partition) -> int | None:
            return 5000 if partition[1] == 1 else BEGINNING

        worker = make(position=position)
        produce(worker, 10)
        async with worker.running():
            error = await worker.crash()
        assert isinstance(error, PositionError)
        assert (
            f"topic {worker.topic}, partition 1: the next offset to read is 5000, but the log holds [0, 10)"
            in str(error)
        )

    run(scenario())


def test_a_hook_that_fails_ends_the_worker(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        async def position(partition: Partition) -> int | None:
            raise OSError("the store is away")

        worker = make(position=position)
        async with worker.running():
            assert str(await worker.crash()) == "the store is away"

    run(scenario())


def test_an_app_without_hooks_is_refused(tmp_path: Path) -> None:
    app = faust.App("no-hooks", broker=transport.broker_url("127.0.0.1:1"), datadir=str(tmp_path))
    with pytest.raises(DeveloperError, match="install"):
        _ = app.consumer


@pytest.mark.crash
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_stopping_finishes_the_piece_in_hand_also_when_the_broker_is_gone(
    unique_name: str, tmp_path: Path, sign: signal.Signals
) -> None:
    with EmbeddedBroker().start({unique_name: PARTITIONS}) as broker:

        async def scenario() -> None:
            worker = FaustWorker("w", unique_name, broker.address, unique_name, Store(), tmp_path)
            worker.fetch = FetchSettings(stop_s=1.0)
            gate = asyncio.Event()

            async def work(piece: Piece) -> None:
                await gate.wait()

            worker = FaustWorker(
                "w",
                unique_name,
                broker.address,
                unique_name,
                Store(),
                tmp_path,
                FetchSettings(stop_s=1.0),
                work=work,
            )
            produce(worker, 10)
            await worker.app.start()
            await until(lambda: len(worker.puts) >= PARTITIONS)
            os.kill(broker.pid, sign)
            stopping = asyncio.create_task(worker.app.stop())
            gate.set()
            async with asyncio.timeout(60):  # a hang would be the request time-out, 90 s
                await stopping
            assert worker.store.total() == 10 * PARTITIONS
            assert worker.revocations == 1

        run(scenario())


def test_batches_that_come_after_the_revocation_are_dropped(make: Callable[..., FaustWorker]) -> None:
    async def scenario() -> None:
        worker = make()
        produce(worker, 10)
        async with worker.running():
            await until(lambda: worker.store.total() == 30)
        assert set(worker.puts) == {Put.TAKEN}
        assert worker.tasks.mailboxes() == []

    run(scenario())
