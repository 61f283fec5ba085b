"""What is answered while there is no model."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from driftwood import CostMatrix, DailyCapacity, Label, Pipeline, Threshold, categorical, scaled_logistic
from features.errors import ModelError
from features.feature_set import FeatureMatrix
from models.fallback import FALLBACK_PREFIX, FallbackScorer


class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    amount: float | None
    country: str | None


def pipeline(label: Label = Label("fraud"), **declared: Any) -> Pipeline:  # noqa: B008  # immutable
    features: list[Any] = ["amount", categorical("country")]
    return Pipeline(
        "payments", event=Payment, id="payment_id", time="at", features=features, label=label, **declared
    )


def payments() -> FeatureMatrix:
    values = np.array([[50.0, np.nan], [500.0, np.nan], [np.nan, np.nan]])
    return FeatureMatrix(("amount", "country"), values, {1: pa.array(["FR", "XX", None])})


@pytest.mark.parametrize(
    ("fallback", "scores"),
    [
        (None, [0.5, 0.5, 0.5]),
        (0.03, [0.03, 0.03, 0.03]),
        ("amount > 100", [0.0, 1.0, 0.0]),
        ("amount / 200", [0.25, 1.0, 0.0]),
        ("where(country == 'XX', 0.9, 0.1)", [0.1, 0.9, 0.0]),
    ],
)
def test_the_declared_number_or_rule_answers_and_a_missing_value_scores_zero(fallback, scores):
    scorer = FallbackScorer(pipeline(fallback=fallback))
    assert scorer.score(payments()).tolist() == scores
    assert scorer.flags == ("fallback",)
    assert not scorer.unseen_categories(payments()).any()


def test_a_rule_of_a_regression_is_not_cut_to_probabilities():
    label = Label("loss", kind="regression")
    assert FallbackScorer(pipeline(label, fallback="amount / 10")).score(payments()).tolist() == [
        5.0,
        50.0,
        0.0,
    ]


def test_each_class_gets_its_declared_probability():
    label = Label("outcome", kind="multiclass", classes=("paid", "late", "lost"))
    scores = FallbackScorer(pipeline(label, fallback=(0.9, 0.08, 0.02))).score(payments())
    assert scores.tolist() == [[0.9, 0.08, 0.02]] * 3


@pytest.mark.parametrize("fallback", [0.97, "amount > 100"])
def test_nothing_is_decided_by_daily_capacity_until_a_model_can_rank(fallback):
    scorer = FallbackScorer(pipeline(fallback=fallback, decide=DailyCapacity(10)))
    assert not (scorer.score(payments()) >= scorer.threshold).any()


def test_other_rules_decide_as_declared():
    assert FallbackScorer(pipeline(fallback=0.3, decide=Threshold(0.2))).threshold == 0.2
    rule = CostMatrix(false_positive=1, false_negative=9)
    assert FallbackScorer(pipeline(fallback=0.3, decide=rule)).threshold == 0.1
    assert np.isnan(FallbackScorer(pipeline(Label("loss", kind="regression"))).threshold)


def test_the_version_follows_the_declaration():
    versions = {
        FallbackScorer(given).version
        for given in (
            pipeline(fallback=0.3),
            pipeline(fallback=0.3),
            pipeline(fallback=0.4),
            pipeline(fallback="amount > 100"),
            pipeline(fallback=0.3, decide=Threshold(0.2)),
        )
    }
    assert len(versions) == 4
    assert all(version.startswith(FALLBACK_PREFIX) for version in versions)


def test_a_matrix_of_other_features_is_refused():
    with pytest.raises(ModelError, match="other ones"):
        FallbackScorer(pipeline()).score(FeatureMatrix(("km",), np.zeros((1, 1)), {}))


def test_nothing_is_decided_by_daily_capacity_where_learners_say_more_than_the_fallback():
    learning = pipeline(fallback=0.008, decide=DailyCapacity(10), online=[scaled_logistic()])
    assert FallbackScorer(learning).threshold > 1.0
