"""Steps 1 and 2 of a stage with state: from the records of a hop topic to the rows that are new.

A record is new when its offset is above `applied`. A row is new when its position stands above the last one *seen* from
its upstream partition: after a crash, or when a stopped worker wakes, upstream may write the same rows again, and they
may be cut into other records then.

Where the entity has windows over labels, frames of label rows stand among those of events, in one order with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from features.errors import OperatorError
from features.plan import Ints
from features.store import Position
from streams.batch import Record
from streams.dead_letters import DeadLetter
from streams.frames import Frame, FrameCodec, positions_after
from streams.headers import FRAME, UPSTREAM, header
from streams.label_frames import LabelFrame, LabelFrameCodec

BEFORE_ALL = Position(-1, -1)


class OtherVersionError(OperatorError):
    """A frame was written by a worker of another pipeline version."""


Codecs = Mapping[bytes, FrameCodec | LabelFrameCodec]
"""By the version that stands in a frame's header."""


@dataclass(frozen=True)
class Taken:
    """The new rows of a batch of records.

    `frame` is None when no event is new. `records` and `rows` are int64[n]: the record of each row in this hop topic and
    its place there, which is its position for the next stage. `copies` counts the rows that were seen before.
    `superseded` are the upstream partitions whose topic was made anew: they are in `seen` no more. `labels` are the new
    label rows, None when there are none; `labels_before` int64[m]: how many rows of `frame` stand before each.
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
    labels: LabelFrame | None = None
    labels_before: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


def take(
    partition: int,
    records: Sequence[Record],
    applied: int,
    seen: Mapping[str, Position],
    codec: FrameCodec,
    most_rows: int,
    label_codec: LabelFrameCodec | None = None,
) -> Taken:
    """Open the records above `applied` and keep the rows above `seen`; `most_rows` of them, but at least one record's.

    `label_codec` is there where the entity has windows over labels.

    Raises `OtherVersionError` for a frame of another pipeline version: it cannot be read, and must not be skipped.
    """
    codecs = {one.version: one for one in (codec, label_codec) if one is not None}
    fresh = _of_one_version([record for record in records if record.offset > applied], codecs)
    upstreams = dict(seen)
    superseded: list[str] = []
    frames: list[Frame] = []
    label_frames: list[LabelFrame] = []
    labels_before: list[Ints] = []
    places: list[tuple[int, int, int]] = []  # record, first new row, rows
    dead: list[DeadLetter] = []
    copies = 0
    rows = 0
    events = 0
    for count, record in enumerate(fresh):
        opened = _open(partition, record, codecs, codec, dead)
        if opened is None:
            continue
        upstream, frame = opened
        start = positions_after(frame, upstreams.get(upstream, BEFORE_ALL))
        rows += len(frame) - start
        if rows > most_rows and (frames or label_frames):
            fresh = fresh[:count]
            break
        copies += start
        if start == len(frame):
            continue
        if upstream not in upstreams:
            superseded += superseded_by(upstream, upstreams)
        upstreams[upstream] = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
        new = frame.take(np.arange(start, len(frame))) if start else frame
        if isinstance(new, LabelFrame):
            label_frames.append(new)
            labels_before.append(np.full(len(new), events, np.int64))
        else:
            events += len(new)
            frames.append(new)
            places.append((record.offset, start, len(frame)))
    joined = codec.join(frames) if frames else None
    first, last = (fresh[0].offset, fresh[-1].offset) if fresh else (applied + 1, applied)
    taken = Taken(first, last, joined, *_positions(places), upstreams, dead, copies, superseded)
    if not label_frames:
        return taken
    labels = LabelFrameCodec.join(label_frames)
    return replace(taken, labels=labels, labels_before=np.concatenate(labels_before))


def _of_one_version(records: list[Record], codecs: Codecs) -> list[Record]:
    """The records before the first frame of another version; all of them when they begin with one."""
    for count, record in enumerate(records):
        version = header(record, FRAME)
        if count and version is not None and version not in codecs:
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
    partition: int, record: Record, codecs: Codecs, codec: FrameCodec, dead: list[DeadLetter]
) -> tuple[str, Frame | LabelFrame] | None:
    """The upstream partition and the rows of a record; None when there are none, because it is junk or empty."""
    version, upstream = header(record, FRAME), header(record, UPSTREAM)
    if version is not None and version not in codecs:
        raise OtherVersionError(
            f"record {record.offset} of partition {partition} was written under pipeline version "
            f"{version.decode(errors='replace')}, this worker runs {codec.version.decode()}: let the workers of the "
            "other version finish what stands in the hop topics, then start this one"
        )
    try:
        if version is None or upstream is None:
            # Without its headers a frame of other columns could be read as one of these.
            raise ValueError("the headers of a frame are missing")  # noqa: TRY301  one way out for all junk
        name, frame = upstream.decode(), codecs[version].decode(record.value or b"")
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
