"""The stage that raises alerts: the records of `drift-slices`, in their order, through the watch.

    slices of partitions ─> SliceMerge ─> DriftWatch.served ─┐
    reports of labels ────────────────> DriftWatch.labels ───┴─> alerts ─> drift-alerts, and what they trigger ─> control

An alert stands on `drift-alerts` once, and triggers once, also after a crash between the two: whoever takes the stage over
looks first what stands there (`streams/alert_delivery.py`). A record of other features, columns or slices is left out; what
the watch knows of labels and which alerts are open goes on when a pipeline is reloaded with other features.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from features.store import Position
from models.drift.alert import Alert
from models.drift.label_reports import LabelReport
from models.drift.label_reports import decoded as read_report
from models.drift.time_slice import TimeSlice
from models.drift.watching import RowWatch
from models.pipeline import Pipeline
from streams.batch import Record
from streams.slice_merge import DeadLetters, SliceMerge
from streams.watch_frames import Seen, SliceFrames, SliceRecord, read_dead, read_slice
from streams.watch_stage import COPIES, JUNK, OTHER_VERSION, ROWS

log = logging.getLogger(__name__)


class Watch(Protocol):
    """What raises alerts (`models/drift/watch.py`)."""

    def served(self, slice_: TimeSlice, dead: Mapping[str, int]) -> Sequence[Alert]:
        """The next slice, and the dead letters of its time by reason."""

    def labels(self, report: LabelReport) -> Sequence[Alert]:
        """The next report about labels."""

    def state(self) -> bytes:
        """Everything that matters for what comes."""

    def restore(self, state: bytes) -> object:
        """Go on from there. Raises ValueError when it is no state."""


@dataclass(frozen=True)
class Placed:
    """An alert, and where it comes from: the record of `drift-slices`, and its place among what that raised."""

    alert: Alert
    position: Position


class _State(msgspec.Struct):
    version: str
    seen: dict[str, tuple[int, int]]
    pieces: dict[str, list[bytes]]
    merge: bytes
    dead: list[tuple[str, int, str, int, int]]
    watch: bytes
    end_us: int
    open: list[Alert]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class AlertWatch:
    """Reads the one partition of `drift-slices`. `partitions`: of `hop-join`. `state` is what another one gave.

    `open` has the newest record of each alert that is open, `end_us` the event time up to which everything was judged.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        frames: SliceFrames,
        partitions: int,
        watch: Callable[[], Watch],
        state: bytes | None = None,
    ) -> None:
        self._frames, self._partitions = frames, partitions
        self._slice_us, self._columns = pipeline.drift.slice_us, RowWatch(pipeline).columns
        self._watch = watch()
        self._merge = SliceMerge(self._columns, partitions)
        self._dead = DeadLetters(self._slice_us)
        self._seen = Seen({})
        self._pieces: dict[str, list[bytes]] = {}
        self._said = False
        self.end_us = 0
        self.open: dict[str, Alert] = {}
        self.counts: Counter[str] = Counter()
        if state is not None:
            self._restore(_decode(state), watch)

    @property
    def waiting(self) -> int:
        """How many spans of time wait for some partition."""
        return self._merge.waiting

    def take(self, record: Record) -> list[Placed]:
        """One record, and the alerts that follow from it."""
        try:
            one = self._frames.read(record)
            alerts = [] if one is None else self._passed_on(one)
        except ValueError as error:
            self.counts[JUNK] += 1
            log.debug("record %d of drift-slices is none of ours: %s", record.offset, error)
            return []
        if one is None:
            self._other(record.offset)
        return [Placed(alert, Position(record.offset, place)) for place, alert in enumerate(alerts)]

    def rest(self) -> list[Placed]:
        """Nothing: where a batch ends says nothing."""
        return []

    def _passed_on(self, one: SliceRecord) -> Sequence[Alert]:
        """Raises ValueError for what cannot be read, before anything of it has had an effect."""
        if one.position <= self._seen.last(one.upstream):
            self.counts[COPIES] += 1
            return []
        if one.kind == "dead":
            self._dead.take(one.upstream, read_dead(one.value))
            self._saw(one)
            return []
        if one.kind == "labels":
            report = read_report(one.value)
            self._saw(one)
            return self._judged(lambda: self._watch.labels(report))
        return self._slice(one)

    def _saw(self, one: SliceRecord) -> None:
        self.counts[ROWS] += 1
        for gone in self._seen.saw(one.upstream, one.position):
            self._pieces.pop(gone, None)

    def _slice(self, one: SliceRecord) -> list[Alert]:
        number = int(one.upstream.rpartition("/")[2])
        if not 0 <= number < self._partitions:
            raise ValueError(f"hop-join has {self._partitions} partitions")
        pieces = [*(self._pieces.get(one.upstream, []) if one.position.row else []), one.value]
        if one.position.row + 1 < one.pieces:
            self._pieces[one.upstream] = pieces
            self._saw(one)
            return []
        slice_ = read_slice(b"".join(pieces))
        self._pieces.pop(one.upstream, None)
        self._saw(one)
        alerts: list[Alert] = []
        for merged in self._merge.take(number, slice_):
            self.end_us = merged.end_us
            alerts += self._judged(partial(self._watch.served, merged, self._dead.up_to(merged.start_us)))
        return alerts

    def _judged(self, judge: Callable[[], Sequence[Alert]]) -> Sequence[Alert]:
        try:
            alerts = judge()
        except ValueError as error:  # a mistake of ours, and no junk
            raise RuntimeError(f"a record of drift-slices could not be judged: {error}") from error
        for alert in alerts:
            self.open.pop(alert.alert, None)
            if alert.status != "resolved":
                self.open[alert.alert] = alert
        return alerts

    def _other(self, offset: int) -> None:
        self.counts[OTHER_VERSION] += 1
        if not self._said:
            self._said = True
            said = "record %d of drift-slices is of other features, columns or slices: the monitor leaves these out"
            log.warning(said, offset)

    # ---- state

    def state(self) -> bytes:
        """Everything that it remembers."""
        return _encode(
            _State(
                self._frames.version,
                self._seen.packed(),
                self._pieces,
                self._merge.state(),
                self._dead.state(),
                self._watch.state(),
                self.end_us,
                list(self.open.values()),
            )
        )

    def _restore(self, state: _State, watch: Callable[[], Watch]) -> None:
        try:
            self._watch.restore(state.watch)
        except ValueError as error:
            log.warning("what the watch knew cannot be used, it begins anew: %s", error)
            self._watch = watch()
            state.open = []
        self.end_us, self.open = state.end_us, {alert.alert: alert for alert in state.open}
        if state.version != self._frames.version:
            # Slices of other columns cannot be added to these, and their partitions begin again.
            log.warning("the watch goes on with other features, columns or slices")
            return
        self._seen, self._pieces = Seen.of(state.seen), dict(state.pieces)
        self._merge = SliceMerge(self._columns, self._partitions, state.merge)
        self._dead = DeadLetters(self._slice_us, state.dead)
