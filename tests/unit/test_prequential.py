"""What was served is measured by the labels that came; the figures themselves are compared in tests/property/test_learning.py."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from driftwood import CostMatrix
from models.outcomes import CENSORED, CORRECTED, EXPIRED, LATE, MATCHED, SILENT
from models.prequential import BLEND, Prequential
from models.rolling import MOST_MODELS, ROLLING, ROLLING_NUMBERS, Rolling
from models.state_bytes import pack_state, unpack_state
from models.totals import BINS, Scored, Totals, weight_units
from tests.served_outcomes import HOUR_US, NAN, matured


def measured(*batches, kind="binary", **settings):
    prequential = Prequential(kind, **settings)
    for batch in batches:
        prequential.step(batch)
    return prequential


def test_outcomes_without_a_label_are_counted_and_judge_nobody():
    kinds = [MATCHED, CENSORED, EXPIRED, LATE, SILENT]
    codes = [1.0, NAN, NAN, 1.0, 0.0]
    found = measured(matured(codes, [0.9, 0.1, 0.1, 0.1, 0.2], kinds=kinds))
    assert found.outcomes == dict.fromkeys(kinds, 1)
    assert found.figures()[BLEND]["total"]["rows"] == found.figures()[BLEND]["rolling"]["rows"] == 2
    assert found.figures()[BLEND]["total"]["auc"] == 1.0


def test_a_model_is_judged_only_by_the_rows_it_was_there_for():
    parts = {"lightgbm": [0.9, 0.8], "late_comer": [NAN, 0.3]}
    figures = measured(matured([1.0, 1.0], [0.9, 0.8], parts=parts)).figures()
    assert figures["late_comer"]["total"]["rows"] == 1 and figures["lightgbm"]["total"]["rows"] == 2
    assert figures["late_comer"]["rolling"]["log_loss"] == pytest.approx(-np.log(0.3))


def test_rolling_figures_are_those_of_the_last_outcomes_and_totals_of_all():
    wrong, right = np.tile([0.9, 0.1], 50), np.tile([0.1, 0.9], 50)
    codes = np.tile([0.0, 1.0], 50)
    found = measured(matured(codes, wrong), matured(codes, right, first=100), rolling=100).figures()[BLEND]
    assert found["rolling"]["auc"] == 1.0 and found["total"]["auc"] == 0.5
    assert found["rolling"]["rows"] == 100 and found["total"]["rows"] == 200


def test_a_record_longer_than_the_window_leaves_its_last_outcomes():
    codes = np.concatenate([np.zeros(150), np.ones(30)])
    assert measured(matured(codes, codes), rolling=30).figures()[BLEND]["rolling"]["positive_rate"] == 1.0


def test_a_silent_outcome_has_no_label_delay():
    kinds, delays = [MATCHED, MATCHED, SILENT], np.array([1, 3, 70]) * HOUR_US
    found = measured(matured([1.0, 1.0, 0.0], [0.5] * 3, kinds=kinds, delays_us=delays))
    assert found.delays() == {"p50": 7_200.0, "p95": pytest.approx(3_600 * 2.9)}


def test_a_correction_to_no_label_takes_the_outcome_out():
    first = matured([1.0, 0.0], [0.9, 0.2])
    gone = matured([NAN], [0.9], ids=["e0"], kinds=[CORRECTED], replaced=[1.0])
    figures = measured(first, gone).figures()[BLEND]
    assert figures["total"]["rows"] == figures["rolling"]["rows"] == 1
    assert figures["total"]["positive_rate"] == figures["rolling"]["positive_rate"] == 0.0


def test_a_label_corrected_twice_in_one_record_counts_as_the_last_one():
    twice = matured([0.0, 1.0], [0.9, 0.9], ids=["e0", "e0"], kinds=[CORRECTED] * 2, replaced=[1.0, 0.0])
    found = measured(matured([1.0, 0.0], [0.9, 0.2]), twice).figures()[BLEND]
    wanted = measured(matured([1.0, 0.0], [0.9, 0.2])).figures()[BLEND]
    assert found == wanted


def test_the_histogram_is_as_near_to_the_exact_auc_and_precision_as_it_says():
    rng = np.random.default_rng(1)
    scores = rng.beta(0.3, 6.0, 200_000)
    codes = (rng.random(200_000) < scores).astype(np.float64)
    totals = Totals("binary")
    totals.add(Scored(scores, codes, weight_units(np.ones(200_000)), np.full(200_000, 0.5)))
    found = totals.figures(None)
    assert abs(found["auc"] - sklearn_metrics.roc_auc_score(codes, scores)) < found["auc_error"] < 1e-3
    exact = sklearn_metrics.average_precision_score(codes, scores)
    assert abs(found["ap"] - exact) < found["ap_error"] < 5e-3
    assert abs(found["auc"] - sklearn_metrics.roc_auc_score(codes, scores)) < 2e-5  # and far nearer as a rule


def test_a_hold_out_estimates_what_everybody_would_have_seen():
    rng = np.random.default_rng(2)
    scores = rng.random(40_000)
    codes = (rng.random(40_000) < scores).astype(np.float64)
    blocked = scores > 0.8
    seen = ~blocked | (rng.random(40_000) < 0.1)
    propensities = np.where(blocked, 0.1, 1.0)
    estimate = measured(matured(codes[seen], scores[seen], propensities=propensities[seen])).figures()
    naive = measured(matured(codes[seen], scores[seen])).figures()
    exact = sklearn_metrics.roc_auc_score(codes, scores)
    assert abs(estimate[BLEND]["total"]["auc"] - exact) < 0.01
    assert abs(naive[BLEND]["total"]["auc"] - exact) > 0.03


def test_decisions_are_judged_at_the_threshold_of_their_time_and_by_their_cost():
    batch = matured([1.0, 0.0, 1.0, 0.0], [0.6, 0.6, 0.6, 0.6], thresholds=[0.5, 0.5, 0.7, 0.7])
    figures = measured(batch, costs=CostMatrix(false_positive=1, false_negative=5)).figures()[BLEND]
    for period in ("rolling", "total"):
        assert (figures[period]["precision"], figures[period]["recall"]) == (0.5, 0.5)
        assert figures[period]["cost"] == (1 + 5) / 4


def test_without_a_decision_rule_nothing_is_said_of_decisions():
    figures = measured(matured([1.0, 0.0], [0.6, 0.6], thresholds=NAN)).figures()[BLEND]
    assert not {"precision", "recall", "cost"} & (figures["total"].keys() | figures["rolling"].keys())


def test_totals_of_two_workers_add_up_to_those_of_one():
    rng = np.random.default_rng(3)
    rows = Scored(
        rng.random(100), rng.integers(0, 2, 100).astype(np.float64), np.full(100, 1024), np.full(100, 0.5)
    )
    halves = [Scored(*(getattr(rows, name)[half::2] for name in vars(rows))) for half in (0, 1)]
    whole, one, other = (Totals("binary") for _ in range(3))
    whole.add(rows)
    one.add(halves[0])
    other.add(halves[1])
    one.merge(other)
    assert pack_state(one.state()) == pack_state(whole.state())


def test_a_thousand_million_outcomes_fit_into_the_totals():
    totals = Totals("binary")
    totals.add(Scored(np.array([1e-15]), np.ones(1), weight_units(np.ones(1)), np.array([0.5])))
    for _ in range(30):
        totals.merge(Totals.restore("binary", 2, unpack_state(pack_state(totals.state()))))
    figures = Totals.restore("binary", 2, unpack_state(pack_state(totals.state()))).figures(None)
    assert figures["rows"] == 2**30 and figures["log_loss"] == pytest.approx(34.54, abs=0.01)
    assert figures["calibration_error"] == pytest.approx(1.0)


def test_memory_is_bounded_by_rows_classes_and_models():
    assert Rolling("binary").size == Rolling("multiclass", 4).size == ROLLING
    assert Rolling("multiclass", 100).size == ROLLING_NUMBERS // 100
    parts = {f"model_{number}": [0.5, 0.5] for number in range(30)}
    found = measured(matured([0.0, 1.0], [0.5, 0.5], parts=parts))
    assert len(found.figures()) == MOST_MODELS
    assert Totals("binary").histogram.nbytes == 2 * BINS * 8


def test_certain_scores_are_measured_as_numbers():
    figures = measured(matured([0.0, 1.0, 1.0], [1.0, 0.0, 1.0])).figures()[BLEND]
    assert figures["rolling"]["log_loss"] == pytest.approx(2 * 34.54 / 3, abs=0.01)
    assert figures["total"]["log_loss"] == pytest.approx(figures["rolling"]["log_loss"], abs=1e-6)


def test_an_empty_record_changes_nothing():
    prequential = measured(matured([1.0], [0.9]))
    before = pack_state(prequential.state())
    prequential.step(matured([], []))
    assert pack_state(prequential.state()) == before
