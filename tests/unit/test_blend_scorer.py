"""What a worker answers with: parts, weights, uncertainty, and what happens when a learner does not play along."""

import logging
from dataclasses import dataclass, field

import numpy as np
import pytest

from driftwood import Blend
from features.errors import SnapshotError
from models.blend import CHAMPION, ENTRY, log_odds, probability
from models.blend_scorer import BlendScorer
from models.calibrator import Calibrator
from models.state_bytes import pack_state
from tests.served_outcomes import NAN, RateSpec, matrix, pipeline

ROWS = matrix(np.zeros((3, 2)))


@dataclass
class Champion:
    """Says what it is told, and counts how often it is asked."""

    said: object
    name: str = "lightgbm"
    version: str = "7"
    feature_hash: str = "f00d"
    threshold: float = 0.4
    flags: tuple[str, ...] = ()
    asked: list[int] = field(default_factory=list)

    def score(self, rows):
        self.asked.append(len(rows))
        return np.asarray(self.said, np.float64)

    def unseen_categories(self, rows):
        return np.array([True, False, False])


def scoring(weights, learners=("rate",), calibrator=None, champion="lightgbm", version="7", **others):
    """Scoring bytes of learners that all say what a Rate of 0 rows says: one half."""
    model = RateSpec().make(None).scoring_bytes()
    parts = dict.fromkeys(learners, model)
    state = {"format": 2, "pool": "linear", "weights": weights, "champion": champion, "learners": parts}
    state["version"] = version
    return pack_state(state | {"calibrator": None if calibrator is None else calibrator.state()} | others)


def scorer(data, champion=None, mode="blend", kind="binary", learners=("rate",)):
    declared = pipeline(kind, [RateSpec(name) for name in learners], blend=Blend())
    return BlendScorer(declared, champion or Champion([0.1, 0.3, 0.9]), data, mode)


def calibrated(kind="binary"):
    """Learnt that the score is one unit of log odds too high."""
    rng = np.random.default_rng(1)
    scores = rng.random(20_000)
    calibrator = Calibrator(kind)
    codes = (rng.random(20_000) < probability(log_odds(scores) - 1.0)).astype(np.float64)
    calibrator.learn(scores, codes, np.ones(20_000))
    return calibrator


def test_the_parts_are_pooled_by_weight_and_the_champion_is_asked_once():
    champion = Champion([0.1, 0.3, 0.9])
    found = scorer(scoring({CHAMPION: 0.6, "rate": 0.4}), champion).parts(ROWS)
    assert found.score == pytest.approx([0.26, 0.38, 0.74])
    assert list(found.parts) == list(found.weights) == ["lightgbm", "rate"]
    assert found.weights == {"lightgbm": 0.6, "rate": 0.4} and champion.asked == [3]


def test_before_anything_is_known_of_calibration_the_uncertainty_is_the_spread_of_the_parts():
    found = scorer(scoring({CHAMPION: 0.6, "rate": 0.4})).parts(ROWS)
    assert found.uncertainty_of == "spread of the parts"
    assert found.low.tolist() == [0.1, 0.3, 0.5] and found.high.tolist() == [0.5, 0.5, 0.9]


def test_one_model_alone_has_no_spread():
    found = scorer(scoring({CHAMPION: 1.0})).parts(ROWS)
    assert found.low is None and found.score.tolist() == [0.1, 0.3, 0.9]
    assert found.weights == {"lightgbm": 1.0, "rate": 0.0} and found.parts["rate"].tolist() == [0.5] * 3


def test_a_calibrated_score_lies_in_its_calibrated_interval():
    found = scorer(scoring({CHAMPION: 1.0}, calibrator=calibrated())).parts(ROWS)
    assert found.uncertainty_of == "calibrated interval"
    assert found.score == pytest.approx(probability(log_odds(np.array([0.1, 0.3, 0.9])) - 1.0), abs=0.03)
    assert (found.low < found.score).all() and (found.score < found.high).all()


def test_mode_champion_answers_with_the_champion_and_goes_on_scoring_the_learners():
    found = scorer(scoring({CHAMPION: 0.2, "rate": 0.8}, calibrator=calibrated()), mode="champion").parts(
        ROWS
    )
    assert found.score.tolist() == [0.1, 0.3, 0.9] and found.weights == {"lightgbm": 1.0, "rate": 0.0}
    assert found.parts["rate"].tolist() == [0.5] * 3 and found.low is None


def test_mode_fallback_asks_nobody_else():
    fallback = Champion([0.5, 0.5, 0.5], name="fallback")
    found = scorer(scoring({CHAMPION: 0.2, "rate": 0.8}), fallback, "fallback").parts(ROWS)
    assert list(found.parts) == ["fallback"] and found.score.tolist() == [0.5] * 3


def test_a_champion_that_was_never_judged_gets_the_weight_of_a_new_one_and_no_calibration():
    data = scoring({CHAMPION: 0.2, "rate": 0.8}, calibrator=calibrated(), version="6")
    found = scorer(data).parts(ROWS)
    assert found.weights == pytest.approx({"lightgbm": 1 - ENTRY, "rate": ENTRY})
    assert found.score == pytest.approx(0.95 * np.array([0.1, 0.3, 0.9]) + 0.05 * 0.5)


class Saw:
    """A learner's scorer that says what it was handed last."""

    def score(self, rows):
        return probability(rows.values[:, -1])


def test_a_learner_over_the_champion_is_handed_its_score_and_never_another_champions():
    declared = pipeline("binary", [RateSpec("rate", over_champion=True)])
    champion = Champion([0.1, 0.3, 0.9])
    blend = BlendScorer(declared, champion, scoring({CHAMPION: 0.5, "rate": 0.5}))
    blend._learners["rate"] = Saw()
    assert blend.parts(ROWS).parts["rate"] == pytest.approx([0.1, 0.3, 0.9]) and champion.asked == [3]
    other = BlendScorer(declared, champion, scoring({CHAMPION: 0.5, "rate": 0.5}, version="6"))
    assert other.parts(ROWS).weights == {"lightgbm": 1.0}


class Breaking:
    """A learner's scorer as somebody may write it."""

    def __init__(self, says):
        self.says = says

    def score(self, rows):
        if isinstance(self.says, Exception):
            raise self.says
        return np.asarray(self.says)


@pytest.mark.parametrize(
    ("says", "part", "score"),
    [
        (RuntimeError("broken"), [NAN] * 3, [0.1, 0.3, 0.9]),
        ([NAN, float("inf"), 0.5], [NAN, NAN, 0.5], [0.1, 0.3, 0.74]),
        ([0.5], [NAN] * 3, [0.1, 0.3, 0.9]),
        (["a", "b", "c"], [NAN] * 3, [0.1, 0.3, 0.9]),
    ],
)
def test_a_learner_that_breaks_is_left_out_and_the_others_answer(says, part, score, caplog):
    caplog.set_level(logging.CRITICAL)
    blend = scorer(scoring({CHAMPION: 0.6, "rate": 0.4}))
    blend._learners["rate"] = Breaking(says)
    found = blend.parts(ROWS)
    assert found.parts["rate"] == pytest.approx(part, nan_ok=True) and found.score == pytest.approx(score)


def test_a_frozen_learner_is_not_in_the_snapshot_and_one_that_the_file_no_longer_names_is_not_loaded():
    found = scorer(scoring({CHAMPION: 0.5, "gone": 0.5}, learners=("gone",))).parts(ROWS)
    assert list(found.parts) == ["lightgbm"] and found.weights == {"lightgbm": 1.0}


def test_it_is_a_scorer_like_the_champion():
    blend = scorer(scoring({CHAMPION: 1.0}))
    assert (blend.name, blend.version, blend.feature_hash, blend.threshold) == ("blend", "7", "f00d", 0.4)
    assert blend.flags == () and blend.unseen_categories(ROWS).tolist() == [True, False, False]
    assert blend.score(ROWS).tolist() == [0.1, 0.3, 0.9]


def test_classes_and_values_have_a_spread_too():
    declared = pipeline("multiclass", [])
    classes = np.array([[0.2, 0.5, 0.3]])
    blend = BlendScorer(declared, Champion(classes), scoring({CHAMPION: 0.5, "other": 0.5}, ()))
    blend._learners["other"] = Breaking([[0.1, 0.3, 0.6]])
    blend._weights["other"] = 0.5
    blend._weights["lightgbm"] = 0.5
    found = blend.parts(matrix(np.zeros((1, 2))))
    assert found.score == pytest.approx(np.array([[0.15, 0.4, 0.45]]))
    assert found.low is not None and found.high is not None
    assert (found.low.tolist(), found.high.tolist()) == ([0.3], [0.6])
    values = scorer(scoring({CHAMPION: 0.5, "rate": 0.5}), Champion([10.0, 0.0, 5.0]), kind="regression")
    assert values.parts(ROWS).score == pytest.approx([5.25, 0.25, 2.75])


def test_bytes_that_are_no_scoring_snapshot_are_refused():
    for data, words in ((pack_state({"format": 3}), "format 3"), (b"junk", "cannot be read")):
        with pytest.raises(SnapshotError, match=words):
            scorer(data)
