"""Flags of a prediction: what a consumer should know about how it came about. One bit each inside, names outside."""

from __future__ import annotations

import numpy as np

from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints

LATE = 1 << 0
FALLBACK = 1 << 1
UNSEEN_CATEGORY = 1 << 2
HOLDOUT = 1 << 3
MISSING = 1 << 4
STALE = 1 << 5
SNAPSHOT_LOST = 1 << 6

NAMES: dict[int, str] = {
    LATE: "late",
    FALLBACK: "fallback",
    UNSEEN_CATEGORY: "unseen_category",
    HOLDOUT: "holdout",
    MISSING: "missing",
    STALE: "stale",
    SNAPSHOT_LOST: "snapshot_lost",
}

MEANINGS: dict[str, str] = {
    "late": "the event was too late for at least one of its windows: it was scored, but not counted there",
    "fallback": "no model was in service: the declared rule or base rate answered",
    "unseen_category": "a category that the model never saw was scored as missing",
    "holdout": "one of the share that is let through whatever the decision, so that its label is seen",
    "missing": "at least one feature was missing",
    "stale": "an entity was silent for longer than its longest window: its features are defaults",
    "snapshot_lost": "the snapshot that the batch was pinned to is gone: the champion answered alone",
}


def flag_names(bits: int) -> list[str]:
    """The names of the flags that are set, in order.

    Example:
        >>> flag_names(LATE | FALLBACK)
        ['late', 'fallback']
    """
    return [name for bit, name in NAMES.items() if bits & bit]


def flag_lists(bits: Ints) -> list[list[str]]:
    """The names of the flags of each row."""
    rows = bits.tolist()
    names = {row: flag_names(row) for row in set(rows)}
    return [names[row] for row in rows]


def missing(matrix: FeatureMatrix) -> Ints:
    """int64[n]: `MISSING` where a row lacks at least one feature."""
    # A category's column of numbers is NaN whether or not the row has a text.
    absent = np.isnan(matrix.values).sum(axis=1) > len(matrix.categories)
    for texts in matrix.categories.values():
        if texts.null_count:
            absent |= texts.is_null().to_numpy(zero_copy_only=False)
    return np.where(absent, MISSING, 0)


def stale(ages_s: Floats, longest_s: Floats) -> Ints:
    """int64[n]: `STALE` where the newest earlier event of some entity is older than the entity's longest window.

    `ages_s` float64[n, entities] as in a frame (NaN, never seen, is not stale); `longest_s` float64[entities].

    Example:
        >>> stale(np.array([[60.0, np.nan], [7200.0, 1.0]]), np.array([3600.0, 86400.0])).tolist() == [0, STALE]
        True
    """
    return np.where((ages_s > longest_s).any(axis=1), STALE, 0)
