"""AUC and average precision of scores that are grouped: equal scores exactly, or the bins of a histogram.

Both take `positives` and `negatives`, float64[m]: the weight of the rows with and without the label in each group, from
the lowest score to the highest. Rows of one group count as tied, as scikit-learn counts equal scores.
"""

from __future__ import annotations

import numpy as np

from features.plan import Floats


def grouped(scores: Floats, codes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(positives, negatives) of the distinct scores, in ascending order.

    Example:
        >>> grouped(np.array([0.7, 0.2, 0.7]), np.array([1.0, 0.0, 0.0]), np.ones(3))
        (array([0., 1.]), array([1., 1.]))
    """
    order = np.argsort(scores, kind="stable")
    ordered, label = scores[order], codes[order] == 1
    if not len(ordered):
        return np.zeros(0), np.zeros(0)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weighed = weights[order]
    positives = np.add.reduceat(np.where(label, weighed, 0.0), starts)
    return positives, np.add.reduceat(np.where(label, 0.0, weighed), starts)


def auc(positives: Floats, negatives: Floats) -> float | None:
    """Area under the ROC curve: how often a row with the label scores above one without (a tie: half). None: undefined.

    Example:
        >>> auc(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0]))
        0.875
    """
    pairs = float(positives.sum() * negatives.sum())
    if pairs <= 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum()) / pairs


def auc_error(positives: Floats, negatives: Floats) -> float | None:
    """How far `auc` of bins can be from that of the scores in them: half of the pairs that share a bin.

    Example:
        >>> auc_error(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0]))
        0.125
    """
    pairs = float(positives.sum() * negatives.sum())
    return float((positives * negatives).sum()) / 2 / pairs if pairs > 0 else None


def average_precision(positives: Floats, negatives: Floats) -> float | None:
    """The precision at each row with the label, averaged over those rows. None: there is no such row.

    Example:
        >>> average_precision(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0]))
        0.8333333333333333
    """
    total = float(positives.sum())
    if total <= 0:
        return None
    found, taken = _from_the_top(positives, negatives)
    return float((positives[::-1] * found / np.where(taken > 0, taken, 1.0)).sum()) / total


def average_precision_error(positives: Floats, negatives: Floats) -> float | None:
    """How far `average_precision` of bins can be from that of the scores in them.

    The extremes are all positives of a bin before its negatives, and all after them. A rising precision within the bin is
    bounded by its last value above, and by half of its positives over all of its rows below.

    Example:
        >>> round(average_precision_error(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])), 4)
        0.1667
    """
    total = float(positives.sum())
    if total <= 0:
        return None
    found, taken = _from_the_top(positives, negatives)
    here, others = positives[::-1], negatives[::-1]
    safe = np.where(taken > 0, taken, 1.0)
    best = found / np.where(taken - others > 0, taken - others, 1.0)
    worst = np.where(others > 0, found - here / 2, found) / safe
    middle = found / safe
    above = float((here * (best - middle)).sum()) / total
    below = float((here * (middle - worst)).sum()) / total
    return max(above, below)


def _from_the_top(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Positives and rows from the highest score down to and with each group."""
    found = np.cumsum(positives[::-1])
    return found, found + np.cumsum(negatives[::-1])
