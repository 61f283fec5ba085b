"""Frames of label rows: what they carry, and how a stage takes them among those of its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from driftwood.tail import View
from features.label_rows import NO_TIME, LabelRows, join
from features.plan import EntityPlan
from features.rows import Rows
from features.store import Position
from streams.frames import Frame, FrameCodec
from streams.label_frames import LabelFrameCodec
from streams.settings import Settings
from streams.taken import OtherVersionError, Taken, take
from streams.topics import pipeline_topics
from tests.in_process import LogRecord
from tests.landings import landings

PIPELINE = landings()
FEATURES = PIPELINE.feature_set
ORIGIN, AIRCRAFT = FEATURES.entities
CODEC, LABELS = FrameCodec(FEATURES, 0), LabelFrameCodec(ORIGIN)
JOIN = "landings.hop-join@t/0"


def rows(*keys: str, known_us: int = 7, replaced_us: int = NO_TIME) -> LabelRows:
    n = len(keys)
    return LabelRows.of(keys, [known_us] * n, [[1.0, 32.5]] * n, [replaced_us] * n, [[0.0, np.nan]] * n)


def labels(offset: int, places: list[tuple[int, int]], codec: LabelFrameCodec = LABELS) -> LogRecord:
    """A frame of label rows at this offset, made from these records and rows of hop-join."""
    at = np.array(places, np.int64)
    value = codec.encode(rows(*[f"k{offset}.{row}" for _, row in places]), at[:, 0], at[:, 1])
    return LogRecord(offset, 0, None, value, [("upstream", JOIN.encode()), ("frame", codec.version)])


def events(offset: int, count: int) -> LogRecord:
    """A frame of events."""
    one = CODEC.encode(_some_events(offset, count)).serialize().to_pybytes()
    return LogRecord(offset, 0, None, one, [("upstream", b"landings.events@t/0"), ("frame", CODEC.version)])


def _some_events(offset: int, count: int) -> Frame:
    layout, zeros = FEATURES.layout, np.zeros(count, np.int64)
    texts = tuple(pa.array(["JFK"] * count) for _ in layout.texts)
    ids = pa.array([f"e{offset}.{row}" for row in range(count)])
    event_rows = Rows(layout, ids, zeros, np.zeros((count, len(layout.numbers))), texts)
    nothing, offsets = np.zeros((count, 0)), zeros + offset
    return Frame(event_rows, offsets, np.arange(count), zeros, zeros, offsets, zeros, nothing, nothing, zeros)


def taken(*records: LogRecord, seen: dict[str, Position] | None = None, most_rows: int = 100) -> Taken:
    return take(0, list(records), -1, seen or {}, CODEC, most_rows, LABELS)


def test_a_frame_gives_back_what_was_written_with_its_positions_and_what_is_replaced():
    written = join([rows("JFK", "EWR"), rows("JFK", known_us=9, replaced_us=7)])
    read = LABELS.decode(LABELS.encode(written, np.array([4, 4, 5]), np.array([0, 1, 0])))
    assert list(read.rows.keys) == ["JFK", "EWR", "JFK"]
    assert read.rows.known_us.tolist() == [7, 7, 9]
    assert read.rows.replaced_known_us.tolist() == [NO_TIME, NO_TIME, 7]
    assert read.rows.values.tobytes() == written.values.tobytes()
    assert read.rows.replaced.tobytes() == written.replaced.tobytes()
    assert (read.upstream_offsets.tolist(), read.upstream_rows.tolist()) == ([4, 4, 5], [0, 1, 0])


@pytest.mark.parametrize("junk", [b"", b"junk", LABELS.encode(rows("a"), *np.zeros((2, 1), np.int64))[:-9]])
def test_bytes_that_are_no_frame_of_labels_are_refused_with_a_value_error(junk):
    with pytest.raises(ValueError, match=r".+"):
        LABELS.decode(junk)


def test_the_version_follows_from_what_the_rows_hold_and_not_from_other_features():
    other = EntityPlan("origin", ("origin",), (), (), (), (), (), label_inputs=ORIGIN.label_inputs)
    assert LabelFrameCodec(other).version == LABELS.version
    assert LabelFrameCodec(AIRCRAFT).version != LABELS.version
    assert CODEC.version != LABELS.version


def test_label_rows_are_taken_in_one_order_with_the_events_around_them():
    found = taken(labels(0, [(3, 0)]), events(1, 2), labels(2, [(3, 1), (4, 0)]), events(3, 1))
    assert found.frame is not None and found.labels is not None
    assert found.frame.rows.event_ids.to_pylist() == ["e1.0", "e1.1", "e3.0"]
    assert (list(found.labels.rows.keys), found.labels_before.tolist()) == (
        ["k0.0", "k2.1", "k2.0"],
        [0, 2, 2],
    )
    assert (found.records.tolist(), found.last) == ([1, 1, 3], 3)
    assert found.seen[JOIN] == Position(4, 0)


def test_label_rows_seen_before_are_dropped_and_counted():
    found = taken(labels(5, [(3, 0), (3, 1)]), labels(6, [(3, 1), (4, 0)]), seen={JOIN: Position(3, 0)})
    assert found.labels is not None and list(found.labels.rows.keys) == ["k5.1", "k6.0"]
    assert (found.frame, found.copies) == (None, 2)


def test_label_rows_count_towards_the_rows_of_a_batch():
    found = taken(labels(0, [(3, 0), (3, 1)]), labels(1, [(4, 0)]), events(2, 1), most_rows=2)
    assert (found.last, found.frame) == (0, None)


def test_label_rows_of_another_version_are_refused_and_junk_among_them_is_a_dead_letter():
    foreign = labels(1, [(4, 0)], LabelFrameCodec(AIRCRAFT))
    assert taken(labels(0, [(3, 0)]), foreign).last == 0
    with pytest.raises(OtherVersionError):
        taken(foreign)
    broken = LogRecord(1, 0, None, b"junk", labels(1, [(4, 0)]).headers)
    found = taken(labels(0, [(3, 0)]), broken, labels(2, [(4, 0)]))
    assert [letter.reason for letter in found.dead] == ["not_a_frame"]
    assert found.labels is not None and len(found.labels) == 2


@dataclass(frozen=True)
class _Message:
    record: LogRecord

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.record.offset

    def key(self) -> None:
        return None

    def value(self) -> bytes | None:
        return self.record.value

    def headers(self) -> Any:
        return list(self.record.headers)


def test_tail_shows_label_rows_with_what_they_say_and_when_it_became_known():
    topics = pipeline_topics("landings", ["origin", "aircraft"], Settings())
    (line,) = View(PIPELINE, topics, "hop-origin").lines(_Message(labels(2, [(3, 0)])))
    assert line.data == {
        "partition": 0,
        "offset": 2,
        "row": 0,
        "known_at": "1970-01-01T00:00:00.000007Z",
        "key": "k2.0",
        "late": 1.0,
        "delay": 32.5,
        "corrects": None,
    }
