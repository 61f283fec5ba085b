"""What the monitor makes of `outcomes`: reports of what labels came and how good was what had been served.

The counting is `models/drift/label_counting.py`'s. This reads the records in their order, drops copies by position as the
learner does, and hands each report on with its position: the record of `outcomes`, and its place among its reports.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from features.errors import OperatorError, SnapshotError
from features.store import Position
from models.drift.label_reports import LabelReport, encoded
from models.matured import Matured
from streams.batch import Record
from streams.control import COMMAND
from streams.feed_notices import NOTICE_FRAME, read_notice
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.producer import Outgoing
from streams.watch_frames import Seen, SliceFrames
from streams.watch_stage import COPIES, JUNK, OTHER_VERSION, ROWS

log = logging.getLogger(__name__)


class Counting(Protocol):
    """Counts outcomes (`models/drift/label_counting.py`)."""

    def step(self, matured: Matured) -> Sequence[LabelReport]:
        """Outcomes in their order, and the reports that they complete."""

    def hear(self, partition: str, stalled_since_ms: int | None, at_ms: int) -> Sequence[LabelReport]:
        """The label feed of a partition of `hop-join` is silent since then, or flows again (None)."""

    def state(self) -> bytes:
        """Everything that it remembers."""

    def restore(self, state: bytes) -> object:
        """Go on from there. Raises SnapshotError when it is no state of these."""


class _State(msgspec.Struct):
    seen: dict[str, tuple[int, int]]
    counting: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class LabelWatch:
    """Counts the one partition of `outcomes`, whose name is `upstream`. `state` is what another one gave."""

    def __init__(
        self,
        codec: OutcomeCodec,
        frames: SliceFrames,
        upstream: str,
        counting: Callable[[], Counting],
        state: bytes | None = None,
    ) -> None:
        self._codec, self._frames, self._upstream = codec, frames, upstream
        self._make, self._counting = counting, counting()
        self._seen = Seen({})
        self._said: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        if state is not None:
            self._restore(_decode(state))

    def take(self, record: Record) -> list[Outgoing]:
        """One record, and the reports that it completes."""
        frame = header(record, FRAME)
        try:
            if header(record, COMMAND) is not None:
                return []
            if frame == NOTICE_FRAME:
                reports = self._hear(record)
            elif frame is not None and frame != self._codec.version and frame.startswith(b"outcomes-"):
                self._other(frame, record.offset)
                return []
            else:
                reports = self._step(record)
        except (ValueError, OperatorError) as error:
            self.counts[JUNK] += 1
            log.debug("record %d of outcomes is none of ours: %s", record.offset, error)
            return []
        return [
            self._frames.of_labels(self._upstream, Position(record.offset, place), encoded(report))
            for place, report in enumerate(reports)
        ]

    def rest(self) -> list[Outgoing]:
        """Nothing: where a batch ends says nothing."""
        return []

    def _hear(self, record: Record) -> Sequence[LabelReport]:
        upstream, notice = read_notice(record)
        if not self._seen.is_new(upstream, notice.position):
            return []
        since_ms = notice.since_ms if notice.stalled else None
        return self._counting.hear(upstream.rpartition("/")[2], since_ms, notice.at_ms)

    def _step(self, record: Record) -> Sequence[LabelReport]:
        upstream, frame = self._codec.read(record)
        matured, seen = take_outcomes(self._codec, record, {upstream: self._seen.last(upstream)})
        self.counts[ROWS] += len(matured)
        self.counts[COPIES] += len(frame) - len(matured)
        if not len(matured):
            return []
        self._seen.saw(upstream, seen[upstream])
        return self._counted(matured)

    def _counted(self, matured: Matured) -> Sequence[LabelReport]:
        try:
            return self._counting.step(matured)
        except ValueError as error:  # a mistake of ours, and no junk
            raise RuntimeError(f"outcomes could not be counted: {error}") from error

    def _other(self, frame: bytes, offset: int) -> None:
        self.counts[OTHER_VERSION] += 1
        if frame not in self._said:
            self._said.add(frame)
            said = "record %d of outcomes is of other features (%s): the monitor leaves these out"
            log.warning(said, offset, frame.decode(errors="replace"))

    def state(self) -> bytes:
        """Everything that it remembers."""
        return _encode(_State(self._seen.packed(), self._counting.state()))

    def _restore(self, state: _State) -> None:
        """Labels are what they were when other features are declared: that they are stalled must not be forgotten."""
        self._seen = Seen.of(state.seen)
        try:
            self._counting.restore(state.counting)
        except (ValueError, KeyError, TypeError, SnapshotError) as error:
            log.warning("what was counted of labels cannot be used, it begins anew: %s", error)
            self._counting = self._make()
