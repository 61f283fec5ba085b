"""A Faust app on the batched transport whose work is to note what it was given; for tests of the transport."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust

from streams.batch import Partition
from streams.mailbox import Mailbox, MailboxLimits, PartitionTasks, Piece, Put
from streams.transport import BEGINNING, Consumer, FetchSettings, broker_url, consumer_of, install


@dataclass
class Store:
    """What all workers of a test share, as Redis would be: how far each partition was worked on, and by whom."""

    applied: dict[Partition, int] = field(default_factory=dict)
    owners: dict[Partition, str] = field(default_factory=dict)
    values: dict[Partition, list[bytes | None]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)

    def total(self) -> int:
        """How many records were worked on."""
        return sum(map(len, self.values.values()))

    def take(self, name: str, piece: Piece) -> None:
        """One worker works on a piece: only the owner may, and only on what comes next."""
        if self.owners.get(piece.partition) != name:
            self.wrong.append(f"{name} works on {piece.partition} of {self.owners.get(piece.partition)}")
        if self.applied.get(piece.partition, piece.start) != piece.start:
            self.wrong.append(f"{piece.partition}: {piece.start} after {self.applied[piece.partition]}")
        self.applied[piece.partition] = piece.end
        self.values[piece.partition] += [record.value for record in piece.records]


@dataclass
class FaustWorker:
    """`position` and `work` may be replaced; the defaults read on where the store stands, and note the records."""

    name: str
    group: str
    servers: str
    topic: str
    store: Store
    datadir: Path
    fetch: FetchSettings = field(default_factory=FetchSettings)
    limits: MailboxLimits = field(default_factory=MailboxLimits)
    position: Callable[[Partition], Awaitable[int | None]] | None = None
    work: Callable[[Piece], Awaitable[None]] | None = None
    identities: dict[str, str] = field(default_factory=dict)
    started_at: dict[Partition, int] = field(default_factory=dict)
    revocations: int = 0
    puts: list[Put] = field(default_factory=list)
    fatal: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = faust.App(
            self.group,
            broker=broker_url(self.servers),
            datadir=str(self.datadir / self.name),
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=0,
            stream_wait_empty=False,
            broker_commit_interval=0.2,
            broker_session_timeout=6.0,
            broker_heartbeat_interval=0.5,
            broker_rebalance_timeout=10.0,
        )
        self.tasks = PartitionTasks(
            self._work,
            hold=self._hold,
            release=self._release,
            fatal=self.fatal.append,
            limits=self.limits,
        )
        install(self.app, _Hooks(self), self.fetch, self.identities)
        topic = self.app.topic(self.topic, value_type=bytes, value_serializer="raw")
        self.app.agent(topic, name=f"receive-{self.name}")(self._receive)

    @property
    def consumer(self) -> Consumer:
        """The transport's consumer."""
        return consumer_of(self.app)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FaustWorker]:
        """Start the app and stop it at the end, whatever happened."""
        await self.app.start()
        try:
            yield self
        finally:
            await self.app.stop()

    async def crash(self) -> BaseException:
        """What the app crashed with."""
        await until(lambda: self.app.crash_reason is not None)
        assert self.app.crash_reason is not None
        return self.app.crash_reason

    def _hold(self, partition: Partition) -> None:
        self.consumer.hold(partition)  # asked late: making Faust's consumer needs a running loop

    def _release(self, partition: Partition) -> None:
        self.consumer.release(partition)

    async def _receive(self, stream: Any) -> None:
        async for event in stream.noack().events():
            self.puts.append(self.tasks.put(event.value))

    async def _work(self, mailbox: Mailbox) -> None:
        while (piece := await mailbox.take_all()) is not None:
            if self.work is not None:
                await self.work(piece)
            self.store.take(self.name, piece)
            self.consumer.mark_done(piece.partition, piece.end, piece.seek)


@dataclass
class _Hooks:
    worker: FaustWorker

    async def position(self, partition: Partition) -> int | None:
        if self.worker.position is not None:
            return await self.worker.position(partition)
        return self.worker.store.applied.get(partition, BEGINNING)

    def started(self, partition: Partition, offset: int, seek: int) -> None:
        worker, store = self.worker, self.worker.store
        if store.owners.get(partition) is not None:
            store.wrong.append(f"{worker.name} starts {partition} of {store.owners[partition]}")
        store.owners[partition] = worker.name
        worker.started_at[partition] = offset
        worker.tasks.start(partition, offset, seek)

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        self.worker.revocations += 1
        await self.worker.tasks.stop(partitions, grace_s=1.0)
        for partition in partitions:
            if self.worker.store.owners.get(partition) == self.worker.name:
                del self.worker.store.owners[partition]


async def until(condition: Callable[[], bool], within_s: float = 120.0) -> None:
    """Poll until the condition holds; TimeoutError otherwise."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for happens in another thread or server
            await asyncio.sleep(0.01)
