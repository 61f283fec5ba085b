"""Looks through the log of a hop topic before it is replayed: where it begins, what is not proven, what stands there.

One pass over each partition. Frames are opened only where something is asked of their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from features.errors import PositionError
from features.store import Position
from offline.proven_outputs import TailRecord
from streams.batch import Partition, Record
from streams.frames import Frame, FrameCodec
from streams.headers import FRAME, UPSTREAM, header
from streams.taken import OtherVersionError

Reach = dict[str, dict[int, Position]]
"""Upstream partition -> partition of this topic -> the last row of that upstream partition that stands there."""


class Logs(Protocol):
    """The topics' logs (`streams.topic_log.TopicLog`)."""

    def bounds(self, place: Partition) -> tuple[int, int]:
        """The offset of the oldest record, and the one that the next record will have."""
        ...

    def read(self, place: Partition, first: int, end: int) -> Iterator[Sequence[Record]]:
        """The records from `first` to before `end`, some at a time."""
        ...


@dataclass
class PartitionSurvey:
    """One partition of a hop topic.

    `begins`: the first record that can be used; before it records were deleted, or written by another pipeline version.
    `end`: behind the last record. `committed`: the group's offset, None where there is none. `oldest_us`: the newest
    event time of the first record that can be used, where others stood before it. `tail`: the records from `committed` on.
    """

    place: Partition
    begins: int
    end: int
    committed: int | None
    oldest_us: int | None = None
    tail: list[TailRecord] = field(default_factory=list)

    @property
    def proven_before(self) -> int:
        """The last record that the committed offset proves, or the one before the first that can be used."""
        return max((self.committed or 0) - 1, self.begins - 1)

    @property
    def deleted_unread(self) -> int:
        """Records that were deleted, and of which nobody knows that they had been worked on."""
        return max(self.begins - self.committed, 0) if self.committed is not None else 0


@dataclass(frozen=True)
class Survey:
    """A hop topic: its partitions by number, and how far the outputs of the stage before reach."""

    partitions: Sequence[PartitionSurvey]
    reach: Reach

    @property
    def has_tail(self) -> bool:
        """Whether there are records that the committed offsets do not prove."""
        return any(partition.tail for partition in self.partitions)


@dataclass(frozen=True)
class Surveyor:
    """Surveys the topics of a pipeline. `committed` has the group's offsets; `told` hears of every record that was read."""

    logs: Logs
    committed: Mapping[Partition, int]
    told: Callable[[int], None]

    def survey(
        self,
        topic: str,
        partitions: int,
        codec: FrameCodec,
        tail_record: Callable[[int, Frame], TailRecord],
        output: Callable[[Frame], None] | None,
        labels: bytes | None = None,
    ) -> Survey:
        """One topic. `tail_record` says where a frame's rows are bound for. `output` hears every frame, where the reach of
        the stage before is asked. `labels` is the version of the frames of label rows, of which nothing comes out.

        Raises:
            PositionError: the log ends before what was committed: it is not the log that was worked on.
            OtherVersionError: frames of another pipeline version wait to be worked on.
        """
        found: Reach = {}
        surveys = []
        for number in range(partitions):
            survey = self.bounds((topic, number))
            for records in self.logs.read(survey.place, survey.begins, survey.end):
                for record in records:
                    if labels is not None and header(record, FRAME) == labels:
                        _look_at_labels(survey, record)
                    else:
                        self._look(survey, record, codec, tail_record, output, found)
                self.told(len(records))
            surveys.append(survey)
        return Survey(surveys, found)

    def bounds(self, place: Partition) -> PartitionSurvey:
        """A partition before anything of it was read. Raises `PositionError` as `survey`."""
        begins, end = self.logs.bounds(place)
        committed = self.committed.get(place)
        if committed is not None and committed > end:
            topic, number = place
            raise PositionError(
                f"{topic}/{number} ends at {end}, and the workers had done all before {committed}: records are missing, or the "
                "topic was made anew. There is nothing to rebuild the state from"
            )
        return PartitionSurvey(place, begins, end, committed)

    def _look(
        self,
        survey: PartitionSurvey,
        record: Record,
        codec: FrameCodec,
        tail_record: Callable[[int, Frame], TailRecord],
        output: Callable[[Frame], None] | None,
        reach: Reach,
    ) -> None:
        in_tail = record.offset >= (survey.committed or 0)
        version = header(record, FRAME)
        if version is not None and version != codec.version:
            _skip_other_version(survey, record, version, codec, in_tail=in_tail)
            return
        first = survey.begins > 0 and survey.oldest_us is None
        frame = _opened(record, codec) if in_tail or first or output else None
        if frame is not None and len(frame) and first:
            survey.oldest_us = int(frame.rows.times_us.max())
        if frame is not None and len(frame) and output:
            output(frame)
            reached(reach, survey.place[1], header(record, UPSTREAM), frame)
        if in_tail:
            survey.tail.append(
                TailRecord(record.offset, None) if frame is None else tail_record(record.offset, frame)
            )


def reached(reach: Reach, partition: int, upstream: bytes | None, frame: Frame) -> None:
    """The rows of a frame stand in a partition."""
    last = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
    of_upstream = reach.setdefault((upstream or b"").decode(), {})
    of_upstream[partition] = max(last, of_upstream.get(partition, last))


def _look_at_labels(survey: PartitionSurvey, record: Record) -> None:
    """Label rows are state and nothing else: what they became stands as soon as they do."""
    if record.offset >= (survey.committed or 0):
        survey.tail.append(TailRecord(record.offset, np.zeros(0, np.int64)))


def _opened(record: Record, codec: FrameCodec) -> Frame | None:
    if header(record, FRAME) is None or header(record, UPSTREAM) is None:
        return None
    try:
        return codec.decode(record.value or b"")
    except ValueError:
        return None


def _skip_other_version(
    survey: PartitionSurvey, record: Record, version: bytes, codec: FrameCodec, *, in_tail: bool
) -> None:
    topic, number = survey.place
    if in_tail:
        raise OtherVersionError(
            f"record {record.offset} of {topic}/{number} waits to be worked on and was written under pipeline version "
            f"{version.decode(errors='replace')}, the pipeline file is {codec.version.decode()}: rebuild with the file of "
            "the other version, let its workers finish, then go on with this one"
        )
    survey.begins, survey.oldest_us = record.offset + 1, None
