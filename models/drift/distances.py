"""Distances between counts by bin, for many windows and all columns at once.

`parts` are bins of all columns side by side, `starts` the first bin of each; a column's shares sum to 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.plan import Floats, Ints

# A share of nothing has no logarithm: what an empty bin counts as in PSI.
SMALLEST_SHARE: Final = 1e-4


def largest_difference(differences: Floats, starts: Ints) -> Floats:
    """float64[windows, columns]: the largest difference of cumulative shares, as in the test of Kolmogorov and Smirnov.

    Example:
        >>> largest_difference(np.array([[-0.3, 0.1, 0.2, 0.5, -0.5]]), np.array([0, 3])).round(2).tolist()
        [[0.3, 0.5]]
    """
    # Every column's differences sum to 0, so the running sum begins anew with each.
    found: Floats = np.maximum.reduceat(np.abs(np.cumsum(differences, axis=-1)), starts, axis=-1)
    return found


def total_variation(differences: Floats, starts: Ints) -> Floats:
    """float64[windows, columns]: the share that would have to change its category.

    Example:
        >>> total_variation(np.array([[-0.3, 0.1, 0.2]]), np.array([0])).round(2).tolist()
        [[0.3]]
    """
    found: Floats = np.add.reduceat(np.abs(differences), starts, axis=-1) / 2
    return found


def stability_index(now: Floats, before: Floats, starts: Ints) -> Floats:
    """float64[windows, columns]: PSI, the sum of (now - before) ln(now / before) over a column's bins.

    Example:
        >>> stability_index(np.array([0.5, 0.5]), np.array([0.3, 0.7]), np.array([0])).round(3).tolist()
        [0.169]
    """
    now, before = np.maximum(now, SMALLEST_SHARE), np.maximum(before, SMALLEST_SHARE)
    found: Floats = np.add.reduceat((now - before) * np.log(now / before), starts, axis=-1)
    return found


def share_distance(now: Floats, before: Floats, rows: Floats) -> Floats:
    """How far a share lies from its like, in standard errors of a sample of `rows`; above 0 where it grew.

    By the arcsine of the root, whose error is the same for all shares: one row in 2,000 of what never was is 2, ten are 6.

    Example:
        >>> share_distance(np.array([0.005, 0.5]), np.array([0.0, 0.52]), np.array([2000, 2000])).round(1).tolist()
        [6.3, -1.8]
    """
    angles = np.arcsin(np.sqrt(np.clip(now, 0, 1))) - np.arcsin(np.sqrt(np.clip(before, 0, 1)))
    found: Floats = 2 * angles * np.sqrt(rows)
    return found
