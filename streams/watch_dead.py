"""What the monitor makes of `dead-letters`: how many events could not be used, by time slice and reason.

A dead letter has no event time that one could rely on. What its value says is taken where the value can be read; else the
time of the one before it in its partition. Counts grow within a slice, and the newest count contains those before it: so it
does not matter how the records are cut into batches, and a count that comes again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from models.pipeline import Pipeline
from streams.batch import Record
from streams.headers import header
from streams.producer import Outgoing
from streams.watch_frames import SliceFrames
from streams.watch_stage import JUNK, ROWS

# Slices of which counts are kept: more come back to a slice only when events of very different times are mixed.
MOST_SLICES: Final = 256
MOST_REASONS: Final = 32
OTHERS: Final = "(others)"


class _State(msgspec.Struct):
    version: str
    counts: dict[int, dict[str, int]]
    start_us: int
    last: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode
_read_json = msgspec.json.Decoder(dict[str, Any]).decode


class DeadWatch:
    """Counts one partition of `dead-letters`, whose name is `upstream`: those of the topic `events` alone."""

    def __init__(
        self, pipeline: Pipeline, frames: SliceFrames, upstream: str, events: str, state: bytes | None = None
    ) -> None:
        self._time, self._length_us = pipeline.feature_set.time, pipeline.drift.slice_us
        self._field = next(one for one in pipeline.feature_set.schema.fields if one.name == self._time.field)
        self._frames, self._upstream, self._events = frames, upstream, events.encode()
        self._counts: dict[int, dict[str, int]] = {}
        self._changed: set[int] = set()
        self._start_us, self._last = 0, -1
        self.counts: Counter[str] = Counter()
        if state is not None:
            self._restore(_decode(state))

    def take(self, record: Record) -> list[Outgoing]:
        """One dead letter; nothing comes of it before `rest`."""
        self._last = record.offset
        reason = header(record, "reason")
        if reason is None:
            self.counts[JUNK] += 1
        elif header(record, "topic") == self._events:
            self.counts[ROWS] += 1
            self._start_us = self._slice_of(record.value or b"")
            self._count(self._start_us, reason.decode(errors="replace"))
        return []

    def rest(self) -> list[Outgoing]:
        """The counts that changed since the last time."""
        if not self._changed:
            return []
        counts = {start_us: self._counts[start_us] for start_us in sorted(self._changed)}
        self._changed = set()
        return [self._frames.of_dead(self._upstream, self._last, counts)]

    def _count(self, start_us: int, reason: str) -> None:
        if start_us not in self._counts and len(self._counts) >= MOST_SLICES:
            oldest = min(self._counts)
            self._changed.discard(oldest)
            del self._counts[oldest]
        by_reason = self._counts.setdefault(start_us, {})
        name = reason if reason in by_reason or len(by_reason) < MOST_REASONS else OTHERS
        by_reason[name] = by_reason.get(name, 0) + 1
        self._changed.add(start_us)

    def _slice_of(self, value: bytes) -> int:
        try:
            told: Any = msgspec.convert(
                _read_json(value)[self._field.json_name], self._field.type, strict=True
            )
            time_us = int(self._time.microseconds([told])[0])
        except (ValueError, KeyError, TypeError, OverflowError):
            return self._start_us
        return time_us // self._length_us * self._length_us

    def state(self) -> bytes:
        """Everything that it remembers."""
        return _encode(_State(self._frames.version, self._counts, self._start_us, self._last))

    def _restore(self, state: _State) -> None:
        self._last = state.last
        if state.version == self._frames.version:
            self._counts, self._start_us = state.counts, state.start_us
