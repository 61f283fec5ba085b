"""Rebuilds the ledger of the join from `hop-join`, when Redis was lost: through the join stage itself, in the order recorded.

What follows from a record depends on the records before it alone, so the same records lead to the same ledger, and to
outcomes and label rows that stand downstream already. Up to where nothing is published again:

* up to the committed offset of the group of the learn processes: what was committed had been published;
* behind it record by record, as long as everything that a record leads to stands downstream. From one partition of
  `hop-join` outputs come into a target partition in the order of their positions, so the last one there tells of all.

The rest is left to the learn processes, which publish it; of copies readers know the positions. What the ledger lets go is
written to the archive, unless it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.plan import Ints
from features.store import EmptiableStore, PartitionId, Position
from models.pipeline import Pipeline
from offline.hop_survey import Logs, PartitionSurvey, Surveyor
from offline.rebuilt_partition import RebuiltPartition
from streams.batch import Partition, Record
from streams.feed_notices import NOTICE_FRAME, read_notice
from streams.headers import FRAME, UPSTREAM, header
from streams.join_assembly import JoinGround, join_stage
from streams.join_frames import IDLE_FRAME, ReportCodec
from streams.join_stage import JoinMemory
from streams.label_frames import LabelFrameCodec
from streams.learn_road import JoinStage
from streams.metrics import Metrics
from streams.outcomes import OutcomeCodec
from streams.prediction import utc_texts
from streams.producer import Outgoing
from streams.served import ServedCodec
from streams.served_rows import Archive, label_plans
from streams.settings import Settings
from streams.taken import BEFORE_ALL, OtherVersionError
from streams.topic_log import StoredRecord
from streams.topics import PipelineTopics

Reach = dict[Partition, dict[str, Position]]
"""Target partition -> upstream partition -> the last position from there that stands."""


@dataclass(frozen=True)
class LedgerRebuilt:
    """What became of the ledger.

    `records` of `hop-join` were replayed, and `rows` are in the ledger; `to_settle` records stand behind them for the
    learn processes. Where not the `whole` history is in the log, labels of events before `reaches_back_to` (None: nothing
    served is there any more) find nothing. `deleted_unread` records were deleted, of which nobody knows that they had been joined.
    """

    records: int
    rows: int
    to_settle: int
    whole: bool
    reaches_back_to: str | None
    deleted_unread: int


class NotStandingError(Exception):
    """Something that a record leads to does not stand downstream yet."""


@dataclass
class Listener:
    """Takes the place of the publisher: publishes nothing, and once `asked`, refuses what does not stand downstream."""

    positions: Positions
    reach: Reach = field(default_factory=dict)
    upstream: str = ""
    asked: bool = False

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """See whether all of these stand. Raises `NotStandingError`."""
        if self.asked and not all(map(self._stands, messages)):
            raise NotStandingError
        return {}

    def _stands(self, message: Outgoing) -> bool:
        record = StoredRecord(0, 0, message.key, message.value, message.headers)
        known = self.reach.get((message.topic, message.partition or 0), {})
        last = self.positions.last(message.topic, record)
        return last is not None and last <= known.get(self.upstream, BEFORE_ALL)


@dataclass(frozen=True)
class Positions:
    """Reads the positions of what the join writes: outcomes and notices on `outcomes`, label rows on `labelled` topics."""

    outcomes: str
    codec: OutcomeCodec
    labelled: Mapping[str, LabelFrameCodec]

    def last(self, topic: str, record: Record) -> Position | None:
        """That of a record's last row; None: it is nothing that the join has written there, or a dead letter."""
        version = header(record, FRAME)
        if topic == self.outcomes and version == NOTICE_FRAME:
            return read_notice(record)[1].position
        if topic == self.outcomes and version == self.codec.version:
            found = self.codec.read(record)[1]
            return _last(found.upstream_offsets, found.upstream_rows)
        if topic in self.labelled and version == self.labelled[topic].version:
            rows = self.labelled[topic].decode(record.value or b"")
            return _last(rows.upstream_offsets, rows.upstream_rows)
        return None


class LedgerRebuild:
    """Rebuilds the ledger of one pipeline that learns. `committed` has the offsets of the learn processes' group.

    `archive` None: what the ledger lets go is lost, as it is for a learn process without one. `heard` is told what is
    read, and how many records.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        topics: PipelineTopics,
        identities: Mapping[str, str],
        store: EmptiableStore,
        logs: Logs,
        committed: Mapping[Partition, int],
        archive: Archive | None,
        metrics: Metrics,
        heard: Callable[[str, int], None],
    ) -> None:
        self._pipeline, self._topics, self._identities = pipeline, topics, identities
        self._store, self._logs, self._committed, self._heard = store, logs, committed, heard
        learning = topics.learning
        plans = label_plans(pipeline)
        hops = {topics.hops[plan.entity]: LabelFrameCodec(plan) for plan in plans}
        labelled = {topic.name: codec for topic, codec in hops.items()}
        self._targets = [learning.outcomes, *hops]
        self._listener = Listener(Positions(learning.outcomes.name, OutcomeCodec(pipeline), labelled))
        self._stage = _listening(
            pipeline, settings, topics, identities, store, self._listener, archive, metrics
        )
        self._surveys: list[PartitionSurvey] = []
        self._replayed = self._rows = self._left = 0

    def partitions(self) -> Iterator[PartitionId]:
        """Those of `hop-join`."""
        topic = self._topics.learning.hop_join
        for number in range(topic.partitions):
            yield PartitionId(self._pipeline.name, topic.name, number, self._identities[topic.name])

    async def marked(self) -> list[RebuiltPartition]:
        """The partitions that are to be rebuilt, closed to learn processes. Raises as `Surveyor.bounds`."""
        parts = []
        for at in self.partitions():
            survey = self._survey((at.topic, at.partition))
            self._surveys.append(survey)
            part = RebuiltPartition(self._stage, self._store, at, survey.end - 1)
            if await part.marked(survey.begins):
                parts.append(part)
        return parts

    async def replay(self, part: RebuiltPartition) -> None:
        """One partition: what was committed in large batches, and what stands behind it record by record."""
        survey = self._surveys[part.at.partition]
        memory: JoinMemory = await part.begun()
        self._listener.asked, begins = False, survey.proven_before + 1
        for records in self._logs.read(part.place, memory.applied + 1, begins):
            await part.worked(memory, records)
            self._told(len(records))
        if begins < survey.end:
            self._listener.upstream = f"{part.at.topic}@{part.at.identity}/{part.at.partition}"
            self._listener.reach = self._listener.reach or self._reach()
            self._listener.asked = True
            memory = await self._replay_what_stands(part, memory, survey)
        self._left += survey.end - 1 - memory.applied
        self._rows += memory.state.entities

    async def _replay_what_stands(
        self, part: RebuiltPartition, memory: JoinMemory, survey: PartitionSurvey
    ) -> JoinMemory:
        try:
            for records in self._logs.read(part.place, memory.applied + 1, survey.end):
                for record in records:
                    await part.worked(memory, [record])
                    self._told(1)
        except NotStandingError:
            memory = await part.begun()  # the store stands before this record
        return memory

    def report(self) -> LedgerRebuilt:
        """What was done."""
        surveys = self._surveys
        oldest = [survey.oldest_us for survey in surveys if survey.oldest_us is not None]
        return LedgerRebuilt(
            self._replayed,
            self._rows,
            self._left,
            all(survey.begins == 0 for survey in surveys),
            utc_texts(np.array([max(oldest)]))[0] if oldest else None,
            sum(survey.deleted_unread for survey in surveys),
        )

    def _told(self, records: int) -> None:
        self._replayed += records
        self._heard("rebuilding join", records)

    # ---- what stands

    def _survey(self, place: Partition) -> PartitionSurvey:
        """Where a partition can be replayed from: behind the last frame of another pipeline version."""
        survey = Surveyor(self._logs, self._committed, lambda records: None).bounds(place)
        served = ServedCodec(self._pipeline)
        mine = (None, served.version, ReportCodec(self._pipeline).version, IDLE_FRAME)
        for records in self._logs.read(place, survey.begins, survey.end):
            for record in records:
                if header(record, FRAME) not in mine:
                    _skip(survey, record)
                elif survey.begins and survey.oldest_us is None and header(record, FRAME) == served.version:
                    times_us = served.decode(record.value or b"").frame.rows.times_us
                    survey.oldest_us = int(times_us.max()) if len(times_us) else None
            self._heard(f"looking through {place[0]}", len(records))
        return survey

    def _reach(self) -> Reach:
        """How far what the join has written stands."""
        reach: Reach = {}
        for topic in self._targets:
            for number in range(topic.partitions):
                place = (topic.name, number)
                for records in self._logs.read(place, *self._logs.bounds(place)):
                    for record in records:
                        self._reached(reach.setdefault(place, {}), topic.name, record)
        return reach

    def _reached(self, reach: dict[str, Position], topic: str, record: Record) -> None:
        last = self._listener.positions.last(topic, record)
        if last is not None:
            upstream = (header(record, UPSTREAM) or b"").decode()
            reach[upstream] = max(last, reach.get(upstream, last))


@dataclass(frozen=True)
class _Kept:
    """An archive in which most of what is written stands already."""

    archive: Archive

    def write(self, partition: int, rows: Sequence[tuple[Position, bytes]], open_us: int) -> None:
        there = self.archive.read(partition, [position for position, _ in rows])
        self.archive.write(partition, [row for row in rows if row[0] not in there], open_us)

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        return self.archive.read(partition, positions)


def _listening(
    pipeline: Pipeline,
    settings: Settings,
    topics: PipelineTopics,
    identities: Mapping[str, str],
    store: EmptiableStore,
    listener: Listener,
    archive: Archive | None,
    metrics: Metrics,
) -> JoinStage:
    kept = None if archive is None else _Kept(archive)
    return join_stage(JoinGround(pipeline, settings, topics, identities, store, listener, metrics, kept))


def _last(offsets: Ints, rows: Ints) -> Position | None:
    return Position(int(offsets[-1]), int(rows[-1])) if len(offsets) else None


def _skip(survey: PartitionSurvey, record: Record) -> None:
    topic, number = survey.place
    if record.offset > survey.proven_before:
        version = (header(record, FRAME) or b"").decode(errors="replace")
        raise OtherVersionError(
            f"record {record.offset} of {topic}/{number} waits to be joined and was written under pipeline version {version}: "
            "rebuild with the file of that version, let its learn process finish, then go on with this one"
        )
    survey.begins, survey.oldest_us = record.offset + 1, None
