"""Between the one loop that receives for all partitions and the one task per partition that works.

```
receiver:  put(batch) -> never waits            task:  piece = await take_all()   everything that waits, as one piece
           over the high mark: hold(partition)       below the low mark again: release(partition)
```

Taking all that waits as one piece is what keeps latency low when records trickle in (one-record batches would queue up
behind each other) and cost low when they pour in. Nothing here knows Faust; everything runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from features.errors import DeveloperError
from streams.batch import FetchedBatch, Partition, Record

RECORD_OVERHEAD_BYTES = 200
"""Counted for each record besides its key and value: the record object, its tuple of headers and its place in a list.
Without it a million tiny records would count as nothing."""


class Put(Enum):
    """What became of a batch that was put."""

    TAKEN = "taken"
    STALE = "stale"
    """Fetched under an older seek: those after the seek come again, those before it are not wanted."""
    CLOSED = "closed"
    """The partition is not ours (any more): its next owner reads it again."""


@dataclass(frozen=True)
class MailboxLimits:
    """A partition is held when more than `waiting_records` or `waiting_bytes` wait, and released at half of both.

    One fetch (`FetchSettings.partition_bytes`, decompressed) may come on top. A piece has at most `piece_records` and
    `piece_bytes`, but at least one record.
    """

    waiting_records: int = 16_000
    waiting_bytes: int = 8 << 20
    piece_records: int = 4000
    piece_bytes: int = 2 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Contiguous records of one partition, at least one: what a task works on as one batch.

    When its work is done, everything below `end` of the partition is done under the seek number `seek`.
    """

    partition: Partition
    records: Sequence[Record]
    seek: int
    start: int
    end: int

    def cut(self, count: int) -> tuple[Piece, Piece]:
        """The first `count` records and the rest, for a batch that turned out too large; 0 < count < len(records)."""
        if not 0 < count < len(self.records):
            raise DeveloperError(f"a piece of {len(self.records)} records cannot be cut after {count}")
        middle = self.records[count - 1].offset + 1
        head = replace(self, records=self.records[:count], end=middle)
        return head, replace(self, records=self.records[count:], start=middle)


class Mailbox:
    """The batches of one partition that wait, in order, under one seek number."""

    def __init__(
        self,
        partition: Partition,
        offset: int,
        seek: int,
        limits: MailboxLimits,
        hold: Callable[[Partition], None],
        release: Callable[[Partition], None],
    ) -> None:
        self.partition = partition
        self.stale_batches = 0
        self._limits, self._hold, self._release = limits, hold, release
        self._waiting: deque[tuple[Piece, int]] = deque()
        self._arrived = asyncio.Event()
        self._seek, self._expected = seek, offset
        self._records = self._bytes = 0
        self._held = self._closed = False

    @property
    def waiting_records(self) -> int:
        """How many records wait."""
        return self._records

    @property
    def waiting_bytes(self) -> int:
        """What waits, in bytes of keys and values plus `RECORD_OVERHEAD_BYTES` each."""
        return self._bytes

    @property
    def closed(self) -> bool:
        """Whether the partition is being taken away."""
        return self._closed

    def put(self, batch: FetchedBatch) -> Put:
        """Take a batch at the tail; never waits, and takes it even when full (it is in memory already)."""
        if self._closed:
            return Put.CLOSED
        if batch.seek < self._seek:
            self.stale_batches += 1
            return Put.STALE
        if batch.seek > self._seek:
            # The batch was quicker than the news of the seek.
            self.reset(batch.seek, batch.start)
        if batch.start != self._expected:
            raise DeveloperError(
                f"{self.partition}: a batch from offset {batch.start} arrived where {self._expected} comes next: "
                "a batch got lost on its way through the process; it has to start again from the recorded position"
            )
        self._expected = batch.end
        piece = Piece(batch.key, batch.records, batch.seek, batch.start, batch.end)
        self._add(piece, self._waiting.append)
        return Put.TAKEN

    def put_back(self, piece: Piece) -> None:
        """Return the rest of a piece that was cut, to be taken next; forgotten if a seek came in between."""
        if not self._closed and piece.seek == self._seek:
            self._add(piece, self._waiting.appendleft)

    def reset(self, seek: int, offset: int) -> None:
        """Forget what waits from before the seek numbered `seek` to `offset`; a repeated call changes nothing."""
        if seek > self._seek:
            self._seek, self._expected = seek, offset
            self._forget()

    def close(self) -> None:
        """Forget everything; `take_all` answers None from now on."""
        self._closed = True
        self._forget()
        self._arrived.set()

    async def take_all(self) -> Piece | None:
        """All that waits, up to the limits of a piece, as one piece; waits until there is something.

        None: the partition is being taken away, the task should end.
        """
        while not self._waiting:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._take()

    def _take(self) -> Piece:
        taken = [self._next_within(self._limits.piece_records, self._limits.piece_bytes)]
        records, size = len(taken[0][0].records), taken[0][1]
        while self._waiting and self._follows(taken[-1][0], self._limits.piece_records - records):
            if size + self._waiting[0][1] > self._limits.piece_bytes:
                break
            taken.append(self._waiting.popleft())
            records, size = records + len(taken[-1][0].records), size + taken[-1][1]
        self._count(-records, -size)
        return _joined([piece for piece, _ in taken])

    def _follows(self, last: Piece, room: int) -> bool:
        piece = self._waiting[0][0]
        return piece.start == last.end and len(piece.records) <= room

    def _next_within(self, records: int, size: int) -> tuple[Piece, int]:
        piece, piece_size = self._waiting.popleft()
        if len(piece.records) <= records and piece_size <= size:
            return piece, piece_size
        count = _how_many(piece.records, records, size)
        if count == len(piece.records):
            return piece, piece_size
        head, rest = piece.cut(count)
        head_size = _size(head.records)
        self._waiting.appendleft((rest, piece_size - head_size))
        return head, head_size

    def _add(self, piece: Piece, place: Callable[[tuple[Piece, int]], None]) -> None:
        size = _size(piece.records)
        place((piece, size))
        self._count(len(piece.records), size)
        self._arrived.set()

    def _count(self, records: int, size: int) -> None:
        self._records += records
        self._bytes += size
        limits = self._limits
        if not self._held and (self._records > limits.waiting_records or self._bytes > limits.waiting_bytes):
            self._held = True
            self._hold(self.partition)
        elif (
            self._held
            and self._records * 2 <= limits.waiting_records
            and self._bytes * 2 <= limits.waiting_bytes
        ):
            self._held = False
            self._release(self.partition)

    def _forget(self) -> None:
        self._waiting.clear()
        self._count(-self._records, -self._bytes)


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    records = [record for piece in pieces for record in piece.records]
    return replace(pieces[0], records=records, end=pieces[-1].end)


def _size(records: Iterable[Record]) -> int:
    return sum(
        RECORD_OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"") for record in records
    )


def _how_many(records: Sequence[Record], most: int, most_bytes: int) -> int:
    count = size = 0
    for record in records[:most]:
        size += _size((record,))
        if count and size > most_bytes:
            break
        count += 1
    return count


class PartitionTasks:
    """One mailbox and one task per partition that is ours.

    `work(mailbox)` takes pieces in a loop until there are no more (None). When it raises, or returns although the
    mailbox is open, `fatal` is told and must end the process: a partition without its task would stand still unseen.
    """

    def __init__(
        self,
        work: Callable[[Mailbox], Awaitable[None]],
        *,
        hold: Callable[[Partition], None],
        release: Callable[[Partition], None],
        fatal: Callable[[BaseException], None],
        limits: MailboxLimits | None = None,
    ) -> None:
        self._work, self._hold, self._release, self._fatal = work, hold, release, fatal
        self._limits = limits or MailboxLimits()
        self._tasks: dict[Partition, tuple[Mailbox, asyncio.Task[None]]] = {}
        self.unowned_batches = 0

    def mailboxes(self) -> list[Mailbox]:
        """Those of the partitions that are ours, for metrics."""
        tasks = list(self._tasks.values())  # at once: metrics ask from a thread of their own
        return [mailbox for mailbox, _ in tasks]

    def start(self, partition: Partition, offset: int, seek: int) -> None:
        """The partition is ours and flows from `offset` under the seek number `seek`."""
        if partition in self._tasks:
            raise DeveloperError(f"{partition} was started twice without being stopped")
        mailbox = Mailbox(partition, offset, seek, self._limits, self._hold, self._release)
        task = asyncio.create_task(self._run(mailbox), name=f"work on {partition[0]}-{partition[1]}")
        self._tasks[partition] = (mailbox, task)

    def put(self, batch: FetchedBatch) -> Put:
        """Hand a batch to its partition's mailbox; never raises, for Faust would restart the receiver and go on."""
        if batch.key not in self._tasks:
            self.unowned_batches += 1
            return Put.CLOSED
        try:
            return self._tasks[batch.key][0].put(batch)
        except DeveloperError as error:
            self._fatal(error)
            return Put.CLOSED

    async def stop(self, partitions: Iterable[Partition], *, grace_s: float, join_s: float = 5.0) -> None:
        """Forget what waits, let each task finish the piece in hand for `grace_s`, then cancel and join it.

        A task that does not even end within `join_s` after the cancel may still write: that is fatal.
        """
        stopped = [self._tasks.pop(partition) for partition in list(partitions) if partition in self._tasks]
        for mailbox, _ in stopped:
            mailbox.close()
        tasks = {task for _, task in stopped}
        late = await _unfinished(tasks, grace_s)
        for task in late:
            task.cancel()
        stuck = await _unfinished(late, join_s)
        if stuck:
            names = ", ".join(sorted(task.get_name() for task in stuck))
            self._fatal(DeveloperError(f"cancelled, but did not end within {join_s} s: {names}"))

    async def _run(self, mailbox: Mailbox) -> None:
        try:
            await self._work(mailbox)
            if not mailbox.closed:
                self._fatal(
                    DeveloperError(f"the task of {mailbox.partition} ended although the partition is ours")
                )
        except Exception as error:  # noqa: BLE001  whatever it is, the process must not go on without this task
            self._fatal(error)


async def _unfinished(tasks: set[asyncio.Task[None]], timeout_s: float) -> set[asyncio.Task[None]]:
    if not tasks:
        return set()
    _, pending = await asyncio.wait(tasks, timeout=timeout_s)
    return pending
