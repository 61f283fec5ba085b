"""What the steps of the join stage do with a batch: from records to claim, outcomes and commit, without waiting.

The stage takes what was served, labels and actions of a partition of `hop-join` in their order through the ledger
(`streams/settling.py`). Its state lies in the same store as that of entities, under the entity `join`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from features.errors import PositionError
from features.store import NOTHING_APPLIED, Claim, Commit, Loaded, PartitionId, Position
from models.pipeline import Pipeline
from streams.batch import Record
from streams.dead_letters import DeadLetter
from streams.feed_notices import FeedNotice
from streams.feeds import Feeds
from streams.frames import positions_after
from streams.headers import FRAME, UPSTREAM, header
from streams.join_frames import FEED, IDLE_FRAME, LABELS, WALL, Idle, ReportCodec, Reports, read_idle
from streams.ledger import Horizons, Ledger, Told
from streams.outcomes import Outcome
from streams.served import Served, ServedCodec
from streams.served_rows import Archive, ServedRows
from streams.settling import DeadLabel, LabelRow, Settling
from streams.taken import BEFORE_ALL, OtherVersionError, superseded_by

ENTITY: Final = "join"
"""Under which the store keeps the ledger."""

# In one batch. After each record time passes, and a thousand rows may shrink and time out (`streams/settling.py`): a
# backlog of idle frames, which have no rows of their own, must not be one commit of a million.
MOST_RECORDS: Final = 32


@dataclass
class JoinMemory:
    """What a worker holds of one partition of `hop-join`; the fields are as in `streams.entity_batch.Memory`.

    `let_go` are the rows that batches in flight have taken out of the ledger, oldest batch first: they are not in the
    archive yet.
    """

    partition: PartitionId
    epoch: int
    applied: int
    taken: int
    seen: Mapping[str, Position]
    state: Ledger
    feeds: Feeds
    in_flight: tuple[int, ...] = ()
    let_go: list[Mapping[Position, bytes]] = field(default_factory=list)

    @property
    def upstream(self) -> str:
        """This partition's name in the positions of outcomes and label rows."""
        return f"{self.partition.topic}@{self.partition.identity}/{self.partition.partition}"


@dataclass(frozen=True)
class Opened:
    """A record that was read, from its row `start` on: what stands before was seen. `superseded` are the partitions upstream
    whose topic was made anew as `upstream`."""

    offset: int
    upstream: str
    content: Served | Reports | Idle
    start: int = 0
    feed: str = ""
    wall_ms: int = 0
    superseded: Sequence[str] = ()

    def __len__(self) -> int:
        return 0 if isinstance(self.content, Idle) else len(self.content) - self.start


@dataclass(frozen=True)
class JoinWork:
    """A batch after steps 1 and 2."""

    first: int
    last: int
    opened: Sequence[Opened]
    seen: Mapping[str, Position]
    dead: Sequence[DeadLetter]
    copies: int

    @property
    def superseded(self) -> list[str]:
        """Of all records."""
        return [name for one in self.opened for name in one.superseded]


@dataclass(frozen=True)
class Settled:
    """A batch after step 4. `notices` stand with the number of outcomes before each.

    `open_us`: what is older in event time is settled, after the batch as before it.
    """

    outcomes: Sequence[Outcome]
    label_rows: Sequence[LabelRow]
    let_go: Mapping[Position, bytes]
    dead: Sequence[DeadLabel]
    notices: Sequence[tuple[int, FeedNotice]]
    open_us: int


Settle = Generator[list[Position], Mapping[Position, bytes], Settled]
"""Step 4, which asks for what the archive has."""


@dataclass(frozen=True)
class JoinBatches:
    """The steps of the join stage of one pipeline.

    `expected` are the names of the partitions upstream that have to be heard of before anything times out;
    `silence_ms` is how long labels may be silent. A batch has `most_rows` rows, or one record, and never more than
    `MOST_RECORDS` of them. `archive` None: what has become too old for the ledger is not known any more.
    """

    pipeline: Pipeline
    horizons: Horizons
    silence_ms: int
    expected: frozenset[str]
    most_rows: int
    archive: Archive | None
    served: ServedCodec
    reports: ReportCodec
    rows: ServedRows

    # ---- what is remembered

    def remember(self, partition: PartitionId, loaded: Loaded) -> JoinMemory:
        """A partition's memory before its ledger is read. Raises `PositionError` when that belongs to another topic."""
        if loaded.identity not in (None, partition.identity):
            raise PositionError(
                f"the ledger of {partition.topic}/{partition.partition} was built from the topic {loaded.identity}, "
                f"this broker has {partition.identity}: the topic was made again or another broker is configured. "
                "Point `brokers` at the old one, or begin afresh with an empty Redis database"
            )
        applied = loaded.applied
        ledger = Ledger(partition.partition, self.horizons)
        feeds = Feeds(self.silence_ms, self.expected)
        return JoinMemory(partition, loaded.epoch, applied, applied, dict(loaded.seen), ledger, feeds)

    def reading(self, memory: JoinMemory, keys: Sequence[str]) -> Claim:
        """A claim of nothing: it has no record to pin, and brings what stands under these keys."""
        at = memory.applied
        return Claim(memory.partition, memory.epoch, at, at + 1, at, self.versions, ENTITY, keys)

    @property
    def versions(self) -> str:
        """What is pinned: the outcome of a batch depends on no model."""
        return f'{{"pipeline": "{self.pipeline.version}"}}'

    # ---- steps

    def take(self, memory: JoinMemory, records: Sequence[Record]) -> JoinWork:
        """Steps 1 and 2."""
        fresh = self._of_this_version([record for record in records if record.offset > memory.taken])
        seen = dict(memory.seen)
        opened: list[Opened] = []
        dead: list[DeadLetter] = []
        copies = rows = 0
        for count, record in enumerate(fresh):
            one = self._open(memory.partition.partition, record, dead, seen)
            if one is None:
                continue
            rows += len(one)
            if opened and (rows > self.most_rows or len(opened) == MOST_RECORDS):
                fresh = fresh[:count]
                break
            copies += one.start
            if len(one) and not isinstance(one.content, Idle):
                last_row = _last_position(one.content)
                if one.upstream not in seen:
                    one = replace(one, superseded=superseded_by(one.upstream, seen))
                seen[one.upstream] = last_row
            opened.append(one)
        first, last = (fresh[0].offset, fresh[-1].offset) if fresh else (memory.taken + 1, memory.taken)
        return JoinWork(first, last, opened, seen, dead, copies)

    def claim(self, memory: JoinMemory, work: JoinWork) -> Claim:
        """The question of step 3."""
        return Claim(
            memory.partition,
            memory.epoch,
            memory.applied,
            work.first,
            work.last,
            self.versions,
            ENTITY,
            in_flight=memory.taken if memory.in_flight else NOTHING_APPLIED,
        )

    def settle(self, memory: JoinMemory, work: JoinWork) -> Settle:
        """Step 4: the records, one after another, through the ledger.

        Yields positions, and is sent what the archive has of them: once for all labels of the batch, and once for each
        record after which rows time out that are in the archive alone.
        """
        before_us = memory.state.open_us
        in_flight = None if self.archive is None else _together(memory.let_go)
        features = self.pipeline.feature_set.hash
        settling = Settling(self.pipeline.label, features, memory.state, memory.feeds, in_flight)
        yield from _read_back(settling, settling.asked(_labelled(work)))
        for one in work.opened:
            settling.begin(one.offset)
            for name in one.superseded:
                memory.feeds.forget(name)
            self._pass_on(one, memory.feeds, settling)
            yield from _read_back(settling, settling.pass_time(len(one)))
            settling.end()
        # The ledger from which this batch would begin again after a crash, and the one that it leaves, ask no further back.
        open_us = min(before_us, memory.state.open_us)
        return Settled(
            *(settling.outcomes, settling.label_rows, settling.let_go, settling.dead, settling.notices),
            open_us,
        )

    def commit(self, memory: JoinMemory, work: JoinWork) -> Commit:
        """What step 7 writes."""
        return Commit(
            memory.partition,
            memory.epoch,
            memory.taken,
            work.last,
            work.seen,
            memory.feeds.clock.now_us,
            ENTITY,
            memory.state.changes(memory.feeds),
            superseded=work.superseded,
            claimed=work.last >= work.first,
        )

    def begun(self, memory: JoinMemory, settled: Settled, commit: Commit) -> None:
        """The batch is in flight: the next one builds on what this one will have written."""
        memory.in_flight = (*memory.in_flight, commit.last)
        memory.taken, memory.seen = commit.last, commit.seen
        memory.let_go.append(settled.let_go)

    def committed(self, memory: JoinMemory, commit: Commit) -> None:
        """The store has the oldest batch in flight."""
        memory.in_flight = memory.in_flight[1:]
        memory.applied = commit.last
        del memory.let_go[0]

    # ---- records

    def _of_this_version(self, records: list[Record]) -> list[Record]:
        """The records before the first of another version. Raises `OtherVersionError` when they begin with one."""
        mine = (None, self.served.version, self.reports.version, IDLE_FRAME)
        for count, record in enumerate(records):
            version = header(record, FRAME)
            if version in mine:
                continue
            if count:
                return records[:count]
            raise OtherVersionError(
                f"record {record.offset} of hop-join was written under pipeline version "
                f"{(version or b'').decode(errors='replace')}, this learner runs {self.pipeline.version}: let the workers "
                "of the other version finish what stands in the hop topics, then start this one"
            )
        return records

    def _open(
        self, partition: int, record: Record, dead: list[DeadLetter], seen: Mapping[str, Position]
    ) -> Opened | None:
        """A record as far as it is new; None when it is junk."""
        try:
            return self._read(record, seen)
        except ValueError as error:
            dead.append(
                DeadLetter(partition, record, "not_a_frame", "$", f"no frame of this pipeline: {error}")
            )
            return None

    def _read(self, record: Record, seen: Mapping[str, Position]) -> Opened:
        version, upstream, value = header(record, FRAME), header(record, UPSTREAM), record.value or b""
        if version is None or upstream is None:
            raise ValueError("the headers of a frame are missing")
        name = upstream.decode()
        if version == IDLE_FRAME:
            return Opened(record.offset, name, read_idle(value))
        before = seen.get(name, BEFORE_ALL)
        if version == self.served.version:
            served = self.served.decode(value)
            start = positions_after(served.frame, before)
            return Opened(record.offset, name, served, start)
        reports = self.reports.decode(value)
        start = positions_after(reports, before)
        feed, wall_ms = header(record, FEED) or b"", int(header(record, WALL) or 0)
        return Opened(record.offset, name, reports, start, feed.decode(), wall_ms)

    def _pass_on(self, one: Opened, feeds: Feeds, settling: Settling) -> None:
        if isinstance(one.content, Idle):
            feeds.heard(one.upstream, one.content)
        elif isinstance(one.content, Reports):
            self._reports(one, one.content, feeds, settling)
        elif len(one):
            times_us = one.content.frame.rows.times_us[one.start :]
            packed = enumerate(self.rows.packed(one.content))
            settling.served((place, *row) for place, row in packed if place >= one.start)
            feeds.served(one.upstream, int(times_us.max()))

    def _reports(self, one: Opened, reports: Reports, feeds: Feeds, settling: Settling) -> None:
        if not len(one):
            return
        columns = zip(
            reports.event_ids,
            reports.actions.tolist(),
            reports.codes.tolist(),
            reports.known_us.tolist(),
            reports.values,
            reports.upstream_offsets.tolist(),
            strict=True,
        )
        for place, (event_id, action, code, known_us, values, offset) in enumerate(columns):
            if place >= one.start:
                told = Told(action, code, known_us, values.tobytes(), one.upstream, offset)
                settling.told(event_id, told)
        heard = feeds.labels if one.feed == LABELS else feeds.actions
        heard(one.upstream, int(reports.known_us[one.start :].max()), one.wall_ms)


def _together(let_go: Sequence[Mapping[Position, bytes]]) -> dict[Position, bytes]:
    return {position: row for rows in let_go for position, row in rows.items()}


def _labelled(work: JoinWork) -> Iterator[str]:
    """The events of the batch's labels."""
    for one in work.opened:
        if isinstance(one.content, Reports) and one.feed == LABELS:
            yield from one.content.event_ids[one.start :]


def _read_back(
    settling: Settling, positions: list[Position]
) -> Generator[list[Position], Mapping[Position, bytes], None]:
    if positions and settling.older is not None:
        settling.older.update((yield positions))


def _last_position(content: Served | Reports) -> Position:
    place = content.frame if isinstance(content, Served) else content
    return Position(int(place.upstream_offsets[-1]), int(place.upstream_rows[-1]))
