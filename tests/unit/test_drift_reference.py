"""The reference of a model: its training data, counted as the monitor counts what is served."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from driftwood import Drift, Entity, Label, LightGBM, Pipeline, categorical
from features.rows import RowLayout, Rows
from models.drift.columns import Column, watched_columns
from models.drift.reference import Reference
from models.drift.time_slice import Counting, TimeSlice, WatchedRows
from models.model_store import ModelStore
from offline.drift_reference import Scored, TrainingCounts, alike, counted_slices
from offline.train import train

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
START_US = 19_814 * DAY_US  # 2024-04-01

COLUMNS = (
    Column("amount", "number", "field", 0.0, 100.0),
    Column("country", "category", "feature"),
    Column("bank", "category", "feature", hidden=True),
    Column("card", "category", "entity"),
    Column("score", "probability", "score"),
)


class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    card: str
    amount: Annotated[float, Meta(ge=0)]
    country: str
    producer: str


card = Entity("card")


def payments(**changed: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "features": [categorical("country"), card.count("1d"), card.mean("amount", "7d")],
        "label": Label("fraud", horizon="2d"),
        "batch": LightGBM(rounds=5, min_data_in_leaf=20),
        "drift": Drift(fields=["amount"], segments=["producer"]),
        **changed,
    }
    return Pipeline("payments", event=Payment, id="payment_id", time="at", **declared)


def tables(days: int = 40, a_day: int = 300) -> tuple[pa.Table, pa.Table]:
    """Events and labels: amounts above 60 are mostly fraud."""
    random = np.random.default_rng(4)
    count = days * a_day
    at = np.sort(START_US + random.integers(0, days * DAY_US, count))
    ids = [f"p{number:05d}" for number in range(count)]
    amounts = random.uniform(0, 100, count)
    events = pd.DataFrame(
        {
            "payment_id": ids,
            "at": pd.DatetimeIndex(at.astype("datetime64[us]"), tz="UTC"),
            "card": random.choice(["a", "b", "c"], count),
            "amount": amounts,
            "country": random.choice(["DE", "FR"], count),
            "producer": random.choice(["eu-1", "eu-2"], count, p=[0.8, 0.2]),
        }
    )
    fraud = (random.random(count) < np.where(amounts > 60, 0.9, 0.05)).astype(int)
    known = pd.DatetimeIndex((at + DAY_US).astype("datetime64[us]"), tz="UTC")
    labels = pd.DataFrame({"payment_id": ids, "fraud": fraud, "known_at": known})
    return pa.Table.from_pandas(events), pa.Table.from_pandas(labels)


numbers = st.one_of(st.none(), st.floats(-10, 200), st.sampled_from([float("inf"), float("-inf"), 0.0]))
texts = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["DE", "FR", "x" * 100]))
rows_of = st.lists(
    st.tuples(st.integers(0, 500), numbers, texts, texts, texts, st.floats(0, 1), texts),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(rows_of)
def test_all_slices_at_once_are_those_that_are_counted_one_by_one(drawn):
    times, amounts, countries, banks, cards, scores, producers = (
        list(column) for column in zip(*drawn, strict=True)
    )
    watched = WatchedRows(
        np.array(times),
        np.column_stack([np.array([np.nan if one is None else one for one in amounts]), scores]),
        [pa.array(column, pa.string()) for column in (countries, banks, cards)],
        {"producer": producers},
        "v1",
    )
    expected: list[TimeSlice] = []
    for start in range(0, 501, 100):
        inside = np.flatnonzero((watched.times_us >= start) & (watched.times_us < start + 100))
        if len(inside):
            counting = Counting(COLUMNS, start, 100)
            counting.add(watched.take(inside))
            expected.append(counting.closed())
    assert counted_slices(COLUMNS, watched, 100) == expected


def test_values_of_a_segment_are_bounded_as_the_monitor_bounds_them():
    names = [f"producer-{number}" for number in range(200)]
    watched = WatchedRows(np.zeros(200, np.int64), np.ones((200, 1)), [], {"producer": names}, "v1")
    counting = Counting(COLUMNS[:1], 0, 100)
    counting.add(watched)
    assert counted_slices(COLUMNS[:1], watched, 100) == [counting.closed()]


def test_training_saves_a_reference_with_every_watched_column(tmp_path):
    pipeline, (events, labels) = payments(), tables()
    report = train(pipeline, events, labels, store=ModelStore(tmp_path))
    data = ModelStore(tmp_path).reference("payments", report.version)
    assert data is not None
    reference = Reference.decoded(data, watched_columns(pipeline))
    names = [column.name for column in watched_columns(pipeline)]
    assert names == [
        "country",
        "card_count_1d",
        "card_amount_mean_7d",
        "amount",
        "card",
        "producer",
        "score",
        "decision",
    ]
    assert all(counts.sum() == reference.rows for _, counts in reference.histograms)
    assert [value for _, value in reference.groups] == ["eu-1", "eu-2"]


def test_the_reference_leaves_out_the_days_in_which_windows_fill_up(tmp_path):
    pipeline, (events, labels) = payments(), tables()
    report = train(pipeline, events, labels, store=ModelStore(tmp_path))
    reference = Reference.decoded(
        ModelStore(tmp_path).reference("payments", report.version) or b"", watched_columns(pipeline)
    )
    first_us = pd.Timestamp(events["at"][0].as_py()).value // 1_000
    assert 0 <= reference.start_us - (first_us + 7 * DAY_US) < HOUR_US


def test_windows_as_long_as_half_of_the_range_leave_out_what_shorter_ones_need(tmp_path):
    pipeline, (events, labels) = payments(features=[card.count("1d", "30d")]), tables()
    report = train(pipeline, events, labels, store=ModelStore(tmp_path))
    reference = Reference.decoded(
        ModelStore(tmp_path).reference("payments", report.version) or b"", watched_columns(pipeline)
    )
    first_us = pd.Timestamp(events["at"][0].as_py()).value // 1_000
    assert 0 <= reference.start_us - (first_us + DAY_US) < HOUR_US


def test_nothing_from_the_cut_off_on_is_in_the_reference(tmp_path):
    pipeline, (events, labels) = payments(), tables()
    cut_us = START_US + 30 * DAY_US + HOUR_US // 2
    report = train(pipeline, events, labels, store=ModelStore(tmp_path), until=cut_us)
    reference = Reference.decoded(
        ModelStore(tmp_path).reference("payments", report.version) or b"", watched_columns(pipeline)
    )
    assert reference.end_us <= cut_us < reference.end_us + HOUR_US


def test_a_training_within_one_slice_saves_no_reference(tmp_path):
    pipeline = payments(label=Label("fraud", horizon="1m"), drift=Drift(time_slice="1d"))
    events, labels = tables(days=1, a_day=400)
    late = pa.Table.from_pandas(labels.to_pandas().assign(known_at=events["at"].to_pandas()))
    report = train(pipeline, events, late, store=ModelStore(tmp_path))
    assert ModelStore(tmp_path).reference("payments", report.version) is None


def test_scores_of_fitted_rows_get_the_distribution_of_those_that_were_not():
    random = np.random.default_rng(1)
    sure, honest = random.beta(0.2, 0.2, 20_000), random.beta(2, 5, 5_000)
    moved = alike(sure, honest)
    shares = np.linspace(0.01, 0.99, 50)
    assert np.abs(np.quantile(moved, shares) - np.quantile(honest, shares)).max() < 0.01
    assert (np.argsort(moved, kind="stable") == np.argsort(sure, kind="stable")).mean() > 0.99
    by_class = alike(np.column_stack([sure, 1 - sure]), np.column_stack([honest, 1 - honest]))
    assert (by_class[:, 0] == moved).all()


def test_counting_does_not_depend_on_how_the_history_is_cut():
    pipeline = payments(features=[categorical("country"), "amount"], drift=Drift(segments=["producer"]))
    random = np.random.default_rng(2)
    layout = pipeline.feature_set.layout
    assert layout == RowLayout(("amount",), ("country", "producer"))
    count = 500
    made = Rows(
        layout,
        pa.array([f"p{number}" for number in range(count)]),
        np.sort(START_US + random.integers(0, 10 * HOUR_US, count)),
        random.uniform(0, 100, (count, 1)),
        (
            pa.array(random.choice(["DE", "FR"], count).tolist(), pa.string()),
            pa.array(random.choice(["eu-1", "eu-2"], count).tolist(), pa.string()),
        ),
    )
    scored = Scored(0, made.times_us, random.random(count))

    def counted(cuts: list[int]) -> list[TimeSlice]:
        counts = TrainingCounts(pipeline)
        for rows in np.split(np.arange(count), cuts):
            part = made.take(rows)
            counts.add(part, pipeline.feature_set.assemble(part, np.empty((len(part), 0))))
        return counts.slices(START_US, START_US + 10 * HOUR_US, scored, 0.5, "v1")

    assert counted([]) == counted([1, 77, 78, 300])
    assert [one.versions for one in counted([])] == [{"v1": one.rows} for one in counted([])]


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_kinds_of_labels_have_a_reference_as_well(kind, tmp_path):
    label = (
        Label("kind", horizon="2d", kind="multiclass", classes=("a", "b", "c"))
        if kind == "multiclass"
        else Label("cost", horizon="2d", kind="regression")
    )
    pipeline, (events, labels) = payments(label=label), tables()
    known = labels.to_pandas()
    values = (
        ["abc"[number % 3] for number in range(len(known))] if kind == "multiclass" else known["fraud"] * 3.5
    )
    given = pa.Table.from_pandas(known.drop(columns="fraud").assign(**{label.name: values}))
    report = train(pipeline, events, given, store=ModelStore(tmp_path))
    reference = Reference.decoded(
        ModelStore(tmp_path).reference("payments", report.version) or b"", watched_columns(pipeline)
    )
    scores = [at for at, column in enumerate(reference.columns) if column.source == "score"]
    assert len(scores) == (3 if kind == "multiclass" else 1)
    assert all(reference.histograms[at][1].sum() == reference.rows for at in scores)
