"""Logs are merged by the broker's time: each whole and in its own order, stretches overlapping by a second at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from offline.time_order import SLICE_MS, in_time_order
from streams.batch import Record
from tests.in_process import LogRecord

times = st.lists(st.integers(0, 20_000), max_size=30).map(sorted)


def log(times_ms: Sequence[int]) -> list[LogRecord]:
    return [LogRecord(offset, time_ms, None, None) for offset, time_ms in enumerate(times_ms)]


def cut(records: Sequence[LogRecord], size: int) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


@given(st.lists(times, min_size=2, max_size=4), st.integers(1, 7), st.integers(1, 9))
def test_every_log_comes_whole_and_no_record_comes_a_second_before_an_older_one(found, size, largest):
    logs = {number: log(times_ms) for number, times_ms in enumerate(found)}
    stretches = list(in_time_order({number: cut(records, size) for number, records in logs.items()}, largest))
    for number, records in logs.items():
        assert [record for of, taken in stretches if of == number for record in taken] == records
    assert all(0 < len(taken) <= largest for _, taken in stretches)
    newest_ms = 0
    for record in (record for _, taken in stretches for record in taken):
        assert record.timestamp > newest_ms - SLICE_MS
        newest_ms = max(newest_ms, record.timestamp)


def test_a_single_log_comes_as_it_is_read():
    records = log([5, 1, 9])
    assert list(in_time_order({"a": [records[:2], records[2:]]}, 1)) == [
        ("a", records[:2]),
        ("a", records[2:]),
    ]
