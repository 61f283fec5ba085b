# ruff: noqa: PD011  # the values here are a FeatureMatrix's, not pandas'
"""Files of events become ordered history, and history becomes features: the same ones whatever the files look like."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from msgspec import Meta

from driftwood import Entity, Label, Pipeline, categorical, expression, known_later
from features.errors import DeveloperError
from features.inputs import entity_inputs
from features.oracle import Oracle, Row
from features.rows import entity_keys
from offline.backfill import Backfill, compute_features
from offline.events import event_records
from offline.history import read_history


class Payment(msgspec.Struct):
    payment_id: int
    at: datetime
    card: str | None
    shop: str
    amount: Annotated[float, Meta(ge=0, le=10_000)]
    items: int | None = None
    note: str = "none"
    fraud: Annotated[bool, known_later] | None = None


card, shop = Entity("card"), Entity("shop")

FEATURES = [
    "amount",
    "items",
    categorical("shop"),
    expression("amount_by_item", "amount / items"),
    card.count("1h", "2d"),
    card.mean("amount", "1d"),
    card.std("amount", "7d"),
    card.distinct("shop", "1d"),
    card.last("amount", within="12h"),
    card.since_last(within="30d"),
    shop.sum("amount", "3h", where="amount > 20"),
    shop.max("amount", "1d"),
    shop.ewm("amount", half_life="1h", within="1d"),
]


def pipeline(**other: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "event": Payment,
        "id": "payment_id",
        "time": "at",
        "label": Label("fraud"),
        "features": FEATURES,
    }
    return Pipeline("payments", **(declared | other))


def payments(count: int = 400, seed: int = 5) -> pd.DataFrame:
    """In random order, with several payments at one moment."""
    random = np.random.default_rng(seed)
    start = pd.Timestamp("2024-03-01", tz="UTC")
    return pd.DataFrame(
        {
            "payment_id": random.permutation(count),
            "at": start + pd.to_timedelta(random.integers(0, 5_000, count), unit="min"),
            "card": np.array([None, "a", "b", "c|d"], dtype=object)[random.integers(0, 4, count)],
            "shop": random.choice(["x", "y"], count),
            "amount": random.gamma(2, 20, count).round(2),
            "items": pd.Series(random.integers(0, 5, count), dtype="Int64").replace(0, pd.NA),
        }
    )


def features_of(events: Any, **how: Any) -> Backfill:
    return compute_features(pipeline().feature_set, events, **how)[0]


def assert_equal(one: Backfill, other: Backfill) -> None:
    """To the last bit."""
    assert one.event_ids.equals(other.event_ids)
    assert one.times_us.tolist() == other.times_us.tolist()
    assert one.matrix.values.tobytes() == other.matrix.values.tobytes()
    assert all(
        one.matrix.categories[column].equals(texts) for column, texts in other.matrix.categories.items()
    )
    assert one.ages_s.tobytes() == other.ages_s.tobytes()
    assert one.late.tolist() == other.late.tolist()


def test_windows_equal_the_oracle(tmp_path):
    features = pipeline().feature_set
    filled = features_of(payments())
    (rows,) = read_history(payments(), features, tmp_path)[0].chunks()
    assert rows.event_ids.equals(filled.event_ids)
    for plan in features.entities:
        numbers, hashes = entity_inputs(plan, rows)
        oracle = Oracle(plan)
        keyed = zip(
            entity_keys(rows, plan.keys),
            rows.times_us.tolist(),
            numbers.tolist(),
            hashes.tolist(),
            strict=True,
        )
        expected = [oracle.answer(key, Row(*row)) for key, *row in keyed]
        columns = [features.names.index(output.name) for output in plan.outputs]
        np.testing.assert_allclose(
            filled.matrix.values[:, columns], [answer.features for answer in expected], rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(
            filled.ages_s[:, features.entities.index(plan)], [a.age_s for a in expected]
        )


@pytest.mark.parametrize("rows", [1, 7, 100, 10_000])
def test_how_rows_are_cut_into_chunks_changes_nothing(rows):
    assert_equal(features_of(payments(), chunk_rows=rows), features_of(payments()))


def test_rows_are_found_again_in_whatever_chunk_they_were_decoded(tmp_path):
    table = payments()
    small = [
        table[start : start + 13].to_parquet(tmp_path / f"{start:03d}.parquet") for start in range(0, 400, 13)
    ]
    assert len(small) == 31
    assert_equal(features_of(tmp_path, chunk_rows=50), features_of(table))


def test_the_order_of_the_files_and_of_their_rows_changes_nothing(tmp_path):
    table = payments()
    for name, part in (("b", table[:150]), ("a", table[150:290]), ("c", table[290:])):
        part.to_parquet(tmp_path / f"{name}.parquet")
    assert_equal(features_of(tmp_path), features_of(table.sort_values("at")))
    assert_equal(
        features_of([tmp_path / "c.parquet", tmp_path / "a.parquet", tmp_path / "b.parquet"]),
        features_of(table),
    )


def test_parquet_json_lines_and_tables_give_the_same_features(tmp_path):
    table = payments()
    records = event_records(pa.Table.from_pandas(table, preserve_index=False), pipeline().feature_set)
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(records) + b"\n\n")
    table.to_parquet(tmp_path / "events.parquet")
    for events in (tmp_path / "events.jsonl", str(tmp_path / "events.parquet"), pa.Table.from_pandas(table)):
        assert_equal(features_of(events), features_of(table))


def test_as_given_keeps_the_order_of_the_rows():
    filled = features_of(payments(), order="as given")
    assert filled.event_ids.to_pylist() == payments()["payment_id"].astype(str).tolist()
    assert filled.late.any()
    assert not features_of(payments()).late.any()


def test_ties_in_time_are_taken_by_id_as_text():
    table = payments(30).assign(at=pd.Timestamp("2024-03-01", tz="UTC"))
    assert features_of(table).event_ids.to_pylist() == sorted(str(number) for number in range(30))


def test_repeated_ids_are_dropped_and_counted():
    table = payments()
    again = table[::4].assign(at=table["at"].max() + pd.Timedelta("1d"), amount=9_000.0)
    filled, report = compute_features(pipeline().feature_set, pd.concat([again, table]))
    assert_equal(filled, features_of(table))
    assert (report.records, report.rows, report.repeated) == (500, 400, 100)


def test_bad_rows_are_counted_by_reason_with_an_example_and_the_others_are_used():
    table = payments()
    bad = table[:7].assign(payment_id=range(1_000, 1_007))
    bad["amount"] = [-1.0, np.inf, np.nan, 1.0, 1.0, 1.0, 1.0]
    bad["shop"] = ["x", "x", "x", None, "x", "x", "x" * 300]
    bad["at"] = bad["at"].where(bad["payment_id"] != 1_004, pd.Timestamp("1970-01-20", tz="UTC"))
    bad["at"] = bad["at"].where(bad["payment_id"] != 1_005, pd.Timestamp("2250-01-01", tz="UTC"))
    filled, report = compute_features(pipeline().feature_set, pd.concat([table, bad]))
    assert_equal(filled, features_of(table))
    assert {reason: (one.count, one.path) for reason, one in report.refused.items()} == {
        "key_too_long": (1, "$.shop"),
        "not_finite": (1, "$.amount"),
        "out_of_range": (1, "$.amount"),
        "time_too_early": (1, "$.at"),
        "time_too_late": (1, "$.at"),
        "wrong_type": (2, "$.amount"),
    }
    assert any(line.startswith("2 refused: wrong_type at $.amount") for line in report.sentences())


def test_lines_that_are_no_events_are_counted(tmp_path):
    records = list(
        event_records(pa.Table.from_pandas(payments(), preserve_index=False), pipeline().feature_set)
    )
    lines = [*records[:200], b"not json", b'{"payment_id": 5}', b"[]", *records[200:]]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    filled, report = compute_features(pipeline().feature_set, tmp_path / "events.jsonl")
    assert_equal(filled, features_of(payments()))
    assert {reason: one.count for reason, one in report.refused.items()} == {
        "missing_field": 1,
        "not_an_object": 1,
        "not_json": 1,
    }


def record_of(row: dict[str, Any], schema: pa.Schema | None = None) -> dict[str, Any]:
    (record,) = event_records(pa.Table.from_pylist([row], schema), pipeline().feature_set)
    decoded: dict[str, Any] = json.loads(record)
    return decoded


def test_records_hold_what_a_sender_would_have_written():
    row = {
        "payment_id": 7,
        "at": datetime(2024, 3, 1, 12, 30, 0, 5, tzinfo=UTC),
        "card": None,
        "shop": "Café",
        "amount": 0.1,
        "items": 3.0,
        "note": None,
        "fraud": True,
        "colour": "blue",
    }
    assert record_of(row) == {
        "payment_id": 7,
        "at": "2024-03-01T12:30:00.000005Z",
        "card": None,
        "shop": "Café",
        "amount": 0.1,
        "items": 3,  # an int, stored as a float
    }  # no note (null, but the field has a default), no fraud (known later), no colour (no field)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (datetime.fromisoformat("2024-03-01T12:00:00"), pa.timestamp("s"), "2024-03-01T12:00:00.000000"),
        (
            datetime(2024, 3, 1, 12, tzinfo=UTC),
            pa.timestamp("ns", "America/New_York"),
            "2024-03-01T12:00:00.000000Z",
        ),
        (date(2024, 3, 1), pa.date32(), "2024-03-01T00:00:00.000000"),
        ("2024-03-01T12:00:00Z", pa.string(), "2024-03-01T12:00:00Z"),
        (1_709_290_800, pa.int64(), 1_709_290_800),
    ],
)
def test_times_are_written_as_they_are_stored(value, kind, text):
    assert record_of({"at": value}, pa.schema([("at", kind)])) == {"at": text}


def test_dictionaries_and_decimals_are_texts_and_numbers():
    table = pa.table(
        {
            "shop": pa.array(["x", None]).dictionary_encode(),
            "amount": pa.array(["1.25", "2"]).cast(pa.decimal128(9, 2)),
        }
    )
    records = [json.loads(record) for record in event_records(table, pipeline().feature_set)]
    assert records == [{"shop": "x", "amount": 1.25}, {"shop": None, "amount": 2.0}]


def test_clock_times_follow_the_time_zone_that_the_pipeline_declares(tmp_path):
    table = payments()
    local = table.assign(at=table["at"].dt.tz_convert("Europe/Paris").dt.tz_localize(None))
    local.to_parquet(tmp_path / "local.parquet")
    paris = pipeline(time_zone="Europe/Paris").feature_set
    assert (
        compute_features(paris, tmp_path / "local.parquet")[0].times_us.tolist()
        == features_of(table).times_us.tolist()
    )
    _, report = compute_features(pipeline().feature_set, local)
    assert (report.rows, report.refused["bad_time"].count) == (0, 400)


def test_columns_that_are_no_fields_are_named_and_left_out():
    _, report = compute_features(pipeline().feature_set, payments().assign(delay=3.0, colour="blue"))
    assert report.ignored_columns == ("colour", "delay")
    assert not report.unknown_fields


def test_a_file_without_a_required_column_is_refused_with_the_nearest_name(tmp_path):
    payments().rename(columns={"amount": "amounts"}).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(
        DeveloperError, match=r"events.parquet lacks the column 'amount' of Payment; expected 'amounts'"
    ):
        features_of(tmp_path / "events.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("events.csv", b"a,b", "neither Parquet"),
        ("events.parquet", b"PAR1", "cannot be read as Parquet"),
        ("nothing", None, "does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DeveloperError, match=message):
        features_of(tmp_path / name)


def test_a_folder_without_events_is_refused(tmp_path):
    with pytest.raises(DeveloperError, match=r"holds no .parquet"):
        features_of(tmp_path)


def test_no_events_give_no_features():
    filled = features_of(payments()[:0])
    assert (len(filled), filled.matrix.values.shape, filled.ages_s.shape) == (
        0,
        (0, len(filled.matrix.names)),
        (0, 2),
    )


def test_a_pipeline_without_windows_needs_no_state():
    plain = pipeline(features=["amount", "items"]).feature_set
    filled, _ = compute_features(plain, payments())
    assert (filled.matrix.values.shape, filled.ages_s.shape) == ((400, 2), (400, 0))


def test_progress_is_told_up_to_the_end():
    told: list[tuple[str, float]] = []
    features_of(payments(), chunk_rows=100, progress=lambda what, share: told.append((what, share)))
    assert told[-4:] == [("computing features", share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert ("reading events", 1.0) in told


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    features_of(payments())
    assert not list(tmp_path.iterdir())
