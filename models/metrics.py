"""How good scores were, once the labels are known. The formulas are scikit-learn's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from features.plan import Floats
from models.losses import SMALLEST_PROBABILITY


def measure(
    kind: str, targets: Floats, scores: Floats, threshold: float | None, base: Floats
) -> dict[str, float]:
    """The figures of one period; those that are undefined there (an AUC without both labels) are left out.

    `targets` float64[n]: 0/1, the class number, or the value; `scores` as `Scorer.score` gives them; `threshold` for
    decisions (binary); `base`: what always saying the training's average would score: float64[1], or [K] for classes.

    Example:
        >>> figures = measure("binary", np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.6, 0.7]), 0.65, np.array([0.5]))
        >>> [round(figures[name], 4) for name in ("auc", "log_loss", "precision", "recall")]
        [1.0, 0.4004, 1.0, 1.0]
    """
    if not len(targets):
        return {"rows": 0.0}
    measured = {"binary": _binary, "regression": _regression, "multiclass": _multiclass}[kind]
    return {"rows": float(len(targets)), **measured(targets, scores, threshold, base)}


# What a model is compared with: a figure, and the same figure of whoever always says the training's average.
COMPARED = (("log_loss", "log_loss_of_base_rate"), ("mae", "mae_of_average"), ("rmse", "rmse_of_average"))


def no_better(figures: Mapping[str, float]) -> str:
    """Says that in no figure of a period the model is better than the training's average; "" when it is in one.

    Example:
        >>> no_better({"log_loss": 0.71, "log_loss_of_base_rate": 0.69})
        'log loss 0.7100, always saying the average 0.6900'
        >>> no_better({"mae": 3.0, "mae_of_average": 4.0, "rmse": 9.0, "rmse_of_average": 8.0})
        ''
    """
    both = [(name, figures[name], figures[base]) for name, base in COMPARED if name in figures]
    if any(ours < average for _, ours, average in both):
        return ""
    return "; ".join(
        f"{name.replace('_', ' ')} {ours:.4f}, always saying the average {average:.4f}"
        for name, ours, average in both
    )


def _binary(targets: Floats, scores: Floats, threshold: float | None, base: Floats) -> dict[str, float]:
    figures = {"positive_rate": float(targets.mean())}
    if 0 < targets.mean() < 1:
        figures["auc"] = float(sklearn_metrics.roc_auc_score(targets, scores))
        figures["ap"] = float(sklearn_metrics.average_precision_score(targets, scores))
    figures["log_loss"] = _log_loss(targets, _two_columns(scores))
    figures["brier"] = float(np.mean((scores - targets) ** 2))
    figures["log_loss_of_base_rate"] = _log_loss(targets, _two_columns(np.full(len(targets), base[0])))
    return figures if threshold is None else figures | _decisions(targets == 1, scores >= threshold)


def _decisions(positive: npt.NDArray[np.bool_], decided: npt.NDArray[np.bool_]) -> dict[str, float]:
    figures = {"decided_rate": float(decided.mean())}
    if decided.any():
        figures["precision"] = float(positive[decided].mean())
    if positive.any():
        figures["recall"] = float(decided[positive].mean())
    return figures


def _regression(targets: Floats, scores: Floats, _threshold: float | None, base: Floats) -> dict[str, float]:
    return {
        "mae": float(np.mean(np.abs(scores - targets))),
        "rmse": float(np.sqrt(np.mean((scores - targets) ** 2))),
        "mae_of_average": float(np.mean(np.abs(base[0] - targets))),
        "rmse_of_average": float(np.sqrt(np.mean((base[0] - targets) ** 2))),
    }


def _multiclass(targets: Floats, scores: Floats, _threshold: float | None, base: Floats) -> dict[str, float]:
    guesses = scores.argmax(axis=1)
    return {
        "log_loss": _log_loss(targets, scores),
        "accuracy": float(np.mean(guesses == targets)),
        "macro_f1": float(sklearn_metrics.f1_score(targets, guesses, average="macro", zero_division=0)),
        "log_loss_of_base_rate": _log_loss(targets, np.tile(base, (len(targets), 1))),
    }


def _log_loss(targets: Floats, probabilities: Floats) -> float:
    clipped = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    clipped /= clipped.sum(axis=1, keepdims=True)
    return float(sklearn_metrics.log_loss(targets, clipped, labels=np.arange(probabilities.shape[1])))


def _two_columns(scores: Floats) -> Floats:
    return np.column_stack([1 - scores, scores])
