"""How wrong each score was: one loss a row, NaN where there was no score or no label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.plan import Floats

# A probability of exactly 0 or 1 that was wrong would make the log loss infinite.
SMALLEST_PROBABILITY = 1e-15

Rows = npt.NDArray[np.bool_]


def row_losses(kind: str, scores: Floats, codes: Floats, least: float = SMALLEST_PROBABILITY) -> Floats:
    """float64[n]: log loss in nats (binary, multiclass) or the squared error (regression).

    No probability counts as less than `least`: one row can cost at most -log(least).

    Example:
        >>> row_losses("binary", np.array([0.9, 0.9, np.nan]), np.array([1.0, 0.0, 1.0])).round(4)
        array([0.1054, 2.3026,    nan])
        >>> row_losses("regression", np.array([1.0]), np.array([3.0]))
        array([4.])
    """
    if kind == "regression":
        return np.square(scores - codes)
    return -np.log(np.clip(given_to_truth(kind, scores, codes), least, 1.0))


def given_to_truth(kind: str, scores: Floats, codes: Floats) -> Floats:
    """float64[n]: the probability that the score gave to what became true.

    Example:
        >>> given_to_truth("multiclass", np.array([[0.2, 0.5, 0.3]]), np.array([2.0]))
        array([0.3])
    """
    if kind == "binary":
        return np.where(np.isnan(codes), np.nan, np.where(codes == 1, scores, 1 - scores))
    found = np.full(len(codes), np.nan)
    labelled = np.flatnonzero(~np.isnan(codes))
    found[labelled] = scores[labelled, codes[labelled].astype(np.int64)]
    return found


def row_briers(kind: str, scores: Floats, codes: Floats) -> Floats:
    """float64[n]: the Brier score of a row; over classes, the sum of squares (Brier 1950).

    Example:
        >>> row_briers("binary", np.array([0.8]), np.array([1.0])).round(4)
        array([0.04])
        >>> row_briers("multiclass", np.array([[0.5, 0.3, 0.2]]), np.array([0.0])).round(4)
        array([0.38])
    """
    if kind == "binary":
        return np.square(scores - codes)
    total = np.zeros(len(codes))
    for label in range(scores.shape[1]):
        total += np.square(scores[:, label] - (codes == label))
    return np.where(np.isnan(codes), np.nan, total)


def present(scores: Floats) -> Rows:
    """bool[n]: there is a score: every number of it is finite.

    Example:
        >>> present(np.array([[0.2, 0.8], [np.nan, 0.5]]))
        array([ True, False])
    """
    finite: Rows = np.isfinite(scores)
    return finite if finite.ndim == 1 else np.asarray(finite.all(axis=1))
