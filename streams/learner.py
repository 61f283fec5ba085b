"""The stage that learns: one record of `outcomes` is one mini-batch, stepped in order by the one owner of the partition.

    open     raise the epoch; find where the learners begin (`streams/learner_states.py`), restore every one of them
    begin    1 take the records that are new   2 decode them, drop copies by position   4 step: measure, weigh, learn
    finish   publish a snapshot, at most every second: sealed, fenced, with the position that belongs to it

Nothing is claimed: what a learner works out stands in its memory until a snapshot has it, and only publishing is fenced
(`features/snapshot_store.py`). After a crash the next owner begins at the newest snapshot and steps the same records, so
it comes to the same learners, bit for bit. Stepping and serialising happen in one thread of their own, one after the
other: the loop stays free for the join of labels, and a snapshot never sees half a step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from features.errors import PositionError, StoreError, UnreachableError
from features.snapshot_store import Published, Snapshot, SnapshotStore
from features.store import NOTHING_APPLIED, PartitionId, Refused
from streams.batch import Partition, Record
from streams.dead_letters import DeadLetterWriter
from streams.learner_states import Copies, LearnerMaker, LearnerStates, Sealing
from streams.metrics import Metrics
from streams.mini_batches import Junk, MiniBatches, OutcomeReader, Stepped
from streams.predict_road import Publishing
from streams.stage import HeldBytes

log = logging.getLogger(__name__)

# Between the beginnings of two snapshots, in seconds: the scorers' weights are not older than this and what it takes to
# serialise. Each costs the learner its serialising, and Redis its bytes.
PUBLISH_EVERY_S = 1.0

# How long one batch may be stepped, in seconds: a slow learner's batches are cut, so that the worker sees it move.
STEP_BUDGET_S = 0.25

# Between two copies of a snapshot outside Redis, in seconds: when Redis is lost, so many labels are learnt again.
COPY_EVERY_S = 3_600.0


@dataclass
class LearnMemory:
    """The learner, and how far it is. `applied`: its newest published snapshot; `batches`: what was stepped since."""

    partition: PartitionId
    epoch: int
    applied: int
    batches: MiniBatches
    in_flight: tuple[int, ...] = ()
    state: HeldBytes = field(default_factory=HeldBytes)
    publishing: asyncio.Task[None] | None = None
    later: asyncio.TimerHandle | None = None  # the next snapshot, when it is not time yet
    began_s: float = float("-inf")  # the newest snapshot, by the stage's clock
    copied_s: float = float("-inf")  # the newest copy of one
    behind_since_s: float | None = None
    stepping_since_s: float | None = None  # what is in hand just now
    figures: bytes = b"{}"  # of the newest snapshot, as it was published
    owes_first: bool = False  # no snapshot has what training taught them
    refused: Refused | None = None
    failed: Exception | None = None
    said: str = ""

    @property
    def behind(self) -> bool:
        """Whether something was learnt that no snapshot has."""
        return self.owes_first or self.batches.taken != self.applied

    def unpublished_s(self, now_s: float) -> float:
        """For how long something has been stepped, or is in hand, that no snapshot has; 0 when the newest has all."""
        both_s = (self.behind_since_s, self.stepping_since_s)  # metrics ask from a thread of their own
        return now_s - min((since_s for since_s in both_s if since_s is not None), default=now_s)


@dataclass(frozen=True)
class Begun:
    """A batch that was stepped, up to the record `last`."""

    last: int
    stepped: Stepped


@dataclass(frozen=True)
class LearnStage:
    """The learners of one pipeline. `clock` is a monotonic clock in seconds, `now_ms` the wall clock.

    `begins_anew`: a store that knows nothing of it is no error (`streams/learner_states.py`). `afresh`: where a snapshot
    belongs to other features or another key, go on behind it with learners that no outcome has taught. `answering` are the
    partitions whose batches are pinned to snapshots: those that their pins name are not dropped. `copies` keeps one of the
    newest snapshot every hour. `oldest` gives the offset of the oldest record of a partition, and raises as
    `streams.topic_log.TopicLog.bounds`.
    """

    maker: LearnerMaker
    codec: OutcomeReader
    store: SnapshotStore
    sealing: Sealing
    dead_letters: DeadLetterWriter
    publisher: Publishing
    metrics: Metrics
    afresh: bool = False
    clock: Callable[[], float] = time.monotonic
    now_ms: Callable[[], float] = lambda: time.time() * 1e3
    publish_every_s: float = PUBLISH_EVERY_S
    step_budget_s: float = STEP_BUDGET_S
    begins_anew: bool = True
    answering: Sequence[Partition] = ()
    copies: Copies | None = None
    oldest: Callable[[Partition], int] = lambda place: 0
    thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="learner")
    )

    @property
    def name(self) -> str:
        """The stage's name in metrics."""
        return "learner"

    async def open(self, partition: PartitionId) -> LearnMemory:
        """Take the learners over, as the newest snapshot has them.

        Raises:
            PositionError: the snapshot was learnt from another topic.
            StateLostError: its bytes are gone.
            SnapshotError: they are unsigned, altered, or of other features; nothing of them was used.
        """
        loaded = await self.store.load(partition)
        if loaded.identity not in (None, partition.identity):
            raise PositionError(
                f"the learners of {partition.pipeline} have learnt from the topic {loaded.identity}, this broker has "
                f"{partition.identity}: {partition.topic} was made again, or another broker is configured. Point brokers at "
                "the old one, or begin afresh with an empty Redis database"
            )
        if loaded.identity is None:  # of what only training has taught, published as -1, it knows the topic
            loaded = await self._states.recovered(partition, loaded)
        learner = await self._states.learner(partition.pipeline, loaded.applied)
        batches = MiniBatches(learner, self.codec, loaded.applied, dict(loaded.seen))
        figures = json.dumps(await self._in_thread(learner.figures)).encode()
        memory = LearnMemory(partition, loaded.epoch, loaded.applied, batches, figures=figures)
        if learner.taught and await self.store.latest(partition.pipeline) is None:
            memory.owes_first = True
            self._publish(memory)  # they are scored from the first event on, and judged by its label
        return memory

    async def process(self, memory: LearnMemory, records: Sequence[Record]) -> int | Refused:
        """One batch without overlap; returns its last record, or why it had no effect."""
        begun = await self.begin(memory, records)
        return begun if isinstance(begun, Refused) else await self.finish(memory, begun)

    async def begin(self, memory: LearnMemory, records: Sequence[Record]) -> Begun | Refused:
        """Steps 1 to 4. `Refused`: another owner has taken the learners over, or the store was rolled back."""
        if memory.failed is not None:
            raise memory.failed
        if memory.refused is not None:
            return memory.refused
        timer = self.metrics.timer(self.name)
        fresh = [record for record in records if record.offset > memory.batches.taken]
        stepped = await self._stepped(memory, fresh)
        timer.done("step")
        last = max(memory.batches.taken, records[0].offset if not fresh else NOTHING_APPLIED)
        memory.in_flight = (*memory.in_flight, last)
        return Begun(last, stepped)

    async def finish(self, memory: LearnMemory, begun: Begun) -> int | Refused:
        """Have a snapshot published, if it is time; returns the batch's last record."""
        memory.in_flight = memory.in_flight[1:]
        self._count(begun.stepped)
        self._publish_when_due(memory)
        return memory.refused or begun.last

    async def _stepped(self, memory: LearnMemory, fresh: Sequence[Record]) -> Stepped:
        """Step them in the learner's thread; how long that takes is seen meanwhile."""
        states = await self._states.wanted(memory.partition.pipeline, fresh)
        memory.stepping_since_s = self.clock()
        step = memory.batches.step_all
        stepped: Stepped = await self._in_thread(step, fresh, states, self.clock, self.step_budget_s)
        if stepped.junk is not None:
            await self._bury(memory.partition.partition, stepped.junk)
            memory.batches.taken = stepped.junk.record.offset
        if memory.behind and memory.behind_since_s is None:
            memory.behind_since_s = memory.stepping_since_s
        memory.stepping_since_s = None
        return stepped

    async def published(self, memory: LearnMemory) -> None:
        """Publish what was stepped, now, and wait until the store has it: for tests, and at the end of a replay."""
        while memory.behind and memory.refused is None and memory.failed is None:
            if memory.publishing is None:
                self._publish(memory)
            assert memory.publishing is not None
            await memory.publishing

    @cached_property
    def _states(self) -> LearnerStates:
        return LearnerStates(
            *(self.maker, self.store, self.sealing, self.afresh),
            *(self.copies, self.oldest, self.now_ms, self.thread),
        )

    async def _bury(self, partition: int, junk: Junk) -> None:
        letter = junk.letter(partition)
        await self.publisher.deliver([self.dead_letters.message(letter)])
        self.metrics.dead_letters([letter.reason])

    # ---- snapshots

    def _publish_when_due(self, memory: LearnMemory) -> None:
        """Begin a snapshot now, or when the second is over; never while one is under way."""
        if not memory.behind or memory.publishing or memory.later or memory.refused:
            return
        wait_s = memory.began_s + self.publish_every_s - self.clock()
        if wait_s <= 0:
            self._publish(memory)
        else:
            memory.later = asyncio.get_running_loop().call_later(wait_s, self._publish, memory)

    def _publish(self, memory: LearnMemory) -> None:
        if memory.later is not None:
            memory.later.cancel()
        memory.later = None
        memory.publishing = asyncio.create_task(self._publish_once(memory))

    async def _publish_once(self, memory: LearnMemory) -> None:
        memory.began_s = self.clock()
        try:
            snapshot = await self._in_thread(self._snapshot, memory)
            self._answered(memory, snapshot, await self.store.publish(snapshot))
            await self._copied(memory, snapshot)
        except (UnreachableError, StoreError) as error:
            self._troubled(memory, error)
        except Exception as error:
            log.exception("the learners could not be published")
            memory.failed = error
        finally:
            memory.publishing = None
        if memory.failed is None:
            self._publish_when_due(memory)

    async def _copied(self, memory: LearnMemory, snapshot: Snapshot) -> None:
        """Keep a copy of what was published, if it is time."""
        if self.copies is None or memory.refused or self.clock() < memory.copied_s + COPY_EVERY_S:
            return
        memory.copied_s = self.clock()
        try:
            await asyncio.to_thread(self.copies.write, snapshot)
        except OSError as error:
            log.warning("no copy of snapshot %d could be kept: %s", snapshot.version, error)

    def _snapshot(self, memory: LearnMemory) -> Snapshot:
        """Runs in the learner's thread, between two steps."""
        batches, partition = memory.batches, memory.partition
        made = self.sealing.snapshot(partition, batches.taken, batches.learner, batches.seen, self.now_ms())
        gone = tuple(batches.superseded)
        owned = replace(made, epoch=memory.epoch, applied=memory.applied, superseded=gone)
        return replace(owned, pinned_by=self.answering)

    def _answered(self, memory: LearnMemory, snapshot: Snapshot, answer: Published | Refused) -> None:
        if isinstance(answer, Refused):
            done = answer.why == "applied" and answer.applied == snapshot.version  # sent twice, answered once
            if not done:
                self.metrics.refused.labels(self.name, answer.why).inc()
                memory.refused = answer
                return
            answer = Published(memory.state.evictions)
        memory.applied, memory.owes_first = snapshot.version, False
        memory.behind_since_s = memory.began_s if memory.behind else None
        memory.state = replace(memory.state, nbytes=len(snapshot.state), evictions=answer.dropped)
        memory.figures = snapshot.figures
        memory.said = ""

    def _troubled(self, memory: LearnMemory, error: Exception) -> None:
        """Learning goes on, and snapshots get older, until Redis answers again."""
        self.metrics.errors.labels("redis").inc()
        if memory.said != str(error):
            log.warning("a snapshot of the learners could not be published: %s", error)
        memory.said = str(error)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *arguments)

    def _count(self, stepped: Stepped) -> None:
        counters = self.metrics.stage(self.name)
        counters.events.inc(stepped.records)
        counters.rows.inc(stepped.rows)
        counters.copies.inc(stepped.copies)
