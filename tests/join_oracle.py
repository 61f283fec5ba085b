"""What the join of a partition must come to, worked out from its records in words: lists, and loops over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import mmh3

from features.label_rows import NO_TIME
from models.label import Label
from streams.feeds import CATCH_UP, SETTLE_MS
from streams.ledger import SMALL_TIMES, Horizons
from streams.settling import MOST_WAITING
from tests.join_world import SILENCE_MS, Event, Found, Report, Written

NEVER, FOREVER = -(2**62), 2**62


@dataclass
class Row:
    """An event, or labels that wait for one."""

    event_id: str
    bucket: int
    time_us: int
    event: Event | None
    waiting: list[Report] = field(default_factory=list)
    label: Report | None = None
    blocked: bool = False
    hot: bool = True
    settled: bool = False

    @property
    def digest(self) -> bytes:
        """By which rows of a bucket are ordered."""
        return mmh3.mmh3_x64_128_digest(self.event_id.encode())[:12]


class Oracle:
    """Takes the records one by one; `outcomes` and `label_rows` are what they lead to.

    `archived`: what the ledger lets go can be read back.
    """

    def __init__(
        self, label: Label, horizons: Horizons, expected: frozenset[str], *, archived: bool, pass_rows: int
    ) -> None:
        self.label, self.horizons, self.expected = label, horizons, expected
        self.archived, self.pass_rows = archived, pass_rows
        self.rows: dict[str, Row] = {}
        self.outcomes: list[Found] = []
        self.notices: list[tuple[bool, int, int, int]] = []  # stalled, since, and the position
        self.label_rows: dict[str, list[tuple[Any, ...]]] = {"customer": [], "shop": []}
        self.dead: list[str] = []
        self.last: dict[str, int] = {}
        self.marks: dict[str, tuple[str, int, bool]] = {}
        self.now_us = self.due_us = self.newest_label_us = NEVER
        self.wall_ms = self.label_wall_ms = self.back_ms = self.silent_ms = 0
        self.stalled = self.held_up = False
        self.offset = self.place = 0

    def take(self, offset: int, written: Written) -> None:
        """One record."""
        self.offset, self.place = offset, 0
        if written.kind == "junk":
            return
        seen = self.last.get(written.upstream, -1)
        rows = [row for at, row in enumerate(written.rows) if written.first + at > seen]
        if rows:
            self.last[written.upstream] = written.first + len(written.rows) - 1
        for row in rows:
            if written.kind == "served":
                self._served(row)
            else:
                self._told(row.event_id, row)
        self._hear(written, rows)
        self._time(max(len(rows), self.pass_rows))

    # ---- what came

    def _served(self, event: Event) -> None:
        known = self.rows.get(event.event_id)
        if known is not None and (known.event is not None or known.settled):
            self._emit("repeat", event.event_id, event.time_us, event.time_us)
            return
        self.rows[event.event_id] = Row(event.event_id, self._bucket(event.time_us), event.time_us, event)
        for report in known.waiting if known is not None else []:
            self._told(event.event_id, report)

    def _told(self, event_id: str, report: Report) -> None:
        row = self.rows.get(event_id)
        if row is None:
            row = Row(event_id, self._bucket(report.known_us), report.known_us, None)
            self.rows[event_id] = row
        if row.event is None and not row.settled:
            labels = [one for one in row.waiting if one.action is None]
            if report.action is None and labels and _same(labels[-1], report):
                self._emit("duplicate", event_id, report.known_us, report.known_us)
                return
            row.waiting = [*row.waiting[: MOST_WAITING - 1], report]
            if report.action is None:
                self._emit("early", event_id, report.known_us, report.known_us)
        elif report.action is not None:
            row.blocked = row.blocked if row.settled else report.action == "blocked"
        elif row.settled:
            self._emit("late", event_id, row.time_us, report.known_us)
        else:
            self._label(row, report)

    def _label(self, row: Row, report: Report) -> None:
        before = row.label
        if report.known_us < row.time_us:
            self.dead.append(row.event_id)
        elif report.known_us > row.time_us + self.horizons.horizon_us:
            self._emit("late", row.event_id, row.time_us, report.known_us)
            row.settled = row.settled or before is None
        elif before is not None and (_same(before, report) or report.known_us < before.known_us):
            self._emit("duplicate", row.event_id, row.time_us, report.known_us)
        elif not (row.hot or self.archived):
            self._emit("expired", row.event_id, row.time_us, report.known_us)
            row.settled = True
        else:
            row.label = report
            if before is not None and not math.isnan(before.code):
                self._window(row, report, before)
                self._emit("corrected", row.event_id, row.time_us, report.known_us, report.code, before.code)
            elif math.isnan(report.code):
                self._emit("censored", row.event_id, row.time_us, report.known_us)
            else:
                self._window(row, report, None)
                self._emit("matched", row.event_id, row.time_us, report.known_us, report.code)

    def _window(self, row: Row, report: Report, before: Report | None) -> None:
        assert row.event is not None
        for entity, key in (("customer", row.event.customer), ("shop", str(row.event.shop))):
            inputs = 2 if entity == "customer" else 1
            if key is not None:
                self.label_rows[entity].append(
                    (
                        key,
                        report.known_us,
                        _numbers(report)[:inputs],
                        NO_TIME if before is None else before.known_us,
                        [None] * inputs if before is None else _numbers(before)[:inputs],
                        (self.offset, self.place),
                    )
                )

    # ---- what time it is

    def _hear(self, written: Written, rows: list[Any]) -> None:
        name = written.upstream
        if written.idle is not None:
            idle = written.idle
            self._mark(name, idle.feed, idle.mark_us, idle.idle)
            if idle.feed == "labels":
                self._labels_came(idle.mark_us, idle.last_ms)
            self.wall_ms = max(self.wall_ms, idle.wall_ms)
        elif rows and written.kind == "served":
            self._mark(name, "served", max(row.time_us for row in rows), False)
        elif rows:
            newest = max(row.known_us for row in rows)
            self._mark(name, written.kind, newest, False)
            if written.kind == "labels":
                self._labels_came(newest, written.wall_ms)
            self.wall_ms = max(self.wall_ms, written.wall_ms)

    def _mark(self, name: str, kind: str, mark: int, idle: bool) -> None:
        before = self.marks.get(name, (kind, NEVER, False))[1]
        self.marks[name] = (kind, max(mark, before), idle)

    def _labels_came(self, newest_us: int, wall_ms: int) -> None:
        self.newest_label_us = max(self.newest_label_us, newest_us)
        if self.stalled and not self.back_ms and wall_ms > self.label_wall_ms:
            self.back_ms = wall_ms
            self.silent_ms = max(self.silent_ms, wall_ms - self.label_wall_ms)
        self.label_wall_ms = max(self.label_wall_ms, wall_ms)

    def _time(self, most: int) -> None:
        if self.wall_ms:
            self.label_wall_ms = self.label_wall_ms or self.wall_ms
            if self.wall_ms - self.label_wall_ms > SILENCE_MS:
                self.stalled, self.back_ms = True, 0
            elif self.stalled and self.back_ms:
                waited_ms = self.wall_ms - self.back_ms
                if waited_ms >= SETTLE_MS and waited_ms >= self.silent_ms // CATCH_UP:
                    self.stalled, self.back_ms, self.silent_ms = False, 0, 0
        if all(name in self.marks for name in self.expected):
            busy = {
                kind: [mark for of, mark, idle in self.marks.values() if of == kind and not idle]
                for kind in ("served", "labels", "actions")
            }
            quiet = [mark for of, mark, _ in self.marks.values() if of == "served"]
            served = min(busy["served"]) if busy["served"] else max(quiet, default=NEVER)
            self.now_us = max(self.now_us, served)
            if not self.stalled:
                due = min([served, self.newest_label_us, *busy["labels"], *busy["actions"]])
                self.due_us = max(self.due_us, due)
        self._pass(most)

    # ---- what it does

    def _pass(self, most: int) -> None:
        horizon_us = self.horizons.horizon_us
        for row in self._due(_is_hot, self.now_us - self.horizons.hot_us)[:most] if self.archived else ():
            row.hot = False
        while len(hot := [row for row in self.rows.values() if _is_hot(row)]) > self.horizons.most_rows:
            min(hot, key=_age).hot = False
        timed_out = 0
        if not self.stalled:
            for row in self._due(lambda row: not row.settled, self.due_us - horizon_us)[:most]:
                self._time_out(row)
                timed_out += 1
            for row in self._due(lambda row: row.settled, self.due_us - 2 * horizon_us)[:most]:
                del self.rows[row.event_id]
        while len(self.rows) > SMALL_TIMES * self.horizons.most_rows:
            settled = [row for row in self.rows.values() if row.settled]
            row = min(settled or self.rows.values(), key=_age)
            del self.rows[row.event_id]
            if row.event is None and not row.settled:
                self._unknown(row)
            elif not row.settled and row.label is None:
                self._emit("expired", "", row.time_us, row.time_us + horizon_us)
        held_up = self.stalled or (self.held_up and timed_out == most)
        if held_up != self.held_up:
            self.held_up = held_up
            self.notices.append((held_up, self.label_wall_ms, self.offset, self.place))
            self.place += 1

    def _time_out(self, row: Row) -> None:
        if row.event is None:
            del self.rows[row.event_id]
            self._unknown(row)
            return
        row.settled = True
        if row.label is not None:
            return
        due_us, known = row.time_us + self.horizons.horizon_us, row.hot or self.archived
        name = row.event_id if known else ""
        if row.blocked:
            self._emit("censored", name, row.time_us, due_us)
        elif not known or math.isnan(self.label.silent_code):
            self._emit("expired", name, row.time_us, due_us)
        else:
            silent = Report(row.event_id, due_us, self.label.silent_code, math.nan)
            self._window(row, silent, None)
            self._emit("silent", name, row.time_us, due_us, silent.code)

    def _unknown(self, row: Row) -> None:
        for report in row.waiting:
            if report.action is None:
                self._emit("unknown", row.event_id, report.known_us, report.known_us)

    def _due(self, wanted: Any, before_us: int) -> list[Row]:
        """The oldest first. Within a bucket by digest; those that fall due meanwhile wait for the next record."""
        end = self.horizons.bucket_us
        found = [row for row in self.rows.values() if wanted(row) and (row.bucket + 1) * end <= before_us]
        return sorted(found, key=_age)

    def _bucket(self, time_us: int) -> int:
        return math.floor(time_us / self.horizons.bucket_us)

    def _emit(
        self,
        kind: str,
        event_id: str,
        time_us: int,
        known_us: int,
        code: float = math.nan,
        replaced: float = math.nan,
    ) -> None:
        place = (self.offset, self.place)
        self.outcomes.append(Found(kind, event_id, time_us, known_us, _known(code), _known(replaced), *place))
        self.place += 1


def _is_hot(row: Row) -> bool:
    return row.event is not None and row.hot and not row.settled


def _age(row: Row) -> tuple[int, bytes]:
    return row.bucket, row.digest


def _same(one: Report, other: Report) -> bool:
    return (_known(one.code), _known(one.minutes)) == (_known(other.code), _known(other.minutes))


def _numbers(report: Report) -> list[float | None]:
    return [_known(report.code), _known(report.minutes)]


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
