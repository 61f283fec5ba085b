"""Learning against brute force: scikit-learn over all outcomes, runs cut and restored anywhere, labels corrected later."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from driftwood import Blend, CostMatrix, bounded_tree, scaled_linear, scaled_logistic
from models.blend_scorer import BlendScorer
from models.fallback import FallbackScorer
from models.learning import Learning
from models.matured import Matured
from models.outcomes import CENSORED, CORRECTED, MATCHED, SILENT
from models.prequential import BLEND, Prequential
from models.snapshot import made_here
from models.state_bytes import pack_state, unpack_state
from models.totals import LOSS_UNITS, SCORE_UNITS
from tests.served_outcomes import HOUR_US, NAN, RateSpec, matured, pipeline

KINDS = ("binary", "regression", "multiclass")
COSTS = CostMatrix(false_positive=1, false_negative=7)

# What the units of the totals can cost a mean, see models/totals.py.
LOSS_ERROR, SCORE_ERROR = 0.5 / LOSS_UNITS + 1e-12, 0.5 / SCORE_UNITS + 1e-12


def scores_of(kind, rng, rows):
    """Scores with ties, and now and then 0 and 1."""
    if kind == "multiclass":
        return rng.dirichlet(np.ones(3), rows)
    if kind == "regression":
        return rng.normal(10.0, 5.0, rows)
    return rng.choice(np.concatenate([rng.random(max(rows // 2, 2)), [0.0, 1.0]]), rows)


def codes_of(kind, rng, rows):
    if kind == "regression":
        return rng.normal(10.0, 5.0, rows)
    return rng.integers(0, 3 if kind == "multiclass" else 2, rows).astype(np.float64)


def without(part, rows):
    part = np.array(part)
    part[rows] = NAN
    return part


def records(kind, seed, sizes, learners=("scaled",)):
    """Records of outcomes as they may come: labels, silence, censored events, corrections, parts not yet there."""
    rng = np.random.default_rng(seed)
    known: list[tuple[Matured, int]] = []
    first = 0
    for size in sizes:
        codes, score = codes_of(kind, rng, size), scores_of(kind, rng, size)
        parts = {"lightgbm": scores_of(kind, rng, size)}
        for name in learners:
            parts[name] = without(scores_of(kind, rng, size), rng.random(size) < 0.3)
        kinds = rng.choice([MATCHED, MATCHED, MATCHED, SILENT, CENSORED], size).tolist()
        codes[[name == CENSORED for name in kinds]] = NAN
        batch = matured(
            codes,
            score,
            parts=parts,
            first=first,
            kinds=kinds,
            delays_us=rng.integers(0, 30 * HOUR_US, size),
            values=rng.normal(size=(size, 2)),
            thresholds=rng.choice([0.3, 0.5]),
            propensities=rng.choice([1.0, 1.0, 0.02], size),
        )
        yield corrected(batch, known, rng, kind)
        known += [(batch, row) for row in range(size) if kinds[row] != CENSORED]
        first += size


def corrected(batch, known, rng, kind):
    """The record, followed by corrections of a few events that were there before."""
    picked = [known.pop(rng.integers(len(known))) for _ in range(min(len(known), rng.integers(0, 4)))]
    rows = [one.select(np.arange(len(one)) == row) for one, row in picked]
    rows = [
        replace(
            row,
            kinds=[CORRECTED],
            replaced=row.codes,
            codes=codes_of(kind, rng, 1),
            known_us=batch.known_us.max(keepdims=True),
        )
        for row in rows
    ]
    return together([batch, *rows])


def together(batches):
    """One record of the rows of several."""
    one = batches[0]
    for other in batches[1:]:
        one = Matured(
            [*one.event_ids, *other.event_ids],
            np.concatenate([one.times_us, other.times_us]),
            np.concatenate([one.known_us, other.known_us]),
            [*one.kinds, *other.kinds],
            np.concatenate([one.codes, other.codes]),
            np.concatenate([one.replaced, other.replaced]),
            replace(one.matrix, values=np.concatenate([one.matrix.values, other.matrix.values])),
            np.concatenate([one.score, other.score]),
            {name: np.concatenate([part, other.parts[name]]) for name, part in one.parts.items()},
            np.concatenate([one.thresholds, other.thresholds]),
            np.concatenate([one.propensities, other.propensities]),
            [*one.champions, *other.champions],
        )
    return one


def learners_of(kind):
    linear = scaled_linear("scaled") if kind == "regression" else scaled_logistic("scaled")
    return [linear, bounded_tree(grace_period=20, max_depth=2), RateSpec("rate", breaks_at=60, says=NAN)][
        : 2 if kind == "multiclass" else 3
    ]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)  # each makes two runs of three learners
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 60), min_size=3, max_size=8),
    data=st.data(),
)
def test_a_run_restored_at_any_record_ends_bit_for_bit_like_an_undisturbed_one(kind, seed, sizes, data):
    declared = pipeline(kind, learners_of(kind), horizon="1h")
    undisturbed = Learning(declared)
    interrupted = Learning(declared)
    command = data.draw(st.integers(0, len(sizes)), label="a learner is reset before record")
    stalled = data.draw(st.integers(0, len(sizes)), label="labels are stalled before record")
    flowing = data.draw(st.integers(stalled, len(sizes)), label="and flow again before record")
    for number, batch in enumerate(records(kind, seed, sizes, ("scaled", "bounded_tree", "rate"))):
        if data.draw(st.booleans(), label=f"restored before record {number}"):
            interrupted = Learning.restore(declared, made_here(interrupted.state()))
        for learning in (undisturbed, interrupted):
            if number == command:
                learning.reset("scaled")
            if number in (stalled, flowing):
                learning.label_feed("0", 1_700_000_000_000 if number < flowing else None)
            learning.step(batch)
        assert differing(interrupted.scoring(), undisturbed.scoring()) == []
    # River's trees are pickled, and a pickle says which equal objects are one: what they answer is compared above.
    assert set(differing(interrupted.state(), undisturbed.state())) <= {"/learners/bounded_tree/model"}
    assert interrupted.figures() == undisturbed.figures()


def differing(one, other):
    """The places in which two states differ."""
    if one == other:
        return []
    return places_of(unpack_state(one), unpack_state(other)) or ["the order of something"]


def places_of(one, other, place=""):
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in places_of(one[key], other[key], f"{place}/{key}")]
    return [] if pack_state({"": one}) == pack_state({"": other}) else [place]


def labels_at_the_end(batches):
    """What a person would write down: for each event the row as served, with its last label."""
    rows: dict[str, Matured] = {}
    for batch in batches:
        for number, event_id in enumerate(batch.event_ids):
            row = batch.select(np.arange(len(batch)) == number)
            if event_id in rows:
                rows[event_id] = replace(rows[event_id], codes=row.codes)
            elif row.learnt.all():
                rows[event_id] = row
    return list(rows.values())


def expected(kind, rows, name):
    """The figures by scikit-learn, of the rows in which the model has a score."""
    if not rows:
        return {"rows": 0}
    everything = together(rows)
    scores = everything.score if name == BLEND else everything.parts[name]
    there = ~np.isnan(scores) if scores.ndim == 1 else ~np.isnan(scores).any(axis=1)
    codes, scores = everything.codes[there], scores[there]
    if not len(codes):
        return {"rows": 0}
    weights = np.round(1024 / everything.propensities[there]) / 1024
    if kind == "regression":
        squared = sklearn_metrics.mean_squared_error(codes, scores, sample_weight=weights)
        absolute = sklearn_metrics.mean_absolute_error(codes, scores, sample_weight=weights)
        return {"rows": len(codes), "mae": absolute, "rmse": np.sqrt(squared)}
    columns = np.column_stack([1 - scores, scores]) if kind == "binary" else scores
    clipped = np.clip(columns, 1e-15, 1.0)
    loss = -np.log(clipped[np.arange(len(codes)), codes.astype(int)])
    figures = {"rows": len(codes), "log_loss": np.average(loss, weights=weights)}
    if kind == "multiclass":
        guesses = scores.argmax(axis=1)
        return figures | {
            "brier": np.average(
                np.square(scores - np.eye(3)[codes.astype(int)]).sum(axis=1), weights=weights
            ),
            "accuracy": sklearn_metrics.accuracy_score(codes, guesses, sample_weight=weights),
            "macro_f1": sklearn_metrics.f1_score(codes, guesses, average="macro", sample_weight=weights),
            "calibration_error": brute_force_calibration(scores.max(axis=1), codes == guesses, weights),
        }
    figures["brier"] = sklearn_metrics.brier_score_loss(codes, scores, sample_weight=weights)
    figures["positive_rate"] = np.average(codes, weights=weights)
    figures["calibration_error"] = brute_force_calibration(scores, codes, weights)
    figures |= expected_decisions(codes, scores >= everything.thresholds[there], weights)
    if codes.mean() > 0:
        figures["ap"] = sklearn_metrics.average_precision_score(codes, scores, sample_weight=weights)
    if 0 < codes.mean() < 1:
        figures["auc"] = sklearn_metrics.roc_auc_score(codes, scores, sample_weight=weights)
    return figures


def expected_decisions(codes, decided, weights):
    wrong, missed = weights[decided & (codes == 0)].sum(), weights[~decided & (codes == 1)].sum()
    figures = {
        "decided_rate": weights[decided].sum() / weights.sum(),
        "cost": (wrong * COSTS.false_positive + missed * COSTS.false_negative) / weights.sum(),
    }
    if decided.any():
        figures["precision"] = sklearn_metrics.precision_score(codes, decided, sample_weight=weights)
    if codes.any():
        figures["recall"] = sklearn_metrics.recall_score(codes, decided, sample_weight=weights)
    return figures


def brute_force_calibration(said, came, weights):
    places = np.minimum((said * 20).astype(int), 19)
    gaps = [abs((weights * (said - came))[places == place].sum()) for place in range(20)]
    return sum(gaps) / weights.sum()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_figures_equal_those_of_scikit_learn_over_all_outcomes_with_their_last_labels(kind, seed, sizes):
    batches = list(records(kind, seed, sizes))
    prequential = Prequential(kind, 3 if kind == "multiclass" else 2, COSTS)
    for batch in batches:
        prequential.step(batch)
    rows = labels_at_the_end(batches)
    for name, found in prequential.figures().items():
        wanted = expected(kind, rows, name)
        assert found["rolling"] == pytest.approx(wanted, rel=1e-9, abs=1e-9), name
        auc_error = found["total"].pop("auc_error", 0.0) + 1e-9
        ap_error = found["total"].pop("ap_error", 0.0) + 1e-9
        assert found["total"].keys() == wanted.keys()
        for figure, value in found["total"].items():
            allowed = {"auc": auc_error, "ap": ap_error, "calibration_error": SCORE_ERROR}.get(
                figure, LOSS_ERROR + 1e-9
            )
            assert value == pytest.approx(wanted[figure], rel=1e-9, abs=allowed), (name, figure)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    rolling=st.integers(5, 60),
)
def test_figures_after_corrections_are_those_of_a_run_in_which_the_last_label_came_first(
    kind, seed, sizes, rolling
):
    batches = list(records(kind, seed, sizes))
    classes = 3 if kind == "multiclass" else 2
    corrected_later, right_at_once = (Prequential(kind, classes, COSTS, rolling) for _ in range(2))
    for batch in batches:
        corrected_later.step(batch)
    for row in labels_at_the_end(batches):
        right_at_once.step(row)
    found, wanted = corrected_later.figures(), right_at_once.figures()
    assert found.keys() == wanted.keys()
    for name in wanted:
        exact = 0.0 if kind != "regression" else 1e-9
        assert found[name]["total"] == pytest.approx(wanted[name]["total"], rel=exact, abs=exact)
        assert found[name]["rolling"] == wanted[name]["rolling"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)  # each learns 640 rows with two learners
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 49))
def test_a_row_has_the_same_score_and_interval_however_a_batch_is_cut(kind, seed, cut):
    declared = pipeline(kind, learners_of(kind)[:2], horizon="1h", blend=Blend(mature_after="1s"))
    learning = Learning(declared)
    for batch in records(kind, seed, [300, 300, 40], ("scaled", "bounded_tree")):
        learning.step(batch)
    scorer = BlendScorer(declared, FallbackScorer(declared), learning.scoring())
    rows = matured(np.zeros(50), np.zeros(50), values=np.random.default_rng(seed).normal(size=(50, 2)))
    before = np.arange(50) < cut
    whole = scorer.parts(rows.matrix)
    pieces = [scorer.parts(rows.select(chosen).matrix) for chosen in (before, ~before)]
    assert len(whole.weights) == 3
    assert np.array_equal(whole.score, np.concatenate([piece.score for piece in pieces]))
    for name in whole.parts:
        assert np.array_equal(
            whole.parts[name], np.concatenate([piece.parts[name] for piece in pieces]), equal_nan=True
        )
    assert whole.low is not None
    assert np.array_equal(whole.low, np.concatenate([piece.low for piece in pieces]))
