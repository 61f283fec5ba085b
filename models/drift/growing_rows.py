"""Rows of numbers that come one by one and leave in the same order, as one array: the newest of them are summed often."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.plan import Floats

ROOM: Final = 256


class GrowingRows:
    """Rows of `width` numbers.

    Example:
        >>> rows = GrowingRows(2)
        >>> for number in range(3):
        ...     rows.append(np.array([number, 10.0 * number]))
        >>> rows.forget(1)
        >>> rows.newest(2).tolist()
        [[1.0, 10.0], [2.0, 20.0]]
    """

    def __init__(self, width: int) -> None:
        self._rows = np.zeros((ROOM, width))
        self._first = self._end = 0

    def append(self, row: Floats) -> None:
        """Add a row behind the others."""
        if self._end == len(self._rows):
            kept = self._rows[self._first : self._end]
            self._rows = np.concatenate([kept, np.zeros((len(kept) + ROOM, self._rows.shape[1]))])
            self._first, self._end = 0, len(kept)
        self._rows[self._end] = row
        self._end += 1

    def forget(self, count: int) -> None:
        """Drop the oldest rows."""
        self._first += count

    def newest(self, count: int) -> Floats:
        """float64[count, width]: the rows that came last, in the order in which they came."""
        return self._rows[max(self._end - count, self._first) : self._end]
