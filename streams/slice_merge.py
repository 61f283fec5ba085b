"""Slices of the partitions of `hop-join` become one: when every partition has handed on what it has of a span of time.

A partition hands on its slices in order, every one from its first on but for long gaps. So one that has handed on a slice
has said all that it will of those before it. Sums are exact and do not depend on the order, so however the rows were spread
over partitions, and partitions over monitors, the merged slices are the same.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from models.drift import time_slice
from models.drift.columns import Column
from models.drift.time_slice import TimeSlice, merged

log = logging.getLogger(__name__)

# Packed slices that wait for a partition of which nothing comes, as when no monitor reads it: beyond, the oldest is merged
# without it. While months are caught up with, one partition may be thousands of slices ahead of another; a slice of an hour
# has one to ten kilobytes, and what waits is part of the state.
MOST_WAITING_BYTES: Final = 8 << 20

# Slices that a dead letter's own time may be ahead of what was served, and still be true.
MOST_AHEAD: Final = 48

# Counts of dead letters that are remembered, one for each partition, slice and reason.
MOST_COUNTS: Final = 5_000


class _State(msgspec.Struct):
    waiting: list[tuple[int, bytes]]
    newest: dict[int, int]
    merged_us: int | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class SliceMerge:
    """Merges the slices of so many partitions. `state` is what another one gave.

    Example:
        >>> from models.drift.time_slice import empty_slice
        >>> merge = SliceMerge((), partitions=2)
        >>> merge.take(0, empty_slice((), 0, 60)), [one.start_us for one in merge.take(1, empty_slice((), 0, 60))]
        ([], [0])
    """

    def __init__(self, columns: Sequence[Column], partitions: int, state: bytes | None = None) -> None:
        self._columns, self._partitions = columns, partitions
        self._waiting: dict[int, list[bytes]] = {}  # packed
        self._bytes = 0
        self._newest: dict[int, int] = {}
        self._merged_us: int | None = None
        if state is not None:
            self._restore(_decode(state))

    @property
    def waiting(self) -> int:
        """How many spans of time wait for some partition."""
        return len(self._waiting)

    def take(self, partition: int, slice_: TimeSlice) -> list[TimeSlice]:
        """A slice of this partition, and the merged ones for which it was waited, oldest first."""
        start_us = slice_.start_us
        self._newest[partition] = max(self._newest.get(partition, start_us), start_us)
        if self._merged_us is None or start_us > self._merged_us:
            self._wait(start_us, zlib.compress(time_slice.encoded(slice_), 1))
        else:
            log.warning("a slice of partition %d came when its span was merged already: left out", partition)
        return self._ready()

    def _wait(self, start_us: int, packed: bytes) -> None:
        self._waiting.setdefault(start_us, []).append(packed)
        self._bytes += len(packed)

    def _ready(self) -> list[TimeSlice]:
        found = []
        while self._waiting:
            start_us = min(self._waiting)
            complete = len(self._newest) == self._partitions and start_us <= min(self._newest.values())
            if not complete and self._bytes <= MOST_WAITING_BYTES:
                break
            if not complete:
                log.warning(
                    "not every partition of hop-join is watched: a slice is merged without the others"
                )
            packed = self._waiting.pop(start_us)
            self._bytes -= sum(map(len, packed))
            slices = [time_slice.decoded(zlib.decompress(one)) for one in packed]
            found.append(merged(self._columns, slices))
            self._merged_us = start_us
        return found

    def state(self) -> bytes:
        """Everything that it remembers."""
        waiting = [(start_us, one) for start_us, slices in self._waiting.items() for one in slices]
        return _encode(_State(waiting, self._newest, self._merged_us))

    def _restore(self, state: _State) -> None:
        self._newest, self._merged_us = dict(state.newest), state.merged_us
        for start_us, one in state.waiting:
            self._wait(start_us, one)


class DeadLetters:
    """Counts of dead letters by time slice, from all partitions of `dead-letters`, until a merged slice takes them.

    Example:
        >>> dead = DeadLetters(slice_us=60)
        >>> dead.take("dead/0", {0: {"not_json": 2}}); dead.take("dead/0", {0: {"not_json": 5}, 60: {"not_json": 1}})
        >>> dead.up_to(0), dead.up_to(60), dead.up_to(120)
        ({'not_json': 5}, {'not_json': 1}, {})
    """

    def __init__(self, slice_us: int, state: Sequence[tuple[str, int, str, int, int]] = ()) -> None:
        self._slice_us = slice_us
        self._counts: dict[tuple[str, int, str], tuple[int, int]] = {
            (upstream, start_us, reason): (count, taken) for upstream, start_us, reason, count, taken in state
        }

    def take(self, upstream: str, counts: Mapping[int, Mapping[str, int]]) -> None:
        """What a partition has counted by now, in the slices that changed."""
        for start_us, by_reason in counts.items():
            for reason, count in by_reason.items():
                key = upstream, start_us, reason
                before, taken = self._counts.get(key, (0, 0))
                self._counts[key] = max(count, before), taken
        self._bound()

    def up_to(self, start_us: int) -> dict[str, int]:
        """By reason what was not taken yet of this slice, of those before it, and of those too far ahead to be true."""
        found: dict[str, int] = {}
        far_us = start_us + MOST_AHEAD * self._slice_us
        for (upstream, at_us, reason), (count, taken) in list(self._counts.items()):
            if start_us < at_us <= far_us:
                continue
            if count > taken:
                found[reason] = found.get(reason, 0) + count - taken
            self._counts[upstream, at_us, reason] = count, count
        self._bound()
        return dict(sorted(found.items()))

    def _bound(self) -> None:
        """Forget the oldest slices: nothing more comes of them, unless somebody is far behind."""
        if len(self._counts) > MOST_COUNTS:
            oldest = sorted(self._counts, key=lambda key: (key[1], key))
            for key in oldest[: len(self._counts) - MOST_COUNTS]:
                del self._counts[key]

    def state(self) -> list[tuple[str, int, str, int, int]]:
        """Everything that it remembers."""
        return [(*key, *counts) for key, counts in self._counts.items()]
