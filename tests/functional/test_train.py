"""Training: ordered in time, nothing known that was not known then, and the same model from the same history."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from driftwood import (
    CostMatrix,
    DailyCapacity,
    Entity,
    Label,
    LightGBM,
    Pipeline,
    categorical,
    known_later,
    personal,
)
from features.errors import DeveloperError
from models.model_store import ModelStore
from offline.backfill import compute_features
from offline.labels import LabelColumns
from offline.train import train
from offline.training_report import TrainingReport

DAYS = 40
UNTIL = "2024-01-31"  # 30 days of history, then 10 later ones
START = pd.Timestamp("2024-01-01", tz="UTC")
CUT = pd.Timestamp(UNTIL, tz="UTC")


class Order(msgspec.Struct):
    order_id: str
    at: datetime
    customer: str | None
    country: str
    amount: float
    returned: Annotated[bool, known_later] | None = None


customer = Entity("customer")


def shop(**other: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "event": Order,
        "id": "order_id",
        "time": "at",
        "label": Label("returned", horizon="10d"),
        "features": ["amount", categorical("country"), customer.count("7d"), customer.mean("amount", "30d")],
        "batch": LightGBM(rounds=15, num_leaves=7, min_data_in_leaf=20),
    }
    return Pipeline("shop", **(declared | other))


def orders(count: int = 4_000, seed: int = 4) -> pd.DataFrame:
    """Ordered by time, 100 a day; expensive orders from FR come back."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "order_id": [f"o{number}" for number in range(count)],
            "at": START
            + pd.to_timedelta(np.sort(random.uniform(0, DAYS * 86_400e6, count)).astype(int), unit="us"),
            "customer": random.choice(["ann", "bob", "cid"], count),
            "country": random.choice(["FR", "DE"], count),
            "amount": random.gamma(2, 20, count).round(2),
        }
    )


def labels(table: pd.DataFrame, days: float = 2.0) -> pd.DataFrame:
    """Each known `days` after its order, in another order than the orders."""
    chance = 1 / (1 + np.exp(-(table["amount"] / 20 - 3 + 2 * (table["country"] == "FR"))))
    returned = (np.random.default_rng(9).random(len(table)) < chance).astype(int)
    known_at = table["at"] + pd.Timedelta(days=days)
    known = pd.DataFrame({"order_id": table["order_id"], "returned": returned, "known_at": known_at})
    return known.sample(frac=1, random_state=2)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def fit(store: ModelStore) -> Any:
    def run(
        events: Any = None, known: Any = None, pipeline: Pipeline | None = None, **how: Any
    ) -> TrainingReport:
        events = orders() if events is None else events
        known = labels(orders()) if known is None else known
        return train(pipeline or shop(), events, known, store=store, **({"until": UNTIL} | how))

    return run


def text_of(report: TrainingReport) -> str:
    return (report.folder / "model.txt").read_text()


def test_a_model_is_learnt_measured_and_saved_with_its_card(fit, store):
    report = fit()
    card = report.card
    assert card.training.until == "2024-01-31T00:00:00Z"
    assert card.training.gap_s == 2 * 86_400
    in_range = (orders()["at"] <= CUT - pd.Timedelta("2d")).sum()
    assert card.training.rows == in_range == sum(card.training.labels.values())
    assert (
        card.training.left_out["closer to the cut-off than the label delay"]
        == (orders()["at"] < CUT).sum() - in_range
    )
    assert card.metrics["later"]["rows"] == (orders()["at"] >= CUT).sum()
    assert card.metrics["later"]["auc"] > 0.7
    assert card.metrics["validation"]["log_loss"] < card.metrics["validation"]["log_loss_of_base_rate"]
    assert [entry.name for entry in card.features] == list(shop().feature_set.names)
    assert card.features[1].categories == ("DE", "FR")
    assert set(card.libraries) == {"lightgbm", "numpy", "pyarrow", "scikit-learn"}
    assert store.champion("shop") is None
    store.load(shop(), report.version)


def test_a_saved_model_scores_the_backfilled_features_as_the_card_says(fit, store):
    report = fit()
    filled, _ = compute_features(shop().feature_set, orders())
    scores = store.load(shop(), report.version).score(filled.matrix)
    later = filled.times_us >= CUT.value // 1_000
    truth = labels(orders()).set_index("order_id")["returned"].loc[filled.event_ids.to_pylist()].to_numpy()
    assert float(np.mean((scores - truth)[later] ** 2)) == report.card.metrics["later"]["brier"]


def test_the_same_history_gives_the_same_bytes_in_whatever_order_its_rows_lie(fit, tmp_path):
    first = fit()
    orders().sample(frac=1, random_state=7).to_parquet(tmp_path / "orders.parquet")
    labels(orders()).sort_values("order_id").to_parquet(tmp_path / "labels.parquet")
    again = fit(tmp_path / "orders.parquet", tmp_path / "labels.parquet", trained_at="2026-05-01T00:00:00Z")
    assert again.version == first.version
    assert text_of(again) == text_of(first)


def test_what_became_known_after_the_cut_off_changes_nothing_but_the_later_metrics(fit):
    known = labels(orders())
    after = known["known_at"] > CUT
    other = known.assign(returned=known["returned"].where(~after, 1 - known["returned"]))
    one, two = fit(), fit(known=other)
    assert text_of(one) == text_of(two)
    assert one.card.threshold == two.card.threshold
    assert one.card.metrics["validation"] == two.card.metrics["validation"]
    assert one.card.metrics["later"] != two.card.metrics["later"]


def test_events_after_the_cut_off_change_nothing_in_the_model(fit):
    past = orders()[orders()["at"] < CUT]
    assert text_of(fit(past, labels(orders()))) == text_of(fit())
    assert "later" not in fit(past, labels(orders())).card.metrics


def test_of_contradicting_labels_the_last_one_known_by_the_cut_off_counts(fit):
    known = labels(orders())
    wrong = known.assign(returned=1 - known["returned"], known_at=known["known_at"] - pd.Timedelta("1d"))
    later = known.assign(returned=1 - known["returned"], known_at=CUT + pd.Timedelta("20d"))
    corrected = fit(known=pd.concat([wrong, known, known[:10]]))
    assert corrected.labels["labels that contradict an earlier one"] == 4_000
    assert corrected.labels["labels said again"] == 10
    plain = fit(label_gap_us=corrected.card.training.gap_s * 1e6)
    assert text_of(corrected) == text_of(plain)
    assert text_of(fit(known=pd.concat([known, later]))) == text_of(fit())


def test_outcomes_without_a_label_are_left_out_and_counted(fit):
    known = labels(orders())
    known["returned"] = known["returned"].astype("float").where(known["order_id"].str[-1] != "7")
    report = fit(known=known)
    nothing = ((orders()["at"] <= CUT - pd.Timedelta("2d")) & (orders()["order_id"].str[-1] == "7")).sum()
    assert report.card.training.left_out["known to have no label"] == nothing
    assert report.card.training.rows == fit().card.training.rows - nothing


def test_silence_is_a_label_only_where_the_pipeline_says_so_and_after_the_horizon(fit):
    only_returns = labels(orders())[lambda known: known["returned"] == 1]
    silent = shop(label=Label("returned", horizon="10d", when_silent=0))
    report = fit(known=only_returns, pipeline=silent)
    assert report.card.training.gap_s == 10 * 86_400
    known = labels(orders()).merge(orders()[["order_id", "at"]])
    inside = known[known["at"] <= CUT - pd.Timedelta("10d")]
    assert report.card.training.labels == {
        "0": (inside["returned"] == 0).sum(),
        "1": (inside["returned"] == 1).sum(),
    }
    with pytest.raises(
        DeveloperError, match=r"all .* labels returned .* are 1: there is nothing to tell apart"
    ):
        fit(known=only_returns)


def test_where_silence_is_a_label_the_later_period_ends_a_horizon_before_the_end_of_the_data(fit):
    only_returns = labels(orders())[lambda known: known["returned"] == 1]
    silent = shop(label=Label("returned", horizon="5d", when_silent=0))
    later = fit(known=only_returns, pipeline=silent).card.metrics["later"]
    end = max(only_returns["known_at"].max(), orders()["at"].max())
    due = (orders()["at"] >= CUT) & (orders()["at"] <= end - pd.Timedelta("5d"))
    assert later["rows"] == due.sum() > 0


def test_labels_of_unknown_events_or_without_a_time_are_counted(fit):
    known = labels(orders())
    strangers = known[:3].assign(order_id=["x", "y", "z"])
    timeless = known[3:5].assign(known_at=known["known_at"].where(known["known_at"].isna()))
    report = fit(known=pd.concat([known, strangers, timeless]))
    assert report.labels["labels of unknown events"] == 3
    assert report.labels["labels without the time they became known"] == 2
    assert text_of(report) == text_of(fit())


def test_labels_known_before_their_event_are_a_warning(fit):
    known = labels(orders(), days=-1.0)
    assert any("known before their event" in warning for warning in fit(known=known).card.warnings)


def test_the_label_may_stand_in_the_events_file_and_is_then_known_after_the_horizon(fit, store):
    known = labels(orders()).set_index("order_id")["returned"].astype(bool)
    together = orders().assign(returned=known.loc[orders()["order_id"]].to_numpy())
    report = train(shop(), together, store=store, until=UNTIL)
    assert report.card.training.gap_s == 10 * 86_400
    assert report.card.training.rows == (orders()["at"] <= CUT - pd.Timedelta("10d")).sum()
    assert report.card.metrics["later"]["auc"] > 0.7


def test_names_and_kinds_of_columns_may_differ(fit, tmp_path):
    known = labels(orders()).rename(columns={"order_id": "event_id"})
    assert text_of(fit(known=known)) == text_of(fit())
    renamed = known.rename(columns={"event_id": "key", "returned": "came_back", "known_at": "seen"})
    columns = LabelColumns(id="key", label="came_back", known_at="seen")
    assert text_of(fit(known=renamed, columns=columns)) == text_of(fit())
    lines = known.assign(known_at=known["known_at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    lines.to_json(tmp_path / "labels.jsonl", orient="records", lines=True)
    assert text_of(fit(known=tmp_path / "labels.jsonl")) == text_of(fit())


def test_lines_that_are_no_json_objects_are_left_out_and_counted_wherever_the_label_stands(
    fit, store, tmp_path
):
    events = orders().assign(at=orders()["at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    known = labels(orders())
    known["known_at"] = known["known_at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    apart, together = tmp_path / "labels.jsonl", tmp_path / "events.jsonl"
    both = events.merge(known.assign(returned=known["returned"].astype(bool)), on="order_id")
    for path, table in ((apart, known), (together, both)):
        lines = table.to_json(orient="records", lines=True).splitlines()
        bad = [b"{", b"\xff", b"[1]", b'{"order_id": 5}', b'{"order_id": ["o1"]}', b"[" * 9_000]
        path.write_bytes(b"\n".join([lines[0].encode(), b"", *bad, *map(str.encode, lines[1:])]))
    for report in (fit(known=apart), train(shop(), together, store=store, until=UNTIL)):
        assert text_of(report) == text_of(fit())
        (what,) = [what for what in report.labels if "no JSON object" in what]
        assert report.labels[what] == 4
        assert "jsonl, line 3: JSON is malformed" in what or "jsonl, line 3: Input data was truncated" in what
        assert report.labels["labels of unknown events"] == 2
        assert any(what in line for line in str(report).splitlines())


def test_an_impossible_label_is_named_with_its_file_line_and_event_unless_ids_are_private(fit, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"order_id": "o1", "returned": 1}\n\n{"order_id": "o2", "returned": "yes"}\n')
    with pytest.raises(
        DeveloperError, match=r"label returned, .*labels.jsonl, line 3 \(event o2\): 'yes'; expected"
    ):
        fit(known=path)

    class Visit(Order):
        order_id: Annotated[str, personal]

    with pytest.raises(DeveloperError, match=r"label returned, .*labels.jsonl, line 3: 'yes'; expected"):
        fit(known=path, pipeline=shop(event=Visit))


def test_a_model_that_is_no_better_than_the_average_is_a_warning(fit):
    assert not fit().card.warnings
    known = labels(orders())
    known["returned"] = np.random.default_rng(1).integers(0, 2, len(known))
    wild = LightGBM(rounds=200, num_leaves=31, min_data_in_leaf=2, learning_rate=0.3)
    report = fit(known=known, pipeline=shop(batch=wild))
    (warning,) = report.card.warnings
    assert warning.startswith(
        "the model is no better than always saying the average (later period: log loss "
    )
    assert warning in str(report)
    numbers = shop(batch=wild, label=Label("returned", kind="regression", horizon="10d"))
    (warning,) = fit(known=known, pipeline=numbers, until=None).card.warnings
    assert "(validation period: mae 0." in warning and "; rmse 0." in warning


@pytest.mark.parametrize(
    ("gap_s", "shown"),
    [(172_800, "2.00 days"), (5_400, "1.50 hours"), (90, "1.50 minutes"), (0, "0.00 seconds")],
)
def test_a_short_label_delay_is_shown_in_a_short_unit(fit, gap_s, shown):
    report = fit(label_gap_us=gap_s * 1_000_000)
    assert dict(report.rows())["label delay"] == f"{shown} kept free before each cut"


def test_clock_times_of_labels_need_the_pipelines_time_zone(fit):
    known = labels(orders())
    local = known.assign(known_at=known["known_at"].dt.tz_localize(None))
    with pytest.raises(DeveloperError, match="known_at holds clock times without an offset"):
        fit(known=local)
    in_utc = shop(time_zone="UTC")
    assert fit(known=local, pipeline=in_utc).card.training.rows == fit().card.training.rows


def test_a_missing_column_or_an_impossible_label_is_refused_by_name(fit):
    known = labels(orders())
    with pytest.raises(DeveloperError, match="no column 'returned'; expected 'retuned'"):
        fit(known=known.rename(columns={"returned": "retuned"}))
    with pytest.raises(
        DeveloperError, match=r"label returned, the table, row 3 \(event o\d+\): 2; expected one of 0, 1"
    ):
        fit(known=known.assign(returned=[0, 1, *[2] * 3_998]))


def test_too_few_labels_say_why(fit):
    with pytest.raises(
        DeveloperError,
        match=r"^0 of 4,000 events have a label returned that may be used \(.*\)\. Events: .* no label known by the cut-off\. "
        r"Labels: 4,000 labels, 4,000 labels of unknown events\. Check",
    ):
        fit(known=labels(orders()).assign(order_id="?"))
    with pytest.raises(DeveloperError, match="no label known by the cut-off"):
        fit(known=labels(orders(), days=35.0))


def test_files_without_a_usable_event_say_why(fit):
    with pytest.raises(
        DeveloperError, match="no usable event: 4,000 records, 0 used; 4,000 refused: wrong_type at"
    ):
        fit(orders().assign(amount="much"))


def test_daily_capacity_is_kept_on_the_validation_period(fit, store):
    many_scores = LightGBM(rounds=100, num_leaves=15, min_data_in_leaf=20)  # of equal ones all would stay out
    report = fit(pipeline=shop(decide=DailyCapacity(10), batch=many_scores))
    assert report.card.metrics["validation"]["decided_rate"] == pytest.approx(0.10, abs=0.03)
    assert report.card.metrics["later"]["decided_rate"] == pytest.approx(0.10, abs=0.04)
    assert store.load(shop(decide=DailyCapacity(10)), report.version).threshold == report.card.threshold


def test_a_cut_off_long_after_the_last_event_does_not_dilute_the_events_of_a_day(fit):
    pipeline = shop(decide=DailyCapacity(10))
    near, far = fit(pipeline=pipeline, until="2024-02-15"), fit(pipeline=pipeline, until="2025-02-15")
    assert near.card.threshold == far.card.threshold


def test_a_range_too_short_to_validate_is_a_warning_or_an_error_where_scores_are_needed(fit):
    how = {"since": "2024-01-27", "label_gap_us": 2 * 86_400_000_000}
    report = fit(pipeline=shop(decide=CostMatrix(1, 4)), **how)
    assert report.card.threshold == 0.2
    assert "validation" not in report.card.metrics
    assert any("no validation" in warning for warning in report.card.warnings)
    with pytest.raises(DeveloperError, match=r"DailyCapacity.* needs scores of a later period"):
        fit(pipeline=shop(decide=DailyCapacity(5)), **how)


def test_the_training_range_may_begin_later_and_windows_still_see_what_was_before(fit):
    report = fit(since="2024-01-11")
    assert (
        report.card.training.left_out["before the training range"]
        == (orders()["at"] < pd.Timestamp("2024-01-11", tz="UTC")).sum()
    )
    alone = fit(orders()[orders()["at"] >= pd.Timestamp("2024-01-11", tz="UTC")])
    assert alone.card.training.rows == report.card.training.rows
    assert text_of(alone) != text_of(report)


def test_without_a_cut_off_everything_known_is_used(fit):
    report = fit(until=None)
    assert report.card.training.rows == (orders()["at"] <= orders()["at"].max()).sum()
    assert set(report.card.metrics) == {"validation"}


def test_a_model_that_finds_nothing_to_split_on_is_a_warning(fit):
    report = fit(pipeline=shop(batch=LightGBM(rounds=3, min_data_in_leaf=1_900)))
    assert any("scores every event alike" in warning for warning in report.card.warnings)


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_numbers_and_classes_are_learnt_too(fit, store, kind):
    if kind == "regression":
        label = Label("days", kind="regression", horizon="10d")
        values: Any = orders()["amount"] / 10 + (orders()["country"] == "FR")
    else:
        label = Label("days", kind="multiclass", classes=("few", "many", "none"), horizon="10d")
        values = np.select([orders()["amount"] < 20, orders()["amount"] > 60], ["few", "many"], "none")
    pipeline = shop(label=label)
    known = orders()[["order_id"]].assign(days=values, known_at=orders()["at"] + pd.Timedelta("2d"))
    report = fit(known=known, pipeline=pipeline)
    figures = report.card.metrics["later"]
    if kind == "regression":
        assert figures["mae"] < 0.7 * figures["mae_of_average"]
    else:
        assert figures["log_loss"] < 0.7 * figures["log_loss_of_base_rate"]
        assert figures["macro_f1"] > 0.8
    assert report.card.threshold is None
    assert np.isnan(store.load(pipeline, report.version).threshold)
    assert "warning" not in dict(report.rows())


def test_the_report_can_be_read(fit):
    lines = str(fit(pd.concat([orders(), orders()[:5]]))).splitlines()
    assert any(line.startswith("events") and "5 with an id that was there before" in line for line in lines)
    assert any(line.startswith("training rows") and "(0: " in line for line in lines)
    assert any(line.startswith("later") and "auc 0." in line for line in lines)
    assert any(line.startswith("decision") and "score of 0.5" in line for line in lines)
    assert any(line.startswith("top features") and "amount" in line for line in lines)


def test_progress_is_told_for_each_step(fit):
    told: dict[str, float] = {}
    fit(progress=lambda what, share: told.update({what: share}))
    assert told == {
        "reading events": 1.0,
        "computing features": 1.0,
        "fitting on the earlier part": 1.0,
        "fitting the model": 1.0,
    }
