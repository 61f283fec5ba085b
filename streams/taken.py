"""Steps 1 and 2 of a stage with state: from the records of a hop topic to the rows that are new.

A record is new when its offset is above `applied`. A row is new when its position stands above the last one *seen* from
its upstream partition: after a crash, or when a stopped worker wakes, upstream may write the same rows again, and they
may be cut into other records then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.errors import OperatorError
from features.plan import Ints
from features.store import Position
from streams.batch import Record
from streams.dead_letters import DeadLetter
from streams.frames import Frame, FrameCodec, positions_after
from streams.headers import FRAME, UPSTREAM, header

BEFORE_ALL = Position(-1, -1)


class OtherVersionError(OperatorError):
    """A frame was written by a worker of another pipeline version."""


@dataclass(frozen=True)
class Taken:
    """The new rows of a batch of records.

    `frame` is None when nothing is new. `records` and `rows` are int64[n]: the record of each row in this hop topic and
    its place there, which is its position for the next stage. `copies` counts the rows that were seen before.
    `superseded` are the upstream partitions whose topic was made anew: they are in `seen` no more.
    """

    first: int
    last: int
    frame: Frame | None
    records: Ints
    rows: Ints
    seen: Mapping[str, Position]
    dead: Sequence[DeadLetter]
    copies: int
    superseded: Sequence[str] = ()


def take(
    partition: int,
    records: Sequence[Record],
    applied: int,
    seen: Mapping[str, Position],
    codec: FrameCodec,
    most_rows: int,
) -> Taken:
    """Open the records above `applied` and keep the rows above `seen`; `most_rows` of them, but at least one record's.

    Raises `OtherVersionError` for a frame of another pipeline version: it cannot be read, and must not be skipped.
    """
    fresh = _of_one_version([record for record in records if record.offset > applied], codec)
    upstreams = dict(seen)
    superseded: list[str] = []
    frames: list[Frame] = []
    places: list[tuple[int, int, int]] = []  # record, first new row, rows
    dead: list[DeadLetter] = []
    copies = 0
    rows = 0
    for count, record in enumerate(fresh):
        opened = _open(partition, record, codec, dead)
        if opened is None:
            continue
        upstream, frame = opened
        start = positions_after(frame, upstreams.get(upstream, BEFORE_ALL))
        rows += len(frame) - start
        if rows > most_rows and frames:
            fresh = fresh[:count]
            break
        copies += start
        if start < len(frame):
            if upstream not in upstreams:
                superseded += superseded_by(upstream, upstreams)
            upstreams[upstream] = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
            frames.append(frame.take(np.arange(start, len(frame))) if start else frame)
            places.append((record.offset, start, len(frame)))
    joined = codec.join(frames) if frames else None
    first, last = (fresh[0].offset, fresh[-1].offset) if fresh else (applied + 1, applied)
    return Taken(first, last, joined, *_positions(places), upstreams, dead, copies, superseded)


def _of_one_version(records: list[Record], codec: FrameCodec) -> list[Record]:
    """The records before the first frame of another version; all of them when they begin with one."""
    for count, record in enumerate(records):
        if count and header(record, FRAME) not in (None, codec.version):
            return records[:count]
    return records


def superseded_by(upstream: str, upstreams: dict[str, Position]) -> list[str]:
    """Take those out that were the same partition of the same topic before it was made anew: one for ever would remain
    each time that happens."""
    place = _place(upstream)
    gone = [other for other in upstreams if other != upstream and _place(other) == place]
    for other in gone:
        del upstreams[other]
    return gone


def _place(upstream: str) -> tuple[str, str]:
    return upstream.partition("@")[0], upstream.rpartition("/")[2]


def _open(
    partition: int, record: Record, codec: FrameCodec, dead: list[DeadLetter]
) -> tuple[str, Frame] | None:
    """The upstream partition and the rows of a record; None when there are none, because it is junk or empty."""
    version, upstream = header(record, FRAME), header(record, UPSTREAM)
    if version is not None and version != codec.version:
        raise OtherVersionError(
            f"record {record.offset} of partition {partition} was written under pipeline version "
            f"{version.decode(errors='replace')}, this worker runs {codec.version.decode()}: let the workers of the "
            "other version finish what stands in the hop topics, then start this one"
        )
    try:
        if version is None or upstream is None:
            # Without its headers a frame of other columns could be read as one of these.
            raise ValueError("the headers of a frame are missing")  # noqa: TRY301  one way out for all junk
        name, frame = upstream.decode(), codec.decode(record.value or b"")
    except ValueError as error:
        dead.append(DeadLetter(partition, record, "not_a_frame", "$", f"no frame of this pipeline: {error}"))
        return None
    return (name, frame) if len(frame) else None


def _positions(places: Sequence[tuple[int, int, int]]) -> tuple[Ints, Ints]:
    if not places:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    records = [np.full(count - start, offset) for offset, start, count in places]
    rows = [np.arange(start, count) for _, start, count in places]
    return np.concatenate(records).astype(np.int64), np.concatenate(rows).astype(np.int64)
