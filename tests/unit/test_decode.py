"""From bytes to rows: every kind of bad record has its reason and path, and good ones come out as they were meant."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from msgspec import Meta

from driftwood import Entity, Label, Pipeline, categorical, expression, hour_of_day, known_later, personal
from features.decode import MAX_UNKNOWN_NAMES, OTHER_NAMES, Decoded, Decoder

NOON = "2013-04-01T12:00:00Z"
NOON_US = 1_364_817_600_000_000
BROKER_MS = NOON_US // 1_000


class Trip(msgspec.Struct):
    trip_id: str
    at: datetime
    taxi: str
    fare: Annotated[float, Meta(ge=0, le=10_000)]
    seats: int
    zone: int | None
    card: Annotated[str | None, personal] = None
    kind: Literal["street", "app"] = "street"
    shared: bool = False
    pickup: datetime | None = None
    tip: Annotated[float | None, known_later] = None
    note: str = msgspec.field(default="-", name="Driver's Note")


GOOD: dict[str, Any] = {"trip_id": "t1", "at": NOON, "taxi": "A7", "fare": 12.5, "seats": 4, "zone": 17}


def pipeline(**changed: Any) -> Pipeline:
    taxi, zone = Entity("taxi"), Entity("zone")
    declared: dict[str, Any] = {
        "event": Trip,
        "id": "trip_id",
        "time": "at",
        "earliest": "2010-01-01",
        "label": Label("disputed", horizon="90d"),
        "features": [
            "fare",
            "seats",
            "shared",
            categorical("kind"),
            categorical("note"),
            hour_of_day("America/New_York", of="pickup"),
            expression("wait", "at - pickup"),
            taxi.count("1h"),
            zone.mean("fare", "1d"),
        ],
        **changed,
    }
    return Pipeline("trips", **declared)


TRIPS = pipeline()


def decode(
    *values: bytes | None, broker_ms: int = BROKER_MS, made: Pipeline = TRIPS, **options: Any
) -> Decoded:
    return Decoder(made.feature_set, **options).decode([(value, broker_ms) for value in values])


def record(*without: str, **changed: Any) -> bytes:
    fields = {name: value for name, value in {**GOOD, **changed}.items() if name not in without}
    return json.dumps(fields, separators=(",", ":")).encode()


def appended(text: str) -> bytes:
    return record()[:-1] + f",{text}}}".encode()


BAD: list[tuple[bytes | None, str, str]] = [
    (None, "empty", "$"),
    (b"", "empty", "$"),
    (b"hello", "not_json", "$"),
    (b" ", "not_json", "$"),
    (record()[:-1], "not_json", "$"),
    (record() + b"}", "not_json", "$"),
    (record() + record(), "not_json", "$"),
    (b"\xef\xbb\xbf" + record(), "not_json", "$"),
    (record(taxi="?").replace(b"?", b"\xff"), "not_json", "$"),
    (appended('"new":"?"').replace(b"?", b"\xff"), "not_json", "$"),
    (record().replace(b"A7", b"A\t7"), "not_json", "$"),
    (record(taxi="\ud800"), "not_json", "$"),
    (b"[]", "not_an_object", "$"),
    (b"null", "not_an_object", "$"),
    (b'"text"', "not_an_object", "$"),
    (b"17", "not_an_object", "$"),
    (appended('"deep":' + "[" * 100_000 + "]" * 100_000), "too_deep", "$"),
    (b'{"a":' * 100_000, "too_deep", "$"),
    (record(note="x" * 2_000_000), "too_large", "$"),
    (record("trip_id"), "missing_field", "$.trip_id"),
    (record("fare"), "missing_field", "$.fare"),
    (b"{}", "missing_field", "$.trip_id"),
    (b'{"trip_id":"t1","disputed":1}', "missing_field", "$.at"),
    (b'{"trip_id":"t1","disputed":1,"known_at":"2013-05-01T00:00:00Z"}', "label_in_events", "$"),
    (b'{"event_id":"t1","label":1,"known_at":"2013-05-01T00:00:00Z"}', "label_in_events", "$"),
    (record(fare="12"), "wrong_type", "$.fare"),
    (record(fare=True), "wrong_type", "$.fare"),
    (record(fare=None), "wrong_type", "$.fare"),
    (record(fare=[1]), "wrong_type", "$.fare"),
    (record(seats=4.5), "wrong_type", "$.seats"),
    (record(seats=4.0), "wrong_type", "$.seats"),
    (record(seats=False), "wrong_type", "$.seats"),
    (record(shared=1), "wrong_type", "$.shared"),
    (record(trip_id=1), "wrong_type", "$.trip_id"),
    (record(zone="17"), "wrong_type", "$.zone"),
    (record(card=7), "wrong_type", "$.card"),
    (record(at=NOON_US), "wrong_type", "$.at"),
    (record(tip="much"), "wrong_type", "$.tip"),
    (record(**{"Driver's Note": 5}), "wrong_type", "$.Driver's Note"),
    (record(at="yesterday"), "bad_time", "$.at"),
    (record(at="2013-04-01"), "bad_time", "$.at"),
    (record(at="2013-02-30T00:00:00Z"), "bad_time", "$.at"),
    (record(at="2013-04-01T12:00:00"), "bad_time", "$.at"),
    (record(fare=float("nan")), "not_finite", "$.fare"),
    (record(fare=float("inf")), "not_finite", "$.fare"),
    (record(fare="?").replace(b'"?"', b"1e999"), "not_finite", "$.fare"),
    (record(fare="?").replace(b'"?"', b"-1e999"), "not_finite", "$.fare"),
    (record(fare=-0.01), "out_of_range", "$.fare"),
    (record(fare=10_001), "out_of_range", "$.fare"),
    (record(seats=2**63), "out_of_range", "$.seats"),
    (record(seats=-(2**63) - 1), "out_of_range", "$.seats"),
    (record(zone=10**30), "out_of_range", "$.zone"),
    (record(kind="boat"), "out_of_range", "$.kind"),
    (record(trip_id=""), "out_of_range", "$.trip_id"),
    (record(trip_id="x" * 257), "key_too_long", "$.trip_id"),
    (record(taxi="x" * 257), "key_too_long", "$.taxi"),
    (record(**{"Driver's Note": "x" * 1_025}), "text_too_long", "$.Driver's Note"),
    (appended('"fare":3'), "duplicate_field", "$.fare"),
    (appended('"fare" : 3'), "duplicate_field", "$.fare"),
    (b'{"kind" :"app",' + record(kind="app")[1:], "duplicate_field", "$.kind"),
    (appended('"new":1,"new":2'), "duplicate_field", "$.new"),
    (appended('"f\\u0061re":3'), "duplicate_field", "$.fare"),
    (record(at="2009-12-31T23:59:59Z"), "time_too_early", "$.at"),
    (record(at="1970-01-16T19:00:00Z"), "time_too_early", "$.at"),
    (record(at="9999-12-31T23:59:59Z"), "time_too_late", "$.at"),
    (record(at="9999-12-31T23:59:59-12:00"), "time_too_late", "$.at"),
    (record(at="0001-01-01T00:00:00+12:00"), "time_too_early", "$.at"),
    (record(at="2013-04-01T13:00:00.000001Z"), "time_ahead", "$.at"),
]


@pytest.mark.parametrize(
    ("value", "reason", "path"), BAD, ids=[f"{at}-{bad[1]}" for at, bad in enumerate(BAD)]
)
def test_a_bad_record_has_its_reason_and_path_and_leaves_its_neighbours_alone(value, reason, path):
    decoded = decode(record(trip_id="before"), value, record(trip_id="after"))
    assert [(dead.index, dead.reason, dead.path) for dead in decoded.dead] == [(1, reason, path)]
    assert decoded.dead[0].detail
    assert decoded.index.tolist() == [0, 2]
    assert decoded.rows.event_ids.to_pylist() == ["before", "after"]


def test_all_bad_records_at_once_keep_the_order_of_the_good_ones_between_them():
    values: list[bytes | None] = []
    for number, (value, _, _) in enumerate(BAD):
        values += [record(trip_id=f"t{number}"), value]
    decoded = decode(*values)
    assert [dead.index for dead in decoded.dead] == list(range(1, 2 * len(BAD), 2))
    assert [dead.reason for dead in decoded.dead] == [reason for _, reason, _ in BAD]
    assert decoded.rows.event_ids.to_pylist() == [f"t{number}" for number in range(len(BAD))]


GOODS: list[tuple[bytes, str]] = [
    (record(), "plain"),
    (json.dumps(GOOD, indent=2).encode(), "white space"),
    (json.dumps(GOOD, separators=(" , ", " : ")).encode(), "white space before colons"),
    (record(trip_id="🚕" * 256), "256 characters"),
    (record(trip_id="\U0001f695"), "a surrogate pair, escaped"),
    (record(taxi='a":"b'), "what looks like a name inside a text"),
    (record(taxi=""), "an empty text is a value"),
    (record(taxi="a\x00b"), "a zero byte, escaped"),
    (record(seats=2**63 - 1), "the greatest whole number"),
    (record(fare=7), "a whole number for a float"),
    (record(zone=None), "null where it may be"),
    (record(at="2013-04-01T13:00:00Z"), "an hour ahead and no more"),
    (record(at="2013-04-01T14:00:00+02:00"), "another offset"),
    (record(at="2010-01-01T00:00:00Z"), "the earliest moment"),
    (appended('"new":{"fare":1,"a":{"fare":2}}'), "nested names are nobody's matter"),
    (appended('"new":"\\"fare\\":1"'), "a name inside an undeclared text"),
    (appended('"trip":{"id":1,"id":2}'), "a nested name that stands twice"),
    (appended('"new":' + "9" * 5_000), "a number of 5,000 digits in a field nobody declared"),
]


@pytest.mark.parametrize(("value", "why"), GOODS, ids=[why for _, why in GOODS])
def test_a_good_record_is_a_row(value, why):
    decoded = decode(value)
    assert not decoded.dead and len(decoded.rows) == 1


def test_a_row_holds_the_values_of_its_record():
    rows = decode(
        record(pickup="2013-04-01T11:45:00Z", shared=True, kind="app", **{"Driver's Note": "late"}),
        record(zone=None),
    ).rows
    assert rows.times_us.tolist() == [NOON_US, NOON_US]
    assert rows.layout.texts == ("taxi", "zone", "kind", "note")
    assert [rows.text(name).to_pylist() for name in rows.layout.texts] == [
        ["A7", "A7"],
        ["17", None],
        ["app", "street"],
        ["late", "-"],
    ]
    assert rows.number("fare").tolist() == [12.5, 12.5]
    assert rows.number("shared").tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(rows.number("pickup"), [NOON_US / 1e6 - 900, np.nan])


def test_the_model_input_is_assembled_in_the_order_of_the_declaration():
    rows = decode(record(pickup="2013-04-01T11:45:00Z"), record(zone=None)).rows
    matrix = TRIPS.feature_set.assemble(rows, np.array([[3.0, 9.5], [1.0, np.nan]]))
    assert matrix.names[-4:] == ("pickup_hour_of_day", "wait", "taxi_count_1h", "zone_fare_mean_1d")
    np.testing.assert_array_equal(
        matrix.values,
        [
            [12.5, 4, 0, np.nan, np.nan, 7, 900, 3, 9.5],  # 11:45 UTC is 7:45 in New York
            [12.5, 4, 0, np.nan, np.nan, np.nan, np.nan, 1, np.nan],
        ],
    )
    assert {index: texts.to_pylist() for index, texts in matrix.categories.items()} == {
        3: ["street", "street"],
        4: ["-", "-"],
    }


def test_an_expression_may_name_windows_calendar_parts_and_later_expressions():
    taxi = Entity("taxi")
    made = pipeline(
        features=[
            expression("ratio", "per_trip / hour_of_day"),
            expression("per_trip", "taxi_fare_sum_1h / taxi_count_1h"),
            taxi.sum("fare", "1h"),
            taxi.count("1h"),
            hour_of_day(),
            expression("app", "kind == 'app'"),
            categorical("kind"),
        ]
    )
    rows = decode(record(kind="app"), made=made).rows
    matrix = made.feature_set.assemble(rows, np.array([[60.0, 5.0]]))
    np.testing.assert_array_equal(matrix.values, [[1.0, 12.0, 60.0, 5.0, 12.0, 1.0, np.nan]])


def test_undeclared_fields_are_counted_by_name_however_they_are_written():
    decoded = decode(
        appended('"new":1'), appended('"new" : {"a":1}'), record(), appended('"x":[],"new":null')
    )
    assert len(decoded.rows) == 4 and decoded.unknown_fields == {"new": 3, "x": 1}


def test_undeclared_fields_are_dead_letters_where_the_setting_says_so():
    decoded = decode(record(), appended('"new":1'), unknown_fields="dead-letter")
    assert [(dead.index, dead.reason, dead.path) for dead in decoded.dead] == [(1, "unknown_field", "$.new")]
    assert "there are: Driver's Note, at" in decoded.dead[0].detail


def test_a_sender_who_makes_up_names_does_not_fill_the_memory():
    names = ",".join(f'"made_up_{number}":1' for number in range(MAX_UNKNOWN_NAMES + 50))
    counted = decode(appended(names), appended('"' + "n" * 500 + '":1')).unknown_fields
    assert len(counted) == MAX_UNKNOWN_NAMES + 1 and counted[OTHER_NAMES] == 51


def test_the_detail_of_a_dead_record_never_shows_a_value():
    secret = "4111-1111"
    values = [record(card=[secret]), record(kind=secret), record(fare=secret), record(taxi=secret * 100)]
    assert secret not in "".join(dead.detail for dead in decode(*values).dead)


def test_without_a_broker_timestamp_only_the_absolute_bounds_hold():
    assert not decode(record(at="2050-01-01T00:00:00Z"), broker_ms=-1).dead
    assert decode(record(at="2200-01-01T00:00:01Z"), broker_ms=-1).dead[0].reason == "time_too_late"


def test_an_empty_batch_is_an_empty_batch():
    decoded = decode()
    assert len(decoded.rows) == 0 and decoded.index.tolist() == [] and not decoded.dead


# ---- event times


def timed(kind: Any, **options: Any) -> Pipeline:
    fields: list[Any] = [("id", int), ("at", kind), ("x", float, 0.0)]
    event = msgspec.defstruct("Timed", fields)
    return Pipeline("timed", event=event, id="id", time="at", features=["x"], label=Label("y"), **options)


def times(made: Pipeline, *values: object) -> Sequence[int | str]:
    """The event time of each value, or the reason why it has none."""
    records = [json.dumps({"id": 1, "at": value}).encode() for value in values]
    decoded = decode(*records, broker_ms=-1, made=made)
    found: dict[int, int | str] = dict(
        zip(decoded.index.tolist(), decoded.rows.times_us.tolist(), strict=True)
    )
    found.update({dead.index: dead.reason for dead in decoded.dead})
    return [found[at] for at in range(len(values))]


@pytest.mark.parametrize(
    ("kind", "unit", "value"),
    [
        (int, "s", NOON_US // 1_000_000),
        (float, "s", NOON_US / 1_000_000),
        (int, "ms", NOON_US // 1_000),
        (int, "us", NOON_US),
        (float, "ms", NOON_US / 1_000),
    ],
)
def test_a_number_counts_from_1970_in_its_unit(kind, unit, value):
    assert times(timed(kind, time_unit=unit), value) == [NOON_US]


def test_the_wrong_unit_is_out_of_bounds_and_says_which_it_looks_like():
    assert times(timed(int, time_unit="ms"), NOON_US // 1_000_000, NOON_US) == [
        "time_too_early",
        "time_too_late",
    ]
    assert times(timed(int, time_unit="s"), NOON_US // 1_000, 2**62, -(2**62)) == [
        "time_too_late",
        "time_too_late",
        "time_too_early",
    ]
    seconds = json.dumps({"id": 1, "at": NOON_US // 1_000_000}).encode()
    assert "these look like seconds" in decode(seconds, made=timed(int, time_unit="ms")).dead[0].detail


def test_a_fraction_of_a_second_keeps_its_microseconds():
    assert times(timed(float, time_unit="s"), 1364817600.123457, 1e300) == [
        NOON_US + 123_457,
        "time_too_late",
    ]
    assert times(timed(datetime), "2013-04-01T12:00:00.123457+00:00") == [NOON_US + 123_457]


def test_a_clock_time_is_read_in_the_declared_zone_and_an_offset_is_taken_at_its_word():
    paris = timed(datetime, time_zone="Europe/Paris")
    assert times(paris, "2013-04-01T14:00:00", NOON, "2013-04-01T12:00:00+00:00") == [NOON_US] * 3


def test_of_an_hour_that_comes_twice_the_first_is_meant_and_a_skipped_one_keeps_the_old_offset():
    twice, skipped = times(
        timed(datetime, time_zone="Europe/Paris"), "2013-10-27T02:30:00", "2013-03-31T02:30:00"
    )
    assert datetime.fromtimestamp(int(twice) / 1e6, UTC).isoformat() == "2013-10-27T00:30:00+00:00"
    assert datetime.fromtimestamp(int(skipped) / 1e6, UTC).isoformat() == "2013-03-31T01:30:00+00:00"


def test_a_date_is_midnight_in_its_zone_or_utc():
    midnight = datetime(2013, 4, 1, tzinfo=UTC).timestamp() * 1e6
    assert times(timed(date), "2013-04-01", NOON) == [midnight, "bad_time"]
    assert times(timed(date, time_zone="Asia/Tokyo"), "2013-04-01") == [midnight - 9 * 3600e6]


def test_whole_number_ids_become_text():
    assert decode(
        b'{"id":42,"at":1364817600}', made=timed(int, time_unit="s")
    ).rows.event_ids.to_pylist() == ["42"]
