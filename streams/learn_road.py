"""The learn road: late labels in, outcomes and label rows out. Bytes to bytes; store, broker, archive and clock are handed in.

    labels, actions ─> LabelIngest ─┐
                                    ├─> hop-join ─> JoinStage ─> outcomes ─> the learner
    what was served, by event id ───┘                  └─────> hop-<entity>: label rows, for windows over labels

`LabelIngest` (`streams/label_ingest.py`) has no state. The `JoinStage` owns the ledger of each partition of `hop-join`: what
was served and waits for its label, by the id of its event. Its batches go through the numbered steps of every stage with
state, the same here, in docs/architecture.md, in docs/guarantees.md and in the names of the tests:

    1 take     the records that are new                         5 write     outcomes and label rows as messages
    2 decode   what was served, labels, actions                 6 deliver   archive what the ledger let go; the broker's acks
    3 claim    in the store: still ours?                        7 commit    ledger, feeds, positions, at once
    4 settle   one record after another, and what time does     8 ack       by the caller

A crash before 7 repeats the batch from the same ledger, and what follows from a record depends on the records before it
alone: so what 6 wrote twice has the same positions and says the same, however it is cut into batches then.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.label_rows import LabelRows
from features.store import Commit, PartitionId, Refused, StateStore
from models.label import Label
from models.outcomes import REPEAT
from streams.batch import Record
from streams.dead_letters import DeadLetter, DeadLetterWriter
from streams.feed_notices import notice_message
from streams.headers import FRAME, PIPELINE_VERSION, UPSTREAM
from streams.join_stage import JoinBatches, JoinMemory, JoinWork, Settled
from streams.label_frames import LabelFrameCodec
from streams.labels import EVENT_ID, KNOWN_AT
from streams.metrics import Metrics, StageCounters
from streams.outcomes import OutcomeCodec
from streams.predict_road import Publishing
from streams.prediction import utc_texts
from streams.producer import Outgoing, partition_of
from streams.settling import DeadLabel, LabelRow

# Of label rows bound for one partition, in one record. A row has some 50 bytes, 16 for each value, and its key, of at most
# 256 characters for each of its fields: these stay below the frames' limit.
LABEL_ROWS_A_RECORD = 250


@dataclass(frozen=True)
class LabelHop:
    """The way to the stage of an entity that has windows over labels: its topic, and how frames are written on it."""

    topic: str
    partitions: int
    codec: LabelFrameCodec
    inputs: Sequence[str]  # the entity's `label_inputs`


@dataclass(frozen=True)
class JoinBegun:
    """A batch after step 5: what will be delivered and committed."""

    work: JoinWork
    settled: Settled
    commit: Commit
    outgoing: Sequence[Outgoing]

    @property
    def last(self) -> int:
        """The new `applied`, which may lie before the last record that was offered."""
        return self.commit.last


@dataclass(frozen=True)
class JoinStage:
    """The stage that joins labels to what was served, for each partition of `hop-join`.

    `outcomes` is the topic that the learner reads, `hops` lead to the entities of `ServedRows.plans`, in their order.
    `label_letters` writes dead letters of the topic of labels.
    """

    batches: JoinBatches
    codec: OutcomeCodec
    outcomes: str
    hops: Sequence[LabelHop]
    store: StateStore
    dead_letters: DeadLetterWriter
    label_letters: DeadLetterWriter
    publisher: Publishing
    metrics: Metrics
    name: str = "join"

    async def open(self, partition: PartitionId) -> JoinMemory:
        """Take the partition over: raise its epoch, and read its ledger. Reading begins at `applied` + 1.

        The ledger is read bucket by bucket, by claims that pin nothing. When another worker takes the partition over
        meanwhile, the next batch is refused, and the partition is opened again.
        """
        memory = self.batches.remember(partition, await self.store.load(partition))
        listed = await self._read(memory, memory.state.list_key)
        for bucket in memory.state.load_list(listed, memory.feeds):
            memory.state.load(await self._read(memory, memory.state.bucket_key(bucket)))
        return memory

    async def process(self, memory: JoinMemory, records: Sequence[Record]) -> int | Refused:
        """One batch without overlap; returns the new `applied`, or why it had no effect. Raises as its two halves do."""
        begun = await self.begin(memory, records)
        return begun if isinstance(begun, Refused) else await self.finish(memory, begun)

    async def begin(self, memory: JoinMemory, records: Sequence[Record]) -> JoinBegun | Refused:
        """Steps 1 to 5. `Refused`: the partition moved, or the store was rolled back: forget `memory` and open again.

        Raises `UnreachableError`; the batch has then had no effect in the store. Raises OSError of the archive.
        """
        timer = self.metrics.timer(self.name)
        work = self.batches.take(memory, records)  # 1, 2
        timer.done("decode")
        claim = await self.store.claim(self.batches.claim(memory, work))  # 3
        if isinstance(claim, Refused):
            return self._refused(claim)
        if claim.pinned_last < work.last:
            pinned = [record for record in records if record.offset <= claim.pinned_last]
            work = self.batches.take(memory, pinned)
        timer.done("claim")
        settled = await self._settled(memory, work)  # 4
        commit = self.batches.commit(memory, work)
        timer.done("settle")
        outgoing = [self.dead_letters.message(letter) for letter in work.dead]
        outgoing += self._messages(memory.upstream, settled)  # 5
        self.batches.begun(memory, settled, commit)
        timer.done("write")
        return JoinBegun(work, settled, commit, outgoing)

    async def finish(self, memory: JoinMemory, begun: JoinBegun) -> int | Refused:
        """Steps 6 and 7 of the oldest batch in flight; returns the new `applied`.

        `Refused` as above. Raises `DeliveryError` and `UnreachableError`; the outcome in the store is then unknown.
        """
        timer = self.metrics.timer(self.name)
        await self._archive(memory, begun.settled)  # 6
        await self.publisher.deliver(begun.outgoing)
        timer.done("deliver")
        committed = await self.store.commit(begun.commit)  # 7
        if isinstance(committed, Refused) and not committed.already_done(begun.commit):
            return self._refused(committed)
        self.batches.committed(memory, begun.commit)
        timer.done("commit")
        self._count(begun)
        return begun.last

    async def _settled(self, memory: JoinMemory, work: JoinWork) -> Settled:
        """Step 4; the archive is read in a thread, while other partitions go on."""
        settle, archive = self.batches.settle(memory, work), self.batches.archive
        try:
            asked = next(settle)
            while archive is not None:
                found = await asyncio.to_thread(archive.read, memory.partition.partition, asked)
                asked = settle.send(found)
        except StopIteration as done:
            settled: Settled = done.value
            return settled
        raise AssertionError("there is no archive that could be asked")

    async def _read(self, memory: JoinMemory, key: str) -> bytes | None:
        claim = await self.store.claim(self.batches.reading(memory, [key]))
        return None if isinstance(claim, Refused) else claim.states[key]

    async def _archive(self, memory: JoinMemory, settled: Settled) -> None:
        """Before the commit, which takes these rows out of the ledger."""
        archive, rows = self.batches.archive, list(settled.let_go.items())
        if archive is not None and rows:
            await asyncio.to_thread(archive.write, memory.partition.partition, rows, settled.open_us)

    # ---- messages

    def _messages(self, upstream: str, settled: Settled) -> list[Outgoing]:
        messages = [self.label_letters.message(self._dead_letter(dead)) for dead in settled.dead]
        messages += self._outcomes(settled, upstream)
        for entity, hop in enumerate(self.hops):
            rows = [row for row in settled.label_rows if row.entity == entity]
            messages += self._label_rows(hop, rows, upstream)
        return messages

    def _outcomes(self, settled: Settled, upstream: str) -> list[Outgoing]:
        """Outcomes, and between them what the learner must know of the label feed."""
        messages, done = [], 0
        for place, notice in settled.notices:
            messages += self.codec.messages(settled.outcomes[done:place], self.outcomes, upstream)
            messages.append(notice_message(notice, self.outcomes, upstream))
            done = place
        return messages + self.codec.messages(settled.outcomes[done:], self.outcomes, upstream)

    def _label_rows(self, hop: LabelHop, rows: Sequence[LabelRow], upstream: str) -> list[Outgoing]:
        headers = [
            (UPSTREAM, upstream.encode()),
            (FRAME, hop.codec.version),
            (PIPELINE_VERSION, self.batches.pipeline.version.encode()),
        ]
        by_partition: dict[int, list[LabelRow]] = {}
        for row in rows:
            by_partition.setdefault(partition_of(row.key.encode(), hop.partitions), []).append(row)
        chosen = self._columns(hop.inputs)
        return [
            Outgoing(
                hop.topic,
                partition,
                None,
                _label_frame(hop.codec, some[at : at + LABEL_ROWS_A_RECORD], chosen),
                headers,
            )
            for partition, some in sorted(by_partition.items())
            for at in range(0, len(some), LABEL_ROWS_A_RECORD)
        ]

    def _columns(self, inputs: Sequence[str]) -> list[int]:
        """Where the values that an entity needs stand among the label and its values."""
        label = self.batches.pipeline.label
        return [(label.name, *label.values).index(name) for name in inputs]

    def _dead_letter(self, dead: DeadLabel) -> DeadLetter:
        partition = int(dead.told.upstream.rpartition("/")[2])
        record = rebuilt(self.batches.pipeline.label, dead)
        detail = "the label was known before its event happened"
        return DeadLetter(partition, record, "known_before_event", f"$.{KNOWN_AT}", detail)

    # ---- what is counted

    def _refused(self, refused: Refused) -> Refused:
        self.metrics.refused.labels(self.name, refused.why).inc()
        return refused

    @cached_property
    def _counters(self) -> StageCounters:
        return self.metrics.stage(self.name)

    def _count(self, begun: JoinBegun) -> None:
        counters, work, settled = self._counters, begun.work, begun.settled
        kinds = Counter(outcome.kind for outcome in settled.outcomes)
        counters.events.inc(work.last - work.first + 1)
        counters.rows.inc(len(settled.outcomes))
        counters.copies.inc(work.copies)
        counters.repeats.inc(kinds[REPEAT])
        self.metrics.outcomes_settled(kinds)
        self.metrics.dead_letters(
            [*(letter.reason for letter in work.dead), *("known_before_event" for _ in settled.dead)]
        )


@dataclass(frozen=True)
class RebuiltRecord:
    """A label's record, written again: the stage has its content, no longer its bytes."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = -1
    headers: Sequence[tuple[str, bytes]] = ()


def rebuilt(label: Label, dead: DeadLabel) -> RebuiltRecord:
    """The record of a label that came too early to be true."""
    told = dead.told
    value: object = None if np.isnan(told.code) else told.code
    if label.classes and value is not None:
        value = label.classes[int(told.code)]
    numbers = np.frombuffer(told.values, np.float64).tolist()
    more: Mapping[str, float] = {
        name: number for name, number in zip(label.values, numbers, strict=True) if not np.isnan(number)
    }
    known_at = utc_texts(np.array([told.known_us]))[0]
    document = {EVENT_ID: dead.event_id, label.name: value, KNOWN_AT: known_at, **more}
    return RebuiltRecord(told.offset, dead.event_id.encode(), json.dumps(document).encode())


def _label_frame(codec: LabelFrameCodec, rows: Sequence[LabelRow], columns: Sequence[int]) -> bytes:
    def chosen(values: Sequence[tuple[float, ...]]) -> list[list[float]]:
        return [[row[column] for column in columns] for row in values]

    return codec.encode(
        LabelRows.of(
            [row.key for row in rows],
            [row.known_us for row in rows],
            chosen([row.values for row in rows]),
            [row.replaced_known_us for row in rows],
            chosen([row.replaced for row in rows]),
        ),
        np.array([row.offset for row in rows], np.int64),
        np.array([row.row for row in rows], np.int64),
    )
