"""Slices of partitions become one, in order, as soon as all have come; dead letters are handed over once."""

from __future__ import annotations

import random

import numpy as np

from models.drift.columns import Column
from models.drift.time_slice import Counting, WatchedRows, encoded
from streams import slice_merge
from streams.slice_merge import MOST_COUNTS, DeadLetters, SliceMerge

COLUMNS = (Column("amount", "number", "feature"),)
LENGTH = 60


def counted(start_us, *values):
    counting = Counting(COLUMNS, start_us, LENGTH)
    times = np.full(len(values), start_us, np.int64)
    if values:
        counting.add(WatchedRows(times, np.array(values, float).reshape(-1, 1), [], {}, "m1"))
    return counting.closed()


def starts(slices):
    return [one.start_us for one in slices]


def test_a_slice_waits_for_every_partition_and_comes_in_order():
    merge = SliceMerge(COLUMNS, 2)
    assert merge.take(0, counted(0, 1.0)) == merge.take(0, counted(60, 2.0)) == []
    assert starts(merge.take(1, counted(0, 3.0))) == [0]
    [last] = merge.take(1, counted(60))
    assert (last.start_us, last.rows, merge.waiting) == (60, 1, 0)


def test_a_partition_that_begins_later_or_leaves_a_gap_has_nothing_before():
    merge = SliceMerge(COLUMNS, 2)
    for start in (0, 60, 120, 180):
        assert merge.take(0, counted(start, 1.0)) == []
    assert starts(merge.take(1, counted(60, 1.0))) == [0, 60]
    assert starts(merge.take(1, counted(180, 1.0))) == [120, 180]


def test_the_order_of_partitions_does_not_matter():
    source = random.Random(4)
    parts = {
        number: [counted(start, *source.sample(range(100), 5)) for start in range(0, 600, 60)]
        for number in range(3)
    }

    def merged(seed):
        merge, waiting, found = SliceMerge(COLUMNS, 3), {n: list(slices) for n, slices in parts.items()}, []
        order = random.Random(seed)
        while left := [number for number, slices in waiting.items() if slices]:
            number = order.choice(left)
            found += merge.take(number, waiting[number].pop(0))
            merge = SliceMerge(COLUMNS, 3, merge.state())
        return [encoded(one) for one in found]

    assert merged(1) == merged(2) == merged(3)
    assert len(merged(1)) == 10


def test_a_partition_that_nobody_watches_does_not_hold_everything_back_for_ever(caplog, monkeypatch):
    monkeypatch.setattr(slice_merge, "MOST_WAITING_BYTES", 4_000)
    merge, found = SliceMerge(COLUMNS, 2), []
    for start in range(0, 60 * 1_000, 60):
        found += merge.take(0, counted(start, 1.0))
        merge = SliceMerge(COLUMNS, 2, merge.state())
    assert starts(found) == list(range(0, 60 * len(found), 60))
    assert 20 < merge.waiting == 1_000 - len(found) < 200
    assert "not every partition" in caplog.text
    assert merge.take(1, counted(0, 1.0)) == [], "too late: that span is merged"


def test_a_partition_that_is_far_ahead_of_the_others_is_waited_for():
    merge, rows = SliceMerge(COLUMNS, 2), 0
    for partition in range(2):
        for start in range(0, 60 * 500, 60):
            rows += sum(one.rows for one in merge.take(partition, counted(start, 1.0)))
    assert rows == 1_000


def test_counts_are_bounded_also_while_no_slice_takes_them():
    dead = DeadLetters(LENGTH)
    for start in range(3 * MOST_COUNTS):
        dead.take("dead/0", {start * LENGTH: {"not_json": 1}})
    assert len(dead.state()) == MOST_COUNTS


def test_dead_letters_come_with_the_slice_of_their_time_and_late_ones_with_the_next():
    dead = DeadLetters(LENGTH)
    dead.take("dead/0", {0: {"not_json": 2}, 60: {"not_json": 1}})
    dead.take("dead/1", {0: {"not_json": 1, "wrong_type": 1}})
    assert dead.up_to(0) == {"not_json": 3, "wrong_type": 1}
    dead.take("dead/0", {0: {"not_json": 5}})
    again = DeadLetters(LENGTH, dead.state())
    assert dead.up_to(60) == again.up_to(60) == {"not_json": 4}
    assert dead.up_to(120) == {}


def test_a_count_that_comes_again_changes_nothing_and_one_far_in_the_future_is_of_now():
    dead = DeadLetters(LENGTH)
    dead.take("dead/0", {10**9: {"time_ahead": 2}})
    assert dead.up_to(0) == {"time_ahead": 2}
    dead.take("dead/0", {10**9: {"time_ahead": 2}})
    assert dead.up_to(60) == {}


def test_counts_of_dead_letters_are_bounded():
    dead = DeadLetters(LENGTH)
    for start in range(MOST_COUNTS + 100):
        dead.take("dead/0", {start * 60: {"not_json": 1}})
        dead.up_to(start * 60)
    assert len(dead.state()) == MOST_COUNTS
