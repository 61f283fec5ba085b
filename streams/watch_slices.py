"""What was served of one partition of `hop-join`, counted by time slices of event time.

A slice is open until everything was served up to its end and a grace behind it; then it is handed on, also when nothing
came. Rows of a slice that is handed on already are counted as late, in the oldest one that is open. What time it is say the
same records as in the join (`streams/feeds.py`): what was served, and the idle frames. So a replay cuts the same slices.

A pipeline to which nothing comes has no event time. While idle frames come and nothing is served for longer than a slice,
time goes on as their wall clocks do, so that a day without traffic is seen as it passes. Not where history is replayed:
events that are a day or more behind the wall clock say nothing about now.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from features.plan import Ints
from features.store import PartitionId, Position
from models.drift import time_slice
from models.drift.time_slice import Counting, WatchedRows
from models.drift.watching import RowWatch, together
from models.pipeline import Pipeline
from streams.batch import Record
from streams.feeds import Clock, Feed, Feeds
from streams.frames import positions_after
from streams.headers import FRAME, UPSTREAM, header
from streams.join_frames import IDLE_FRAME, NO_MARK, SERVED, Idle, read_idle
from streams.producer import Outgoing
from streams.served import Served, ServedCodec
from streams.versions import read_versions
from streams.watch_frames import Seen, SliceFrames
from streams.watch_stage import COPIES, JUNK, LATE, OTHER_VERSION, ROWS

log = logging.getLogger(__name__)

# Of the length of a slice: so much later than its end a slice is closed.
GRACE: Final = 6

# Slices that are open at a time: what is served further ahead of the slowest partition closes the oldest.
MOST_OPEN: Final = 48

# Empty slices that are handed on when time jumps: what lies before them is left out.
MOST_EMPTY: Final = 1_000

# Rows that wait to be counted together: counting has a cost for each column, whatever the rows.
COUNTED_AT_ONCE: Final = 4_096

# Events that are served within so much of the wall clock, in microseconds, are of now.
LIVE_WITHIN_US: Final = 86_400_000_000

# Silence of labels is no matter here.
_NEVER_MS: Final = 2**62


class _State(msgspec.Struct):
    """Everything that a partition remembers, as bytes."""

    version: str
    seen: dict[str, tuple[int, int]]
    feeds: list[Feed]
    clock: Clock
    moved_ms: int
    now_us: int
    open_us: int | None
    slices: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


@dataclass
class WatchTime:
    """Up to which event time everything was served: by what was served, and while nothing is by the wall clocks."""

    slice_us: int
    feeds: Feeds
    now_us: int = NO_MARK
    moved_ms: int = 0  # the wall clock when `feeds` last moved on

    def advance(self) -> None:
        """After every record."""
        before_us, clock = self.feeds.clock.now_us, self.feeds.clock
        self.feeds.advance()
        if clock.now_us > before_us or not self.moved_ms:
            self.moved_ms = clock.wall_ms
        self.now_us = max(self.now_us, clock.now_us + self._quiet_us())

    def served(self) -> None:
        """Rows came, perhaps late ones: this is no silence."""
        self.moved_ms = self.feeds.clock.wall_ms

    def _quiet_us(self) -> int:
        """For how long nothing was served, where that says anything."""
        clock = self.feeds.clock
        quiet_us = (clock.wall_ms - self.moved_ms) * 1_000
        if clock.now_us == NO_MARK or not self.moved_ms or quiet_us <= self.slice_us:
            return 0
        live = abs(self.moved_ms * 1_000 - clock.now_us) < LIVE_WITHIN_US
        idle = all(feed.idle for feed in self.feeds.feeds.values())
        return quiet_us if live and idle else 0


@dataclass
class OpenSlice:
    """A slice that is counted: rows wait until there are enough of them, or somebody asks."""

    counting: Counting
    waiting: dict[str, list[WatchedRows]] = field(default_factory=dict)
    rows: int = 0

    def add(self, rows: WatchedRows) -> None:
        """Rows of this slice."""
        self.waiting.setdefault(rows.version, []).append(rows)
        self.rows += len(rows)
        if self.rows >= COUNTED_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        for waiting in self.waiting.values():
            self.counting.add(together(waiting))
        self.waiting, self.rows = {}, 0

    def closed(self) -> time_slice.TimeSlice:
        """What was counted by now."""
        self.count()
        return self.counting.closed()


@dataclass(frozen=True)
class _Rows:
    upstream: str
    served: Served
    model: str


@dataclass(frozen=True)
class _Idle:
    upstream: str
    idle: Idle


class SliceWatch:
    """Counts one partition of `hop-join`. `expected`: the partitions of the last stage, by which time goes on.

    `state` is what another one of this partition gave; one of other features or slices leaves only what was seen.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        frames: SliceFrames,
        upstream: str,
        expected: frozenset[str],
        state: bytes | None = None,
    ) -> None:
        self._watch, self._features = RowWatch(pipeline), pipeline.feature_set
        self._served, self._frames, self._upstream = ServedCodec(pipeline), frames, upstream
        self._length_us = pipeline.drift.slice_us
        self._trailing = pipeline.drift.trailing_us is not None
        self._grace_us = self._length_us // GRACE
        self.counts: Counter[str] = Counter()
        self._said: set[bytes] = set()
        self._seen = Seen({})
        self._time = WatchTime(self._length_us, Feeds(_NEVER_MS, expected))
        self._open_us: int | None = None
        self._slices: dict[int, OpenSlice] = {}
        if state is not None:
            self._restore(_decode(state))

    # ---- records

    def take(self, record: Record) -> list[Outgoing]:
        """One record, and the slices that are closed by it."""
        try:
            content = self._read(record)
        except (ValueError, TypeError) as error:
            self.counts[JUNK] += 1
            log.debug("record %d of hop-join is none of ours: %s", record.offset, error)
            return []
        if isinstance(content, _Rows):
            self._rows(content)
        elif isinstance(content, _Idle):
            self._idle(content)
        self._time.advance()
        return self._closed()

    def rest(self) -> list[Outgoing]:
        """Nothing: where a batch ends says nothing."""
        return []

    def _read(self, record: Record) -> _Rows | _Idle | None:
        """What matters of a record; None: nothing does. Raises ValueError and TypeError for junk."""
        frame, upstream = header(record, FRAME), header(record, UPSTREAM)
        if frame is None or upstream is None:
            raise ValueError("the headers of a frame are missing")
        value, name = record.value or b"", upstream.decode()
        if frame == self._served.version:
            served = self._served.decode(value)
            return _Rows(name, served, read_versions(served.versions).model)
        if frame == IDLE_FRAME:
            return _Idle(name, read_idle(value))
        if frame.startswith(b"served-"):
            self._other(frame, record.offset)
        elif not frame.startswith(b"report-"):
            raise ValueError("it is no frame")
        return None

    def _idle(self, one: _Idle) -> None:
        feeds, idle = self._time.feeds, one.idle
        if idle.feed == SERVED:
            feeds.heard(one.upstream, idle)
        else:  # only its clock matters here
            feeds.clock.wall_ms = max(feeds.clock.wall_ms, idle.wall_ms)

    def _other(self, frame: bytes, offset: int) -> None:
        self.counts[OTHER_VERSION] += 1
        if frame not in self._said:
            self._said.add(frame)
            said = "record %d of hop-join is of other features (%s): the monitor leaves these out"
            log.warning(said, offset, frame.decode(errors="replace"))

    def _rows(self, one: _Rows) -> None:
        frame = one.served.frame
        start = positions_after(frame, self._seen.last(one.upstream))
        self.counts[COPIES] += start
        if start == len(frame):
            return
        last = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
        for gone in self._seen.saw(one.upstream, last):
            self._time.feeds.forget(gone)
        rows = self._watched(one)
        if start:
            rows = rows.take(np.arange(start, len(rows)))
        self.counts[ROWS] += len(rows)
        self._count(rows)
        self._time.feeds.served(one.upstream, int(rows.times_us.max()))
        self._time.served()

    def _watched(self, one: _Rows) -> WatchedRows:
        served, rows = one.served, one.served.frame.rows
        matrix = self._features.assemble(rows, served.frame.windows)
        # Training knows the champion's score alone: compared with it, a blend in which learners gain weight would always drift.
        score = served.score if self._trailing else next(iter(served.parts.values()), served.score)
        return self._watch.rows(rows, matrix, score, served.threshold, one.model)

    # ---- slices

    def _count(self, rows: WatchedRows) -> None:
        starts: Ints = rows.times_us // self._length_us * self._length_us
        newest = int(starts.max())
        if self._open_us is None:  # of replayed history one record may span hours
            self._open_us = max(int(starts.min()), newest - MOST_OPEN * self._length_us)
        if int(starts.min()) == newest >= self._open_us:  # nearly always
            self._slice(newest).add(rows)
            return
        for start in np.unique(starts).tolist():
            chosen = np.flatnonzero(starts == start)
            if start >= self._open_us:
                self._slice(start).add(rows.take(chosen))
            else:
                self.counts[LATE] += len(chosen)
                self._slice(self._open_us).counting.late += len(chosen)

    def _slice(self, start_us: int) -> OpenSlice:
        if start_us not in self._slices:
            self._slices[start_us] = OpenSlice(Counting(self._watch.columns, start_us, self._length_us))
        return self._slices[start_us]

    def _start(self, time_us: int) -> int:
        return time_us // self._length_us * self._length_us

    def _closed(self) -> list[Outgoing]:
        """The slices before the oldest that is still open, by the time that it is now."""
        if self._time.now_us == NO_MARK and not self._slices:
            return []
        open_us = self._start(self._time.now_us - self._grace_us)
        if self._slices:
            open_us = max(open_us, max(self._slices) - MOST_OPEN * self._length_us)
        if self._open_us is None:
            self._open_us = open_us
        found: list[Outgoing] = []
        for start in self._between(self._open_us, open_us):
            found += self._frames.of_slice(self._upstream, self._slice(start).closed())
            del self._slices[start]
        self._open_us = max(self._open_us, open_us)
        return found

    def _between(self, open_us: int, end_us: int) -> Sequence[int]:
        starts = range(open_us, end_us, self._length_us)
        if len(starts) <= MOST_EMPTY:
            return starts
        return [
            *sorted(start for start in self._slices if start < starts[-MOST_EMPTY]),
            *starts[-MOST_EMPTY:],
        ]

    # ---- state

    def state(self) -> bytes:
        """Everything that it remembers."""
        time = self._time
        return _encode(
            _State(
                self._frames.version,
                self._seen.packed(),
                list(time.feeds.feeds.values()),
                time.feeds.clock,
                time.moved_ms,
                time.now_us,
                self._open_us,
                [time_slice.encoded(one.closed()) for _, one in sorted(self._slices.items())],
            )
        )

    def _restore(self, state: _State) -> None:
        self._seen = Seen.of(state.seen)
        time = self._time
        time.feeds.feeds = {feed.name: feed for feed in state.feeds}
        time.feeds.clock, time.moved_ms, time.now_us = state.clock, state.moved_ms, state.now_us
        if state.version != self._frames.version:
            log.warning("%s was counted for other features or slices: it begins anew", self._upstream)
            return
        self._open_us = state.open_us
        for one in map(time_slice.decoded, state.slices):
            self._slices[one.start_us] = OpenSlice(Counting.of(self._watch.columns, one))


def upstream_of(partition: PartitionId) -> str:
    """The partition's name in the positions of what is made of its records."""
    return f"{partition.topic}@{partition.identity}/{partition.partition}"
