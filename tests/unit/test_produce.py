"""Pace, order and backlog of `driftwood produce`, without a broker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwood.backlog import Backlog
from driftwood.produce import Chunk, Disorder, Schedule, in_order


@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=5), max_size=6),
    st.sampled_from([None, 3.0]),
)
def test_events_are_never_due_before_the_one_in_front_however_they_are_cut(parts, speed):
    schedule = Schedule(speed=speed)
    times = [np.array([np.nan if time is None else float(time) for time in part]) for part in parts]
    due = np.concatenate([schedule.due(part) for part in times] or [np.zeros(0)])
    assert (np.diff(due) >= 0).all() and np.isfinite(due).all()
    whole = Schedule(speed=speed).due(np.concatenate(times or [np.zeros(0)]))
    assert np.allclose(due, whole)


def test_a_rate_spreads_events_evenly_over_chunks():
    schedule = Schedule(rate=10.0)
    due = np.concatenate([schedule.due(np.zeros(3)), schedule.due(np.zeros(2))])
    assert np.allclose(due, [0.0, 0.1, 0.2, 0.3, 0.4])


def test_disorder_is_counted_across_chunks():
    disorder = Disorder()
    disorder.see(np.array([10.0, 12.0, np.nan, 11.0]))
    disorder.see(np.array([5.0, 13.0]))
    assert (disorder.events, disorder.oldest_s, disorder.undecodable) == (2, 7.0, 1)


def test_sorting_orders_by_event_time_and_keeps_ties_as_they_stood():
    chunks = [
        Chunk([b"c", b"a"], np.array([3.0, 1.0]), [b"k", None]),
        Chunk([b"b", b"d", b"x"], np.array([1.0, 3.0, np.nan]), [None, None, None]),
    ]
    (ordered,) = in_order(chunks)
    assert list(ordered.values) == [b"x", b"a", b"b", b"c", b"d"]
    assert list(ordered.keys) == [None, None, None, b"k", None]


@given(st.data())
def test_the_backlog_counts_what_is_unread_exactly_but_for_the_block_being_read(data):
    backlog = Backlog({0: (0, 0)})
    sizes = data.draw(st.lists(st.integers(1, 20_000), max_size=60))
    offsets, next_offset = [], 0
    for size in sizes:
        next_offset += data.draw(st.integers(0, 3))  # others send into the partition, too
        backlog.sent(0, size)
        backlog.acknowledged(0, next_offset, size)
        offsets.append(next_offset)
        next_offset += 1
    read = data.draw(st.integers(0, next_offset))
    backlog.committed({0: read})
    unread = sum(size for size, offset in zip(sizes, offsets, strict=True) if offset >= read)
    assert unread <= backlog.unread(0) <= unread + 2 * 20_000


def test_what_is_on_its_way_counts_as_unread():
    backlog = Backlog({0: (5, 5), 1: (0, 0)})
    backlog.sent(1, 700)
    assert backlog.fullest() == (1, 700)


def test_records_that_stood_unread_before_count_until_they_are_read():
    backlog = Backlog({0: (100, 40)})
    backlog.sent(0, 10)
    backlog.acknowledged(0, 100, 10)
    assert backlog.unread(0) == 60 * 10 + 10
    backlog.committed({0: 70})
    assert backlog.unread(0) == 30 * 10 + 10
    backlog.committed({0: 101})
    assert backlog.unread(0) == 0


@pytest.mark.parametrize("options", [{"rate": 5.0}, {"speed": 2.0}, {}])
def test_an_empty_chunk_changes_nothing(options):
    schedule = Schedule(**options)
    assert schedule.due(np.zeros(0)).shape == (0,)
    assert schedule.due(np.array([7.0]))[0] == 0.0
