"""The calibrator: it finds what scores mean, states how well it knows, and keeps their order."""

import numpy as np
import pytest

from models.blend import log_odds, probability, shares
from models.calibrator import LEAST_OUTCOMES, LEAST_SLOPE, Calibrator
from models.state_bytes import pack_state, unpack_state


def binary_rows(rng, rows, slope, offset):
    scores = rng.beta(1.0, 3.0, rows)
    truth = probability(slope * log_odds(scores) + offset)
    return scores, truth, (rng.random(rows) < truth).astype(np.float64)


def learnt(kind, scores, codes, size=100):
    calibrator = Calibrator(kind)
    for start in range(0, len(codes), size):
        piece = slice(start, start + size)
        calibrator.learn(scores[piece], codes[piece], np.ones(len(codes[piece])))
    return calibrator


def test_it_knows_nothing_at_first_and_changes_nothing():
    for kind, scores in (("binary", np.array([0.1])), ("multiclass", np.array([[0.1, 0.9]]))):
        calibrator = Calibrator(kind)
        assert calibrator.calibrate(scores) is scores and not calibrator.has_interval


@pytest.mark.parametrize(("slope", "offset"), [(1.0, -1.0), (0.5, 0.3), (1.6, 1.0)])
def test_it_finds_what_a_binary_score_means(slope, offset):
    scores, _, codes = binary_rows(np.random.default_rng(2), 30_000, slope, offset)
    found = learnt("binary", scores, codes).figures()
    assert found["slope"] == pytest.approx(slope, abs=0.08)
    assert found["offset"] == pytest.approx(offset, abs=0.12)


def test_its_interval_holds_the_true_probability_19_times_of_20_whatever_the_score():
    inside = []
    for seed in range(60):
        scores, truth, codes = binary_rows(np.random.default_rng(seed), 3_000, 0.9, -0.3)
        low, high = learnt("binary", scores, codes).interval(scores[:200])
        inside.append(((low <= truth[:200]) & (truth[:200] <= high)).mean())
    assert 0.90 <= np.mean(inside) <= 0.99


def test_its_interval_is_wide_where_scores_were_seldom_and_encloses_the_answer():
    rng = np.random.default_rng(5)
    scores = rng.uniform(0.05, 0.2, 2_000)
    calibrator = learnt("binary", scores, (rng.random(2_000) < scores).astype(np.float64))
    asked = np.array([0.1, 0.9])
    low, high = calibrator.interval(asked)
    answered = calibrator.calibrate(asked)
    width = log_odds(high) - log_odds(low)
    assert (low <= answered).all() and (answered <= high).all() and width[1] > 2 * width[0]


def test_it_forgets_an_old_world_for_a_new_one():
    rng = np.random.default_rng(3)
    old_scores, _, old = binary_rows(rng, 30_000, 1.0, 1.0)
    scores, _, new = binary_rows(rng, 120_000, 1.0, -1.0)
    both = learnt("binary", np.concatenate([old_scores, scores]), np.concatenate([old, new]), 500)
    assert both.figures()["offset"] == pytest.approx(-1.0, abs=0.25)


def test_it_never_turns_the_order_of_scores_round():
    rng = np.random.default_rng(4)
    scores = rng.uniform(0.01, 0.99, 20_000)
    calibrator = learnt("binary", scores, (rng.random(20_000) > scores).astype(np.float64))
    assert calibrator.figures()["slope"] == LEAST_SLOPE
    assert (np.diff(calibrator.calibrate(np.linspace(0.01, 0.99, 50))) > 0).all()


def test_it_finds_that_the_probabilities_of_classes_are_too_sure():
    rng = np.random.default_rng(6)
    truth = rng.dirichlet(np.ones(3), 20_000)
    codes = (rng.random(20_000)[:, None] > np.cumsum(truth, axis=1)).sum(axis=1).astype(np.float64)
    calibrator = learnt("multiclass", shares(2.0 * np.log(truth)), codes)
    assert calibrator.figures()["slope"] == pytest.approx(0.5, abs=0.03)
    assert calibrator.calibrate(truth).sum(axis=1) == pytest.approx(np.ones(20_000))


def test_nine_of_ten_values_of_a_regression_lie_in_its_interval():
    rng = np.random.default_rng(7)
    values = rng.normal(0.0, 30.0, 6_000)
    scores = values + rng.gumbel(4.0, 8.0, 6_000)
    calibrator = learnt("regression", scores[:5_000], values[:5_000])
    low, high = calibrator.interval(scores[5_000:])
    inside = ((low <= values[5_000:]) & (values[5_000:] <= high)).mean()
    assert 0.87 <= inside <= 0.93 and calibrator.calibrate(scores) is scores


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_it_states_no_interval_before_it_has_learnt_from_enough(kind):
    scores = np.full(LEAST_OUTCOMES, 0.5)
    assert not learnt(kind, scores[1:], scores[1:].round()).has_interval
    assert learnt(kind, scores, scores.round()).has_interval


def test_certain_scores_that_were_wrong_leave_numbers():
    calibrator = learnt("binary", np.tile([0.0, 1.0], 500), np.tile([1.0, 0.0], 500))
    assert np.isfinite(calibrator.calibrate(np.array([0.0, 0.5, 1.0]))).all()


@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
def test_its_state_goes_on_bit_for_bit(kind):
    rng = np.random.default_rng(8)
    scores = rng.dirichlet(np.ones(3), 300) if kind == "multiclass" else rng.random(300)
    codes = rng.integers(0, 2, 300).astype(np.float64)
    calibrator = learnt(kind, scores, codes)
    restored = Calibrator.restore(kind, unpack_state(pack_state(calibrator.state())))
    for one in (calibrator, restored):
        one.learn(scores, codes, np.ones(300))
    assert pack_state(calibrator.state()) == pack_state(restored.state())
