"""The online calibrator: what a pooled score means, learnt from mature outcomes, and how well that is known.

    binary      probability = sigmoid(slope * log odds of the score + offset)         Platt 1999
    multiclass  probabilities proportional to score ^ slope                           temperature scaling, Guo et al. 2017
    regression  the score itself; interval from what was missed lately                split conformal, Vovk et al. 2005

Slope and offset follow a Gaussian belief that each batch sharpens and time blurs (Bayesian logistic regression by the
Laplace approximation, with exponential forgetting towards "the score is right as it is"). So the interval is narrow where
many outcomes agree, and wide where the score was seldom so high.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from features.plan import Floats
from models.blend import log_odds, log_shares, probability, shares

# Outcomes after which an old one counts 1/e. Following the world is the weights' and the learners' work: with 5,000 the
# calibrator ran after every week's weather, and cost flights 0.0015 of AUC (docs/decisions/0032).
MEMORY = 50_000

# Belief before the first outcome, and what forgetting returns to: slope 1 and offset 0, each give or take 0.2. With
# 0.1 the 95 % interval of 3,000 outcomes held the truth less often than it said.
_PRIOR_PRECISION = 25.0

# The slope is never below this, so calibration never turns the order of scores round.
LEAST_SLOPE = 0.05

# The interval is stated only once this many outcomes were learnt; until then the spread of the parts is.
LEAST_OUTCOMES = 200

# Standard deviations to either side of a 95 % interval of a probability.
_SIDE = 1.96

# Residuals that a regression's 90 % interval is taken from.
RESIDUALS = 2_000
COVERED = 0.9

# Newton steps a batch: the second changes a slope of 1 by less than 1e-3 for batches of 100.
_STEPS = 2


class Calibrator:
    """Calibrates scores of one label kind. `learn` is handed mature outcomes only (models/maturity.py).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> scores = rng.uniform(0.05, 0.95, 20_000)
        >>> truth = probability(log_odds(scores) - 1.0)                # the scores are a factor e of odds too high
        >>> calibrator = Calibrator("binary")
        >>> calibrator.learn(scores, (rng.random(20_000) < truth).astype(float), np.ones(20_000))
        >>> float(calibrator.calibrate(np.array([0.5])).round(2)[0]), float(probability(np.array([-1.0])).round(2)[0])
        (0.27, 0.27)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows = 0
        self._prior = np.array([1.0, 0.0]) if kind == "binary" else np.array([1.0])
        self._mean = self._prior.copy()
        self._precision = np.eye(len(self._prior)) * _PRIOR_PRECISION
        self._residuals = np.full(RESIDUALS, np.nan)

    @property
    def has_interval(self) -> bool:
        """Whether `interval` says something: for classes never, else after LEAST_OUTCOMES."""
        return self.kind != "multiclass" and self.rows >= LEAST_OUTCOMES

    def learn(self, scores: Floats, codes: Floats, weights: Floats) -> None:
        """Take in n mature outcomes: `scores` as pooled, before calibration; `codes` without NaN."""
        if not len(codes):
            return
        if self.kind == "regression":
            places = (self.rows + np.arange(len(codes))) % RESIDUALS
            self._residuals[places] = codes - scores
        else:
            self._learn(self._inputs(scores), codes, weights)
        self.rows += len(codes)

    def calibrate(self, scores: Floats) -> Floats:
        """The scores corrected; each row's result depends on that row alone."""
        if self.kind == "regression" or not self.rows:
            return scores
        if self.kind == "binary":
            return probability(self._mean[0] * log_odds(scores) + self._mean[1])
        return shares(self._mean[0] * log_shares(scores))

    def interval(self, scores: Floats) -> tuple[Floats, Floats]:
        """(low, high) float64[n]. Binary: where the probability lies (95 %); regression: where the value will (90 %)."""
        if self.kind == "regression":
            below, above = np.nanquantile(self._residuals, [(1 - COVERED) / 2, (1 + COVERED) / 2]).tolist()
            return scores + below, scores + above
        odds = log_odds(scores)
        side = _SIDE * np.sqrt(self._variance(odds))
        middle = self._mean[0] * odds + self._mean[1]
        return probability(middle - side), probability(middle + side)

    def figures(self) -> dict[str, float]:
        """`rows` learnt from, `slope` and (binary) `offset`."""
        names = ("slope", "offset")[: 0 if self.kind == "regression" else len(self._mean)]
        return {"rows": self.rows, **dict(zip(names, self._mean.tolist(), strict=False))}

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        residuals = self._residuals if self.kind == "regression" else np.zeros(0)
        return {"rows": self.rows, "mean": self._mean, "precision": self._precision, "residuals": residuals}

    @classmethod
    def restore(cls, kind: str, state: dict[str, Any]) -> Calibrator:
        """The calibrator that gave this state."""
        calibrator = cls(kind)
        calibrator.rows, calibrator._mean = state["rows"], state["mean"]
        calibrator._precision = state["precision"]
        if kind == "regression":
            calibrator._residuals = state["residuals"]
        return calibrator

    def _inputs(self, scores: Floats) -> Floats:
        return log_odds(scores) if self.kind == "binary" else log_shares(scores)

    def _learn(self, inputs: Floats, codes: Floats, weights: Floats) -> None:
        kept = float(np.exp(-len(codes) / MEMORY))
        prior = np.eye(len(self._prior)) * _PRIOR_PRECISION
        before = kept * self._precision + (1 - kept) * prior
        blurred = kept * (self._precision @ self._mean) + (1 - kept) * (prior @ self._prior)
        centre = np.linalg.solve(before, blurred)
        mean, precision = centre, before
        for _ in range(_STEPS):
            gradient, curvature = _evidence(self.kind, inputs, codes, weights, mean)
            precision = before + curvature
            mean = mean + np.linalg.solve(precision, gradient - before @ (mean - centre))
            mean[0] = max(mean[0], LEAST_SLOPE)
        self._mean, self._precision = mean, precision

    def _variance(self, odds: Floats) -> Floats:
        """float64[n]: of slope * odds + offset."""
        covariance = np.linalg.inv(self._precision)
        found: Floats = covariance[0, 0] * odds * odds + 2 * covariance[0, 1] * odds + covariance[1, 1]
        return np.maximum(found, 0.0)


def _evidence(
    kind: str, inputs: Floats, codes: Floats, weights: Floats, mean: Floats
) -> tuple[Floats, Floats]:
    """Gradient and curvature (negative Hessian) of the log likelihood at `mean`."""
    if kind == "binary":
        said = probability(mean[0] * inputs + mean[1])
        missed, spread = weights * (codes - said), weights * said * (1 - said)
        gradient = np.array([(missed * inputs).sum(), missed.sum()])
        mixed = (spread * inputs).sum()
        return gradient, np.array([[(spread * inputs * inputs).sum(), mixed], [mixed, spread.sum()]])
    said = shares(mean[0] * inputs)
    expected = (said * inputs).sum(axis=1)
    came = inputs[np.arange(len(codes)), codes.astype(np.int64)]
    spread = (said * inputs * inputs).sum(axis=1) - expected * expected
    return np.array([(weights * (came - expected)).sum()]), np.array([[(weights * spread).sum()]])
