"""LightGBM in driftwood: reproducible, independent of batches, honest about what it never saw."""

from __future__ import annotations

import subprocess
import sys

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from features.errors import ModelError, PipelineError
from features.feature_set import FeatureMatrix
from models.encoding import ARROW_LOOKUP, MOST_CATEGORIES, Vocabulary, learn_encoding
from models.lightgbm_model import Fitted, LightGBMScorer, fit
from models.lightgbm_spec import DECIDED_ELSEWHERE, LightGBM
from models.online_model import taken

NAMES = ("km", "wind", "carrier", "always there")
SMALL = LightGBM(rounds=20, num_leaves=7, min_data_in_leaf=20)


def rows(count: int = 2_000, seed: int = 1) -> tuple[FeatureMatrix, np.ndarray]:
    """Events whose label depends on a number, on whether another is missing, and on a category."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, 4))
    values[random.random(count) < 0.3, 1] = np.nan
    values[:, 2] = np.nan
    texts = np.array(["AA", "B6", "UA", None])[random.integers(0, 4, count)]
    logits = values[:, 0] + 2 * np.isnan(values[:, 1]) + 1.5 * (texts == "UA") - 0.5 * values[:, 3]
    labels = (logits + random.logistic(size=count) > 1).astype(float)
    return FeatureMatrix(NAMES, values, {2: pa.array(texts.tolist(), pa.string())}), labels


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(SMALL, "binary", *rows())


def one(km: float = 0.0, wind: float = 0.0, carrier: str | None = "AA", there: float = 0.0) -> FeatureMatrix:
    return FeatureMatrix(NAMES, np.array([[km, wind, np.nan, there]]), {2: pa.array([carrier], pa.string())})


def score_of(scorer: LightGBMScorer, matrix: FeatureMatrix) -> float:
    return float(scorer.score(matrix)[0])


def test_the_same_rows_give_the_same_model_text_byte_for_byte(fitted):
    random_parts = {"bagging_fraction": 0.5, "bagging_freq": 1, "feature_fraction": 0.5}
    assert fit(SMALL, "binary", *rows()).text == fitted.text
    spec = LightGBM(rounds=20, min_data_in_leaf=20, parameters=random_parts)
    assert fit(spec, "binary", *rows()).text == fit(spec, "binary", *rows()).text


def test_another_seed_gives_another_model_where_there_is_chance_in_it():
    texts = {
        fit(
            LightGBM(rounds=5, min_data_in_leaf=20, seed=seed, parameters={"feature_fraction": 0.5}),
            "binary",
            *rows(),
        ).text
        for seed in (1, 2)
    }
    assert len(texts) == 2


def test_the_model_learns_numbers_missing_values_and_categories(fitted):
    scorer = LightGBMScorer(fitted)
    assert score_of(scorer, one(km=2.0)) > score_of(scorer, one(km=-2.0))
    assert score_of(scorer, one(wind=float("nan"))) > score_of(scorer, one(wind=0.0))
    assert score_of(scorer, one(carrier="UA")) > score_of(scorer, one(carrier="AA"))


@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
def test_scores_do_not_depend_on_how_rows_are_cut_into_batches(kind):
    matrix, labels = rows()
    targets = {
        "binary": labels,
        "regression": matrix.values[:, 0],
        "multiclass": labels + (matrix.values[:, 0] > 1),
    }
    classes = 3 if kind == "multiclass" else 1
    scorer = LightGBMScorer(fit(SMALL, kind, matrix, targets[kind], classes), classes=classes)
    together = scorer.score(matrix)
    assert together.shape == ((2_000, 3) if kind == "multiclass" else (2_000,))
    for size in (1, 7, 500):
        parts = [
            scorer.score(taken(matrix, np.arange(at, min(at + size, 300)))) for at in range(0, 300, size)
        ]
        assert np.concatenate(parts).tobytes() == together[:300].tobytes()


def test_probabilities_of_classes_add_up_to_one():
    matrix, labels = rows()
    scorer = LightGBMScorer(
        fit(SMALL, "multiclass", matrix, labels + (matrix.values[:, 0] > 1), 3), classes=3
    )
    assert scorer.score(matrix).sum(axis=1) == pytest.approx(np.ones(2_000))


def test_no_rows_give_no_scores(fitted):
    nothing = taken(rows()[0], np.zeros(0, np.int64))
    assert LightGBMScorer(fitted).score(nothing).shape == (0,)
    assert LightGBMScorer(fitted, classes=3).score(nothing).shape == (0, 3)


def test_an_unseen_category_scores_like_a_missing_one_and_is_told_apart_from_it(fitted):
    scorer = LightGBMScorer(fitted)
    assert score_of(scorer, one(carrier="ZZ")) == score_of(scorer, one(carrier=None))
    matrix = FeatureMatrix(NAMES, np.zeros((3, 4)), {2: pa.array(["UA", None, "ZZ"])})
    assert scorer.unseen_categories(matrix).tolist() == [False, False, True]


def test_a_number_that_was_never_missing_in_training_is_replaced_by_its_median(fitted):
    median = float(np.median(rows()[0].values[:, 3]))
    scorer = LightGBMScorer(fitted)
    assert score_of(scorer, one(there=float("nan"))) == score_of(scorer, one(there=median))


def test_the_two_ways_of_looking_categories_up_agree():
    texts = [f"N{number}" for number in range(ARROW_LOOKUP + 1)]
    column = pa.array([texts[-1], None, "?", texts[0], texts[-2]])
    long, short = Vocabulary(tuple(texts)), Vocabulary((texts[-1], texts[0], texts[-2]))
    assert long.codes(column).tolist()[::3] == [float(ARROW_LOOKUP), 0.0]
    assert np.isnan(long.codes(column)).tolist() == np.isnan(short.codes(column)).tolist()
    assert [short.texts[int(code)] for code in short.codes(column)[[0, 3, 4]]] == [
        texts[-1],
        texts[0],
        texts[-2],
    ]


def test_of_very_many_categories_the_most_frequent_are_kept():
    texts = [f"rare {number:05d}" for number in range(MOST_CATEGORIES + 5)] + ["zz often"] * 3
    matrix = FeatureMatrix(("name",), np.full((len(texts), 1), np.nan), {0: pa.array(texts)})
    vocabulary = learn_encoding(matrix).vocabularies[0]
    assert len(vocabulary.texts) == MOST_CATEGORIES
    assert "zz often" in vocabulary.texts
    assert "rare 00000" in vocabulary.texts  # of equally frequent ones the first by name


def test_scoring_changes_nothing_in_the_matrix(fitted):
    matrix = rows()[0]
    before = matrix.values.copy()
    LightGBMScorer(fitted).score(matrix)
    np.testing.assert_array_equal(matrix.values, before)


def test_a_matrix_of_other_features_is_refused(fitted):
    other = FeatureMatrix(("km", "rain", "carrier", "always there"), np.zeros((1, 4)), {2: pa.array(["UA"])})
    with pytest.raises(ModelError, match="handed 4 features \\(km, rain"):
        LightGBMScorer(fitted).score(other)


def test_a_text_and_an_encoding_that_do_not_belong_together_are_refused(fitted):
    encoding = learn_encoding(FeatureMatrix(("other",), np.zeros((2, 1)), {}))
    with pytest.raises(ModelError, match="do not belong together"):
        LightGBMScorer(Fitted(fitted.text, encoding), "abc")


def test_names_that_lightgbm_cannot_write_are_no_obstacle():
    matrix = FeatureMatrix(("größe [m]", "grö,e [m]"), rows()[0].values[:, [0, 3]], {})
    assert LightGBMScorer(fit(SMALL, "binary", matrix, rows()[1])).score(matrix).shape == (2_000,)


def test_a_parameter_that_lightgbm_does_not_know_is_an_error_with_the_nearest_name():
    with pytest.raises(PipelineError, match="no parameter 'lamda_l2' \\(did you mean 'lambda_l2'\\?\\)"):
        fit(LightGBM(parameters={"lamda_l2": 1.0}), "binary", *rows())


def test_a_value_that_lightgbm_refuses_is_an_error_of_the_pipeline():
    with pytest.raises(PipelineError, match="bagging_fraction"):
        fit(LightGBM(parameters={"bagging_fraction": 7.0}), "binary", *rows())


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"rounds": 0}, "rounds"),
        ({"num_leaves": 1}, "num_leaves"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"min_data_in_leaf": 2.5}, "min_data_in_leaf"),
        ({"seed": True}, "seed"),
        ({"parameters": {"objective": "poisson"}}, "label's kind"),
        ({"parameters": {"n_jobs": 4}}, "always 1"),
    ],
)
def test_a_wrong_declaration_is_refused_when_it_is_made(arguments, place):
    with pytest.raises(PipelineError, match=place):
        LightGBM(**arguments)


def test_every_alias_of_what_is_decided_elsewhere_is_refused():
    aliases = lightgbm.basic._ConfigAliases._get_all_param_aliases()
    owned = {main for main, names in aliases.items() if any(name in DECIDED_ELSEWHERE for name in names)}
    assert {"objective", "num_iterations", "seed", "num_threads", "deterministic"} <= owned
    assert {name for main in owned for name in aliases[main]} <= set(DECIDED_ELSEWHERE)


def test_a_pipeline_can_be_read_without_loading_lightgbm():
    code = "import sys, models.pipeline; sys.exit('lightgbm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
