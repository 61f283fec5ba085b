"""Records of `drift-slices`: what the stages of the monitor tell the one that raises alerts. Its order is the truth.

Three kinds, told apart by the header FRAME, which also names the features, columns and length of slices that they are of:

    slice    what one partition of `hop-join` counted of a time slice, deflated MessagePack; a long one in several pieces
    labels   a report of the label feed (`models/drift/label_reports.py`)
    dead     how many dead letters there were by time slice and reason, of one partition of `dead-letters`

Every record has a position among those of its upstream partition, so copies after a crash are known: of a slice its start
and the piece, of the others the record upstream and a place among what was made of that.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import msgspec

from features.store import Position
from models.drift import time_slice
from models.drift.columns import watched_columns
from models.drift.time_slice import TimeSlice
from models.pipeline import Pipeline
from streams.batch import Record
from streams.frames import MAX_FRAME_BYTES
from streams.headers import FRAME, PIPELINE_VERSION, POSITION, UPSTREAM, header
from streams.producer import Outgoing
from streams.taken import BEFORE_ALL, superseded_by

# Raised when the bytes of a record change for the same pipeline.
FORMAT = 1

Kind = Literal["slice", "labels", "dead"]

PIECES = "pieces"
"""Header: into how many pieces a slice was cut."""

DeadCounts = Mapping[int, Mapping[str, int]]
"""Dead letters by start of the time slice and reason, since the beginning of the slice: a later count contains an earlier."""


@dataclass(frozen=True)
class SliceRecord:
    """A record of `drift-slices` that was read. `value` is as it stands there; of a slice it may be a piece of `pieces`."""

    kind: Kind
    upstream: str
    position: Position
    value: bytes
    pieces: int = 1


def watch_version(pipeline: Pipeline) -> str:
    """What decides which slices can be added and compared: features, columns, and the length of slices."""
    content = json.dumps(
        [
            FORMAT,
            pipeline.feature_set.hash,
            pipeline.drift.slice_us,
            *(asdict(column) for column in watched_columns(pipeline)),
        ],
        sort_keys=True,
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class SliceFrames:
    """Writes and reads the records of one pipeline on `topic`."""

    def __init__(self, pipeline: Pipeline, topic: str) -> None:
        self._topic, self._pipeline_version = topic, pipeline.version.encode()
        self.version = watch_version(pipeline)
        self._kinds: dict[bytes, Kind] = {
            self._frame("slice"): "slice",
            self._frame("labels"): "labels",
            self._frame("dead"): "dead",
        }

    def of_slice(self, upstream: str, slice_: TimeSlice) -> list[Outgoing]:
        """A closed slice of a partition of `hop-join`: in pieces where it is too long for one record."""
        value = zlib.compress(time_slice.encoded(slice_), 1)
        pieces = [value[at : at + MAX_FRAME_BYTES] for at in range(0, len(value), MAX_FRAME_BYTES)]
        count = (PIECES, str(len(pieces)).encode())
        return [
            self._message("slice", upstream, Position(slice_.start_us, number), piece, [count])
            for number, piece in enumerate(pieces)
        ]

    def of_labels(self, upstream: str, position: Position, report: bytes) -> Outgoing:
        """A report of the label feed, by its encoded bytes."""
        return self._message("labels", upstream, position, report)

    def of_dead(self, upstream: str, offset: int, counts: DeadCounts) -> Outgoing:
        """The dead letters of a partition up to the one at `offset`, in the slices that changed."""
        return self._message("dead", upstream, Position(offset, 0), _encode(counts))

    def read(self, record: Record) -> SliceRecord | None:
        """The record; None for one of other features, columns or slices. Raises ValueError for junk."""
        frame, upstream, place = (header(record, name) for name in (FRAME, UPSTREAM, POSITION))
        if frame is None or upstream is None or place is None:
            raise ValueError("the headers of a record of drift-slices are missing")
        if frame not in self._kinds:
            if frame.partition(b"-")[0].decode(errors="replace") in self._kinds.values():
                return None
            raise ValueError("it is no record of drift-slices")
        offset, _, row = place.decode().partition("/")
        pieces = int(header(record, PIECES) or 1)
        position = Position(int(offset), int(row))
        return SliceRecord(self._kinds[frame], upstream.decode(), position, record.value or b"", pieces)

    def _message(
        self,
        kind: Kind,
        upstream: str,
        position: Position,
        value: bytes,
        more: Sequence[tuple[str, bytes]] = (),
    ) -> Outgoing:
        headers = [
            (UPSTREAM, upstream.encode()),
            (FRAME, self._frame(kind)),
            (POSITION, f"{position.offset}/{position.row}".encode()),
            (PIPELINE_VERSION, self._pipeline_version),
            *more,
        ]
        return Outgoing(self._topic, 0, None, value, headers)

    def _frame(self, kind: Kind) -> bytes:
        return f"{kind}-{FORMAT}-{self.version}".encode()


def read_slice(value: bytes) -> TimeSlice:
    """The slice in the joined pieces. Raises ValueError when there is none."""
    try:
        return time_slice.decoded(zlib.decompress(value))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def read_dead(value: bytes) -> dict[int, dict[str, int]]:
    """The counts in a record's value. Raises ValueError when there are none."""
    return _decode(value)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[int, dict[str, int]]).decode

MOST_UPSTREAMS: Final = 1_000
"""Names of upstream partitions that are remembered: a sender that makes names up must not fill the memory."""


class Seen:
    """The last position that was seen of each upstream partition: what stands at it or before is a copy.

    Example:
        >>> seen = Seen({})
        >>> seen.is_new("a@c/t/0", Position(7, 0)), seen.is_new("a@c/t/0", Position(7, 0))
        (True, False)
    """

    def __init__(self, positions: Mapping[str, Position]) -> None:
        self.positions: dict[str, Position] = dict(positions)

    def last(self, upstream: str) -> Position:
        """The last position of this partition, before all others if nothing was seen."""
        return self.positions.get(upstream, BEFORE_ALL)

    def is_new(self, upstream: str, position: Position) -> bool:
        """Whether this stands behind what was seen; then it is seen from now on."""
        if position <= self.last(upstream):
            return False
        self.saw(upstream, position)
        return True

    def saw(self, upstream: str, position: Position) -> list[str]:
        """This was seen; the names that the partition had before its topic was made anew, which are forgotten."""
        gone = [] if upstream in self.positions else superseded_by(upstream, self.positions)
        if upstream not in self.positions and len(self.positions) >= MOST_UPSTREAMS:
            del self.positions[next(iter(self.positions))]
        self.positions[upstream] = position
        return gone

    def packed(self) -> dict[str, tuple[int, int]]:
        """As MessagePack takes it."""
        return {name: (at.offset, at.row) for name, at in self.positions.items()}

    @classmethod
    def of(cls, packed: Mapping[str, tuple[int, int]]) -> Seen:
        """What `packed` gave."""
        return cls({name: Position(*at) for name, at in packed.items()})
