"""How good scores are, estimated from the scores alone: if they are calibrated, a score of 0.9 is wrong once in ten times.

Confidence-based performance estimation, as NannyML has it, from counts by bin. It knows nothing of concept drift: where the
same scores come to mean something else, only labels tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.plan import Floats
from models.drift.bins import Histogram, seen
from models.drift.buckets import bucket_values


@dataclass(frozen=True)
class Expected:
    """Expected AUC and log loss of calibrated scores, with the standard errors of a sample of so many rows.

    The errors are those of which labels will come and of which rows came. NaN where there is nothing to say.
    """

    auc: float
    auc_error: float
    log_loss: float
    log_loss_error: float


def expected(histogram: Histogram) -> Expected:
    """What to expect of scores with these counts by bucket (of kind "probability").

    Example:
        >>> from models.drift.buckets import probability_buckets
        >>> buckets = probability_buckets(np.array([0.1, 0.9]))
        >>> found = expected((buckets, np.array([500, 500])))
        >>> round(found.auc, 2), round(found.log_loss, 3), round(found.auc_error, 3)
        (0.9, 0.325, 0.009)
    """
    buckets, counts = seen(histogram)
    scores = bucket_values("probability", buckets)
    rows = counts.sum()
    if not rows:
        return Expected(np.nan, np.nan, np.nan, np.nan)
    found = moments(counts[None, :] / rows, scores)
    errors = np.sqrt(found[1] / rows)
    return Expected(float(found[0][0, 0]), float(errors[0, 0]), float(found[0][0, 1]), float(errors[0, 1]))


def moments(shares: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """float64[windows, 2] twice: expected AUC and log loss, and the variance of one row's part in each.

    `shares` float64[windows, bins], `scores` ascending. A window without any expected positive has an AUC of 0.5.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.nan_to_num(scores * np.log(scores)) - np.nan_to_num((1 - scores) * np.log1p(-scores))
        odds = np.nan_to_num(np.log(scores / (1 - scores)), posinf=0.0, neginf=0.0)
    loss = shares @ surprise
    # The loss of a row is its surprise and, by which of the two labels comes, p (1 - p) of the log odds squared around it.
    loss_variance = shares @ (surprise**2 + scores * (1 - scores) * odds**2) - loss**2
    auc, auc_variance = _auc(shares, scores)
    found = np.stack([auc, loss], axis=-1)
    variances = np.stack([auc_variance, np.maximum(loss_variance, 0)], axis=-1)
    return found, variances


def _auc(shares: Floats, scores: Floats) -> tuple[Floats, Floats]:
    positive, negative = shares * scores, shares * (1 - scores)
    positives, negatives = positive.sum(axis=-1, keepdims=True), negative.sum(axis=-1, keepdims=True)
    whole = positives * negatives
    # Of each bin: the share of negatives below it (half of its own), and of positives above it.
    below = (np.cumsum(negative, axis=-1) - negative / 2) / np.maximum(negatives, 1e-300)
    above = (positives - np.cumsum(positive, axis=-1) + positive / 2) / np.maximum(positives, 1e-300)
    known = whole[..., 0] > 1e-100
    auc = np.where(known, (positive * below).sum(axis=-1) / np.maximum(positives[..., 0], 1e-300), 0.5)
    # The part of one row, by its label: how far its place is from the mean place, over the share of its class.
    as_positive = (below - auc[..., None]) * negatives
    as_negative = (above - auc[..., None]) * positives
    spread = (positive * as_positive**2 + negative * as_negative**2).sum(axis=-1)
    variance = np.divide(spread, whole[..., 0] ** 2, out=np.zeros_like(spread), where=known)
    return auc, variance
