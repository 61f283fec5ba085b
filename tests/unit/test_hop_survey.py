"""What a rebuild finds in the log of a hop topic before it replays it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.memory_store import MemoryStore
from features.store import Position
from offline.hop_survey import PartitionSurvey, Survey, Surveyor
from offline.proven_outputs import TailRecord
from streams.frames import Frame, FrameCodec
from streams.headers import FRAME
from streams.taken import OtherVersionError
from tests.in_process import LogRecord, Place, Road
from tests.shop_events import customer, orders, random_orders, shop

PIPELINE = orders(["amount", customer.count("1d"), shop.count("1d")], fallback=0.1)
HOP = ("orders.hop-customer", 0)
NEXT = ("orders.hop-shop", 0)


class Logs:
    """The log of a road; `begins` is its oldest record."""

    def __init__(self, road: Road, begins: int = 0) -> None:
        self.records, self.begins = road.log.records, begins

    def bounds(self, place: Place) -> tuple[int, int]:
        return self.begins, len(self.records[place])

    def read(self, place: Place, first: int, end: int) -> Iterator[Sequence[LogRecord]]:
        yield self.records[place][first:end]


@pytest.fixture
def road() -> Road:
    """Ten records on each of two hops."""
    one = Road(PIPELINE, MemoryStore(), Path("no-models"), 1)
    one.send(random_orders(random.Random(1), 10))
    one.run(batch=1)
    return one


def surveyed(
    logs: Logs,
    committed: int | None,
    place: Place = HOP,
    stage: int = 0,
    output: Callable[[Frame], None] | None = None,
) -> Survey:
    known = {} if committed is None else {place: committed}
    codec = FrameCodec(PIPELINE.feature_set, stage)

    def tail_record(offset: int, frame: Frame) -> TailRecord:
        return TailRecord(offset, np.zeros(len(frame), np.int64))

    return Surveyor(logs, known, lambda records: None).survey(place[0], 1, codec, tail_record, output)


def only(survey: Survey) -> PartitionSurvey:
    (partition,) = survey.partitions
    return partition


@pytest.mark.parametrize(
    ("committed", "tail"), [(None, [*range(10)]), (0, [*range(10)]), (7, [7, 8, 9]), (10, [])]
)
def test_the_tail_is_what_the_committed_offset_does_not_prove(
    road: Road, committed: int | None, tail: list[int]
) -> None:
    survey = surveyed(Logs(road), committed)
    assert [record.offset for record in only(survey).tail] == tail
    assert only(survey).proven_before == 9 - len(tail)
    assert survey.has_tail == bool(tail)
    assert only(survey).oldest_us is None  # nothing is missing


def test_the_reach_of_the_stage_before_is_its_last_row_whatever_copies_came_after(road: Road) -> None:
    heard: list[Frame] = []
    road.log.records[NEXT].append(replace(road.log.records[NEXT][3], offset=10))
    survey = surveyed(Logs(road), 11, NEXT, 1, heard.append)
    assert survey.reach == {"orders.hop-customer@memory/0": {0: Position(9, 0)}}
    assert len(heard) == 11


def test_history_begins_behind_frames_of_another_version_that_were_worked_on(road: Road) -> None:
    records = road.log.records[HOP]
    for offset in (0, 1, 4):
        records[offset] = of_another_version(records[offset])
    partition = only(surveyed(Logs(road), 8))
    assert (partition.begins, partition.end, len(partition.tail)) == (5, 10, 2)
    codec = FrameCodec(PIPELINE.feature_set, 0)
    assert partition.oldest_us == codec.decode(records[5].value or b"").rows.times_us.max()


def test_frames_of_another_version_that_wait_to_be_worked_on_are_refused(road: Road) -> None:
    records = road.log.records[HOP]
    records[8] = of_another_version(records[8])
    with pytest.raises(
        OtherVersionError, match=r"record 8 of orders\.hop-customer/0 waits .* version older, the pipeline"
    ):
        surveyed(Logs(road), 8)


def of_another_version(record: LogRecord) -> LogRecord:
    headers = [(name, b"older" if name == FRAME else value) for name, value in record.headers]
    return replace(record, headers=headers)


def test_records_that_were_deleted_are_told_from_those_that_were_deleted_unread(road: Road) -> None:
    partition = only(surveyed(Logs(road, begins=6), 4))
    assert (partition.begins, partition.deleted_unread, partition.proven_before) == (6, 2, 5)
    assert only(surveyed(Logs(road, begins=6), 9)).deleted_unread == 0
    assert only(surveyed(Logs(road, begins=6), None)).deleted_unread == 0


def test_junk_in_the_tail_proves_nothing(road: Road) -> None:
    records = road.log.records[HOP]
    records[9] = replace(records[9], value=b"junk")
    (junk,) = only(surveyed(Logs(road), 9)).tail
    assert junk.targets is None
