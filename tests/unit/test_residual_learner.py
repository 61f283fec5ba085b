# ruff: noqa: PD011  # the values here are a FeatureMatrix's, not pandas'
"""Learners over the champion: they begin as the champion, and learn what it does not know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import linear_model, optim
from sklearn.metrics import log_loss

from driftwood import scaled_linear, scaled_logistic
from features.errors import PipelineError
from models.blend import log_odds
from models.champion_input import with_champion
from models.linear import columns
from models.online_input import OnlineInput
from models.snapshot import made_here, unpack
from tests.learner_rows import champion, codes_of, matrix, pipeline, rows

KINDS = ("binary", "multiclass", "regression")


def residual(kind: str, **options: Any) -> Any:
    declared = scaled_linear if kind == "regression" else scaled_logistic
    return declared("residual", over_champion=True, **options)


def answered(kind: str, count: int, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Rows with what a champion said of them that knows the amount alone, the labels, and what it said."""
    given, behind = rows(count, seed)
    said = champion(kind, (given.values[:, 0] - 5e6) / 2e6)
    return with_champion(kind, given, said), codes_of(kind, behind), said


def taught(kind: str, spec: Any, batches: int = 20) -> Any:
    model = spec.make(pipeline(kind, [spec]))
    for seed in range(batches):
        given, codes, _ = answered(kind, 100, seed)
        model.learn(given, codes)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("champion_input", [False, True])
def test_before_it_has_learnt_it_says_what_the_champion_says(kind, champion_input):
    spec = residual(kind, champion_input=champion_input)
    given, _, said = answered(kind, 50, 1)
    assert spec.make(pipeline(kind, [spec])).score(given) == pytest.approx(said, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_knows_what_the_champion_knows_and_what_it_does_not(kind):
    given, codes, said = answered(kind, 2_000, 99)
    scores = taught(kind, residual(kind), 60).score(given)
    if kind == "regression":
        assert np.square(scores - codes).mean() < 0.7 * np.square(said - codes).mean()
    else:
        assert log_loss(codes, scores) < 0.92 * log_loss(codes, said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("champion_input", [False, True])
def test_scorer_and_restored_learner_say_the_same_to_the_bit(kind, champion_input):
    spec = residual(kind, champion_input=champion_input)
    declared, model = pipeline(kind, [spec]), taught(kind, spec)
    given, codes, _ = answered(kind, 100, 77)
    scorer = spec.scorer(declared, model.scoring_bytes())
    assert scorer.score(given).tobytes() == model.score(given).tobytes()
    restored = spec.restore(declared, made_here(model.state_bytes()))
    for one in (model, restored):
        one.learn(given, codes)
    assert restored.state_bytes() == model.state_bytes()


class Beside:
    """A loss of River's, of the sums and what stands beside them."""

    def __init__(self, loss: Any) -> None:
        self.loss, self.beside = loss, np.zeros(0)

    def gradient(self, y_true: Any, y_pred: Any) -> Any:
        return self.loss.gradient(y_true, y_pred + self.beside)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_step_is_rivers_with_the_champion_inside_the_loss(kind):
    loss: Any = Beside(optim.losses.Log() if kind == "binary" else optim.losses.Squared())
    estimator = linear_model.LogisticRegression if kind == "binary" else linear_model.LinearRegression
    bare: Any = estimator(optimizer=optim.AdaGrad(0.1), loss=loss, intercept_lr=0.0, clip_gradient=1e3)
    spec = residual(kind, rows_per_step=1_000, champion_input=True)
    model: Any = spec.make(pipeline(kind, [spec]))
    for seed in range(8):
        given, codes, said = answered(kind, 60, seed)
        weights = np.linspace(0.5, 2.0, 60)
        model.learn(given, codes, weights)
        fields, arrays = unpack(model.state_bytes())
        encoding = OnlineInput.restored(fields["input"], arrays)
        names, values = columns(encoding.see(given), encoding)
        assert "champion said" in names
        loss.beside = log_odds(said) if kind == "binary" else np.zeros(60)
        target = codes == 1.0 if kind == "binary" else (codes - said) / model._target.reach
        bare.learn_many(pd.DataFrame(values, columns=names), pd.Series(target), pd.Series(weights))
    assert bare.weights.keys() == model._parts[0].weights.keys()
    for name, weight in bare.weights.items():
        assert weight == pytest.approx(model._parts[0].weights[name], rel=1e-10)


def test_its_scores_are_the_champions_log_odds_and_the_sum_of_weights():
    spec = residual("binary")
    model = taught("binary", spec)
    given, _, said = answered("binary", 200, 5)
    fields, arrays = unpack(model.state_bytes())
    encoding = OnlineInput.restored(fields["input"], arrays)
    names, values = columns(encoding.see(rows(200, 5)[0]), encoding)
    weights = model._parts[0].weights
    for score, odds, row in zip(model.score(given), np.log(said / (1 - said)), values.tolist(), strict=True):
        total = odds + sum(weights.get(name, 0.0) * value for name, value in zip(names, row, strict=True))
        assert score == pytest.approx(1 / (1 + np.exp(-total)), rel=1e-10)


def test_where_the_champion_said_nothing_it_says_nothing_and_learns_nothing():
    spec = residual("binary", champion_input=True)
    model = taught("binary", spec)
    given = with_champion("binary", matrix([1.0, 2.0], [0.0, 0.0], ["a", "b"]), np.array([np.nan, 0.3]))
    before = model.state_bytes()
    assert np.isnan(model.score(given)).tolist() == [True, False]
    model.learn(given, np.array([1.0, np.nan]))
    assert model.state_bytes() == before


def test_softened_numbers_count_as_their_logarithm_far_out():
    spec = residual("binary", soften=True)
    model: Any = taught("binary", spec)
    given, _, said = answered("binary", 100, 5)
    fields, arrays = unpack(model.state_bytes())
    encoding = OnlineInput.restored(fields["input"], arrays)
    seen = encoding.see(rows(100, 5)[0])
    names, values = columns(replace(seen, numbers=np.arcsinh(seen.numbers)), encoding)
    weights = [model._parts[0].weights.get(name, 0.0) for name in names]
    expected = 1 / (1 + np.exp(-(log_odds(said) + (values * weights).sum(axis=1))))
    assert model.score(given) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"over_champion": 1}, "residual, over_champion: 1; expected True or False"),
        ({"over_champion": False, "champion_input": True}, "champion_input: True; expected over_champion"),
    ],
)
def test_mistakes_in_the_declaration(options, words):
    with pytest.raises(PipelineError, match=words):
        scaled_logistic("residual", **options)
