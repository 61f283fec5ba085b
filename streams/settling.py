"""What the records of `hop-join` do to the ledger, one after another: the rules by which an event gets its outcome.

What follows from a record depends on the records before it alone, never on how they are cut into batches. Everything that
it leads to has a position: the record's offset, and a number that counts what the record led to. After each record time
passes (`Feeds`), and rows shrink, time out and are forgotten, the oldest first, so many of each kind at most: a bucket that
falls due is worked off over several records, and no batch is longer than the store takes in one call.

A label is judged by its event's row:

    no row                     early: it waits; unknown when no event came within the horizon
    known before the event     a dead letter, `known_before_event`
    known after the horizon    late; the event is settled, and is no negative
    says what is known         duplicate; also where it was known before what has replaced it
    null                       censored, or, where a label had been in force, corrected without a code
    the first with a code      matched
    another code               corrected

A row without a label is, when its horizon ends: censored where the event was blocked, else silent, with the code that the
pipeline has for that, or expired.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from features.label_rows import NO_TIME
from features.store import Position
from models.label import Label
from models.outcomes import (
    CENSORED,
    CORRECTED,
    DUPLICATE,
    EARLY,
    EXPIRED,
    LATE,
    MATCHED,
    REPEAT,
    SILENT,
    UNKNOWN,
)
from streams.feed_notices import FeedNotice
from streams.feeds import Feeds
from streams.join_frames import LABEL_ROW, NO_MARK
from streams.labels import BLOCKED
from streams.ledger import ROW, SETTLED, SHRUNK, WAITING, Entry, Ledger, Told, digest_of, fits, packed_entry
from streams.outcomes import Outcome
from streams.served_rows import ServedRow, unpacked

# Rows that shrink, time out or are forgotten after one record, at least; more where the record brought more.
PASS_ROWS = 1_000

# Labels and actions that wait for one event. Of more, the last one counts.
MOST_WAITING = 8


class LabelRow(msgspec.Struct, frozen=True, gc=False):
    """What a window over labels is told: `entity` is the place in `ServedRows.plans`, `values` are code and values."""

    entity: int
    key: str
    known_us: int
    values: tuple[float, ...]
    replaced_known_us: int
    replaced: tuple[float, ...]
    offset: int
    row: int


@dataclass(frozen=True)
class DeadLabel:
    """A label that was known before its event."""

    event_id: str
    told: Told


@dataclass
class Settling:
    """One batch of records on their way through the ledger, and what they led to.

    `notices` stand with the number of outcomes before each. `features` is the hash of the pipeline's features: what was
    served under others cannot be learnt, as it would be taken for these. `older` is what was served at positions that the ledger has let go, as far as `asked` wants it. None: what was
    let go is lost at once, also within a batch, or outcomes would depend on how batches are cut.

    Of each record `begin`, what it brought, `pass_time`, and `end`: between the last two, who drives this adds to `older`
    what `pass_time` asks for.
    """

    label: Label
    features: str
    ledger: Ledger
    feeds: Feeds
    older: dict[Position, bytes] | None
    outcomes: list[Outcome] = field(default_factory=list)
    label_rows: list[LabelRow] = field(default_factory=list)
    let_go: dict[Position, bytes] = field(default_factory=dict)
    dead: list[DeadLabel] = field(default_factory=list)
    notices: list[tuple[int, FeedNotice]] = field(default_factory=list)
    _due: Mapping[bytes, Entry] = field(default_factory=dict)
    _most: int = PASS_ROWS
    _offset: int = 0
    _row: int = 0

    def begin(self, offset: int) -> None:
        """The record of this offset is next."""
        self._offset, self._row = offset, 0

    def asked(self, event_ids: Iterable[str]) -> list[Position]:
        """What labels of these events ask for, and is not in hand."""
        if self.older is None or not self.ledger.shrunk:
            return []
        entries = (self.ledger.get(digest_of(event_id)) for event_id in event_ids)
        return self._missing(entry for entry in entries if entry is not None)

    def pass_time(self, rows: int) -> list[Position]:
        """All of the record was taken, it had so many rows: time passes. What is asked for by what times out now."""
        self.feeds.advance()
        clock, self._most = self.feeds.clock, max(rows, PASS_ROWS)
        # Where nothing can be read back, what was served stays as long as there is room for it.
        old_us = NO_MARK if self.older is None else clock.now_us
        for digest, entry in self.ledger.shrinking(old_us, self._most):
            self._shrink(digest, entry)
        self._due = {} if clock.stalled else dict(self.ledger.timing_out(clock.due_us, self._most))
        return self._missing(entry for entry in self._due.values() if entry.label is None)

    def end(self) -> None:
        """The record has ended."""
        for digest, entry in self._due.items():
            self._time_out(digest, entry)
        clock = self.feeds.clock
        if not clock.stalled:
            for digest, _ in self.ledger.forgotten(clock.due_us, self._most):
                self.ledger.remove(digest)
        for digest, entry in self.ledger.too_many():
            self._give_up(digest, entry)
        if self.feeds.turn(all_settled=len(self._due) < self._most):
            self._notice()

    def _missing(self, entries: Iterable[Entry]) -> list[Position]:
        if self.older is None:
            return []
        places = {Position(entry.offset, entry.row) for entry in entries if entry.kind == SHRUNK}
        return sorted(places - self.let_go.keys() - self.older.keys())

    # ---- what was served

    def served(self, rows: Iterable[tuple[int, str, int, bytes]]) -> None:
        """Events were answered: place in the record, id, event time and packed row of each."""
        for place, event_id, time_us, packed in rows:
            digest = digest_of(event_id)
            known = self.ledger.get(digest)
            if known is not None and known.kind != WAITING:
                self._emit(REPEAT, event_id, time_us, time_us)
                continue
            entry = Entry(ROW, self.ledger.bucket(time_us), time_us, self._offset, place, served=packed)
            self._put(digest, entry)
            for told in known.waiting if known is not None else ():
                self.told(event_id, told)

    # ---- what became known

    def told(self, event_id: str, told: Told) -> None:
        """A label or an action."""
        digest = digest_of(event_id)
        entry = self.ledger.get(digest)
        if entry is None or entry.kind == WAITING:
            self._wait(digest, event_id, entry, told)
        elif told.action != LABEL_ROW:
            if entry.kind != SETTLED:
                entry.blocked = told.action == BLOCKED
                self.ledger.put(digest, entry)
        elif entry.kind == SETTLED:
            self._emit(LATE, event_id, entry.time_us, told.known_us)
        else:
            self._label(digest, event_id, entry, told)

    def _wait(self, digest: bytes, event_id: str, entry: Entry | None, told: Told) -> None:
        is_label = told.action == LABEL_ROW
        if entry is None:
            bucket = self.ledger.bucket(told.known_us)
            entry = Entry(WAITING, bucket, told.known_us, event_id=event_id)
        if is_label and _says_the_same(next(_labels(reversed(entry.waiting)), None), told):
            self._emit(DUPLICATE, event_id, told.known_us, told.known_us)
            return
        entry.waiting = [*entry.waiting[: MOST_WAITING - 1], told]
        self.ledger.put(digest, entry)
        if is_label:
            self._emit(EARLY, event_id, told.known_us, told.known_us)

    def _label(self, digest: bytes, event_id: str, entry: Entry, told: Told) -> None:
        if told.known_us < entry.time_us:
            self.dead.append(DeadLabel(event_id, told))
            return
        if told.known_us > entry.time_us + self.label.horizon_us:
            self._emit(LATE, event_id, entry.time_us, told.known_us)
            if entry.label is None:
                self._settle(digest, entry)
            return
        before = entry.label
        if before is not None and (_says_the_same(before, told) or told.known_us < before.known_us):
            self._emit(DUPLICATE, event_id, entry.time_us, told.known_us)
            return
        served = self._served_row(entry)
        if served is None:
            self._emit(EXPIRED, event_id, entry.time_us, told.known_us)
            self._settle(digest, entry)
            return
        entry.label = told
        self._put(digest, entry)
        self._judge(served, before, told)

    def _judge(self, served: ServedRow, before: Told | None, told: Told) -> None:
        replaced = math.nan if before is None else before.code
        if not math.isnan(replaced):
            self._label_rows(served, before, told)
            self._emit(CORRECTED, served.event_id, served.time_us, told.known_us, told.code, replaced, served)
        elif math.isnan(told.code):
            self._emit(CENSORED, served.event_id, served.time_us, told.known_us, served=served)
        else:
            self._label_rows(served, None, told)
            self._emit(MATCHED, served.event_id, served.time_us, told.known_us, told.code, served=served)

    # ---- what time does

    def _shrink(self, digest: bytes, entry: Entry) -> None:
        position = Position(entry.offset, entry.row)
        self.let_go[position] = entry.served
        entry.kind, entry.served = SHRUNK, b""
        self.ledger.put(digest, entry)

    def _time_out(self, digest: bytes, entry: Entry) -> None:
        if entry.kind == WAITING:
            self._nobody_came(digest, entry)
            return
        self._settle(digest, entry)
        if entry.label is not None:
            return
        served, due_us = self._served_row(entry), entry.time_us + self.label.horizon_us
        event_id = "" if served is None else served.event_id
        if entry.blocked:
            self._emit(CENSORED, event_id, entry.time_us, due_us, served=served)
        elif served is None or math.isnan(self.label.silent_code):
            self._emit(EXPIRED, event_id, entry.time_us, due_us, served=served)
        else:
            code, nothing = self.label.silent_code, np.full(len(self.label.values), np.nan).tobytes()
            self._label_rows(served, None, Told(LABEL_ROW, code, due_us, nothing, "", 0))
            self._emit(SILENT, event_id, entry.time_us, due_us, code, served=served)

    def _nobody_came(self, digest: bytes, entry: Entry) -> None:
        self.ledger.remove(digest)
        for told in _labels(entry.waiting):
            self._emit(UNKNOWN, entry.event_id, told.known_us, told.known_us)

    def _give_up(self, digest: bytes, entry: Entry) -> None:
        """There are more rows than may be."""
        if entry.kind == WAITING:
            self._nobody_came(digest, entry)
            return
        self.ledger.remove(digest)
        if entry.kind != SETTLED and entry.label is None:
            self._emit(EXPIRED, "", entry.time_us, entry.time_us + self.label.horizon_us)

    # ---- rows

    def _put(self, digest: bytes, entry: Entry) -> None:
        packed = packed_entry(entry)
        if fits(packed):
            self.ledger.put(digest, entry, packed)
        else:
            self._shrink(digest, entry)

    def _settle(self, digest: bytes, entry: Entry) -> None:
        self.ledger.put(digest, Entry(SETTLED, entry.bucket, entry.time_us))

    def _served_row(self, entry: Entry) -> ServedRow | None:
        """What was served; None where that is not known any more, or was of other features than these."""
        packed = entry.served or self._archived(Position(entry.offset, entry.row))
        row = unpacked(packed) if packed else None
        return row if row is not None and row.features == self.features else None

    def _archived(self, position: Position) -> bytes | None:
        return None if self.older is None else self.let_go.get(position) or self.older.get(position)

    def _label_rows(self, served: ServedRow, before: Told | None, told: Told) -> None:
        values = _values(told)
        replaced_us = NO_TIME if before is None else before.known_us
        replaced = (math.nan,) * len(values) if before is None else _values(before)
        for entity, key in enumerate(served.keys):
            if key is not None:
                places = (self._offset, self._row)
                row = LabelRow(entity, key, told.known_us, values, replaced_us, replaced, *places)
                self.label_rows.append(row)

    def _notice(self) -> None:
        clock = self.feeds.clock
        said = FeedNotice(clock.held_up, clock.label_wall_ms, clock.wall_ms, self._offset, self._row)
        self.notices.append((len(self.outcomes), said))
        self._row += 1

    def _emit(
        self,
        kind: str,
        event_id: str,
        time_us: int,
        known_us: int,
        code: float = math.nan,
        replaced: float = math.nan,
        served: ServedRow | None = None,
    ) -> None:
        place = (self._offset, self._row)
        self.outcomes.append(Outcome(event_id, kind, time_us, known_us, code, replaced, *place, served))
        self._row += 1


def _labels(waiting: Iterable[Told]) -> Iterator[Told]:
    return (told for told in waiting if told.action == LABEL_ROW)


def _says_the_same(before: Told | None, told: Told) -> bool:
    if before is None:
        return False
    same = before.code == told.code or (math.isnan(before.code) and math.isnan(told.code))
    return same and before.values == told.values


def _values(told: Told) -> tuple[float, ...]:
    return (told.code, *struct.unpack(f"<{len(told.values) // 8}d", told.values))
