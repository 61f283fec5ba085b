"""The worker: which partitions are ours, what is remembered of them, and the loop that drives the road for each.

Nothing here knows Faust: `streams/app.py` connects it. The transport asks `position` where reading starts, reports
`started` and `revoked`; agents hand fetched batches to `receive`; a task per partition takes all that waits, sends it
down the road and marks it as done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from features.errors import OperatorError, StateLostError
from features.store import NOTHING_APPLIED, PartitionId, Refused
from streams.batch import FetchedBatch, Partition
from streams.mailbox import Mailbox, MailboxLimits, PartitionTasks, Piece, Put
from streams.overlap import Overlap
from streams.pressure import LOOK_EVERY_S, Pressure
from streams.stage import BeginsAnew, Source, Stage, StageMemory, TickingSource, TickingStage

log = logging.getLogger(__name__)


class Group(Protocol):
    """What the worker asks of the consumer group (the transport's `Consumer`)."""

    def hold(self, partition: Partition) -> None: ...
    def release(self, partition: Partition) -> None: ...
    def mark_done(self, partition: Partition, end: int, seek: int) -> bool: ...
    async def rewind(self, partition: Partition, offset: int) -> int | None: ...
    async def still_ours(self, partition: Partition, offset: int) -> bool: ...
    async def committed(self, partition: Partition) -> int | None: ...


@dataclass(frozen=True)
class Stages:
    """The stages that this worker runs, by their input topic: `ingest` those without state, `entities` those with.

    `identities` tells the topics' instances apart.
    """

    pipeline: str
    ingest: Mapping[str, Source]
    entities: Mapping[str, Stage]
    identities: Mapping[str, str]

    @property
    def topics(self) -> list[str]:
        """The topics to subscribe to."""
        return [*self.ingest, *self.entities]


class Worker:
    """Runs stages on the partitions that the group gives us. `clock` is a monotonic clock in seconds."""

    def __init__(
        self,
        stages: Stages,
        pressure: Pressure,
        *,
        limits: MailboxLimits,
        grace_s: float,
        clock: Callable[[], float],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._stages, self._pressure = stages, pressure
        self._grace_s, self._clock, self._fatal = grace_s, clock, fatal
        self._memories: dict[Partition, StageMemory] = {}
        self._busy_since: dict[Partition, float] = {}  # of what is in hand, the last that moved
        self._arrived: dict[Partition, float] = {}  # when the group gave us what does not flow yet
        self._ends: dict[Partition, int] = {}  # of each log, as of its newest fetch
        self._done: dict[Partition, int] = {}  # everything below is
        self._group: Group | None = None
        self._tasks = PartitionTasks(
            self._work, hold=self._hold, release=self._release, fatal=fatal, limits=limits
        )

    def join(self, group: Group) -> None:
        """The group that we are a member of; called once it is there."""
        self._group = group

    # What the transport asks and reports.

    async def position(self, partition: Partition) -> int | None:
        """Where to read on: behind `applied` for a stage with state, at the committed offset for ingest.

        Where nothing was applied that is 0, and not the oldest record: a log that begins later has lost some unread.
        """
        self._arrived[partition] = self._clock()
        if partition[0] not in self._stages.entities:
            return None
        try:
            return (await self._open(partition)).applied + 1
        except OperatorError as error:
            # Who runs this worker stops it, and ends with that sentence. Raised, it would crash Faust's consumer first.
            self._fatal(error)
            # Until this is cancelled: the partition never flows.
            await asyncio.get_running_loop().create_future()
            return None

    def started(self, partition: Partition, offset: int, seek: int) -> None:
        """The partition is ours and flows."""
        self._arrived.pop(partition, None)
        self._done[partition] = self._ends[partition] = offset
        self._tasks.start(partition, offset, seek)

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """Finish the batches in hand, then forget the partitions."""
        await self._tasks.stop(partitions, grace_s=self._grace_s)
        for remembered in (self._memories, self._busy_since, self._arrived, self._ends, self._done):
            for partition in partitions:
                remembered.pop(partition, None)

    def receive(self, batch: FetchedBatch) -> None:
        """A fetched batch; never waits."""
        if self._tasks.put(batch) is Put.TAKEN:
            self._ends[batch.key] = batch.highwater

    # What is watched.

    def memories(self) -> list[StageMemory]:
        """The partitions with state that are ours, for metrics."""
        return list(self._memories.values())

    def mailboxes(self) -> list[Mailbox]:
        """What waits, for metrics."""
        return self._tasks.mailboxes()

    def lags(self) -> dict[Partition, int]:
        """Records between what is done of each partition and its end, as of its newest fetch."""
        done = dict(self._done)  # copies: metrics ask from a thread of their own
        return {place: max(end - done.get(place, end), 0) for place, end in dict(self._ends).items()}

    def stalled(self, patience_s: float) -> list[Partition]:
        """Partitions whose batch in hand has been worked on for longer than `patience_s`, or that did not begin to flow.

        A source that waits for the hop topics to be read does not count: it is meant to wait.
        """
        now = self._clock()
        waiting = [*self._busy_since.items(), *self._arrived.items()]
        return [partition for partition, since in waiting if now - since > patience_s]

    # Signs of life.

    async def tick(self, every_s: float) -> None:
        """Let the stages that tick say how far they are, every `every_s` seconds, for ever; a task of the worker.

        Raises what their ticks raise: `DeliveryError`.
        """
        while True:
            await asyncio.sleep(every_s)
            for mailbox in self.mailboxes():
                await self._tick(mailbox)

    async def _tick(self, mailbox: Mailbox) -> None:
        topic, number = partition = mailbox.partition
        waits = mailbox.waiting_records or partition in self._busy_since or self.lags().get(partition, 0)
        source = self._stages.ingest.get(topic)
        if isinstance(source, TickingSource):
            await source.tick(number, idle=not waits)
        stage, memory = self._stages.entities.get(topic), self._memories.get(partition)
        if isinstance(stage, TickingStage) and memory is not None:
            await stage.tick(memory, idle=not waits)

    # The work of one partition.

    async def _work(self, mailbox: Mailbox) -> None:
        await (
            self._ingest_all(mailbox)
            if mailbox.partition[0] in self._stages.ingest
            else self._advance_all(mailbox)
        )

    async def _ingest_all(self, mailbox: Mailbox) -> None:
        topic, number = mailbox.partition
        while (piece := await mailbox.take_all()) is not None:
            if not await self._room(mailbox):
                return
            self._began(mailbox.partition)
            await self._stages.ingest[topic].process(number, piece.records)
            self._ended(piece, in_flight=0)

    async def _room(self, mailbox: Mailbox) -> bool:
        """Wait until the hop topics have room; False when the partition is taken away before."""
        while not mailbox.closed:
            if await self._pressure.relief(LOOK_EVERY_S):
                return True
        return False

    async def _advance_all(self, mailbox: Mailbox) -> None:
        partition = mailbox.partition
        while not mailbox.closed:
            stage, memory = self._stages.entities[partition[0]], self._memories[partition]
            refused = await Overlap(stage, memory, mailbox, self._began, self._ended).run()
            if refused is not None:
                await self._start_over(mailbox, refused)

    def _began(self, partition: Partition) -> None:
        self._busy_since.setdefault(partition, self._clock())

    def _ended(self, piece: Piece, in_flight: int) -> None:
        """Step 8, and a sign of life."""
        if in_flight:
            self._busy_since[piece.partition] = self._clock()
        else:
            self._busy_since.pop(piece.partition, None)
        self._done[piece.partition] = piece.end
        self._joined().mark_done(piece.partition, piece.end, piece.seek)

    async def _start_over(self, mailbox: Mailbox, refused: Refused) -> None:
        partition = mailbox.partition
        log.warning(
            "%s/%d: the store refused a batch (%s): loading the partition again", *partition, refused.why
        )
        # A newer epoch may be the new owner's: only who is still a member of the group may load the partition again,
        # or two workers would take it from each other for ever.
        if refused.why == "epoch" and not await self._joined().still_ours(partition, self._done[partition]):
            mailbox.close()
            return
        memory = await self._open(partition)
        offset = memory.applied + 1
        seek = await self._joined().rewind(partition, offset)
        if seek is None:
            mailbox.close()
        else:
            self._done[partition] = offset
            mailbox.reset(seek, offset)
        self._busy_since.pop(partition, None)

    async def _open(self, partition: Partition) -> StageMemory:
        """Load the partition. Raises `StateLostError` rather than begin from nothing what was worked on before."""
        topic, number = partition
        identity = self._stages.identities[topic]
        stage = self._stages.entities[topic]
        memory: StageMemory = await stage.open(PartitionId(self._stages.pipeline, topic, number, identity))
        known = memory.applied != NOTHING_APPLIED or isinstance(stage, BeginsAnew)
        if not known and (done := await self._known_to_be_done(partition)):
            raise StateLostError(
                f"Redis knows nothing of {topic}/{number}, of which workers have done all before offset {done}: it was "
                "emptied, rolled back to before its first batch, or is another one than before (setting redis_url). Nothing "
                f"was published. Restore it, or stop the workers and run 'driftwood rebuild {self._stages.pipeline}' (a "
                "pipeline of your own: the path of its file)"
            )
        self._memories[partition] = memory
        return memory

    async def _known_to_be_done(self, partition: Partition) -> int:
        """Up to where the partition was worked on, by what this worker remembers and what the group has committed."""
        return max(self._done.get(partition, 0), await self._joined().committed(partition) or 0)

    def _hold(self, partition: Partition) -> None:
        self._joined().hold(partition)

    def _release(self, partition: Partition) -> None:
        self._joined().release(partition)

    def _joined(self) -> Group:
        assert self._group is not None, "no batch flows before the worker has joined its group"
        return self._group
