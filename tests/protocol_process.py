"""A worker process of `tests.protocol_world`: the product's `Worker` between a store, a broker and a group that stand still.

What it asks of the store becomes a `Call`, what it publishes a `Delivery`, and it waits: the test decides what becomes of
them, and when.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from features.store import Claim, Claimed, Commit, Committed, Loaded, PartitionId, Refused
from streams.batch import FetchedBatch
from streams.mailbox import MailboxLimits
from streams.pressure import Pressure
from streams.producer import Outgoing
from streams.worker import Worker
from tests.in_process import Place
from tests.numbered_models import NumberedServing

if TYPE_CHECKING:
    from tests.protocol_world import World

GRACE_S = 1.0  # a worker finishes what is in hand for so long when a partition is taken from it
PIECE = MailboxLimits(piece_records=3)  # more often two batches in flight than one large one


@dataclass(eq=False)
class Call:
    """A command to the store: asked, perhaps in effect, not answered yet."""

    process: Process
    command: str
    argument: Any
    answer: asyncio.Future[Any]
    outcomes: list[Any] = field(default_factory=list)

    @property
    def place(self) -> Place:
        """The partition that it is about."""
        partition = self.argument if self.command == "load" else self.argument.partition
        return (partition.topic, partition.partition)

    @property
    def point(self) -> str:
        """Where in the protocol its sender stands."""
        return f"{self.command} done" if self.outcomes else self.command


@dataclass(eq=False)
class Delivery:
    """Messages that were given to the broker; `left` are not in the log yet."""

    process: Process
    place: Place  # the partition whose batch it is
    messages: int
    left: int
    acked: asyncio.Future[Mapping[Place, int]]
    offsets: dict[Place, int] = field(default_factory=dict)

    @property
    def point(self) -> str:
        """Where in the protocol its sender stands."""
        return "written" if not self.left else "partly written" if self.left < self.messages else "deliver"


@dataclass
class Reading:
    """A partition as a member of the group reads it: the next offset, under a seek number."""

    offset: int
    seek: int
    held: bool = False
    done: int | None = None


OWNER: contextvars.ContextVar[Process] = contextvars.ContextVar("the process that a task belongs to")


def owned_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    """A task of the process in whose tasks it is made."""
    task = asyncio.Task(coroutine, loop=loop, **more)
    OWNER.get().tasks.append(task)
    return task


class Process:
    """One worker process: the product's `Worker`, and its member of the group, its store client and its producer."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.dead = False
        self.failure: BaseException | None = None
        self.serving = NumberedServing(world.pipeline, world.champion)
        self.reading: dict[Place, Reading] = {}
        self.outbox: dict[Place, deque[tuple[Delivery, Outgoing]]] = defaultdict(deque)
        self.deliveries: list[Delivery] = []
        self.coming: dict[Place, asyncio.Task[None]] = {}
        self.leaving: dict[Place, asyncio.Task[None]] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self._seek = 0
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)
        self.worker = Worker(
            world.stages(self),
            Pressure(_NothingUnread(), name, limit_bytes=0),
            limits=PIECE,
            grace_s=GRACE_S,
            clock=lambda: 0.0,
            fatal=self._fatal,
        )
        self.worker.join(self)

    def __repr__(self) -> str:
        return self.name

    def _fatal(self, error: BaseException) -> None:
        self.failure = self.failure or error

    # The store client and the producer.

    async def load(self, partition: PartitionId) -> Loaded:
        return cast("Loaded", await self._ask("load", partition))

    async def claim(self, claim: Claim) -> Claimed | Refused:
        return cast("Claimed | Refused", await self._ask("claim", claim))

    async def commit(self, commit: Commit) -> Committed | Refused:
        return cast("Committed | Refused", await self._ask("commit", commit))

    async def _ask(self, command: str, argument: Any) -> Any:
        call = Call(self, command, argument, self.world.loop.create_future())
        self.world.calls.append(call)
        return await call.answer

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Place, int]:
        if not messages:
            return {}
        count, acked = len(messages), self.world.loop.create_future()
        delivery = Delivery(self, _place_at_work(), count, count, acked)
        self.deliveries.append(delivery)
        for message in messages:
            self.outbox[message.topic, message.partition].append((delivery, message))
        return await delivery.acked

    # The member of the group.

    def hold(self, partition: Place) -> None:
        if partition in self.reading:
            self.reading[partition].held = True

    def release(self, partition: Place) -> None:
        if partition in self.reading:
            self.reading[partition].held = False

    def mark_done(self, partition: Place, end: int, seek: int) -> bool:
        reading = self.reading.get(partition)
        if reading is None or reading.seek != seek:
            return False
        reading.done = max(end, reading.done or end)
        return True

    async def rewind(self, partition: Place, offset: int) -> int | None:
        if partition not in self.reading:
            return None
        return self._seek_to(partition, offset).seek

    async def still_ours(self, partition: Place, offset: int) -> bool:
        return self.world.assigned.get(partition) is self

    async def committed(self, partition: Place) -> int | None:
        return self.world.committed.get(partition)

    def commit_offsets(self) -> None:
        """What is done is committed, as far as the group takes it from us."""
        for place, reading in self.reading.items():
            if reading.done is not None and self.world.assigned.get(place) is self:
                self.world.committed[place] = reading.done

    def _seek_to(self, place: Place, offset: int) -> Reading:
        self._seek += 1
        self.reading[place] = Reading(offset, self._seek)
        return self.reading[place]

    # What happens to it.

    @property
    def has(self) -> set[Place]:
        """The partitions that it takes for its own."""
        return {*self.reading, *self.coming, *self.leaving}

    def take(self, place: Place) -> None:
        """The group gives it a partition."""
        self.coming[place] = self._run(self._take(place))

    async def _take(self, place: Place) -> None:
        at = await self.worker.position(place)
        offset = (self.world.committed.get(place) or 0) if at is None else at
        reading = self._seek_to(place, offset)
        self.worker.started(place, offset, reading.seek)

    def let_go(self, place: Place) -> None:
        """The group takes a partition away: what is in hand is finished, for as long as the grace lasts."""
        if place in self.coming:
            self.coming[place].cancel()
        self.leaving[place] = self._run(self._let_go(place))

    async def _let_go(self, place: Place) -> None:
        await self.worker.revoked(frozenset({place}))
        self.commit_offsets()
        self.reading.pop(place, None)

    def fetch(self, place: Place, most: int) -> None:
        """Some more records of a partition come in."""
        reading, log = self.reading[place], self.world.log.records[place]
        records = log[reading.offset : reading.offset + most]
        start, reading.offset = reading.offset, reading.offset + len(records)
        self.worker.receive(FetchedBatch(*place, records, reading.seek, start, reading.offset, len(log)))

    def readable(self) -> list[Place]:
        """Partitions of which something can be fetched."""
        return [
            place
            for place, reading in sorted(self.reading.items())
            if not reading.held and place not in self.leaving and reading.offset < self.world.end(place)
        ]

    def stop_at_once(self) -> None:
        """Killed: its tasks go no further. What it has sent is on its way, and may arrive."""
        self.dead = True
        for task in self.tasks:
            task.cancel()
        self.reading, self.coming, self.leaving = {}, {}, {}

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._context.run(self.world.loop.create_task, coroutine)
        return task


class _NothingUnread:
    async def applied(self, partitions: Sequence[Place]) -> list[int]:
        return [-1] * len(partitions)

    async def share(self, worker: str, unread: Mapping[Place, int]) -> dict[Place, int]:
        return {}


def _place_at_work() -> Place:
    """The partition that the task works on, by the task's name."""
    task = asyncio.current_task()
    assert task is not None
    topic, number = task.get_name().split(" ")[-1].rsplit("-", 1)
    return (topic, int(number))
