"""Records of drift-slices: what is written is read, copies and other versions are known, junk stops nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from driftwood import Drift, categorical
from features.store import Position
from models.drift.alert import Alert
from models.drift.columns import watched_columns
from models.drift.signals import Signal
from models.drift.time_slice import Counting, WatchedRows, empty_slice
from streams.frames import MAX_FRAME_BYTES
from streams.headers import POSITION
from streams.watch_alerts import AlertWatch
from streams.watch_dead import MOST_SLICES, DeadWatch
from streams.watch_frames import PIECES, Seen, SliceFrames, read_dead, read_slice
from tests.in_process import LogRecord
from tests.monitor_world import HOUR, START_US, watched_orders

PIPELINE = watched_orders(Drift())
FRAMES = SliceFrames(PIPELINE, "orders.drift-slices")
COLUMNS = watched_columns(PIPELINE)
JOIN = "orders.hop-join@memory/{}"


def as_read(message, offset=0):
    return LogRecord(offset, 0, message.key, message.value, message.headers)


class Rows:
    """A watch that raises an alert for each slice with rows, and resolves it at the next without."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.open = ""

    @property
    def open_alerts(self):
        return bool(self.open)

    def served(self, slice_, dead):
        self.heard.append((slice_.start_us, slice_.rows, dict(dead)))
        if bool(slice_.rows) == bool(self.open):
            return []
        name = self.open or f"orders/data/volume/{slice_.start_us}"
        status: Any = "resolved" if self.open else "raised"
        self.open = "" if self.open else name
        signal = Signal("data", "volume", "rate", slice_.end_us, 2.0, 1.0, 2.0)
        return [
            Alert(
                name,
                status,
                int(not self.open),
                "orders",
                "warning",
                "",
                "",
                "",
                ("data",),
                (signal,),
                1.0,
                (),
                "",
            )
        ]

    def labels(self, report):
        self.heard.append(report)
        return []

    def state(self):
        return json.dumps(self.open).encode()

    def restore(self, state):
        self.open = json.loads(state)


def slice_of(start_us, rows):
    counting = Counting(COLUMNS, start_us, HOUR)
    numbers = sum(column.kind != "category" for column in COLUMNS)
    texts = len(COLUMNS) - numbers
    if rows:
        names = [pa.array([f"t{place}" for place in range(rows)])] * texts
        values = np.random.default_rng(1).lognormal(0, 9, (rows, numbers))
        counting.add(WatchedRows(np.full(rows, start_us), values, names, {}, "m1"))
    return counting.closed()


def test_a_slice_is_read_as_it_was_written():
    one = slice_of(START_US, 50)
    [message] = FRAMES.of_slice(JOIN.format(0), one)
    found = FRAMES.read(as_read(message))
    assert found is not None
    assert (found.kind, found.upstream, found.position) == ("slice", JOIN.format(0), Position(START_US, 0))
    assert read_slice(found.value) == one


def test_a_long_slice_comes_in_pieces_and_copies_of_some_of_them_change_nothing():
    one = slice_of(START_US, 20_000)
    pieces = FRAMES.of_slice(JOIN.format(0), one)
    # A column of counts of each of so many values, and yet no record that a broker would refuse.
    assert all(len(piece.value) <= MAX_FRAME_BYTES for piece in pieces)
    whole = b"".join(piece.value for piece in pieces)
    assert read_slice(whole) == one
    small = [whole[at : at + 1_000] for at in range(0, len(whole), 1_000)]
    headers = [(name, value) for name, value in pieces[0].headers if name not in (POSITION, PIECES)]

    def piece(number):
        more = [(POSITION, f"{START_US}/{number}".encode()), (PIECES, str(len(small)).encode())]
        return LogRecord(number, 0, None, small[number], [*headers, *more])

    assert len(small) > 5
    watch = AlertWatch(PIPELINE, FRAMES, 1, Rows)
    places = [0, 1, 2, 0, 1, 2, 3, 1, *range(4, len(small))]
    alerts = []
    for number in places:
        alerts += watch.take(piece(number))
        watch = AlertWatch(PIPELINE, FRAMES, 1, Rows, watch.state())
    assert [one.alert.status for one in alerts] == ["raised"]


def test_slices_of_other_features_columns_or_lengths_are_known_as_such():
    [message] = FRAMES.of_slice(JOIN.format(0), empty_slice(COLUMNS, START_US, HOUR))
    for other in (
        watched_orders(Drift(), features_more=[categorical("city")]),
        watched_orders(Drift(time_slice="30m")),
    ):
        assert SliceFrames(other, "x").read(as_read(message)) is None
    assert SliceFrames(watched_orders(Drift(0.1)), "x").read(as_read(message)) is not None


def test_what_is_not_ours_is_counted_and_stops_nothing(caplog):
    watch = AlertWatch(PIPELINE, FRAMES, 1, Rows)
    [good] = FRAMES.of_slice(JOIN.format(0), slice_of(START_US, 3))
    others = SliceFrames(watched_orders(Drift(time_slice="30m")), "x")
    [other] = others.of_slice(JOIN.format(0), empty_slice(COLUMNS, START_US, HOUR // 2))
    for value in (None, b"", b"junk", good.value[:-3]):
        for headers in ([], good.headers[:2], good.headers, [("frame", b"slice"), *good.headers[2:]]):
            assert watch.take(LogRecord(0, 0, None, value, headers)) == []
    [wrong] = FRAMES.of_slice(JOIN.format(7), slice_of(START_US, 3))
    assert watch.take(as_read(wrong)) == []
    assert watch.counts["junk"] == 17
    for _ in range(3):
        assert watch.take(as_read(other)) == []
    assert watch.counts["other_version"] == 3
    assert caplog.text.count("is of other features") == 1
    assert len(watch.take(as_read(good, 9))) == 1


def test_alerts_have_the_position_of_the_record_that_raised_them_and_open_ones_are_remembered():
    watch = AlertWatch(PIPELINE, FRAMES, 2, Rows)
    found = []
    for offset, (partition, hour, rows) in enumerate([(0, 0, 3), (1, 0, 0), (0, 1, 0), (1, 1, 0)]):
        [message] = FRAMES.of_slice(JOIN.format(partition), slice_of(START_US + hour * HOUR, rows))
        found += watch.take(as_read(message, offset))
        watch = AlertWatch(PIPELINE, FRAMES, 2, Rows, watch.state())
        assert len(watch.open) == (offset in (1, 2))
    assert [(one.alert.status, one.position) for one in found] == [
        ("raised", Position(1, 0)),
        ("resolved", Position(3, 0)),
    ]
    assert watch.end_us == START_US + 2 * HOUR


def test_open_alerts_go_on_when_the_pipeline_is_reloaded_with_one_feature_more():
    watch = AlertWatch(PIPELINE, FRAMES, 1, Rows)
    [message] = FRAMES.of_slice(JOIN.format(0), slice_of(START_US, 3))
    [raised] = watch.take(as_read(message))
    more = watched_orders(Drift(), features_more=[categorical("city")])
    frames = SliceFrames(more, "orders.drift-slices")
    again = AlertWatch(more, frames, 1, Rows, watch.state())
    assert [*again.open] == [raised.alert.alert]
    # Its partition begins again, with the slice that was open or one before it.
    [message] = frames.of_slice(JOIN.format(0), empty_slice(watched_columns(more), START_US, HOUR))
    [resolved] = again.take(as_read(message, 1))
    assert (resolved.alert.alert, resolved.alert.status) == (raised.alert.alert, "resolved")


def test_names_of_upstream_partitions_do_not_fill_the_memory():
    seen = Seen({})
    for number in range(1_050):
        seen.saw(f"made-up-{number}@c/{number}", Position(1, 0))
    assert len(seen.positions) == 1_000


# ---- dead letters


def dead_watch(state=None):
    return DeadWatch(PIPELINE, FRAMES, "orders.dead-letters@memory/0", "orders.events", state)


def letter(offset, value, reason=b"not_json", topic=b"orders.events"):
    return LogRecord(offset, 0, None, value, [("topic", topic), ("reason", reason)])


def counts(messages):
    [message] = messages
    found = FRAMES.read(as_read(message))
    assert found is not None and found.kind == "dead"
    return found.position.offset, read_dead(found.value)


def test_a_dead_letter_counts_in_the_slice_of_its_own_time_or_of_the_one_before_it():
    watch = dead_watch()
    for offset, value in enumerate(
        (b'{"placed_at": "2024-05-01T05:30:00Z"}', b"{", b'{"placed_at": 7}', None)
    ):
        assert watch.take(letter(offset, value)) == []
    assert counts(watch.rest()) == (3, {START_US + 5 * HOUR: {"not_json": 4}})
    assert watch.rest() == []


def test_only_events_count():
    watch = dead_watch()
    watch.take(letter(0, b"{", topic=b"orders.labels"))
    watch.take(LogRecord(1, 0, None, b"junk", []))
    assert watch.rest() == [] and watch.counts["junk"] == 1


def test_counts_do_not_depend_on_how_batches_are_cut_or_who_goes_on():
    values = [b'{"placed_at": "2024-05-01T0%d:30:00Z"}' % (hour // 3 % 9) for hour in range(40)]
    through, cut = dead_watch(), dead_watch()
    for offset, value in enumerate(values):
        through.take(letter(offset, value))
        cut.take(letter(offset, value))
        if offset % 7 == 0:
            cut.rest()
            cut = dead_watch(cut.state())
    last, some = counts(cut.rest())
    assert last == 39
    everything = counts(through.rest())[1]
    assert some.items() <= everything.items()


def test_memory_for_dead_letters_is_bounded():
    watch = dead_watch()
    for number in range(2 * MOST_SLICES):
        value = json.dumps({"placed_at": f"{2000 + number // 12}-{number % 12 + 1:02}-01T00:00:00Z"}).encode()
        watch.take(letter(number, value, f"made-up-{number}".encode()))
    assert len(counts(watch.rest())[1]) == MOST_SLICES
    for number in range(100):
        watch.take(letter(number, b"{", f"made-up-{number}".encode()))
    assert len(counts(watch.rest())[1].popitem()[1]) <= 33


@pytest.mark.parametrize("name", ["x", b""])
def test_an_unusual_reason_is_kept(name):
    watch = dead_watch()
    watch.take(letter(0, b"{", name if isinstance(name, bytes) else b"\xff"))
    assert sum(counts(watch.rest())[1][0].values()) == 1
