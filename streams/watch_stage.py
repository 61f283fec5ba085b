"""A stage of the monitor: what it counts is worked out record by record, delivered, and then stored with its position.

    open     raise the epoch; go on from the state that the store has, at the oldest record there is at most
    begin    1 take the records that are new   2 count them, one after another
    finish   6 deliver what came of them   7 store the state, at most every second, fenced   8 ack, by the caller

Nothing is claimed. What comes of a record depends on the records before it alone, so after a crash the next owner delivers
the same again, with the same positions, and readers drop it. Redis may be away: counting goes on, and more is repeated
after a crash then. Counting happens in one thread, so that the loop stays free.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from features.errors import StoreError, UnreachableError
from features.store import NOTHING_APPLIED, PartitionId, Refused
from features.watch_store import Watched, WatchState, WatchStore
from streams.batch import Partition, Record
from streams.metrics import Metrics
from streams.stage import HeldBytes

log = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Between two states that are stored, in seconds: when something came of the records, and when nothing did. Packing what was
# counted costs milliseconds; what is not stored is counted again after a crash.
STORE_EVERY_S = 1.0
STORE_QUIETLY_EVERY_S = 5.0

# How long one batch may be worked on, in seconds: a backlog is cut, so that the worker sees it move.
BUDGET_S = 0.25

ROWS, COPIES, LATE, OTHER_VERSION, JUNK = "rows", "copies", "late", "other_version", "junk"
"""What is counted of records."""


class Watching(Protocol[T_co]):
    """What a stage works out of one partition. `counts` has what was counted since somebody took it out."""

    counts: Counter[str]

    def take(self, record: Record) -> Sequence[T_co]:
        """One record more, and what comes of it. Junk is counted, never raised."""

    def rest(self) -> Sequence[T_co]:
        """What is handed on at the end of a batch, wherever that is."""

    def state(self) -> bytes:
        """Everything that it remembers."""


@dataclass
class WatchMemory(Generic[T]):
    """One partition. `applied`: the last record of the newest stored state; `stands`: as the store has it, which differs
    where the state could not be used or records are gone; `taken`: the last record that was counted."""

    partition: PartitionId
    epoch: int
    applied: int
    stands: int
    taken: int
    work: Watching[T]
    in_flight: tuple[int, ...] = ()
    state: HeldBytes = field(default_factory=HeldBytes)
    stored_s: float = float("-inf")
    owes: bool = False  # something came of the records since the newest state
    said: str = ""


@dataclass(frozen=True)
class WatchBegun(Generic[T]):
    """A batch that was counted up to the record `last`; `state` None: it is not time to store one."""

    last: int
    records: int
    emitted: Sequence[T]
    counts: Counter[str]
    state: bytes | None


@dataclass(frozen=True)
class WatchStage(Generic[T]):
    """A stage of the monitor. `clock` is a monotonic clock in seconds.

    `make` goes on from a state, or from nothing; `deliver` hands on what came of a batch; `take_over` is awaited whenever a
    partition is opened, before anything else is done with it. `oldest` gives the offset of the oldest record of a
    partition, and raises as `streams.topic_log.TopicLog.bounds`.
    """

    name: str
    make: Callable[[PartitionId, bytes | None], Watching[T]]
    deliver: Callable[[Sequence[T]], Awaitable[object]]
    store: WatchStore
    metrics: Metrics
    oldest: Callable[[Partition], int] = lambda place: 0
    take_over: Callable[[], Awaitable[None]] | None = None
    clock: Callable[[], float] = time.monotonic
    store_every_s: float = STORE_EVERY_S
    store_quietly_every_s: float = STORE_QUIETLY_EVERY_S
    budget_s: float = BUDGET_S
    begins_anew: bool = True
    thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="watch")
    )

    async def open(self, partition: PartitionId) -> WatchMemory[T]:
        """Take the partition over, as the newest state has it."""
        if self.take_over is not None:
            await self.take_over()
        loaded = await self.store.load(partition)
        known = loaded.identity in (None, partition.identity)
        if not known:
            log.warning(
                "%s/%d was made anew: %s begins again with its oldest record",
                *(partition.topic, partition.partition, self.name),
            )
        state = loaded.state if known else None
        applied = await self._from(partition, loaded if known else None)
        work = await self._in_thread(self.make, partition, state)
        held = HeldBytes(nbytes=len(state or b""))
        return WatchMemory(partition, loaded.epoch, applied, loaded.applied, applied, work, state=held)

    async def _from(self, partition: PartitionId, loaded: Watched | None) -> int:
        """The record behind which reading goes on: what is deleted meanwhile cannot be counted any more."""
        applied = NOTHING_APPLIED if loaded is None else loaded.applied
        oldest = await asyncio.to_thread(self.oldest, (partition.topic, partition.partition))
        if applied + 1 < oldest and applied != NOTHING_APPLIED:
            log.warning(
                "%s/%d: records %d to %d are deleted, %s has not seen them",
                *(partition.topic, partition.partition, applied + 1, oldest - 1, self.name),
            )
        return max(applied, oldest - 1)

    async def process(self, memory: WatchMemory[T], records: Sequence[Record]) -> int | Refused:
        """One batch without overlap; returns its last record, or why it had no effect."""
        return await self.finish(memory, await self.begin(memory, records))

    async def begin(self, memory: WatchMemory[T], records: Sequence[Record]) -> WatchBegun[T]:
        """Steps 1 and 2."""
        timer = self.metrics.timer(self.name)
        begun: WatchBegun[T] = await self._in_thread(self._count, memory, records)
        timer.done("count")
        memory.in_flight = (*memory.in_flight, begun.last)
        return begun

    async def finish(self, memory: WatchMemory[T], begun: WatchBegun[T]) -> int | Refused:
        """Steps 6 and 7; returns the batch's last record, or why somebody else has to go on."""
        if begun.emitted:
            await self.deliver(begun.emitted)
        refused = None if begun.state is None else await self._store(memory, begun.last, begun.state)
        memory.in_flight = memory.in_flight[1:]
        self._measure(memory, begun)
        return begun.last if refused is None else refused

    def _count(self, memory: WatchMemory[T], records: Sequence[Record]) -> WatchBegun[T]:
        """Runs in the thread, one batch after another: so a state is never of half a batch."""
        began_s, emitted, count = self.clock(), list[T](), 0
        for record in records:
            if record.offset > memory.taken:
                emitted += memory.work.take(record)
                memory.taken = record.offset
            count += 1
            if self.clock() - began_s >= self.budget_s:
                break
        emitted += memory.work.rest()
        counts, memory.work.counts = memory.work.counts, Counter()
        memory.owes = memory.owes or bool(emitted)
        return WatchBegun(memory.taken, count, emitted, counts, self._due_state(memory))

    def _due_state(self, memory: WatchMemory[T]) -> bytes | None:
        every_s = self.store_every_s if memory.owes else self.store_quietly_every_s
        if self.clock() - memory.stored_s < every_s:
            return None
        memory.stored_s, memory.owes = self.clock(), False
        return memory.work.state()

    async def _store(self, memory: WatchMemory[T], last: int, state: bytes) -> Refused | None:
        try:
            wanted = WatchState(memory.partition, memory.epoch, memory.stands, last, state)
            refused = await self.store.store(wanted)
        except (UnreachableError, StoreError) as error:
            self._troubled(memory, error)
            return None
        if refused is not None and not (refused.why == "applied" and refused.applied == last):
            self.metrics.refused.labels(self.name, refused.why).inc()
            return refused
        memory.applied = memory.stands = last
        memory.state = HeldBytes(nbytes=len(state))
        memory.said = ""
        return None

    def _troubled(self, memory: WatchMemory[T], error: Exception) -> None:
        """Watching goes on, and after a crash more is repeated, until Redis answers again."""
        self.metrics.errors.labels("redis").inc()
        if memory.said != str(error):
            log.warning("what %s has counted could not be stored: %s", self.name, error)
        memory.said = str(error)

    def _measure(self, memory: WatchMemory[T], begun: WatchBegun[T]) -> None:
        counters, counts = self.metrics.stage(self.name), begun.counts
        counters.events.inc(begun.records)
        counters.rows.inc(counts[ROWS])
        counters.copies.inc(counts[COPIES])
        counters.late.inc(counts[LATE])
        for why in (OTHER_VERSION, JUNK):
            if counts[why]:
                self.metrics.skipped.labels(memory.partition.topic, why).inc(counts[why])

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *arguments)
