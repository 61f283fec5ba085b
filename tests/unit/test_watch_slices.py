"""What was served is counted by time slices: which row in which, when a slice is handed on, what is late, and what is left out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from driftwood import Drift, categorical
from models.drift.buckets import probability_buckets
from models.drift.columns import watched_columns
from streams.served import ServedCodec
from streams.watch_frames import SliceFrames, read_slice
from streams.watch_slices import COUNTED_AT_ONCE, MOST_EMPTY, MOST_OPEN, SliceWatch
from tests.in_process import LogRecord
from tests.join_world import Event
from tests.monitor_world import HOUR, MINUTE, START_US, ShopWorld, watched_orders

GRACE = HOUR // 6


class Counted:
    """One partition of hop-join, read by one `SliceWatch` after another."""

    def __init__(self, partitions=1, **more):
        self.pipeline = watched_orders(Drift(**more))
        self.world = ShopWorld(self.pipeline, partitions)
        self.frames = SliceFrames(self.pipeline, "orders.drift-slices")
        self.expected = frozenset(self.world.upstreams)
        self.watch = self.made()
        self.read, self.slices = 0, []

    def made(self, state=None, pipeline=None):
        pipeline = pipeline or self.pipeline
        frames = SliceFrames(pipeline, "orders.drift-slices")
        return SliceWatch(pipeline, frames, "orders.hop-join@memory/0", self.expected, state)

    def serve(self, *times_us, upstream=0, first=None):
        events = [Event(f"o{at}-{place}", at) for place, at in enumerate(times_us)]
        self.world.served(events, upstream, first)
        return self.go_on()

    def idle(self, mark_us, wall_ms=None, upstream=None, *, idle=True):
        self.world.idle(mark_us, wall_ms, upstream, idle=idle)
        return self.go_on()

    def go_on(self):
        """The starts of the slices that are handed on."""
        records = self.world.log.records["orders.hop-join", 0]
        found = []
        for record in records[self.read :]:
            for message in self.watch.take(record):
                one = self.frames.read(LogRecord(0, 0, None, message.value, message.headers))
                assert one is not None
                found.append(read_slice(one.value))
        self.read = len(records)
        self.slices += found
        return [(one.start_us - START_US) // HOUR for one in found]

    def rows(self):
        return {(one.start_us - START_US) // HOUR: one.rows for one in self.slices}


def test_a_slice_is_handed_on_when_everything_was_served_up_to_its_end_and_a_sixth_of_its_length():
    counted = Counted()
    assert counted.serve(START_US, START_US + HOUR - 1) == []
    assert counted.serve(START_US + HOUR + GRACE - 1) == []
    assert counted.serve(START_US + HOUR - 2, START_US + HOUR + GRACE) == [0]
    assert counted.rows() == {0: 3}


def test_slices_in_which_nothing_came_are_handed_on_as_well():
    counted = Counted()
    counted.serve(START_US + GRACE)
    assert counted.serve(START_US + 3 * HOUR + GRACE) == [0, 1, 2]
    assert counted.rows() == {0: 1, 1: 0, 2: 0}


def test_a_row_of_a_slice_that_was_handed_on_is_late_in_the_oldest_open_one():
    counted = Counted()
    counted.serve(START_US + GRACE)
    counted.serve(START_US + 2 * HOUR + GRACE)
    counted.serve(START_US + HOUR, START_US + 2 * HOUR + 1)
    assert counted.serve(START_US + 4 * HOUR) == [2]
    assert [(one.rows, one.late) for one in counted.slices] == [(1, 0), (0, 0), (2, 1)]
    assert counted.watch.counts["late"] == 1


def test_the_rows_of_a_first_record_that_spans_hours_are_not_late():
    counted = Counted()
    counted.serve(*(START_US + hour * HOUR for hour in range(10)))
    counted.idle(START_US + 20 * HOUR)
    assert [one.rows for one in counted.slices] == [1] * 10 + [0] * 9
    assert counted.watch.counts["late"] == 0


def test_a_wildly_old_first_row_is_late_and_makes_no_years_of_slices():
    counted = Counted()
    counted.serve(START_US - 24 * 365 * HOUR, START_US)
    counted.serve(START_US + 2 * HOUR)
    assert len(counted.slices) == MOST_OPEN + 1
    assert sum(one.late for one in counted.slices) == 1


def test_time_is_what_the_slowest_partition_upstream_says():
    counted = Counted(partitions=2)
    assert counted.idle(START_US + 5 * HOUR, upstream=0, idle=False) == []
    assert counted.idle(START_US + HOUR, upstream=1, idle=False) == []
    assert counted.idle(START_US + 3 * HOUR, upstream=1, idle=False) == [0, 1]
    # Where nothing waits nobody is held back.
    assert counted.idle(START_US + 3 * HOUR, upstream=1) == [2, 3]


def test_an_idle_frame_moves_time_on():
    counted = Counted()
    counted.serve(START_US + GRACE)
    assert counted.idle(START_US + 2 * HOUR) == [0]


def test_a_day_without_traffic_is_seen_as_it_passes():
    counted = Counted()
    wall_ms = START_US // 1_000
    counted.serve(START_US + GRACE)
    counted.idle(START_US + GRACE, wall_ms)
    hours = [
        start
        for minute in range(1, 6 * 60)
        for start in counted.idle(START_US + GRACE, wall_ms + minute * 60_000)
    ]
    # The clock of the frames stands ten minutes behind the newest event.
    assert hours == [0, 1, 2, 3, 4]
    assert counted.rows() == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0}


def test_waiting_rows_are_no_silence():
    counted = Counted()
    wall_ms = START_US // 1_000
    counted.serve(START_US + GRACE)
    for minute in range(6 * 60):
        assert counted.idle(START_US + GRACE, wall_ms + minute * 60_000, idle=False) == []


def test_replayed_history_has_no_silence_by_the_wall_clock():
    counted = Counted()
    years_later_ms = START_US // 1_000 + 2 * 365 * 86_400_000
    counted.serve(START_US + GRACE)
    for minute in range(6 * 60):
        assert counted.idle(START_US + GRACE, years_later_ms + minute * 60_000) == []


def test_copies_are_counted_once():
    counted = Counted()
    counted.serve(START_US + GRACE, START_US + GRACE + 1, first=0)
    counted.serve(START_US + GRACE, START_US + GRACE + 1, START_US + GRACE + 2, first=0)
    counted.serve(START_US + GRACE + 1, first=1)
    counted.idle(START_US + 2 * HOUR)
    assert counted.rows() == {0: 3}
    assert counted.watch.counts["copies"] == 3


def test_junk_is_counted_and_stops_nothing():
    counted = Counted()
    counted.serve(START_US + GRACE)
    good = counted.world.log.records["orders.hop-join", 0][0]
    for headers in (
        [],
        [("upstream", b"x")],
        [("upstream", b"x"), ("frame", b"?")],
        [("upstream", b"\xff"), *[pair for pair in good.headers if pair[0] == "frame"]],
        [("upstream", b"x"), ("frame", b"idle-1")],
        good.headers,
    ):
        for value in (None, b"", b"junk", (good.value or b"")[:-9]):
            counted.world.log.append("orders.hop-join", 0, None, value, headers)
    assert counted.go_on() == []
    assert counted.watch.counts["junk"] == 24
    assert counted.idle(START_US + 2 * HOUR) == [0]
    assert counted.rows() == {0: 1}


def test_rows_of_other_features_are_left_out_with_one_line_in_the_log(caplog):
    counted = Counted()
    more = watched_orders(Drift(), features_more=[categorical("city")])
    other = ShopWorld(more)
    other.served([Event("x", START_US + GRACE)])
    for record in other.log.records["orders.hop-join", 0] * 3:
        counted.world.log.append("orders.hop-join", 0, None, record.value, record.headers)
    counted.serve(START_US + GRACE)
    assert counted.idle(START_US + 2 * HOUR) == [0]
    assert counted.rows() == {0: 1}
    assert counted.watch.counts["other_version"] == 3
    assert caplog.text.count("is of other features") == 1


def test_who_goes_on_from_a_state_hands_on_the_same_slices():
    source = random.Random(5)
    through, cut = Counted(), Counted()
    time_us = START_US
    for _ in range(120):
        time_us += source.choice([0, MINUTE, 20 * MINUTE, 3 * HOUR])
        late_us = source.choice([0, 0, MINUTE, 90 * MINUTE])
        if source.random() < 0.3:
            for one in (through, cut):
                one.idle(time_us, time_us // 1_000 - 1)
        else:
            for one in (through, cut):
                one.serve(time_us - late_us, time_us)
        cut.watch = cut.made(cut.watch.state())
    assert through.slices == cut.slices
    assert through.watch.state() == cut.watch.state()
    assert len(through.slices) > 50 and sum(one.late for one in through.slices) > 5


def test_a_state_of_other_features_leaves_what_was_seen_and_begins_anew():
    counted = Counted()
    counted.serve(START_US + GRACE, first=0)
    state = counted.watch.state()
    counted.pipeline = watched_orders(Drift(time_slice="30m"))
    counted.watch = counted.made(state)
    counted.serve(START_US + GRACE, first=0)
    assert counted.watch.counts["copies"] == 1 and counted.watch.counts["rows"] == 0


def test_rows_are_counted_together_when_there_are_many_and_never_twice():
    counted = Counted()
    times = [START_US + GRACE + place for place in range(COUNTED_AT_ONCE // 2 + 1)]
    for at in range(3):
        counted.serve(*times, first=at * len(times))
    counted.idle(START_US + 2 * HOUR)
    assert counted.rows() == {0: 3 * len(times)}


def test_memory_is_bounded_when_one_partition_upstream_stands_still_and_others_run_ahead():
    counted = Counted(partitions=2)
    counted.idle(START_US, upstream=1, idle=False)
    for hour in range(3 * MOST_OPEN):
        counted.serve(START_US + hour * HOUR)
    assert len(counted.watch._slices) <= MOST_OPEN + 1
    waiting = sum(one.rows for one in counted.watch._slices.values())
    assert sum(one.rows for one in counted.slices) + waiting == counted.watch.counts["rows"] > MOST_OPEN
    assert counted.watch.counts["late"] == 0


def test_a_jump_over_years_hands_on_a_bounded_number_of_slices_and_none_with_rows_is_lost():
    counted = Counted()
    counted.serve(START_US + GRACE)
    counted.serve(START_US + 100_000 * HOUR)
    assert len(counted.slices) == MOST_EMPTY + 1
    assert counted.slices[0].rows == 1


@pytest.mark.parametrize("more", [{}, {"time_slice": "1m"}, {"time_slice": "1d", "window": "7d"}])
def test_the_columns_are_those_of_the_pipeline(more):
    counted = Counted(**more)
    counted.serve(START_US + GRACE, START_US + GRACE + 1)
    counted.idle(START_US + 48 * HOUR)
    columns = watched_columns(counted.pipeline)
    [one] = [one for one in counted.slices if one.rows]
    assert len(one.buckets) == len(columns)
    for place, column in enumerate(columns):
        assert one.column(place)[1].sum() == 2, column
    assert one.versions == {"m1": 2}


@pytest.mark.parametrize(("reference", "part"), [("training", True), ("28d", False)])
def test_the_score_is_the_champions_where_training_is_the_reference_and_what_was_served_beside_a_trailing_one(
    reference, part
):
    counted = Counted(reference=reference)
    counted.serve(*(START_US + GRACE + place for place in range(9)))
    counted.idle(START_US + 2 * HOUR)
    columns = [column.name for column in watched_columns(counted.pipeline)]
    codec = ServedCodec(counted.pipeline)
    served = codec.decode(counted.world.log.records["orders.hop-join", 0][0].value or b"")
    wanted = next(iter(served.parts.values())) if part else served.score
    assert (probability_buckets(next(iter(served.parts.values()))) != probability_buckets(served.score)).all()
    [one] = [one for one in counted.slices if one.rows]
    buckets, counts = one.column(columns.index("score"))
    assert np.repeat(buckets, counts).tolist() == sorted(probability_buckets(wanted).tolist())
