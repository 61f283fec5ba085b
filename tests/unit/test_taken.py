"""Steps 1 and 2: which records and rows of a batch are new, and what becomes of the others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.rows import Rows
from features.store import Position
from streams.frames import Frame, FrameCodec
from streams.taken import OtherVersionError, Taken, take
from tests.in_process import LogRecord
from tests.shop_events import orders

FEATURES = orders().feature_set
CODEC = FrameCodec(FEATURES, 0)
UP, OTHER = "orders.events@t/0", "orders.events@t/1"


def record(
    offset: int, places: list[tuple[int, int]], upstream: str = UP, frame: bytes | None = CODEC.version
) -> LogRecord:
    """A frame at this offset whose rows were made from these records and rows upstream."""
    layout, n = FEATURES.layout, len(places)
    texts = tuple(pa.array(["x"] * n) for _ in layout.texts)
    ids = pa.array([f"{upstream[-1]}:{place[0]}.{place[1]}" for place in places], pa.string())
    rows = Rows(layout, ids, np.zeros(n, np.int64), np.zeros((n, len(layout.numbers))), texts)
    zeros, at = np.zeros(n, np.int64), np.array(places, np.int64).reshape(n, 2)
    nothing = np.zeros((n, 0))
    made = Frame(rows, at[:, 0], at[:, 1], zeros, zeros, at[:, 0], zeros, nothing, nothing, zeros)
    value = CODEC.encode(made).serialize().to_pybytes()
    headers = [("upstream", upstream.encode()), *([] if frame is None else [("frame", frame)])]
    return LogRecord(offset, 0, b"key", value, headers)


def taken(
    records: list[LogRecord], applied: int = -1, seen: dict[str, Position] | None = None, most_rows: int = 100
) -> Taken:
    return take(0, records, applied, seen or {}, CODEC, most_rows)


def ids(found: Taken) -> list[str]:
    return [] if found.frame is None else found.frame.rows.event_ids.to_pylist()


def test_records_at_or_below_applied_are_left_out():
    found = taken([record(at, [(at, 0)]) for at in range(4, 8)], applied=5)
    assert (ids(found), found.first, found.last) == (["0:6.0", "0:7.0"], 6, 7)
    assert found.copies == 0


def test_a_batch_of_which_nothing_is_new_ends_where_applied_stands():
    found = taken([record(4, [(4, 0)])], applied=5)
    assert (found.frame, found.first, found.last, found.copies) == (None, 6, 5, 0)


def test_rows_seen_before_are_dropped_and_counted_however_they_are_cut_now():
    seen = {UP: Position(5, 1)}
    found = taken([record(8, [(4, 0), (5, 0), (5, 1), (5, 2)]), record(9, [(5, 2), (6, 0)])], seen=seen)
    assert ids(found) == ["0:5.2", "0:6.0"]
    assert found.copies == 4
    assert found.seen == {UP: Position(6, 0)}
    assert seen == {UP: Position(5, 1)}  # what the caller knows changes with the commit only


def test_a_batch_ends_before_the_record_with_which_its_new_rows_would_be_too_many():
    records = [record(at, [(at, row) for row in range(3)]) for at in range(4, 8)]
    found = taken(records, seen={UP: Position(4, 1)}, most_rows=5)
    assert (ids(found), found.first, found.last) == (["0:4.2", "0:5.0", "0:5.1", "0:5.2"], 4, 5)
    assert (found.copies, found.seen[UP]) == (2, Position(5, 2))


def test_a_record_of_more_rows_than_a_batch_may_have_is_a_batch_of_its_own():
    records = [record(at, [(at, row) for row in range(3)]) for at in range(4, 6)]
    found = taken(records, most_rows=2)
    assert (ids(found), found.last) == (["0:4.0", "0:4.1", "0:4.2"], 4)


def test_a_row_has_the_record_and_row_in_this_topic_as_its_position_for_the_next_stage():
    found = taken([record(8, [(5, 0), (5, 1)]), record(9, [(5, 0), (5, 1), (6, 0)])])
    assert (found.records.tolist(), found.rows.tolist()) == ([8, 8, 9], [0, 1, 2])


def test_each_upstream_partition_is_followed_by_itself():
    found = taken([record(0, [(7, 0)]), record(1, [(3, 0)], OTHER), record(2, [(3, 0), (4, 0)], OTHER)])
    assert ids(found) == ["0:7.0", "1:3.0", "1:4.0"]
    assert found.seen == {UP: Position(7, 0), OTHER: Position(4, 0)}


def test_copies_of_a_worker_that_woke_too_late_are_dropped_between_the_rows_of_its_successor():
    successor = [record(0, [(5, 0)]), record(2, [(5, 1), (6, 0)]), record(4, [(7, 0)])]
    sleeper = [record(1, [(5, 0), (5, 1)]), record(3, [(5, 1), (6, 0), (7, 0)])]
    found = taken(sorted(successor + sleeper, key=lambda one: one.offset))
    assert ids(found) == ["0:5.0", "0:5.1", "0:6.0", "0:7.0"]
    assert found.copies == 5


@pytest.mark.parametrize(
    "junk",
    [
        LogRecord(1, 0, b"key", b"junk", [("upstream", UP.encode()), ("frame", CODEC.version)]),
        LogRecord(1, 0, b"key", None, [("upstream", UP.encode()), ("frame", CODEC.version)]),
        LogRecord(1, 0, b"key", b'{"order_id": "o1"}'),
        record(1, [(1, 0)], frame=None),
    ],
)
def test_junk_is_a_dead_letter_and_the_frames_around_it_go_on(junk):
    found = taken([record(0, [(0, 0)]), junk, record(2, [(2, 0)])])
    assert ids(found) == ["0:0.0", "0:2.0"]
    [letter] = found.dead
    assert (letter.reason, letter.partition, letter.record.offset, letter.path) == ("not_a_frame", 0, 1, "$")
    assert (found.first, found.last) == (0, 2)


def test_a_batch_of_nothing_but_junk_moves_on():
    found = taken([LogRecord(3, 0, None, b"junk"), LogRecord(4, 0, None, None)], applied=2)
    assert (found.frame, found.first, found.last, len(found.dead)) == (None, 3, 4, 2)


def test_an_upstream_that_is_no_text_is_junk():
    good = record(0, [(0, 0)])
    headers = [("upstream", b"\xff"), ("frame", CODEC.version)]
    assert taken([LogRecord(0, 0, None, good.value, headers)]).dead[0].reason == "not_a_frame"
    assert taken([LogRecord(0, 0, None, good.value, headers[1:])]).dead[0].reason == "not_a_frame"


@pytest.mark.parametrize("version", [b"0123456789abcdef-0", CODEC.version[:-1] + b"7", b"\xff"])
def test_a_frame_of_another_version_is_never_skipped(version):
    with pytest.raises(
        OtherVersionError, match=r"record 1 of partition 0 .* let the workers of the other version finish"
    ):
        taken([record(1, [(1, 0)], frame=version), record(2, [(2, 0)])])


def test_a_frame_without_rows_is_no_dead_letter():
    assert taken([record(0, [])]).dead == []


def test_an_upstream_topic_that_was_made_anew_takes_the_place_of_the_old_one():
    seen = {"e@c/1/0": Position(9, 0), "e@c/1/1": Position(7, 0), "h@c/1/0": Position(5, 0)}
    found = taken([record(0, [(0, 0)], "e@c/2/0"), record(1, [(1, 0)], "e@c/2/0")], seen=seen)
    assert found.seen == {"e@c/1/1": Position(7, 0), "h@c/1/0": Position(5, 0), "e@c/2/0": Position(1, 0)}
    assert list(found.superseded) == ["e@c/1/0"]


def test_what_stands_before_a_frame_of_another_version_is_taken_first():
    records = [record(0, [(0, 0)]), record(1, [(1, 0)]), record(2, [(2, 0)], frame=b"other-0")]
    found = taken(records)
    assert (found.first, found.last) == (0, 1)
    with pytest.raises(OtherVersionError):
        taken(records, applied=1)
