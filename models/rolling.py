"""How good the models were lately: the last outcomes themselves, so every figure is exact and a correction leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from features.plan import Floats, Ints
from models.decision import CostMatrix
from models.losses import present, row_briers, row_losses
from models.score_curves import auc, average_precision, grouped
from models.totals import (
    CALIBRATION_BINS,
    WEIGHT_UNITS,
    calibration_bin,
    calibration_error,
    class_figures,
    decision_figures,
)

# Outcomes that are kept. At 2,000 a day this is a working week, at 2,000 a second five seconds; 10,000 outcomes place an
# AUC of 0.75 within 0.01. They are 80 KB a model, and a snapshot carries them.
ROLLING = 10_000

# Numbers a model keeps at most: with more than 4 classes fewer outcomes are kept, so that a snapshot stays below 1 MB.
ROLLING_NUMBERS = 40_000

# Models that are measured: the blend, the batch model, the fallback, and thirteen learners.
MOST_MODELS = 16

Hashes = npt.NDArray[np.uint64]


class Rolling:
    """A ring of the last outcomes of a pipeline and the scores that each model had served for them."""

    def __init__(self, kind: str, classes: int = 2, size: int = ROLLING) -> None:
        self._kind = kind
        self._columns = classes if kind == "multiclass" else 1
        self.size = min(size, ROLLING_NUMBERS // self._columns)
        self._next = 0  # how many outcomes there have been; the place of the next one, modulo size
        self._hashes: Hashes = np.zeros(self.size, np.uint64)
        self._codes = np.full(self.size, np.nan)
        self._weights = np.zeros(self.size, np.int64)
        self._thresholds = np.full(self.size, np.nan)
        self._delays = np.full(self.size, np.nan)
        self._scores: dict[str, Floats] = {}

    def append(
        self,
        hashes: Hashes,
        codes: Floats,
        weights: Ints,
        thresholds: Floats,
        delays_s: Floats,
        scores: dict[str, Floats],
    ) -> None:
        """Put n outcomes in, and as many of the oldest out. `delays_s` is NaN where no label came."""
        chosen = slice(max(len(codes) - self.size, 0), None)
        skipped = len(codes) - len(codes[chosen])
        places = (self._next + skipped + np.arange(len(codes) - skipped)) % self.size
        self._next += len(codes)
        self._hashes[places], self._codes[places] = hashes[chosen], codes[chosen]
        self._weights[places], self._thresholds[places] = weights[chosen], thresholds[chosen]
        self._delays[places] = delays_s[chosen]
        for name, column in self._columns_of(scores).items():
            column[places] = scores[name][chosen] if name in scores else np.nan

    def correct(self, hash_of_id: int, code: float) -> None:
        """Give the newest outcome of this event another label (NaN: none), if it is still here."""
        places = np.flatnonzero(self._hashes == np.uint64(hash_of_id))
        if len(places):
            age = (self._next - 1 - places) % self.size
            self._codes[places[age.argmin()]] = code

    def delays(self) -> dict[str, float]:
        """p50 and p95 of the label delay, seconds from event time to known; empty before the first label."""
        came = self._delays[~np.isnan(self._delays)]
        if not len(came):
            return {}
        p50, p95 = np.quantile(came, [0.5, 0.95]).tolist()
        return {"p50": p50, "p95": p95}

    def figures(self, name: str, costs: CostMatrix | None) -> dict[str, float]:
        """The figures of one model; those that are undefined are left out. `cost` is per event."""
        if name not in self._scores:
            return {"rows": 0}
        scores = self._scores[name]
        rows = present(scores) & ~np.isnan(self._codes)
        if not rows.any():
            return {"rows": 0}
        weights = self._weights[rows] / WEIGHT_UNITS
        figures = {"binary": _binary, "regression": _regression, "multiclass": _multiclass}[self._kind]
        common = {"rows": int(rows.sum())}
        return common | figures(scores[rows], self._codes[rows], weights, self._thresholds[rows], costs)

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "next": self._next,
            "hashes": self._hashes,
            "codes": self._codes,
            "weights": self._weights,
            "thresholds": self._thresholds,
            "delays": self._delays,
            "scores": dict(self._scores),
        }

    @classmethod
    def restore(cls, kind: str, classes: int, state: dict[str, Any]) -> Rolling:
        """The ring that gave this state."""
        ring = cls(kind, classes, len(state["codes"]))
        ring._next, ring._hashes, ring._codes = state["next"], state["hashes"], state["codes"]
        ring._weights, ring._thresholds = state["weights"], state["thresholds"]
        ring._delays, ring._scores = state["delays"], dict(state["scores"])
        return ring

    def _columns_of(self, scores: dict[str, Floats]) -> dict[str, Floats]:
        shape = (self.size,) if self._columns == 1 else (self.size, self._columns)
        for name in scores:
            if name not in self._scores and len(self._scores) < MOST_MODELS:
                self._scores[name] = np.full(shape, np.nan)
        return self._scores


def _binary(
    scores: Floats, codes: Floats, weights: Floats, thresholds: Floats, costs: CostMatrix | None
) -> dict[str, float]:
    positives, negatives = grouped(scores, codes, weights)
    curves = {"auc": auc(positives, negatives), "ap": average_precision(positives, negatives)}
    label, ruled = codes == 1, ~np.isnan(thresholds)
    table = np.zeros((2, 2))
    decided = scores[ruled] >= thresholds[ruled]
    np.add.at(table, (label[ruled].astype(np.int64), decided.astype(np.int64)), weights[ruled])
    return (
        {name: value for name, value in curves.items() if value is not None}
        | {"positive_rate": float(weights[label].sum() / weights.sum())}
        | _means("binary", scores, codes, weights)
        | {"calibration_error": _calibration(scores, label, weights)}
        | decision_figures(table, costs)
    )


def _regression(
    scores: Floats, codes: Floats, weights: Floats, thresholds: Floats, costs: CostMatrix | None
) -> dict[str, float]:
    errors = scores - codes
    return {
        "mae": float(np.average(np.abs(errors), weights=weights)),
        "rmse": float(np.sqrt(np.average(np.square(errors), weights=weights))),
    }


def _multiclass(
    scores: Floats, codes: Floats, weights: Floats, thresholds: Floats, costs: CostMatrix | None
) -> dict[str, float]:
    guesses, label = scores.argmax(axis=1), codes.astype(np.int64)
    confusion = np.zeros((scores.shape[1],) * 2)
    np.add.at(confusion, (label, guesses), weights)
    error = _calibration(scores.max(axis=1), guesses == label, weights)
    means = _means("multiclass", scores, codes, weights)
    return means | {"calibration_error": error} | class_figures(confusion)


def _means(kind: str, scores: Floats, codes: Floats, weights: Floats) -> dict[str, float]:
    return {
        "log_loss": float(np.average(row_losses(kind, scores, codes), weights=weights)),
        "brier": float(np.average(row_briers(kind, scores, codes), weights=weights)),
    }


def _calibration(said: Floats, label: npt.NDArray[np.bool_], weights: Floats) -> float:
    sums = np.zeros((3, CALIBRATION_BINS))
    for row, values in enumerate((weights, weights * said, weights * label)):
        np.add.at(sums[row], calibration_bin(said), values)
    return calibration_error(*sums)
