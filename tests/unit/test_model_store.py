"""Model files: immutable, checked at every load, and exchanged under a running worker."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from driftwood import Label, LightGBM, Pipeline, categorical, hour_of_day
from features.errors import ModelError
from features.feature_set import FeatureMatrix
from models.champion import RETRY_S, ChampionWatch, Refused, Swapped
from models.fallback import FallbackScorer
from models.lightgbm_model import Fitted, LightGBMScorer, fit
from models.model_card import FeatureEntry, ModelCard, TrainingRecord
from models.model_store import ModelStore


class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    amount: float
    country: str | None


def payments(label: Label = Label("fraud"), more: tuple[Any, ...] = ()) -> Pipeline:  # noqa: B008  # immutable
    features: list[Any] = ["amount", categorical("country"), *more]
    return Pipeline(
        "payments", event=Payment, id="payment_id", time="at", features=features, label=label, fallback=0.1
    )


def rows(count: int = 400) -> FeatureMatrix:
    random = np.random.default_rng(3)
    values = np.column_stack([random.normal(size=count), np.full(count, np.nan)])
    countries = np.array(["DE", "FR", None])[random.integers(0, 3, count)]
    return FeatureMatrix(("amount", "country"), values, {1: pa.array(countries.tolist(), pa.string())})


def trained(seed: int = 1) -> tuple[Fitted, ModelCard]:
    matrix, pipeline = rows(), payments()
    spec = LightGBM(rounds=5, min_data_in_leaf=10, seed=seed, parameters={"feature_fraction": 0.5})
    fitted = fit(spec, "binary", matrix, (matrix.values[:, 0] > 0).astype(float))
    entries = (
        FeatureEntry(name="amount", kind="number", fill=float(fitted.encoding.fills[0])),
        FeatureEntry(name="country", kind="category", categories=fitted.encoding.vocabularies[1].texts),
    )
    record = TrainingRecord(
        since="", until="", validation_since=None, gap_s=0.0, events=400, rows=400, labels={}, left_out={}
    )
    card = ModelCard(
        pipeline="payments",
        pipeline_version=pipeline.version,
        feature_hash=pipeline.feature_set.hash,
        label="fraud",
        label_kind="binary",
        classes=(),
        features=entries,
        parameters={"seed": seed},
        threshold=0.5,
        decision="Threshold(value=0.5)",
        training=record,
        metrics={"validation": {"auc": 0.9}},
    )
    return fitted, card


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def version(store: ModelStore) -> str:
    fitted, card = trained()
    return store.save(fitted.text, card)


def place(store: ModelStore, version: str) -> Path:
    return store.folder / "payments" / version


def test_a_loaded_model_scores_like_the_trained_one_to_the_last_bit(store, version):
    scorer = store.load(payments(), version)
    assert scorer.score(rows()).tobytes() == LightGBMScorer(trained()[0]).score(rows()).tobytes()
    assert (scorer.version, scorer.threshold, scorer.flags) == (version, 0.5, ())


def test_saving_the_same_model_again_changes_nothing_and_mends_damaged_files(store, version):
    fitted, card = trained()
    before = (place(store, version) / "card.json").stat().st_mtime_ns
    assert store.save(fitted.text, msgspec.structs.replace(card, trained_at="2026-01-01")) == version
    assert (place(store, version) / "card.json").stat().st_mtime_ns == before
    (place(store, version) / "model.txt").write_text("tree\n")
    assert store.save(fitted.text, card) == version
    store.load(payments(), version)


def test_another_model_or_another_card_is_another_version(store, version):
    fitted, card = trained()
    assert store.save(fitted.text, msgspec.structs.replace(card, threshold=0.4)) != version
    other, other_card = trained(seed=2)
    assert store.save(other.text, other_card) != version
    assert len(store.versions("payments")) == 3


def test_damaged_files_are_refused_with_a_remedy(store, version):
    folder = place(store, version)
    text, card = (folder / "model.txt").read_text(), (folder / "card.json").read_text()
    for name, content in [
        ("model.txt", text[: len(text) // 2]),
        ("model.txt", text.replace("leaf_value=", "leaf_value=9", 1)),
        ("card.json", card.replace('"threshold": 0.5', '"threshold": 0.1')),
        ("card.json", card[:100]),
        ("card.json", "{}"),
    ]:
        (folder / name).write_text(content)
        with pytest.raises(ModelError, match=r"[Rr]estore .* train again"):
            store.load(payments(), version)
        (folder / "model.txt").write_text(text)
        (folder / "card.json").write_text(card)
    store.load(payments(), version)


@pytest.mark.parametrize("name", ["model.txt", "card.json"])
def test_a_missing_file_is_refused_by_name(store, version, name):
    (place(store, version) / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        store.load(payments(), version)


def test_a_missing_version_is_refused_with_those_there_are(store, version):
    with pytest.raises(ModelError, match=f"000000000000 does not exist; there are: {version}"):
        store.load(payments(), "000000000000")


def test_a_card_of_another_format_is_refused(store, version):
    path = place(store, version) / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ModelError, match="card format 99"):
        store.load(payments(), version)


def test_a_model_for_other_features_is_refused_and_they_are_named(store, version):
    with pytest.raises(ModelError, match=r"new: hour_of_day\). Train again"):
        store.load(payments(more=(hour_of_day("UTC"),)), version)


def test_a_model_of_another_label_is_refused(store, version):
    with pytest.raises(ModelError, match=r"predicts fraud .* declares refunded"):
        store.load(payments(Label("refunded")), version)


def test_there_is_no_champion_before_the_first_promotion(store, version):
    assert store.champion("payments") is None
    store.promote("payments", version)
    assert store.champion("payments") == version


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_a_version_that_cannot_be_loaded_is_not_promoted_and_the_champion_stays(store, version, damage):
    store.promote("payments", version)
    fitted, card = trained(seed=2)
    other = store.save(fitted.text, card)
    if damage == "gone":
        shutil.rmtree(place(store, other))
    else:
        (place(store, other) / "model.txt").write_text(fitted.text[:500])
    with pytest.raises(ModelError):
        store.promote("payments", other)
    assert store.champion("payments") == version


@pytest.mark.parametrize("content", ["", "../../etc\n", "abc", "\x00" * 12])
def test_a_champion_file_that_holds_no_version_is_an_error(store, version, content):
    store.promote("payments", version)
    (store.folder / "payments" / "champion").write_text(content)
    with pytest.raises(ModelError, match="no model version"):
        store.champion("payments")


def test_the_fallback_is_loaded_by_its_version_while_it_is_declared_like_that(store):
    scorer = store.load(payments(), FallbackScorer(payments()).version)
    assert scorer.score(rows(2)).tolist() == [0.1, 0.1]
    with pytest.raises(ModelError, match="declared fallback is now"):
        store.load(payments(), "fallback-000000000000")


# ---- the watch


def test_a_worker_without_any_model_answers_by_the_fallback_until_one_is_promoted(store):
    watch = ChampionWatch(store, payments())
    assert watch.scorer.flags == ("fallback",)
    fitted, card = trained()
    version = store.save(fitted.text, card)
    assert watch.poll(0.0) is None
    store.promote("payments", version)
    outcome = watch.poll(0.1)
    assert isinstance(outcome, Swapped)
    assert outcome.new == watch.scorer.version == version


def test_a_broken_new_champion_is_reported_once_and_the_old_one_stays_until_it_is_mended(store, version):
    store.promote("payments", version)
    watch = ChampionWatch(store, payments())
    fitted, card = trained(seed=2)
    other = store.save(fitted.text, card)
    store.promote("payments", other)
    (place(store, other) / "model.txt").write_text("tree\n")
    outcome = watch.poll(10.0)
    assert isinstance(outcome, Refused)
    assert outcome.version == other
    assert [watch.poll(10.0 + second) for second in range(1, 100)] == [None] * 99
    assert watch.scorer.version == version
    (place(store, other) / "model.txt").write_text(fitted.text)
    outcomes = [watch.poll(110.0 + second) for second in range(int(RETRY_S) + 1)]
    assert [outcome.new for outcome in outcomes if isinstance(outcome, Swapped)] == [other]


def test_an_unreadable_champion_file_is_reported_once_and_the_model_stays(store, version):
    store.promote("payments", version)
    watch = ChampionWatch(store, payments())
    (store.folder / "payments" / "champion").write_text("nonsense")
    assert isinstance(watch.poll(0.0), Refused)
    assert watch.poll(5.0) is None
    store.promote("payments", version)
    assert watch.poll(10.0) is None
    assert watch.scorer.version == version


def test_a_worker_does_not_start_on_a_champion_that_cannot_be_used(store, version):
    store.promote("payments", version)
    (place(store, version) / "model.txt").write_text("tree\n")
    with pytest.raises(ModelError, match="damaged"):
        ChampionWatch(store, payments())


def test_a_reference_stands_beside_its_version_and_is_no_part_of_it(store):
    fitted, card = trained()
    version = store.save(fitted.text, card)
    assert store.reference("payments", version) is None
    store.save_reference("payments", version, b"counted")
    assert store.reference("payments", version) == b"counted"
    store.save_reference("payments", version, b"counted anew")
    assert store.reference("payments", version) == b"counted anew"
    assert store.card("payments", version) == card
    assert store.reference("payments", FallbackScorer(payments()).version) is None
