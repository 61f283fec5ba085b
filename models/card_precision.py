"""Card precision@k: of the k cards that investigators look at each day, how many were really used for fraud.

Investigators call card holders, not payments: a card stands where its most suspicious payment of the day stands, and is
a hit when any of its payments of that day is fraud. After Le Borgne et al. (2022), Reproducible Machine Learning for
Credit Card Fraud Detection, chapter 4.4 ("Card precision top-k").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.durations import DAY_US
from features.plan import Floats, Ints


@dataclass(frozen=True)
class CardPrecision:
    """By day: `days` int64[d] (days since 1970, UTC), `precision` float64[d], and `possible` float64[d], what a perfect
    score would have had: on a day with fewer bad cards than k it is below 1."""

    days: Ints
    precision: Floats
    possible: Floats

    @property
    def mean(self) -> float:
        """The mean over the days; NaN without any."""
        return float(self.precision.mean()) if len(self.days) else float("nan")


def card_precision(
    times_us: Ints,
    cards: Sequence[str] | Ints,
    codes: Floats,
    scores: Floats,
    k: int = 100,
    *,
    once_found: bool = False,
) -> CardPrecision:
    """Card precision@k of n payments, for each day (UTC) that has any.

    `codes` float64[n]: 1 fraud, 0 not; payments without a label (NaN) are left out. On a day with fewer than k cards it
    is the share among all of them. Of cards with equal scores the first by name are looked at. `once_found`: a card that
    was found leaves from the next day on, as the bank replaces it; then `possible` counts those still in use.

    Raises ValueError for a k below 1.

    Example:
        >>> times = np.array([0, 1, 2, 3])
        >>> found = card_precision(times, ["a", "b", "b", "c"], np.array([0.0, 1, 0, 1]), np.array([0.9, 0.1, 0.8, 0.2]), k=2)
        >>> found.mean, found.possible.tolist()
        (0.5, [1.0])
    """
    if k < 1:
        raise ValueError(f"card precision needs a k of at least 1, not {k}")
    days, numbers, best, bad = _card_days(times_us, cards, codes, scores)
    each = np.unique(days)
    precision, possible = np.empty(len(each)), np.empty(len(each))
    gone = np.zeros(int(numbers.max(initial=-1)) + 1, bool)
    for index, first, end in zip(range(len(each)), *_bounds(days, each), strict=True):
        inside = np.arange(first, end)[~gone[numbers[first:end]]]
        looked_at = inside[np.lexsort((numbers[inside], -best[inside]))[:k]]
        room = max(len(looked_at), 1)
        precision[index] = bad[looked_at].sum() / room
        possible[index] = min(bad[inside].sum(), room) / room
        if once_found:
            gone[numbers[looked_at[bad[looked_at]]]] = True
    return CardPrecision(each, precision, possible)


def _card_days(
    times_us: Ints, cards: Sequence[str] | Ints, codes: Floats, scores: Floats
) -> tuple[Ints, Ints, Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """(day, card, its best score, whether it is bad), one row for each card and day, in this order."""
    known = ~np.isnan(codes)
    numbers = np.unique(np.asarray(cards), return_inverse=True)[1].astype(np.int64)[known]
    days, codes, scores = times_us[known] // DAY_US, codes[known], scores[known]
    order = np.lexsort((numbers, days))
    days, numbers = days[order], numbers[order]
    new = np.ones(len(days), bool)
    new[1:] = (days[1:] != days[:-1]) | (numbers[1:] != numbers[:-1])
    firsts = np.flatnonzero(new)
    if not len(firsts):
        return days, numbers, scores, np.zeros(0, bool)
    best = np.maximum.reduceat(scores[order], firsts)
    bad = np.maximum.reduceat(codes[order], firsts) > 0
    return days[firsts], numbers[firsts], best, bad


def _bounds(days: Ints, each: Ints) -> tuple[list[int], list[int]]:
    return np.searchsorted(days, each).tolist(), np.searchsorted(days, each, side="right").tolist()
