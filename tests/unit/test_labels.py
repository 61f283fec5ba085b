"""Labels and actions from bytes: every record is one row or one dead record, with its reason."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from driftwood import Label
from features.event_times import LATEST_US, TimeReading
from streams.dead_letters import DeadLetterWriter
from streams.feeds import Feeds
from streams.join_frames import ACTIONS, LABELS, NO_MARK, Idle, ReportCodec, read_idle
from streams.label_ingest import LabelIngest
from streams.labels import BLOCKED, LabelDecoder
from streams.metrics import Metrics
from tests.in_process import Log, LogRecord
from tests.join_world import returns
from tests.shop_events import orders

STAMP_MS = 1_714_521_600_000  # 2024-05-01T00:00:00Z
PIPELINE = returns()
DECODER = LabelDecoder(PIPELINE.feature_set, PIPELINE.label)


def label(**fields: Any) -> bytes:
    return json.dumps({"event_id": "o1", "returned": 1, **fields}).encode()


def decoded(value: bytes | None, stamp_ms: int = STAMP_MS) -> tuple[str, float, int, list[float]]:
    labels, index, dead = DECODER.labels([(value, stamp_ms)])
    assert (index, dead) == ([0], [])
    return labels.event_ids[0], labels.codes[0], int(labels.known_us[0]), labels.values[0].tolist()


def test_a_label_has_its_code_its_values_and_the_moment_from_which_it_was_known() -> None:
    known_at = "2024-04-30T10:00:00+02:00"
    assert decoded(label(known_at=known_at, minutes=12.5)) == ("o1", 1.0, 1_714_464_000_000_000, [12.5])


def test_without_known_at_it_was_known_when_the_broker_took_it() -> None:
    assert decoded(label())[2] == STAMP_MS * 1_000


def test_null_is_a_label_without_a_code_or_values_and_absent_values_are_missing() -> None:
    _, code, _, values = decoded(label(returned=None, minutes=12.5))
    assert math.isnan(code)
    assert math.isnan(values[0])
    assert math.isnan(decoded(label(minutes=None))[3][0])


@pytest.mark.parametrize(
    ("value", "reason", "path"),
    [
        (None, "empty", "$"),
        (b"", "empty", "$"),
        (b"{", "not_json", "$"),
        (b'{"event_id": "\xff"}', "not_json", "$"),
        (b"[" * 100_000, "too_large", "$"),
        (b"[" * 10_000, "too_deep", "$"),
        (b"[1]", "not_an_object", "$"),
        (b"null", "not_an_object", "$"),
        (b'{"returned": 1}', "missing_field", "$.event_id"),
        (b'{"event_id": "o1"}', "missing_field", "$.returned"),
        (b'{"event_id": "o1", "returned": 1, "returned": 0}', "duplicate_field", "$.returned"),
        (label(event_id=7), "wrong_type", "$.event_id"),
        (label(event_id=None), "wrong_type", "$.event_id"),
        (label(event_id=""), "out_of_range", "$.event_id"),
        (label(event_id="x" * 257), "key_too_long", "$.event_id"),
        (label(returned=2), "out_of_range", "$.returned"),
        (label(returned="yes"), "out_of_range", "$.returned"),
        (label(returned=[1]), "wrong_type", "$.returned"),
        (label(minutes="soon"), "wrong_type", "$.minutes"),
        (label(minutes=True), "wrong_type", "$.minutes"),
        (label(minutes=10**400), "not_finite", "$.minutes"),
        (label(known_at="yesterday"), "bad_time", "$.known_at"),
        (label(known_at="2024-04-30T10:00:00"), "bad_time", "$.known_at"),
        (label(known_at=1_714_464_000), "wrong_type", "$.known_at"),
        (label(known_at=[]), "wrong_type", "$.known_at"),
        (label(known_at="1999-12-31T23:59:59Z"), "time_too_early", "$.known_at"),
        (label(known_at="0001-01-01T00:00:00Z"), "time_too_early", "$.known_at"),
        (label(known_at="2024-05-01T01:00:01Z"), "time_ahead", "$.known_at"),
    ],
)
def test_what_is_no_label_has_its_reason_and_path(value: bytes | None, reason: str, path: str) -> None:
    good = (label(), STAMP_MS)
    labels, index, dead = DECODER.labels([good, (value, STAMP_MS), good])
    assert (len(labels), index) == (2, [0, 2])
    assert [(bad.index, bad.reason, bad.path) for bad in dead] == [(1, reason, path)]


def test_without_any_time_a_label_cannot_be_used() -> None:
    _, _, [bad] = DECODER.labels([(label(), -1)])
    assert (bad.reason, bad.path) == ("missing_field", "$.known_at")


def test_no_detail_holds_a_value_of_the_record() -> None:
    _, _, dead = DECODER.labels([(label(returned="SECRET", known_at="SECRET"), STAMP_MS)])
    assert "SECRET" not in dead[0].detail


@given(st.one_of(st.binary(max_size=60), st.dictionaries(st.sampled_from(["event_id", "returned", "known_at", "minutes"]), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.none()))).map(lambda found: json.dumps(found).encode())))  # fmt: skip
def test_any_bytes_are_one_label_or_one_dead_record(value: bytes) -> None:
    for read in (DECODER.labels, DECODER.actions):
        _, index, dead = read([(value, STAMP_MS)])
        assert len(index) + len(dead) == 1


def test_classes_are_numbered_and_whole_ids_are_read_as_texts_are() -> None:
    pipeline = orders(label=Label("returned", classes=("kept", "sent back")))
    labels, _, dead = LabelDecoder(pipeline.feature_set, pipeline.label).labels(
        [(label(returned="sent back"), STAMP_MS), (label(returned=1), STAMP_MS)]
    )
    assert labels.codes.tolist() == [1.0]
    assert "'kept', 'sent back'" in dead[0].detail


def test_a_whole_number_that_no_float_holds_is_no_label_and_no_time() -> None:
    pipeline = orders(label=Label("returned", kind="regression"))
    decoder = LabelDecoder(pipeline.feature_set, pipeline.label)
    labels, _, [bad] = decoder.labels([(label(returned=code), STAMP_MS) for code in (10**400, -1.5)])
    assert labels.codes.tolist() == [-1.5]
    assert (bad.reason, bad.path) == ("out_of_range", "$.returned")
    clipped, good = TimeReading("at", 1_000_000, None).microseconds([10**400, 1.5]).tolist()
    assert clipped > LATEST_US
    assert good == 1_500_000


def test_an_action_has_its_number_and_any_other_word_is_refused() -> None:
    records = [
        (json.dumps({"event_id": "o1", "action": word}).encode(), STAMP_MS) for word in ("blocked", "burnt")
    ]
    actions, index, [bad] = DECODER.actions(records)
    assert (actions.actions.tolist(), index) == ([BLOCKED], [0])
    assert (bad.reason, bad.path) == ("out_of_range", "$.action")


# ---- the source


def source(feed: str, log: Log) -> LabelIngest:
    metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
    letters = DeadLetterWriter("orders.dead-letters", 1, f"orders.{feed}", "v1", 1 << 20)
    codec = ReportCodec(PIPELINE)
    place = f"orders.{feed}@memory"
    hop = "orders.hop-join"
    return LabelIngest(feed, place, DECODER, codec, hop, 2, "v1", letters, log, metrics, lambda: 5_000.0)


def records_of(values: list[bytes]) -> list[LogRecord]:
    return [LogRecord(40 + at, STAMP_MS, None, value) for at, value in enumerate(values)]


def test_labels_go_to_where_their_events_wait_and_bad_ones_to_the_dead_letters() -> None:
    log = Log({"orders.hop-join": 2, "orders.dead-letters": 1})
    values = [label(event_id=f"o{number}") for number in range(9)]
    asyncio.run(source(LABELS, log).process(1, records_of([*values[:4], b"junk", *values[4:]])))
    codec = ReportCodec(PIPELINE)
    found: dict[str, object] = {}
    for record in log.topic("orders.hop-join"):
        assert (record.header("upstream"), record.header("wall_ms")) == (b"orders.labels@memory/1", b"5000")
        reports = codec.decode(record.value or b"")
        found.update(zip(reports.event_ids, reports.upstream_offsets.tolist(), strict=True))
    assert found == {f"o{number}": 40 + number + (number > 3) for number in range(9)}
    [dead] = log.topic("orders.dead-letters")
    assert (dead.value, dead.header("offset"), dead.header("reason")) == (b"junk", b"44", b"not_json")


def test_a_tick_tells_every_partition_how_far_the_source_is() -> None:
    log = Log({"orders.hop-join": 2})
    ticking = source(ACTIONS, log)

    async def work() -> None:
        await ticking.tick(0, idle=True)
        await ticking.process(0, records_of([b'{"event_id": "o1", "action": "passed"}']))
        await ticking.tick(0, idle=False)

    asyncio.run(work())
    said = [
        [read_idle(record.value or b"") for record in log.records["orders.hop-join", number] if record.header("frame") == b"idle-1"]
        for number in range(2)
    ]  # fmt: skip
    assert said[0] == said[1]
    assert [(one.mark_us, one.idle, one.last_ms) for one in said[0]] == [
        (NO_MARK, True, 0),
        (STAMP_MS * 1_000, False, 5_000),
    ]


def test_nothing_is_due_beyond_the_newest_label_however_far_events_are() -> None:
    feeds = Feeds(silence_ms=60_000)
    feeds.served("hop/0", 9_000)
    feeds.advance()
    feeds.labels("labels/0", 4_000, wall_ms=1)
    feeds.advance()
    assert (feeds.clock.now_us, feeds.clock.due_us) == (9_000, 4_000)


def test_after_a_long_silence_nothing_is_due_for_a_tenth_of_it_also_where_labels_stop_again() -> None:
    feeds = Feeds(silence_ms=60_000)
    hour_ms = 3_600_000

    def label(hours: float) -> bool:
        at_ms = 1 + round(hours * hour_ms)
        feeds.labels("labels/0", at_ms, at_ms)
        feeds.advance()
        return feeds.clock.stalled

    assert not label(0)
    feeds.heard("labels/0", Idle(LABELS, NO_MARK, wall_ms=100 * hour_ms, idle=True))
    feeds.advance()
    assert label(100)
    minutes = [label(100 + minute / 60) for minute in range(1, 30)]
    feeds.heard("labels/0", Idle(LABELS, NO_MARK, wall_ms=102 * hour_ms, idle=True))
    feeds.advance()
    minutes += [label(102 + minute / 60) for minute in range(10 * 60)]
    assert all(minutes)
    assert not label(112)
