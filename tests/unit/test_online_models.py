# ruff: noqa: PD011  # the values here are a FeatureMatrix's, not pandas'
"""The learners: they are River's models, nothing poisons them, and their snapshots hold everything."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import (
    compose,
    ensemble,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    tree,
)
from sklearn.metrics import roc_auc_score

from driftwood import bounded_tree, river_model, scaled_linear, scaled_logistic
from features.errors import ModelError, PipelineError, SnapshotError
from features.feature_set import FeatureMatrix
from models.linear import LinearModel, columns
from models.online_input import FIRST_TEXT, MOST_TEXTS, OnlineInput
from models.online_model import taken
from models.river_model import RiverModel, as_they_are
from models.snapshot import made_here, pack, unpack
from models.tree import flatten
from tests.learner_rows import codes_of, matrix, pipeline, rows

KINDS = {
    "binary": [
        scaled_logistic(),
        bounded_tree(grace_period=50),
        river_model(ensemble.VotingClassifier([linear_model.PAClassifier(), naive_bayes.GaussianNB()])),
        river_model(linear_model.LogisticRegression(), name="mini_batches", rows_per_step=16),
        river_model(preprocessing.StandardScaler() | naive_bayes.GaussianNB(), name="piped"),
        river_model(tree.HoeffdingTreeClassifier(max_depth=4), name="as_it_is", scale=False),
        river_model(forest.ARFClassifier(n_models=2, max_depth=4)),
    ],
    "multiclass": [
        scaled_logistic(),
        bounded_tree(grace_period=50),
        river_model(naive_bayes.GaussianNB()),
        river_model(linear_model.SoftmaxRegression()),
        river_model(multiclass.OneVsRestClassifier(linear_model.LogisticRegression())),
        river_model(neighbors.KNNClassifier(n_neighbors=3, engine=neighbors.LazySearch(window_size=50))),
    ],
    "regression": [
        scaled_linear(),
        bounded_tree(grace_period=50),
        river_model(preprocessing.TargetStandardScaler(linear_model.LinearRegression()), name="linear"),
        river_model(tree.HoeffdingTreeRegressor(max_depth=4, leaf_prediction="mean"), scale=False),
    ],
}
EVERY = [
    pytest.param(kind, spec, id=f"{kind}-{spec.name}") for kind, specs in KINDS.items() for spec in specs
]


def taught(kind: str, spec: Any, batches: int = 12, size: int = 60, start: int = 0, model: Any = None) -> Any:
    model = spec.make(pipeline(kind, [spec])) if model is None else model
    for seed in range(start, start + batches):
        given, behind = rows(size, seed)
        model.learn(given, codes_of(kind, behind))
    return model


# ---- all of them


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_every_learner_learns_and_its_scores_have_the_shape_of_the_label(kind, spec):
    declared = pipeline(kind, [spec])
    before = spec.make(declared).score(rows(5, 99)[0])
    given, behind = rows(400, 99)
    codes, scores = codes_of(kind, behind), taught(kind, spec, 20).score(given)
    assert before.shape[1:] == scores.shape[1:] == ((3,) if kind == "multiclass" else ())
    assert np.isfinite(before).all() and np.isfinite(scores).all()
    if kind == "binary":
        assert roc_auc_score(codes, scores) > 0.7 and scores.min() >= 0 and scores.max() <= 1
    elif kind == "multiclass":
        assert np.allclose(scores.sum(axis=1), 1.0) and (scores.argmax(axis=1) == codes).mean() > 0.5
    else:
        assert np.abs(scores - codes).mean() < 0.9 * np.abs(codes - codes.mean()).mean()


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(kind, spec):
    undisturbed = taught(kind, spec, 14)
    stopped = taught(kind, spec, 9)
    restored = spec.restore(pipeline(kind, [spec]), made_here(stopped.state_bytes()))
    taught(kind, spec, 5, start=9, model=restored)
    given, _ = rows(200, 77)
    assert undisturbed.score(given).tobytes() == restored.score(given).tobytes()
    assert restored.name == spec.name


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_the_scorer_of_a_snapshot_says_what_the_learner_says(kind, spec):
    model = taught(kind, spec)
    scorer = spec.scorer(pipeline(kind, [spec]), made_here(model.scoring_bytes()))
    given, _ = rows(100, 55)
    expected = model.score(given).tobytes()
    assert scorer.score(given).tobytes() == expected
    taught(kind, spec, 2, start=40, model=model)
    assert scorer.score(given).tobytes() == expected  # it has nothing in common with what learns on


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_rows_without_a_label_or_a_weight_are_not_learnt(kind, spec):
    model = taught(kind, spec, 3)
    given, behind = rows(20, 70)
    probe, _ = rows(50, 71)
    before = model.score(probe).tobytes()
    model.learn(given, np.full(20, np.nan))
    model.learn(given, codes_of(kind, behind), np.zeros(20))
    assert model.score(probe).tobytes() == before


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_nothing_in_a_row_poisons_a_learner(kind, spec):
    model = taught(kind, spec, 2)
    for seed in range(20, 36):
        given, behind = rows(60, seed)
        given.values[::12, 0] = [np.nan, np.inf, -np.inf, 1e-300, 1e300 if seed % 4 == 0 else np.nan]
        given.values[1::7, 1] = np.nan
        model.learn(given, codes_of(kind, behind))
    given, behind = rows(400, 99)
    scores, codes = model.score(given), codes_of(kind, behind)
    assert np.isfinite(scores).all()
    assert np.isfinite(model.score(matrix([1e300, np.nan, -np.inf], [np.inf] * 3, ["new", None, ""]))).all()
    if (kind, spec) == ("binary", scaled_logistic()):
        assert roc_auc_score(codes, scores) > 0.7


@pytest.mark.parametrize(("kind", "spec"), EVERY)
def test_a_snapshot_of_something_else_is_refused(kind, spec):
    declared = pipeline(kind, [spec])
    for foreign in (b"", b"garbage", made_here(pack({}, {})), made_here(pack({"input": {}}, {}))):
        with pytest.raises(SnapshotError):
            spec.restore(declared, foreign)
        with pytest.raises(SnapshotError):
            spec.scorer(declared, foreign)


def test_pickles_are_not_loaded_from_bytes_that_were_never_unsealed():
    specs: list[tuple[str, Any]] = [("binary", bounded_tree()), ("binary", KINDS["binary"][2])]
    for kind, spec in specs:
        state = taught(kind, spec, 2).state_bytes()
        with pytest.raises(SnapshotError, match="never unsealed"):
            spec.restore(pipeline(kind, [spec]), state)


def test_a_pickle_of_another_river_is_refused(monkeypatch):
    spec = bounded_tree()
    state = taught("binary", spec, 2).state_bytes()
    monkeypatch.setattr("models.river_pickle.version", lambda _: "0.99.0")
    with pytest.raises(SnapshotError, match=r"pickled by river 0\.26\.\d+ .* this is river 0\.99\.0"):
        spec.restore(pipeline("binary", [spec]), made_here(state))


# ---- scaled_logistic is River's


def river_rows(model: Any, given: Any) -> tuple[list[str], np.ndarray]:
    fields, arrays = unpack(model.state_bytes())
    encoding = OnlineInput.restored(fields["input"], arrays)
    return columns(encoding.see(given), encoding)


def test_the_scores_of_the_logistic_are_those_of_river_to_the_twelfth_digit():
    model = taught("binary", scaled_logistic())
    given, _ = rows(200, 5)
    given.values[::9, 1] = np.nan
    names, values = river_rows(model, given)
    bare = linear_model.LogisticRegression()
    bare._weights = model._parts[0]._weights
    expected = [bare.predict_proba_one(dict(zip(names, row, strict=True)))[True] for row in values.tolist()]
    assert np.abs(model.score(given) - expected).max() < 1e-12


def test_the_classes_are_rivers_one_against_the_rest():
    spec = scaled_logistic(rows_per_step=60)
    model = spec.make(pipeline("multiclass", [spec]))
    bare: Any = multiclass.OneVsRestClassifier(
        linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.1), intercept_lr=0.0)
    )
    for seed in range(10):
        given, behind = rows(60, seed)
        codes = codes_of("multiclass", behind)
        model.learn(given, codes)
        names, values = river_rows(model, given)
        # All columns that there are or were, zeros and all: what we leave out must not matter.
        known = sorted({*names, *(name for part in bare.classifiers.values() for name in part.weights)})
        frame = pd.DataFrame(values, columns=names).reindex(columns=known, fill_value=0.0)
        bare.learn_many(frame, pd.Series(codes.astype(int)))
    given, _ = rows(100, 50)
    names, values = river_rows(model, given)
    expected = bare.predict_proba_many(pd.DataFrame(values, columns=names))[[0, 1, 2]].to_numpy()
    assert np.abs(model.score(given) - expected).max() < 1e-9


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_step_is_rivers_learn_many(kind):
    estimator = linear_model.LogisticRegression if kind == "binary" else linear_model.LinearRegression
    bare: Any = estimator(optimizer=optim.AdaGrad(0.1), intercept_lr=0.0, clip_gradient=1e3)
    spec = (scaled_logistic if kind == "binary" else scaled_linear)(rows_per_step=1_000)
    model: Any = spec.make(pipeline(kind, [spec]))
    for seed in range(8):
        given, behind = rows(60, seed)
        codes, weights = codes_of(kind, behind), np.linspace(0.5, 2.0, 60)
        model.learn(given, codes, weights)
        names, values = river_rows(model, given)
        target = codes == 1.0 if kind == "binary" else model._target.scaled(codes)
        bare.learn_many(pd.DataFrame(values, columns=names), pd.Series(target), pd.Series(weights))
    assert bare.weights.keys() == model._parts[0].weights.keys()
    for name, weight in bare.weights.items():
        assert weight == pytest.approx(model._parts[0].weights[name], rel=1e-10)


def test_scores_of_wide_rows_do_not_depend_on_how_they_are_cut():
    # BLAS groups its sums by the shape of what it is given: it shows from some tens of columns on.
    names, source = tuple(f"f{at}" for at in range(60)), np.random.default_rng(1)
    model = LinearModel(scaled_logistic(), "binary", 1, OnlineInput(names, ()))
    wide = FeatureMatrix(names, source.lognormal(0, 2, (500, 60)), {})
    model.learn(wide, (source.random(500) < 0.3).astype(np.float64))
    whole = model.score(wide)
    for size in (1, 3, 7, 64, 499):
        cut = [model.score(taken(wide, part)) for part in np.split(np.arange(500), range(size, 500, size))]
        assert np.concatenate(cut).tobytes() == whole.tobytes()


def test_a_weight_of_two_is_learnt_as_twice_the_gradient():
    heavy, light, twice = (taught("binary", scaled_logistic(rows_per_step=100), 1) for _ in range(3))
    given, behind = rows(10, 3)
    codes = codes_of("binary", behind)
    heavy.learn(given, codes, np.full(10, 2.0))
    light.learn(given, codes, np.full(10, 1.0))
    assert (heavy.score(given) != light.score(given)).any()
    twice.learn(given, codes)
    assert (twice.score(given) == light.score(given)).all()


def test_a_moved_distribution_becomes_the_ordinary_one():
    scale = OnlineInput(("amount",), ())
    for mean in [0.0] * 30 + [100.0] * 300:
        values = np.random.default_rng(1).normal(mean, 1.0, (1000, 1))
        given = matrix(values[:, 0], values[:, 0], [None] * 1000)
        scale.learn(type(given)(("amount",), values, {}))
    seen = scale.see(type(given)(("amount",), np.array([[100.0]]), {}))
    assert abs(seen.numbers[0, 0]) < 0.5


def test_a_constant_says_nothing_and_a_first_new_value_does():
    scale = OnlineInput(("amount",), ())
    given = matrix([0.0], [0.0], [None])
    for _ in range(50):
        scale.learn(type(given)(("amount",), np.full((7, 1), 0.1), {}))
    assert scale.see(type(given)(("amount",), np.array([[0.1], [5.0]]), {})).numbers.tolist() == [
        [0.0],
        [0.0],
    ]
    scale.learn(type(given)(("amount",), np.array([[5.0]]), {}))
    assert scale.see(type(given)(("amount",), np.array([[5.0]]), {})).numbers[0, 0] > 1.0


def test_categories_are_bounded():
    model = scaled_logistic().make(pipeline())
    for start in range(0, 2_000, 100):
        shops = [f"shop {at}" for at in range(start, start + 100)]
        model.learn(matrix([1.0] * 100, [1.0] * 100, shops), (np.arange(100) % 2).astype(np.float64))
    fields, arrays = unpack(model.scoring_bytes())
    assert len(fields["input"]["texts"][0]) == MOST_TEXTS
    assert arrays["codes 0"].shape == (1, FIRST_TEXT + MOST_TEXTS)


# ---- bounded_tree is River's


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_flat_tree_says_what_river_says_also_while_it_doubts_itself(kind):
    spec = bounded_tree(grace_period=50, max_depth=4, smoothing=0.0)
    model: Any = spec.make(pipeline(kind, [spec]))
    alternates = 0
    for seed in range(70):
        given, behind = rows(100, seed, flip=1.0 if seed % 30 < 15 else -1.0)
        model.learn(given, codes_of(kind, behind))
        probe = rows(20, 500 + seed)[0]
        found = model.score(probe)
        assert np.abs(found - rivers_own(model, probe, kind)).max() < 1e-9 * (
            100 if kind == "regression" else 1
        )
        alternates += bool((flatten(model.tree._root, np.full(model._classes, 0.5)).alternate >= 0).any())
        assert model.tree.n_leaves <= 2**4
    assert alternates > 0 and model.tree.n_branches > 0


def rivers_own(model: Any, given: Any, kind: str) -> np.ndarray:
    found = model._rows(model._input.see(given))
    if kind == "regression":
        return np.array([model.tree.predict_one(row) for row in found])
    every = [model.tree.predict_proba_one(row) for row in found]
    table = np.array([[shares.get(code, 0.0) for code in range(model._classes)] for shares in every])
    return table[:, 1] if kind == "binary" else table


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_equal_trees_are_equal_bytes_however_often_one_was_stopped(kind):
    spec = bounded_tree(grace_period=50, max_depth=4)
    declared = pipeline(kind, [spec])
    undisturbed: Any = spec.make(declared)
    stopped: Any = spec.make(declared)
    for seed in range(40):
        given, behind = rows(100, seed, flip=1.0 if seed % 30 < 15 else -1.0)
        for model in (undisturbed, stopped):
            model.learn(given, codes_of(kind, behind))
        state = stopped.state_bytes()
        assert state == undisturbed.state_bytes()
        if seed % 3 == 0:
            stopped = spec.restore(declared, made_here(state))
    assert undisturbed.tree.n_branches > 0


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_what_leaves_keep_is_written_as_river_has_it(kind):
    spec = bounded_tree(grace_period=50, max_depth=4)
    model: Any = taught(kind, spec, 20)
    restored: Any = spec.restore(pipeline(kind, [spec]), made_here(model.state_bytes()))
    pairs = zip(model.tree._root.iter_leaves(), restored.tree._root.iter_leaves(), strict=True)
    compared = 0
    for one, other in pairs:
        for at, splitter in (one.splitters or {}).items():
            assert kept_by(splitter) == kept_by(other.splitters[at])
            assert type(splitter) is type(other.splitters[at])
            compared += 1
    assert compared > 3


def kept_by(splitter: Any) -> Any:
    """Every number that River has in it."""
    if hasattr(splitter, "_quantizer"):
        slots = splitter._quantizer.hash.items()
        return [(at, slot.x_stats.n, slot.x_stats._mean, spread_of(slot.y_stats)) for at, slot in slots]
    gaussians = [(name, one.seed, spread_of(one._var)) for name, one in splitter._att_dist_per_class.items()]
    return gaussians, splitter._min_per_class, splitter._max_per_class, splitter.n_splits


def spread_of(variance: Any) -> tuple[Any, ...]:
    return variance.ddof, variance._S, variance.mean.n, variance.mean._mean


def test_a_tree_that_has_learnt_nothing_is_one_leaf():
    model = bounded_tree().make(pipeline("multiclass"))
    assert model.score(rows(3, 1)[0]).tolist() == [[1 / 3] * 3] * 3


def test_smoothing_keeps_a_small_leaf_from_being_certain():
    given, _ = rows(3, 1)
    certain, careful = (bounded_tree(smoothing=by).make(pipeline()) for by in (0.0, 10.0))
    for model in (certain, careful):
        model.learn(*(rows(200, 2)[0], np.zeros(200)))
        model.learn(given, np.array([1.0, 1.0, 0.0]))
    assert 0 < careful.score(given)[0] < 0.2


def test_the_tree_finds_the_interaction_that_the_logistic_cannot():
    source = np.random.default_rng(1)
    auc = {}
    for spec in (scaled_logistic(), bounded_tree(grace_period=100)):
        model = spec.make(pipeline())
        for _ in range(60):
            amount, wind = source.normal(0, 1, 100), source.normal(0.4, 1, 100)
            model.learn(matrix(amount, wind, [None] * 100), ((amount > 0) == (wind > 0)).astype(float))
        auc[spec.name] = roc_auc_score(
            (amount > 0) == (wind > 0), model.score(matrix(amount, wind, [None] * 100))
        )
    assert auc["bounded_tree"] > auc["scaled_logistic"] + 0.2


# ---- river_model is the bare estimator


def test_river_model_learns_as_the_bare_estimator_whatever_the_batches():
    for estimator in (
        preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        tree.HoeffdingTreeClassifier(grace_period=50),
    ):
        chosen = (
            (compose.Select("amount", "wind") | estimator.clone())
            if len(estimator._get_params()) < 3
            else estimator
        )
        spec = river_model(chosen, name="bare", scale=False)
        model, bare = spec.make(pipeline()), chosen.clone()
        given, behind = rows(600, 1)
        codes = codes_of("binary", behind)
        for first, last in pairwise([0, 1, 8, 300, 301, 600]):
            part = taken(given, np.arange(first, last))
            asked = [bare.predict_proba_one(row).get(True, 0.0) for row in as_they_are(part)]
            if first:
                assert np.abs(model.score(part) - asked).max() < 1e-12
            model.learn(part, codes[first:last])
            for row, code in zip(as_they_are(part), codes[first:last], strict=True):
                bare.learn_one(row, code == 1.0)


def test_the_estimator_of_the_pipeline_file_never_learns():
    estimator = linear_model.LogisticRegression()
    taught("binary", river_model(estimator), 2)
    assert estimator.weights == {}


def test_open_seeds_are_set_everywhere_and_given_ones_stay():
    nested = compose.Pipeline(preprocessing.StandardScaler(), forest.ARFClassifier(n_models=2))
    model = river_model(nested, name="a", seed=11).make(pipeline())
    given = river_model(forest.ARFClassifier(n_models=2, seed=5), name="b", seed=11).make(pipeline())
    assert isinstance(model, RiverModel) and isinstance(given, RiverModel)
    assert model._scorer.estimator["ARFClassifier"].seed == 11
    assert given._scorer.estimator.seed == 5


def test_a_classifier_with_answers_alone_gets_probabilities_from_its_record():
    scores = taught("binary", KINDS["binary"][2], 20).score(rows(200, 9)[0])
    assert set(np.round(scores, 6)) == {scores.min().round(6), scores.max().round(6)}
    assert 0.0 < scores.min() < 0.5 < scores.max() < 1.0


class Failing(linear_model.LogisticRegression):
    """Fails where a test wants it to."""

    def learn_one(self, x, y, w=1.0):
        raise ZeroDivisionError("somewhere inside")

    def predict_proba_one(self, x, **options):
        raise OverflowError("too large")


def test_an_estimator_that_fails_has_no_answer_and_says_why_it_did_not_learn():
    model = taught("binary", river_model(linear_model.LogisticRegression()), 1)
    model._scorer.estimator = Failing()
    given, behind = rows(3, 1)
    assert np.isnan(model.score(given)).all()
    with pytest.raises(
        ModelError, match=r"logistic_regression failed to learn: ZeroDivisionError\('somewhere"
    ):
        model.learn(given, codes_of("binary", behind))


# ---- the declaration


@pytest.mark.parametrize(
    ("kind", "online", "words"),
    [
        (
            "binary",
            lambda: scaled_logistic("alone"),
            r"online: Linear\(.*expected a list such as \[scaled_logistic\(\)",
        ),
        ("binary", lambda: "scaled_logistic", r"online: 'scaled_logistic'; expected a list"),
        ("binary", lambda: [scaled_logistic], r"expected a list such as"),
        ("binary", lambda: [linear_model.LogisticRegression()], r"goes into river_model"),
        ("binary", lambda: [scaled_logistic(), scaled_logistic()], r"'scaled_logistic' is there twice"),
        ("binary", lambda: [scaled_logistic("lightgbm")], r"'lightgbm' is taken"),
        ("binary", lambda: [scaled_logistic("my learner")], r"name='my learner'; expected letters"),
        (
            "binary",
            lambda: [scaled_logistic(learning_rate=0)],
            r"learning_rate: 0; expected a number above 0",
        ),
        (
            "binary",
            lambda: [scaled_logistic(rows_per_step=0)],
            r"rows_per_step: 0; expected a whole number",
        ),
        ("binary", lambda: [bounded_tree(max_depth=99)], r"max_depth: 99; expected .* at most 12"),
        (
            "binary",
            lambda: [scaled_linear()],
            r"'scaled_linear' for a binary label; expected scaled_logistic",
        ),
        ("regression", lambda: [scaled_logistic()], r"for a regression label; expected scaled_linear"),
        ("binary", lambda: [river_model("logistic")], r"expected a classifier or regressor of River"),
        (
            "binary",
            lambda: [river_model(forest.ARFClassifier)],
            r"the class ARFClassifier; expected an object",
        ),
        (
            "binary",
            lambda: [river_model(preprocessing.StandardScaler())],
            r"expected a classifier or regressor",
        ),
        (
            "binary",
            lambda: [river_model(linear_model.LinearRegression())],
            r"for a binary label; expected a cl",
        ),
        ("regression", lambda: [river_model(naive_bayes.GaussianNB())], r"expected a regressor of River"),
        ("multiclass", lambda: [river_model(linear_model.PAClassifier())], r"expected multiclass.OneVsRest"),
        (
            "binary",
            lambda: [river_model(naive_bayes.MultinomialNB(), rows_per_step=-1)],
            r"rows_per_step: -1",
        ),
        ("binary", lambda: [river_model(neighbors.KNNClassifier(), rows_per_step=9)], r"has no learn_many"),
        (
            "binary",
            lambda: [river_model(compose.FuncTransformer(lambda x: x) | naive_bayes.GaussianNB())],
            r"lambda",
        ),
    ],
)
def test_mistakes_in_the_declaration_are_said_when_the_file_is_loaded(kind, online, words):
    with pytest.raises(PipelineError, match=words):
        pipeline(kind, online())


def test_learners_are_part_of_the_version_and_of_nothing_else():
    none, one, other = (
        pipeline(),
        pipeline(online=[scaled_logistic()]),
        pipeline(online=[scaled_logistic(learning_rate=0.2)]),
    )
    assert len({none.version, one.version, other.version}) == 3
    assert none.feature_set.hash == one.feature_set.hash
    assert (none.learns, one.learns) == (False, True)


def doubled(row: dict[str, float]) -> dict[str, float]:
    return {name: 2 * value for name, value in row.items()}


def test_the_identity_of_a_learner_holds_no_address():
    estimator = compose.FuncTransformer(doubled) | linear_model.LogisticRegression()
    assert "doubled" in river_model(estimator).identity
    assert " at 0x" not in river_model(estimator).identity


def test_neither_a_pipeline_file_nor_a_scorer_of_the_default_learners_loads_river(tmp_path):
    for spec in (scaled_logistic(), bounded_tree()):
        (tmp_path / spec.name).write_bytes(taught("binary", spec, 2).scoring_bytes())
    program = (
        "import sys, pathlib\n"
        "from driftwood import bounded_tree, scaled_logistic\n"
        "from tests.learner_rows import pipeline, rows\n"
        "for spec in pipeline(online=[scaled_logistic(), bounded_tree()]).online:\n"
        "    scorer = spec.scorer(pipeline(), pathlib.Path(sys.argv[1], spec.name).read_bytes())\n"
        "    assert len(scorer.score(rows(7, 1)[0])) == 7\n"
        "assert 'river' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
