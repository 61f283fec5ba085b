"""The predict road: raw events in, predictions out. Bytes to bytes; store, models, broker and clock are handed in.

    events ─> Ingest ─> hop-<entity 1> ─> EntityStage 1 ─> hop-<entity 2> ─> … ─> last EntityStage ─> predictions
                 └─> dead-letters

`Ingest` has no state: an event becomes a row of a frame, or a dead letter. An `EntityStage` owns the windows of one
entity; the last one scores in place. Its batches go through numbered steps, the same here, in docs/architecture.md, in
docs/guarantees.md and in the names of the tests:

    1 take     the records that are new                         5 score     with the pinned versions
    2 decode   to the rows that are new; dead letters           6 deliver   and wait for the broker's acks
    3 claim    in the store: still ours? pin the versions       7 commit    state, positions, Feast rows, at once
    4 compute  features, then new state, in memory              8 ack       by the caller

A crash before 7 repeats the batch from the same states with the same versions, so what 6 wrote twice is the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from features.decode import Decoder
from features.store import Commit, PartitionId, Refused, StateStore
from streams.batch import Partition, Record
from streams.dead_letters import DeadLetter, DeadLetterWriter
from streams.entity_batch import Computed, EntityBatches, Memory, Work
from streams.frames import Frame
from streams.hop import Hop
from streams.metrics import Metrics, StageCounters
from streams.producer import Outgoing


class Publishing(Protocol):
    """Where messages go: the broker's `Publisher`, or a log in memory."""

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """Publish in this order; when all are acknowledged, the last offset in each partition. Raises DeliveryError."""
        ...


@dataclass(frozen=True)
class Ingest:
    """The first stage: decodes and checks `events`. `source` names the topic and its identity."""

    source: str
    decoder: Decoder
    hop: Hop
    dead_letters: DeadLetterWriter
    publisher: Publishing
    metrics: Metrics

    async def process(self, partition: int, records: Sequence[Record]) -> None:
        """One batch of one partition. Raises `DeliveryError` when the broker does not take what was made of it."""
        timer = self.metrics.timer("ingest")
        decoded = self.decoder.decode([(record.value, record.timestamp) for record in records])  # 1, 2
        timer.done("decode")
        dead = [
            DeadLetter(partition, records[bad.index], bad.reason, bad.path, bad.detail)
            for bad in decoded.dead
        ]
        outgoing = [self.dead_letters.message(letter) for letter in dead]
        if len(decoded.rows):
            frame = Frame.of_events(
                decoded.rows, self.source, partition, [records[index] for index in decoded.index]
            )
            outgoing += self.hop.messages(frame, f"{self.source}/{partition}", self.hop.versions())
        await self.publisher.deliver(outgoing)  # 6
        timer.done("deliver")
        self.metrics.events.labels("ingest").inc(len(records))
        self.metrics.rows.labels("ingest").inc(len(decoded.rows))
        self.metrics.dead_letters(bad.reason for bad in decoded.dead)
        self.metrics.unknown_fields(decoded.unknown_fields)


class Onward(Protocol):
    """What becomes of a stage's rows: a `Hop` to the next entity, or `Answers`, which score them."""

    def versions(self) -> str:
        """The versions in force, as canonical JSON, which the store pins to the batch."""
        ...

    async def ready(self, versions: str) -> None:
        """Have at hand what these versions name. Raises `OperatorError` where that cannot be."""
        ...

    def messages(self, frame: Frame, upstream: str, versions: str) -> list[Outgoing]:
        """The messages that the rows become, under these versions."""
        ...


@dataclass(frozen=True)
class Begun:
    """A batch after step 5: what will be delivered and committed. `last` is its last record."""

    work: Work
    computed: Computed
    commit: Commit
    outgoing: Sequence[Outgoing]

    @property
    def last(self) -> int:
        """The new `applied`, which may lie before the last record that was offered."""
        return self.commit.last


@dataclass(frozen=True)
class EntityStage:
    """A stage with state: the windows of one entity, for each partition of its hop topic.

    Batches of a partition may overlap: the next one may `begin` while the one before it has yet to `finish`. Both go in
    the order of the records.
    """

    batches: EntityBatches
    onward: Onward
    store: StateStore
    dead_letters: DeadLetterWriter
    publisher: Publishing
    metrics: Metrics
    answers: bool  # the last stage, whose rows are predictions

    async def open(self, partition: PartitionId) -> Memory:
        """Take the partition over: raise its epoch, learn `applied` and `seen`. Reading begins at `applied` + 1."""
        return self.batches.remember(partition, await self.store.load(partition))

    async def process(self, memory: Memory, records: Sequence[Record]) -> int | Refused:
        """One batch without overlap; returns the new `applied`, or why it had no effect. Raises as its two halves do."""
        begun = await self.begin(memory, records)
        assert begun is not None, "there is always room when nothing is in flight"
        return begun if isinstance(begun, Refused) else await self.finish(memory, begun)

    async def begin(self, memory: Memory, records: Sequence[Record]) -> Begun | Refused | None:
        """Steps 1 to 5. None: there is no room for its entities beside the batches in flight, finish those first.

        `Refused` means that the partition moved or that the store was rolled back: forget `memory` and open again.
        Raises `UnreachableError`; the batch has then had no effect in the store.
        """
        timer = self.metrics.timer(self.name)
        work = self.batches.take(memory, records)  # 1, 2
        timer.done("decode")
        if work is None:
            return None
        claim = await self.store.claim(self.batches.claim(memory, work, self.onward.versions()))  # 3
        if isinstance(claim, Refused):
            return self._refused(claim)
        await self.onward.ready(claim.versions)
        work = self.batches.cut(memory, work, records, claim)
        timer.done("claim")
        computed = self.batches.compute(memory, work, claim)  # 4
        commit = self.batches.commit(memory, work, computed)
        timer.done("compute")
        outgoing = [self.dead_letters.message(letter) for letter in work.taken.dead]
        outgoing += self.onward.messages(computed.frame, memory.upstream, claim.versions)  # 5
        self.batches.begun(memory, commit)
        timer.done("score")
        return Begun(work, computed, commit, outgoing)

    async def finish(self, memory: Memory, begun: Begun) -> int | Refused:
        """Steps 6 and 7 of the oldest batch in flight; returns the new `applied`.

        `Refused` as above. Raises `DeliveryError` and `UnreachableError`; the outcome in the store is then unknown.
        """
        timer = self.metrics.timer(self.name)
        await self.publisher.deliver(begun.outgoing)  # 6
        timer.done("deliver")
        committed = await self.store.commit(begun.commit)  # 7
        if isinstance(committed, Refused) and not committed.already_done(begun.commit):
            return self._refused(committed)
        self.batches.committed(memory, begun.computed, begun.commit)
        timer.done("commit")
        self._count(begun.work, begun.computed)
        return begun.last

    @property
    def name(self) -> str:
        """The stage's name in metrics: its entity."""
        return self.batches.plan.entity

    def _refused(self, refused: Refused) -> Refused:
        self.metrics.refused.labels(self.name, refused.why).inc()
        return refused

    @cached_property
    def _counters(self) -> StageCounters:
        return self.metrics.stage(self.name)

    def _count(self, work: Work, computed: Computed) -> None:
        counters, taken, rows = self._counters, work.taken, len(computed.frame)
        counters.events.inc(taken.last - taken.first + 1)
        counters.rows.inc(rows)
        counters.copies.inc(taken.copies)
        counters.repeats.inc(computed.repeats)
        counters.forgotten.inc(computed.ids_dropped)
        counters.labels.inc(0 if taken.labels is None else len(taken.labels))
        self.metrics.dead_letters(letter.reason for letter in taken.dead)
        self.metrics.sizes.observe_one((self.name,), float(rows))
        if computed.entities is not None:
            counters.late.inc(int((computed.entities.dropped > 0).sum()))
            self.metrics.age.observe((self.name,), computed.entities.age_s)
            counters.late_labels.inc(computed.entities.labels_dropped)
        if self.answers:
            self.metrics.answered(computed.frame.arrived_ms)
