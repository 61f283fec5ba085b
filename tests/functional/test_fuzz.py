"""The fuzz benchmark, on few records; and that it would notice."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_records import fuzzed, is_good
from benchmarks.memory_log import LogRecord


@pytest.mark.parametrize("batch", [1, 500])
def test_fuzzed_records_crash_nothing_and_every_bad_one_is_a_dead_letter_with_reason_and_offset(batch):
    figures = asyncio.run(fuzz.run(20 * batch, seed=batch, batch=batch))
    assert [figures[name] for name in ("crashes", "missed", "wronged", "unanswered", "damaged")] == [0] * 5, (
        figures
    )
    assert figures["good"] + figures["bad"] == figures["records"] == 20 * batch
    assert figures["dead_letters"] == figures["bad"] > 0


def test_the_judge_is_strict_where_the_rules_are():
    moment = 1_700_000_000_000
    good = '{"id":"p1","at":1700000000000,"card":null,"amount":1.5,"online":true%s}'
    assert is_good((good % "").encode(), moment)
    assert is_good((good % ',"new":[1,{"a":1,"a":2}]').encode(), moment)
    assert not is_good((good % "").encode(), moment - 3_600_001)
    for more in (
        ',"id":"p1"',
        ',"new":NaN',
        ',"items":1.0',
        ',"kind":"IN"',
        ',"note":"\\ud800"',
        ',"balance":1e999',
        ",",
    ):
        assert not is_good((good % more).encode(), moment), more
    for value in (None, b"", b"[]", b"\xff", (good % (',"new":"' + "x" * 20_000 + '"')).encode()):
        assert not is_good(value, moment)


def test_records_without_their_dead_letter_and_dead_letters_without_reason_to_be_are_counted():
    road, count = fuzz.Road(), fuzz.Count()
    good, bad = (next(record for record in _some() if is_good(*record) is wanted) for wanted in (True, False))
    records = [LogRecord(offset, one.timestamp_ms, None, one.value) for offset, one in enumerate((good, bad))]
    letter = LogRecord(
        0, 0, None, b"altered", [("offset", b"0"), ("partition", b"0"), ("reason", b"not_json")]
    )
    road.publisher.waiting["fuzzed.dead-letters", 0] = [letter]
    fuzz._judge(road, 0, records, count)
    assert (count.missed, count.wronged, count.damaged, count.dead_letters) == (1, 1, 1, 1)
    assert len(count.examples) == 3


def _some():
    source = random.Random(1)
    return [fuzzed(source, number) for number in range(200)]


def test_a_name_that_stands_twice_is_found_beside_a_number_that_python_would_not_read():
    good = b'{"id":"p1","at":1700000000000,"card":null,"amount":1.5,"online":true,"new":%b}' % (b"9" * 5_000)
    twice = good[:-1] + b',"amount":2}'
    decoded = fuzz.Road().ingest.decoder.decode([(good, 0), (twice, 0)])
    assert decoded.index.tolist() == [0]
    assert [(dead.index, dead.reason) for dead in decoded.dead] == [(1, "duplicate_field")]
