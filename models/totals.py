"""How good one model's scores were since the beginning: sums and histograms of a fixed size that undo and merge exactly.

Weights and losses are whole numbers of small units, so what was added can be taken away again without a trace, in any
order, and two totals can be added up. The units cost at most 3e-8 of a mean loss, 5e-7 of the calibration error, and
0.05 % of a weight.
Errors of a regression have no natural unit and are sums of floats, exact to about 1e-12 of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.plan import Floats, Ints
from models.decision import CostMatrix
from models.losses import row_briers, row_losses
from models.score_curves import auc, auc_error, average_precision, average_precision_error

# Units in a weight of 1, in a loss of 1 nat, and in a score of 1. With these, 16,000 rows of the largest weight and loss
# fit into one batch, and 8 thousand million rows into one bin.
WEIGHT_UNITS = 1024
LOSS_UNITS = 2**24
SCORE_UNITS = 2**20

# No row counts more than this many: a hold-out of one event in a thousand.
LARGEST_WEIGHT = 1000.0

# Bins of the score histogram, evenly over log odds of -16 .. 16: two scores in one bin differ by 0.8 % of their odds.
BINS = 4096
LOG_ODDS = 16.0

# Bins of equal width over which the calibration error is taken.
CALIBRATION_BINS = 20


@dataclass(frozen=True)
class Scored:
    """n rows to be measured: `weights` in WEIGHT_UNITS; `thresholds` NaN where there is no decision."""

    scores: Floats
    codes: Floats
    weights: Ints
    thresholds: Floats


def weight_units(propensities: Floats) -> Ints:
    """int64[n]: 1 / propensity, in WEIGHT_UNITS.

    Example:
        >>> weight_units(np.array([1.0, 0.02])).tolist()
        [1024, 51200]
    """
    weights = np.minimum(1.0 / np.maximum(propensities, 1.0 / LARGEST_WEIGHT), LARGEST_WEIGHT)
    units: Ints = np.rint(weights * WEIGHT_UNITS).astype(np.int64)
    return units


class Totals:
    """Running totals of one model; `kind` and `classes` are the label's. 66 KB for a binary label, whatever the traffic.

    Example:
        >>> totals = Totals("binary")
        >>> rows = Scored(np.array([0.9, 0.2]), np.array([1.0, 0.0]), np.array([1024, 1024]), np.array([0.5, 0.5]))
        >>> totals.add(rows)
        >>> figures = totals.figures(None)
        >>> figures["rows"], round(figures["log_loss"], 4), figures["auc"], figures["precision"]
        (2, 0.1643, 1.0, 1.0)
    """

    def __init__(self, kind: str, classes: int = 2) -> None:
        self.kind = kind
        self.rows = 0
        self.weight = 0
        self.loss = 0  # in WEIGHT_UNITS * LOSS_UNITS, like the Brier score
        self.brier = 0
        self.absolute = 0.0  # regression: weighted sums of errors
        self.squared = 0.0
        self.histogram = np.zeros((2, BINS), np.int64)  # weight by label and bin of the score
        self.decisions = np.zeros((2, 2), np.int64)  # weight by label and decision
        self.calibration = np.zeros(
            (3, CALIBRATION_BINS), np.int64
        )  # by bin of the score: weight, score, label
        guesses = classes if kind == "multiclass" else 0
        self.confusion = np.zeros((guesses, guesses), np.int64)  # weight by class and guess

    def add(self, rows: Scored, sign: int = 1) -> None:
        """Count rows in; with `sign=-1` take rows out that were counted in with the same numbers."""
        weights = rows.weights * sign
        self.rows += sign * len(rows.codes)
        self.weight += int(weights.sum())
        if self.kind == "regression":
            errors = rows.scores - rows.codes
            self.absolute += float((np.abs(errors) * weights).sum()) / WEIGHT_UNITS
            self.squared += float((np.square(errors) * weights).sum()) / WEIGHT_UNITS
            return
        self.loss += _weighed(row_losses(self.kind, rows.scores, rows.codes), weights)
        self.brier += _weighed(row_briers(self.kind, rows.scores, rows.codes), weights)
        if self.kind == "binary":
            self._add_binary(rows, weights)
        else:
            self._add_classes(rows, weights)

    def _add_binary(self, rows: Scored, weights: Ints) -> None:
        label = (rows.codes == 1).astype(np.int64)
        np.add.at(self.histogram, (label, score_bin(rows.scores)), weights)
        ruled = ~np.isnan(rows.thresholds)
        decided = (rows.scores >= rows.thresholds).astype(np.int64)
        np.add.at(self.decisions, (label[ruled], decided[ruled]), weights[ruled])
        self._add_calibration(rows.scores, label, weights)

    def _add_classes(self, rows: Scored, weights: Ints) -> None:
        guesses, label = rows.scores.argmax(axis=1), rows.codes.astype(np.int64)
        np.add.at(self.confusion, (label, guesses), weights)
        self._add_calibration(rows.scores.max(axis=1), (label == guesses).astype(np.int64), weights)

    def _add_calibration(self, said: Floats, label: Ints, weights: Ints) -> None:
        bins = calibration_bin(said)
        np.add.at(self.calibration[0], bins, weights)
        np.add.at(self.calibration[1], bins, weights * np.rint(said * SCORE_UNITS).astype(np.int64))
        np.add.at(self.calibration[2], bins, weights * label)

    def merge(self, other: Totals) -> None:
        """Count in everything that another one has counted, as if the rows had come here."""
        for name in ("rows", "weight", "loss", "brier", "absolute", "squared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("histogram", "decisions", "calibration", "confusion"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self, costs: CostMatrix | None) -> dict[str, float]:
        """The figures by name; those that are undefined are left out. `cost` is per event."""
        if not self.rows or not self.weight:
            return {"rows": self.rows}
        if self.kind == "regression":
            weight = self.weight / WEIGHT_UNITS
            squared = max(self.squared, 0.0)  # taking out what was counted in may leave -1e-17
            return {
                "rows": self.rows,
                "mae": self.absolute / weight,
                "rmse": float(np.sqrt(squared / weight)),
            }
        units = self.weight * LOSS_UNITS
        bins, said, label = self.calibration / WEIGHT_UNITS
        means = {
            "rows": self.rows,
            "log_loss": self.loss / units,
            "brier": self.brier / units,
            "calibration_error": calibration_error(bins, said / SCORE_UNITS, label),
        }
        if self.kind == "multiclass":
            return means | class_figures(self.confusion / WEIGHT_UNITS)
        return means | self._curves() | decision_figures(self.decisions / WEIGHT_UNITS, costs)

    def _curves(self) -> dict[str, float]:
        negatives, positives = self.histogram / WEIGHT_UNITS
        found = {
            "auc": auc(positives, negatives),
            "auc_error": auc_error(positives, negatives),
            "ap": average_precision(positives, negatives),
            "ap_error": average_precision_error(positives, negatives),
            "positive_rate": float(positives.sum() / (positives.sum() + negatives.sum())),
        }
        return {name: value for name, value in found.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot; of the histogram only the bins that hold something."""
        cells = np.flatnonzero(self.histogram)
        return {
            "sums": [self.rows, self.weight],
            "losses": [str(self.loss), str(self.brier)],  # may grow past 64 bits
            "errors": [self.absolute, self.squared],
            "cells": cells.astype(np.int32),
            "held": self.histogram.ravel()[cells],
            "decisions": self.decisions,
            "calibration": self.calibration,
            "confusion": self.confusion,
        }

    @classmethod
    def restore(cls, kind: str, classes: int, state: dict[str, Any]) -> Totals:
        """The totals that gave this state."""
        totals = cls(kind, classes)
        totals.rows, totals.weight = state["sums"]
        totals.loss, totals.brier = (int(text) for text in state["losses"])
        totals.absolute, totals.squared = state["errors"]
        totals.histogram.ravel()[state["cells"]] = state["held"]
        totals.decisions, totals.calibration = state["decisions"], state["calibration"]
        totals.confusion = state["confusion"]
        return totals


def score_bin(scores: Floats) -> Ints:
    """int64[n]: the bin of each probability in the histogram.

    Example:
        >>> score_bin(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 2048, 4095]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(scores) - np.log1p(-scores)
    places = np.floor((np.clip(odds, -LOG_ODDS, LOG_ODDS) + LOG_ODDS) * (BINS / (2 * LOG_ODDS)))
    bins: Ints = np.minimum(places, BINS - 1).astype(np.int64)
    return bins


def calibration_bin(scores: Floats) -> Ints:
    """int64[n]: which of the CALIBRATION_BINS bins of equal width a probability belongs to."""
    return np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def calibration_error(weights: Floats, said: Floats, came: Floats) -> float:
    """Expected calibration error: over bins, the distance between what was said and what came, weighed by rows.

    `said`, `came`: weighed sums of scores and labels by bin (Naeini, Cooper and Hauskrecht 2015).

    Example:
        >>> calibration_error(np.array([10.0, 10.0]), np.array([1.0, 9.0]), np.array([2.0, 9.0]))
        0.05
    """
    return float(np.abs(said - came).sum() / weights.sum())


def decision_figures(decisions: Floats, costs: CostMatrix | None) -> dict[str, float]:
    """Precision, recall, share decided and cost an event, of weights [label][decision].

    Example:
        >>> decision_figures(np.array([[90.0, 2.0], [5.0, 3.0]]), CostMatrix(false_positive=1, false_negative=10))
        {'decided_rate': 0.05, 'precision': 0.6, 'recall': 0.375, 'cost': 0.52}
    """
    total = float(decisions.sum())
    if total <= 0:
        return {}
    (_, wrong), (missed, right) = decisions.tolist()
    figures = {"decided_rate": (wrong + right) / total}
    if wrong + right > 0:
        figures["precision"] = right / (wrong + right)
    if missed + right > 0:
        figures["recall"] = right / (missed + right)
    if costs is not None:
        figures["cost"] = (wrong * costs.false_positive + missed * costs.false_negative) / total
    return figures


def class_figures(confusion: Floats) -> dict[str, float]:
    """Accuracy and macro F1 over the classes that came or were guessed, of weights [class][guess].

    Example:
        >>> class_figures(np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        {'accuracy': 0.75, 'macro_f1': 0.7333333333333334}
    """
    right, seen = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = 2 * right[seen > 0] / seen[seen > 0]
    return {"accuracy": float(right.sum() / confusion.sum()), "macro_f1": float(scores.mean())}


def _weighed(losses: Floats, weights: Ints) -> int:
    return int((np.rint(losses * LOSS_UNITS).astype(np.int64) * weights).sum())
